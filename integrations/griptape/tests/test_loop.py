# SPDX-License-Identifier: Apache-2.0
"""The engine's event loop while FLUX nodes load, wait, restore and infer; and five nodes at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import unstick
from fake import FakeLoader
from harness import SMALL, Engine, pixels
from watch import Watch

LIMIT = 0.1
N_WALKS = {'load': 1, 'restore': 0, 'hit': 0}
"""Walks through the heap: who else holds a tensor, and which modules are compiled, in one."""


def show(name: str, watch: Watch) -> None:
    print(f'\n{name}: {watch}')
    assert watch.longest <= LIMIT + watch.late, f'{name}: {watch}'


def test_no_phase_stalls_the_loop(engine: Engine, model: str, tight: str) -> None:
    """With the real pipeline; what has to be imported for the first time is imported before."""
    given = {'model': model, 'system_constraints': {'gpu_device': tight}}

    async def phase(name: str, quantization: str, outcome: str) -> Any:
        async with Watch() as watch:
            node, result = await engine.flux('flux', quantization=quantization, **given)
        assert result.succeeded(), result.result_details
        assert node.parameter_output_values['plan'].startswith(outcome)
        assert (watch.n_collects, len(watch.walks)) == (0, N_WALKS[outcome]), str(watch)
        show(name, watch)
        return pixels(node)

    async def main() -> None:
        for quantization in ('8-bit', '4-bit'):  # imports
            await engine.flux('flux', quantization=quantization, **given)
        unstick.shared({'gpu_device': tight}).clear()
        first = await phase('load', '8-bit', 'load')
        await phase('evict and load', '4-bit', 'load')
        assert await phase('restore', '8-bit', 'restore') == first
        assert await phase('inference', '8-bit', 'hit') == first

    engine.run(main())


def test_waiting_does_not_stall_the_loop(engine: Engine, fakes: type[FakeLoader], limits: dict[str, Any]) -> None:
    async def main() -> list[Any]:
        await engine.new_flow()
        fakes.step_seconds = 0.5
        nodes = [
            await engine.add(
                'FluxInference', f'flux{i}', **{**SMALL, 'model': 'a/b', 'quantization': quantization,
                                                'system_constraints': limits},
            )
            for i, quantization in enumerate(('8-bit', '4-bit'))
        ]  # fmt: skip
        async with Watch() as watch:
            await both(engine, nodes)
        show('wait', watch)
        return nodes

    nodes = engine.run(main())
    assert all(node.parameter_output_values['was_successful'] for node in nodes)
    assert unstick.shared(limits).last_plan['wait_ns'] > 0.2e9


async def both(engine: Engine, nodes: list[Any]) -> None:
    """All of them at once, as an editor's user who presses run on each."""
    results = await asyncio.gather(*(engine.ask('ResolveNodeRequest', node_name=node.name) for node in nodes))
    for result in results:
        assert result.succeeded(), result.result_details
    while any(node.state.name != 'RESOLVED' for node in nodes):
        await asyncio.sleep(0.02)


def test_five_nodes_of_the_real_pipeline(engine: Engine, model: str, tight: str) -> None:
    """Each image is that of its node alone, so nothing left while it was used."""

    async def main() -> list[list[bytes]]:
        await engine.new_flow()
        nodes = [
            await engine.add(
                'FluxInference', f'flux{i}', **{**SMALL, 'model': model, 'quantization': ('8-bit', '4-bit')[i % 2],
                                                'seed': i, 'system_constraints': {'gpu_device': tight}},
            )
            for i in range(5)
        ]  # fmt: skip
        async with Watch() as watch:
            await asyncio.wait_for(both(engine, nodes), 120)
        assert all(node.parameter_output_values['was_successful'] for node in nodes)
        show('five nodes of the real pipeline', watch)
        together = [pixels(node) for node in nodes]
        events = [event['kind'] for event in unstick.shared({'gpu_device': tight}).events()]
        assert events.count('load') == 2 and 'refused' not in events and 'failed' not in events
        alone = []
        for i in range(5):
            node, result = await engine.flux(
                'flux', model=model, quantization=('8-bit', '4-bit')[i % 2], seed=i,
                system_constraints={'gpu_device': tight},
            )  # fmt: skip
            assert result.succeeded(), result.result_details
            alone.append(pixels(node))
        return [together, alone]

    together, alone = engine.run(main())
    assert together == alone and len(set(together)) == 5


@pytest.mark.parametrize('rounds', [2])
def test_five_nodes_two_models(
    engine: Engine, fakes: type[FakeLoader], limits: dict[str, Any], rounds: int
) -> None:
    """There is room for one model at a time; each fake pipeline checks that it stays while it is used."""

    async def main() -> list[Any]:
        await engine.new_flow()
        fakes.step_seconds, fakes.seconds = 0.05, 0.2
        nodes = [
            await engine.add(
                'FluxInference', f'flux{i}', **{**SMALL, 'model': 'a/b', 'quantization': ('8-bit', '4-bit')[i % 2],
                                                'seed': i, 'system_constraints': limits},
            )
            for i in range(5)
        ]  # fmt: skip
        for _ in range(rounds):
            async with Watch() as watch:
                await asyncio.wait_for(both(engine, nodes), 60)
            show('five nodes', watch)
        return nodes

    nodes = engine.run(main())
    assert sorted(fakes.calls) == ['a/b_4-bit', 'a/b_8-bit']  # each once
    assert all(node.parameter_output_values['was_successful'] for node in nodes)
    assert len({pixels(node) for node in nodes}) == 5
    cache = unstick.shared(limits)
    assert all(entry['n_leases'] == 0 for entry in cache.entries())
    assert not [event for event in cache.events() if event['kind'] in ('refused', 'failed')]
