# SPDX-License-Identifier: Apache-2.0
"""The library in the real engine, and the workflow it is for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unstick
from harness import KIB, LIBRARY, MIB, NAME, SMALL, Engine, pixels

ISOLATED = 'griptape_nodes_library_isolated.json'


@pytest.mark.parametrize('name', [LIBRARY.name, ISOLATED])
def test_the_manifest_is_what_the_engine_reads(name: str) -> None:
    from griptape_nodes.node_library.library_registry import LibrarySchema
    from griptape_nodes.retained_mode.managers.library.workers import resolve_executes_in_worker

    schema = LibrarySchema.model_validate(json.loads((LIBRARY.parent / name).read_text()))
    assert schema.library_schema_version == LibrarySchema.LATEST_SCHEMA_VERSION
    assert all((LIBRARY.parent / node.file_path).is_file() for node in schema.nodes)
    assert resolve_executes_in_worker(metadata=schema.metadata) is (name == ISOLATED)


def test_the_isolated_one_differs_in_its_dependencies_only() -> None:
    plain = json.loads(LIBRARY.read_text())
    isolated = json.loads((LIBRARY.parent / ISOLATED).read_text())
    heavy = plain['metadata'].pop('dependencies')['pip_dependencies']
    assert isolated['metadata'].pop('dependencies') == {'pip_dependencies': [], 'pip_dependencies_exec': heavy}
    assert isolated['metadata'].pop('description').startswith(plain['metadata'].pop('description'))
    assert isolated == plain


def test_it_registers_without_a_problem(engine: Engine) -> None:
    info = engine.api.LibraryManager().get_library_info_by_library_name(NAME)
    assert (info.lifecycle_state.name, info.fitness.name, info.problems) == ('LOADED', 'GOOD', [])
    nodes = engine.run(engine.done('ListNodeTypesInLibraryRequest', library=NAME)).node_types
    assert sorted(nodes) == ['FluxInference', 'GpuConfiguration', 'MemoryReport', 'UnloadModels']


def test_eight_four_eight(flow: Engine, model: str, tight: str) -> None:
    async def main() -> list[Any]:
        gpu = await flow.add('GpuConfiguration', 'gpu', gpu_device=tight, gpu_memory_fraction=0.95)
        nodes = [gpu]
        for turn, quantization in enumerate(('8-bit', '4-bit', '8-bit')):
            values = {**SMALL, 'model': model, 'quantization': quantization}
            nodes.append(await flow.add('FluxInference', f'flux{turn}', **values))
            await flow.connect('gpu', f'flux{turn}', 'system_constraints')
            if turn:
                await flow.connect(f'flux{turn - 1}', f'flux{turn}', 'exec_out', 'exec_in')
        nodes.append(await flow.add('UnloadModels', 'unload', what='all', keep_in_host_memory=False))
        await flow.connect('gpu', 'unload', 'system_constraints')
        await flow.connect('flux2', 'unload', 'exec_out', 'exec_in')
        await flow.play()
        return nodes

    cache = unstick.shared({'gpu_device': tight})
    before = cache.device.info()['used_bytes']
    gpu, first, second, third, unload = flow.run(main())
    assert gpu.parameter_output_values['system_constraints']['gpu_device'] == tight
    assert pixels(first) == pixels(third) != pixels(second)
    assert [one.parameter_output_values['plan'].split(':')[0] for one in (first, second, third)] == [
        'load', 'load', 'restore',
    ]  # fmt: skip
    assert all(one.parameter_output_values['was_successful'] for one in (first, second, third))
    assert unload.parameter_output_values['freed_bytes'] > 0
    assert cache.device.info()['used_bytes'] == before
    assert cache.entries() == []


def test_the_workflow_file(engine: Engine, model: str, tmp_path: Path) -> None:
    """With this model and device in the place of the real ones; full precision needs more room."""
    file = tmp_path / 'flux_switch.py'  # what the engine saves, it saves beside it
    shutil.copy(LIBRARY.parent / 'workflows' / 'flux_switch.py', file)
    device = f'host:{24 * MIB}'
    unstick.shared({'gpu_device': device}, granule_bytes=64 * KIB)

    async def main() -> tuple[str, str]:
        loaded = await engine.done('RunWorkflowFromScratchRequest', file_path=str(file))
        assert loaded.status.name == 'GOOD', loaded.result_details
        engine.flow = engine.api.ContextManager().get_current_flow().name
        await engine.done(
            'SetParameterValueRequest', node_name='GPU Configuration', parameter_name='gpu_device', value=device
        )
        for quantization in ('8-bit', '4-bit', 'none'):
            for name, value in {**SMALL, 'model': model}.items():
                await engine.done(
                    'SetParameterValueRequest', node_name=f'FLUX {quantization}', parameter_name=name, value=value
                )
        await engine.play()
        nodes = engine.api.NodeManager()
        return tuple(
            nodes.get_node_by_name(name).parameter_output_values[output]
            for name, output in (('Memory Report', 'report'), ('Unload', 'result'))
        )

    report, unloaded = engine.run(main())
    assert all(f'{model}_{quantization}: ' in report for quantization in ('8-bit', '4-bit', 'none'))
    assert 'came back' in unloaded and 'in use' not in unloaded
