# SPDX-License-Identifier: Apache-2.0
"""The nodes in the real engine with full-size FLUX: gpu.py OUT.json [--scale N] [--room SIZE] [--turns N].

Writes a FLUX repository with random weights (33 GB in bfloat16 at full size), registers the library with the engine in
this process, and runs one workflow: GPU Configuration, FLUX Inference in 8-bit and 4-bit by turns, Unload. For each
node: what was done about memory, how long the node and each part of it took, and whether the image is that of the turn
before. Without a GPU it runs on the host device, and --scale has to make it small. The environment is that of the
library's tests (`./dev griptape` makes it: build-griptape-venv).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'integrations/griptape/tests'), str(ROOT / 'bench/python')]

from harness import NAME, SMALL, Engine, pixels  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30


def write_flux(folder: Path, device: Any, scale: int) -> int:
    """A FLUX repository as from_pretrained() finds it; its bytes."""
    import full_flux
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    import tiny

    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        tokenizer=tiny.clip_tokenizer(77),
        tokenizer_2=tiny.t5_tokenizer(512),
        transformer=full_flux.transformer('none', device, scale),
        text_encoder=full_flux.clip(device),
        text_encoder_2=full_flux.t5('none', device, scale),
        vae=full_flux.vae(device),
    ).save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())


class Run:
    """One workflow in the engine, and how long each of its nodes took."""

    def __init__(self, engine: Engine, constraints: dict[str, Any]) -> None:
        from griptape_nodes.node_library.library_registry import LibraryRegistry

        self.engine = engine
        self.constraints = constraints
        self.seconds: dict[str, float] = {}
        kind = LibraryRegistry.get_library(NAME).get_node_class('FluxInference')
        kind.aprocess = self._timed(kind.aprocess)

    def _timed(self, process: Any) -> Any:
        @functools.wraps(process)
        async def timed(node: Any) -> None:
            started = time.monotonic()
            try:
                await process(node)
            finally:
                self.seconds[node.name] = time.monotonic() - started

        return timed

    async def play(self, model: str, turns: int, values: dict[str, Any]) -> tuple[list[Any], Any]:
        engine = self.engine
        await engine.new_flow()
        await engine.add('GpuConfiguration', 'gpu', **self.constraints)
        nodes = []
        for turn in range(turns):
            name = f'flux{turn}'
            quantization = ('8-bit', '4-bit')[turn % 2]
            nodes.append(await engine.add('FluxInference', name, **values, model=model, quantization=quantization))
            await engine.connect('gpu', name, 'system_constraints')
            if turn:
                await engine.connect(f'flux{turn - 1}', name, 'exec_out', 'exec_in')
        unload = await engine.add('UnloadModels', 'unload', what='all', keep_in_host_memory=False)
        await engine.connect('gpu', 'unload', 'system_constraints')
        await engine.connect(nodes[-1].name, 'unload', 'exec_out', 'exec_in')
        await engine.play()
        return nodes, unload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path)
    parser.add_argument('--scale', type=int, default=1, help='divides the blocks, and from 8 on the width')
    parser.add_argument('--room', type=float, default=24, help='GiB of the device that the models may have')
    parser.add_argument('--turns', type=int, default=6)
    parser.add_argument('--folder', type=Path, help='for the repository, 33 GB; by default a temporary one')
    options = parser.parse_args()

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    engine = Engine(loop)
    info = engine.register()
    assert (info.fitness.name, info.problems) == ('GOOD', []), info.problems

    import torch

    import unstick

    has_gpu = torch.cuda.is_available()
    device = torch.device('cuda:0' if has_gpu else 'cpu')
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        started = time.monotonic()
        nbytes = write_flux(Path(folder), device, options.scale)
        written = time.monotonic() - started
        gc.collect()
        if has_gpu:
            torch.cuda.empty_cache()
        spec = 'cuda:0' if has_gpu else f'host:{int(options.room * GIB / MIB)}MiB'
        constraints = {'gpu_device': spec, 'gpu_memory_fraction': 0.95}
        if has_gpu:
            constraints['gpu_memory_gb'] = options.room
        else:
            unstick.shared({'gpu_device': spec}, granule_bytes=64 << 10)
        side, steps = (1024, 4) if options.scale == 1 else (64, 1)
        values = {**SMALL, 'width': side, 'height': side, 'num_inference_steps': steps}
        run = Run(engine, constraints)
        before = torch.cuda.mem_get_info()[0] if has_gpu else 0
        nodes, unload = loop.run_until_complete(run.play(folder, options.turns, values))
        after = torch.cuda.mem_get_info()[0] if has_gpu else 0

    digests = [hashlib.sha256(pixels(node)).hexdigest()[:16] for node in nodes]
    result = {
        'date': time.strftime('%Y-%m-%d'),
        'gpu': torch.cuda.get_device_name(0) if has_gpu else None,
        'versions': {name: version(name) for name in ('griptape-nodes-engine', 'torch', 'diffusers', 'bitsandbytes')},
        'unstick': unstick.__version__,
        'repository_bytes': nbytes,
        'write_s': written,
        'room_gib': options.room,
        'image': {'side': side, 'steps': steps},
        'nodes': [
            {
                'name': node.name,
                'quantization': node.get_parameter_value('quantization'),
                's': run.seconds[node.name],
                'plan': node.parameter_output_values['plan'],
                'image': digest,
                'is_as_before': digest == digests[turn - 2] if turn > 1 else None,
            }
            for turn, (node, digest) in enumerate(zip(nodes, digests, strict=True))
        ],
        'unload': {name: unload.parameter_output_values[name] for name in ('freed_bytes', 'result')},
        'free_before_bytes': before,
        'free_after_bytes': after,
    }
    options.out.write_text(json.dumps(result, indent=1) + '\n')
    for node in result['nodes']:
        print(f'{node["name"]}: {node["s"]:.2f} s, {node["plan"]}, {node["is_as_before"]}')
    print(result['unload']['result'])
    assert all(node['is_as_before'] in (None, True) for node in result['nodes']), 'another image than before'


def version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


if __name__ == '__main__':
    main()
