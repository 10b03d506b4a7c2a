# SPDX-License-Identifier: Apache-2.0
"""The other nodes, the request, other libraries beside this one, the worker's way to run a node, and the end."""

from __future__ import annotations

import functools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import unstick
from fake import FakeLoader
from harness import KIB, MIB, NAME, SMALL, Engine
from unstick import constraints

GIB = 1 << 30
FIRST, SECOND = 'GPU-facec0da-0001-0203-0405-060708090a00', 'GPU-facec0da-0001-0203-0405-060708090a01'
Limits = dict[str, Any]


async def run(engine: Engine, kind: str, **values: Any) -> dict[str, Any]:
    await engine.new_flow()
    node = await engine.add(kind, 'node', **values)
    result = await engine.ask('ResolveNodeRequest', node_name='node')
    assert result.succeeded(), result.result_details
    return dict(node.parameter_output_values)


def load(engine: Engine, limits: Limits, quantization: str = '8-bit') -> None:
    _, result = engine.run(engine.flux('flux', model='a/b', quantization=quantization, system_constraints=limits))
    assert result.succeeded(), result.result_details


# --- GPU Configuration ---


@pytest.fixture
def two_equal_gpus(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    gpus = [
        {'index': i, 'name': 'NVIDIA L4', 'uuid': uuid, 'total_bytes': 22 * GIB, 'free_bytes': (9 * i + 1) * GIB}
        for i, uuid in enumerate((FIRST, SECOND))
    ]
    monkeypatch.setattr(unstick, 'gpus', lambda: gpus)
    monkeypatch.setattr(constraints._unstick, 'gpus', lambda: gpus)
    return gpus


def test_constraints_key_for_key(engine: Engine, two_equal_gpus: list[dict[str, Any]]) -> None:
    given = engine.run(run(engine, 'GpuConfiguration'))
    assert given['system_constraints'] == {
        'gpu_device': 'cuda:1',  # which has most room
        'gpu_memory_fraction': 0.8,
        'cpu_memory_gb': 16.0,
        'device_map': 'auto',
        'low_cpu_mem_usage': True,
        'max_memory': {1: f'{int(22 * GIB * 0.8)}B', 'cpu': '16GiB'},
    }
    assert f'NVIDIA L4 (22 GB) {SECOND}: 10.0 of 22.0 GiB free (this one)' in given['memory']
    forced = engine.run(run(engine, 'GpuConfiguration', allow_low_memory=True, gpu_device=f'NVIDIA L4 (22 GB) {FIRST}'))
    assert forced['system_constraints']['allow_low_memory'] is True
    assert forced['system_constraints']['gpu_device'] == 'cuda:0'
    # Read anew each time.
    two_equal_gpus[0]['free_bytes'] = 20 * GIB
    assert engine.run(run(engine, 'GpuConfiguration'))['system_constraints']['gpu_device'] == 'cuda:0'


def test_both_are_offered(engine: Engine, two_equal_gpus: list[dict[str, Any]]) -> None:
    from griptape_nodes.traits.options import Options

    async def main() -> list[str]:
        await run(engine, 'GpuConfiguration')  # which looks
        await engine.new_flow()
        node = await engine.add('GpuConfiguration', 'gpu')
        return node.get_parameter_by_name('gpu_device').find_elements_by_type(Options)[0].choices

    assert engine.run(main()) == ['auto', *(f'NVIDIA L4 (22 GB) {uuid}' for uuid in (FIRST, SECOND))]


# --- Memory Report, Unload, the request ---


def test_report_says_where_everything_is(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    load(engine, limits)
    load(engine, limits, '4-bit')
    given = engine.run(run(engine, 'MemoryReport', system_constraints=limits))
    models = {model['key']: model for model in given['data']['models']}
    assert models['a/b_4-bit']['resident_bytes'] == 8 * MIB
    assert models['a/b_8-bit']['resident_bytes'] < 10 * MIB
    assert models['a/b_8-bit']['pinned_bytes'] + models['a/b_8-bit']['pageable_bytes'] > 0
    assert 'weights: 8.00 MiB of 8.00 MiB' in given['report'] and 'last plan, for a/b_4-bit: evict' in given['report']
    assert given['data']['reading']['ours_bytes'] > 8 * MIB


@pytest.mark.parametrize('what', ['one model', 'all idle', 'all'])
def test_unload(engine: Engine, fakes: type[FakeLoader], limits: Limits, what: str) -> None:
    load(engine, limits)
    cache = unstick.shared(limits)
    values = {'what': what, 'model': 'a/b', 'quantization': '8-bit', 'system_constraints': limits}
    before = cache.device.info()['used_bytes']
    given = engine.run(run(engine, 'UnloadModels', **values))
    assert given['freed_bytes'] == before - cache.device.info()['used_bytes'] == 10 * MIB
    assert given['result'] == '10.00 MiB came back: a/b_8-bit'
    assert [entry['state'] for entry in cache.entries()] == ['evicted']
    assert engine.run(run(engine, 'UnloadModels', **values, keep_in_host_memory=False))['freed_bytes'] == 0
    assert cache.entries() == []


def test_unload_leaves_alone_what_is_in_use(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    cache = unstick.shared(limits)
    with cache.use('a/b', '8-bit', load=fakes(cache.device, print), constraints=limits):
        given = engine.run(run(engine, 'UnloadModels', system_constraints=limits))
        assert given['freed_bytes'] == 0 and 'in use, and still there: a/b_8-bit' in given['result']


def test_the_request(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    load(engine, limits)
    result = engine.run(engine.done('FreeGpuMemoryRequest', key='a/b_8-bit'))
    assert (result.freed_bytes, result.keys, result.busy) == (10 * MIB, ['a/b_8-bit'], [])
    load(engine, limits)
    assert engine.run(engine.done('FreeGpuMemoryRequest', forgets=True)).freed_bytes == 10 * MIB
    assert unstick.shared(limits).entries() == []


# --- other libraries ---


def test_other_libraries_are_asked(
    engine: Engine, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as griptape-nodes-library-diffusers has it: a method under functools.cache."""

    class ModelCache:
        @functools.cache  # noqa: B019
        def from_pretrained(self, name: str) -> list[str]:
            return [name]

    name = 'diffusers_nodes_library.common.utils.huggingface_utils'
    module = ModuleType(name)
    module.model_cache = ModelCache()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    first = module.model_cache.from_pretrained('x')
    report = engine.run(run(engine, 'MemoryReport', system_constraints=limits))['report']
    assert f'{name} keeps models of its own' in report
    assert module.model_cache.from_pretrained('x') is first
    given = engine.run(run(engine, 'UnloadModels', system_constraints=limits, other_libraries=True))
    assert f'asked to let go: {name}' in given['result']
    assert module.model_cache.from_pretrained('x') is not first


def test_a_plan_names_what_others_hold(
    engine: Engine, fakes: type[FakeLoader], limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch tells it on a GPU: 12 MiB of live tensors that are none of ours."""
    device = f'host:{19 * MIB}'
    cache = unstick.shared({'gpu_device': device}, granule_bytes=64 * KIB)
    cache.native = unstick._unstick.Cache(cache.device, has_figures=True)
    held = unstick.Region(cache.device, 'others', 12 * MIB)
    held.restore().wait()
    use_module = sys.modules['unstick.use']
    monkeypatch.setattr(use_module, 'figures', lambda index: (12 * MIB, 12 * MIB, 12 * MIB, 0))
    node, result = engine.run(engine.flux('flux', model='a/b', system_constraints=limits | {'gpu_device': device}))
    assert result.failed()
    text = node.parameter_output_values['result_details']
    assert '12.0 MiB in live torch tensors' in text or 'torch' in text.split('held: ')[1].splitlines()[0]


# --- a worker process ---


def test_as_a_worker_runs_it(
    engine: Engine, fakes: type[FakeLoader], limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is made anew for each run there; the cache is the process's, and stays."""
    engine.run(engine.done('ClearAllObjectStateRequest', i_know_what_im_doing=True))  # there are no flows there
    manager = engine.api.LibraryManager()
    monkeypatch.setattr(manager, '_is_worker', True)

    async def main() -> list[Any]:
        return [
            await engine.done(
                'ExecuteNodeRequest', node_name=f'flux{turn}',
                parameter_values={**SMALL, 'model': 'a/b', 'quantization': '8-bit', 'system_constraints': limits},
                node_metadata={'node_type': 'FluxInference', 'library': NAME},
            )
            for turn in range(2)
        ]  # fmt: skip

    results = engine.run(main())
    assert [one.parameter_output_values['plan'].split(':')[0] for one in results] == ['load', 'hit']
    assert fakes.calls == ['a/b_8-bit']


# --- the end ---


def test_the_library_gives_everything_back(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    load(engine, limits)
    device = unstick.shared(limits).device
    before = device.info()['used_bytes']
    engine.run(engine.new_flow())  # a flow whose library is gone cannot be cleared
    engine.run(engine.done('UnloadLibraryFromRegistryRequest', library_name=NAME))
    assert before - device.info()['used_bytes'] == 10 * MIB
    assert unstick.shared_caches() == []
    info = engine.register()
    assert (info.fitness.name, info.problems) == ('GOOD', [])
    assert SimpleNamespace(**engine.run(run(engine, 'MemoryReport', system_constraints=limits))).data['models'] == []
