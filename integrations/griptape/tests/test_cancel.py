# SPDX-License-Identifier: Apache-2.0
"""Stop, in each phase: it ends soon, what was taken is given back, and the next run is as if nothing had been."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import unstick
from fake import FakeLoader
from harness import KIB, MIB, SMALL, Engine
from watch import Watch

Limits = dict[str, Any]
UNINTERRUPTIBLE = 0.25
"""The longest piece of the fake models: a component of a load, a step of inference."""


async def cancel_when(engine: Engine, node: Any, is_time: Callable[[], bool]) -> float:
    """Runs the flow, stops it, and says how long the stop took."""
    run = asyncio.ensure_future(engine.start())
    deadline = time.monotonic() + 20
    while not is_time() and time.monotonic() < deadline and not run.done():
        await asyncio.sleep(0.002)
    has_come = is_time()
    started = time.monotonic()
    await engine.ask('CancelFlowRequest', flow_name=engine.flow)
    await run
    assert has_come, 'the phase never came'
    assert 'image' not in node.parameter_output_values
    return time.monotonic() - started


async def run_once_more(engine: Engine, node: Any) -> str:
    await engine.play()
    assert node.parameter_output_values['was_successful']
    return str(node.parameter_output_values['plan'])


async def one(engine: Engine, limits: Limits, quantization: str = '8-bit') -> Any:
    await engine.new_flow()
    values = {**SMALL, 'num_inference_steps': 4, 'model': 'a/b', 'quantization': quantization}
    return await engine.add('FluxInference', 'flux', **values, system_constraints=limits)


def is_at_rest(limits: Limits, resident_bytes: int) -> bool:
    cache = unstick.shared(limits)
    cache.native.step()
    entries = cache.entries()
    return (
        all(entry['n_leases'] == 0 and entry['state'] != 'loading' for entry in entries)
        and cache.device.info()['resident_bytes'] == resident_bytes
    )


def test_in_a_load(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    fakes.seconds = 4 * UNINTERRUPTIBLE

    async def main() -> None:
        node = await one(engine, limits)
        async with Watch() as watch:
            took = await cancel_when(engine, node, lambda: bool(fakes.calls))
        collection = max(end - start for start, end in watch.collections)
        print(f'\ncancel in a load: {took * 1000:.0f} ms, {collection * 1000:.0f} of it a collection')
        assert watch.n_collects == 1
        assert took <= UNINTERRUPTIBLE + collection + 1
        assert is_at_rest(limits, 0)
        fakes.seconds = 0
        assert (await run_once_more(engine, node)).startswith('load')

    engine.run(main())


def test_in_inference(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    fakes.step_seconds = UNINTERRUPTIBLE

    async def main() -> None:
        node = await one(engine, limits)
        cache = unstick.shared(limits)
        took = await cancel_when(engine, node, lambda: any(entry['n_leases'] for entry in cache.entries()))
        print(f'\ncancel in inference: {took * 1000:.0f} ms')
        assert took <= UNINTERRUPTIBLE + 1
        assert is_at_rest(limits, 10 * MIB)  # the model stays: it is whole, and the next run a hit
        assert (await run_once_more(engine, node)).startswith('hit')

    engine.run(main())


def test_in_a_wait(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    """For a lease of somebody else, who never notices."""

    async def main() -> None:
        cache = unstick.shared(limits)
        other = cache.use('a/b', '4-bit', load=fakes(cache.device, print), constraints=limits)
        await asyncio.to_thread(other.__enter__)
        node = await one(engine, limits)
        took = await cancel_when(engine, node, lambda: any(event['kind'] == 'wait' for event in cache.events()))
        print(f'\ncancel in a wait: {took * 1000:.0f} ms')
        assert took <= 0.5 + 1
        assert [entry['n_leases'] for entry in cache.entries() if entry['key'] == 'a/b_4-bit'] == [1]
        await asyncio.to_thread(other.end)
        assert (await run_once_more(engine, node)).startswith('load')

    engine.run(main())


@pytest.mark.parametrize('phase', ['evict', 'restore'])
def test_between_two_granules(engine: Engine, fakes: type[FakeLoader], limits: Limits, phase: str) -> None:
    """Models large enough that they do not leave, or come back, between two looks."""
    big = 384 * MIB
    device = f'host:{512 * MIB + (64 * KIB if phase == "evict" else 0)}'
    cache = unstick.shared({'gpu_device': device}, granule_bytes=2 * MIB, has_backup=phase != 'evict')
    fakes.sizes = {'8-bit': big, '4-bit': big}
    given = {'gpu_device': device, '8-bit_memory_gb': 0.375, '4-bit_memory_gb': 0.375, 'cpu_memory_gb': 2}

    async def main() -> None:
        for quantization in ('8-bit', '4-bit') if phase == 'restore' else ('4-bit',):
            await run_once_more(engine, await one(engine, given, quantization))
        node = await one(engine, given)
        seen: list[int] = []

        def observe(use: unstick.Use) -> None:
            progress = use.progress()
            has_begun = progress['bytes'] > 0 if phase == 'restore' else progress['evictions']
            if has_begun or not cache_is_full():
                seen.append(1)
            plain(use)

        def cache_is_full() -> bool:
            return cache.device.info()['resident_bytes'] >= big

        plain, node._observe = node._observe, observe
        took = await cancel_when(engine, node, lambda: bool(seen))
        print(f'\ncancel in {phase}: {took * 1000:.0f} ms')
        assert took <= 1.5
        assert all(entry['n_leases'] == 0 for entry in cache.entries())
        assert (await run_once_more(engine, node)).split(':')[0] in ('load', 'restore')
        await run_once_more(engine, await one(engine, given, '4-bit'))

    engine.run(main())
