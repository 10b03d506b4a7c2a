# SPDX-License-Identifier: Apache-2.0
"""The isolated library as the engine's worker process runs it: a node is made anew for each execution, and goes.

How the two processes talk to each other is the application's, which is not here. What arrives in the worker is this: it
is told that it is one and which library is its own, and then to execute nodes, with all that they need in the request.
"""

from __future__ import annotations

import json
import subprocess
import sys

from harness import HERE, MIB

SCRIPT = """
import asyncio, json, os, sys, time
import harness
os.environ['GTN_LIBRARY_PATHS'] = str(harness.LIBRARY.with_name('griptape_nodes_library_isolated.json'))

from griptape_nodes.retained_mode.events.app_events import AppInitializationComplete

async def main(device, model):
    engine = harness.Engine.__new__(harness.Engine)
    from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes
    engine.api = GriptapeNodes
    await engine._start()
    await GriptapeNodes.abroadcast_app_event(
        AppInitializationComplete(is_worker=True, libraries_to_register=[harness.NAME]))
    manager = GriptapeNodes.LibraryManager()
    info = manager.get_library_info_by_library_name(harness.NAME)
    said = {'is_worker': manager.is_worker, 'executes': info.executes_in_worker, 'fitness': info.fitness.name,
            'problems': [str(one) for one in info.problems], 'runs': []}

    import unstick
    unstick.shared({'gpu_device': device}, granule_bytes=64 << 10)

    def request(kind, name, **values):
        return dict(node_name=name, parameter_values=values, request_id=name,
                    node_metadata={'node_type': kind, 'library': harness.NAME})

    result = await engine.done('ExecuteNodeRequest', **request(
        'GpuConfiguration', 'gpu', gpu_device=device, gpu_memory_fraction=0.95))
    constraints = result.parameter_output_values['system_constraints']

    def flux(name, quantization, **values):
        return request('FluxInference', name, **{**harness.SMALL, 'model': model, 'quantization': quantization,
                       'system_constraints': constraints, **values})

    async def run(name, quantization):
        outputs = (await engine.done('ExecuteNodeRequest', **flux(name, quantization))).parameter_output_values
        node = type('Node', (), {'parameter_output_values': outputs})
        return [quantization, outputs['plan'].split(':')[0], hash(harness.pixels(node))]

    for turn, quantization in enumerate(('8-bit', '4-bit', '8-bit')):
        said['runs'].append(await run(f'flux{turn}', quantization))

    started = time.monotonic()
    running = asyncio.ensure_future(engine.ask(
        'ExecuteNodeRequest', **flux('long', '8-bit', num_inference_steps=10_000)))
    cache = unstick.shared(constraints)
    while not any(entry['n_leases'] for entry in cache.entries()) and not running.done():
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await engine.done('CancelExecuteNodeRequest', target_request_id='long')
    await asyncio.wait([running], timeout=60)
    said['cancel'] = [running.done(), running.cancelled() or not running.result().succeeded(),
                      time.monotonic() - started]
    cache.native.step()
    said['after'] = [entry['n_leases'] for entry in cache.entries()], [entry['state'] for entry in cache.entries()]
    said['runs'].append(await run('again', '8-bit'))

    result = await engine.done('ExecuteNodeRequest', **request(
        'UnloadModels', 'unload', what='all', keep_in_host_memory=False, system_constraints=constraints))
    said['unloaded'] = result.parameter_output_values['freed_bytes']
    said['left'] = cache.device.info()['resident_bytes']
    print(json.dumps(said))

asyncio.run(main(*sys.argv[1:]))
"""


def test_in_a_worker(model: str) -> None:
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, f'host:{13 * MIB}', model],
        capture_output=True, text=True, timeout=300, cwd=HERE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said['is_worker'], said['executes'], said['fitness'], said['problems']) == (True, True, 'GOOD', [])
    first, other, back, again = said['runs']
    assert [one[1] for one in (first, other, back)] == ['load', 'load', 'restore']
    assert first[2] == back[2] == again[2] != other[2]
    assert again[1] == 'hit'  # it was there, and still is after a stop
    is_done, has_failed, seconds = said['cancel']
    assert is_done and has_failed and seconds < 2, said['cancel']
    leases, states = said['after']
    assert not any(leases) and 'loading' not in states
    assert said['unloaded'] > 0 and said['left'] == 0
    print(f'\ncancel in a worker: {seconds * 1000:.0f} ms')
