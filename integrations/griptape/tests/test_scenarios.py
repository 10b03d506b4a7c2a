# SPDX-License-Identifier: Apache-2.0
"""The seed's scenarios, each with the node: what it does, what it shows, and what it fails with."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import unstick
from fake import FakeLoader
from harness import KIB, MIB, Engine

Limits = dict[str, Any]


def run(engine: Engine, limits: Limits, quantization: str = '8-bit', **values: Any) -> tuple[Any, Any]:
    node, result = engine.run(
        engine.flux('flux', system_constraints=limits, quantization=quantization, **values)
    )
    return node, result


def plan(engine: Engine, limits: Limits, quantization: str = '8-bit', **values: Any) -> str:
    """What the node shows; it has to succeed."""
    node, result = run(engine, limits, quantization, **values)
    assert result.succeeded(), result.result_details
    assert node.parameter_output_values['was_successful'] and 'image' in node.parameter_output_values
    return str(node.parameter_output_values['plan'])


def refusal(engine: Engine, limits: Limits, quantization: str = '8-bit', **values: Any) -> str:
    """What the node fails with; it is a failure of the node, and there is no picture."""
    node, result = run(engine, limits, quantization, **values)
    assert result.failed()
    assert not node.parameter_output_values['was_successful'] and 'image' not in node.parameter_output_values
    return str(node.parameter_output_values['result_details'])


def hold(device: str, nbytes: int) -> unstick.Region:
    """Memory of the device that is in no cache."""
    region = unstick.Region(unstick.shared({'gpu_device': device}).device, 'held', nbytes)
    region.restore().wait()
    return region


def test_sufficient_memory(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    assert plan(engine, limits).startswith('load: ')
    assert plan(engine, limits).startswith('hit: ')
    assert fakes.calls == ['nobody/nothing_8-bit']


def test_insufficient_with_a_cache(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    plan(engine, limits)
    text = plan(engine, limits, '4-bit')
    assert text.startswith('load: ') and 'nobody/nothing_8-bit left' in text
    assert plan(engine, limits).startswith('restore: ')
    assert fakes.calls == ['nobody/nothing_8-bit', 'nobody/nothing_4-bit']


def test_changed_quantization_is_another_model(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    plan(engine, limits, '8-bit')
    plan(engine, limits, '4-bit')
    plan(engine, limits, 'none')
    keys = [entry['key'] for entry in unstick.shared(limits).entries()]
    assert keys == ['nobody/nothing_8-bit', 'nobody/nothing_4-bit', 'nobody/nothing_none']


def test_insufficient_with_an_empty_cache(
    engine: Engine, fakes: type[FakeLoader], limits: Limits, device: str
) -> None:
    region = hold(device, 10 * MIB)
    text = refusal(engine, limits)  # nobody knows of anything that could give memory back: no wait
    assert unstick.shared(limits).last_plan['wait_ns'] == 0
    assert 'needs 10.0 MiB' in text and 'are missing' in text
    timer = threading.Timer(3, lambda: region.release().wait())
    started = time.monotonic()
    timer.start()
    assert plan(engine, limits, patience='by the clock').startswith('load: ')
    assert time.monotonic() - started >= 3


def test_refused_with_what_could_be_done(engine: Engine, fakes: type[FakeLoader], limits: Limits, device: str) -> None:
    region = hold(device, 7 * MIB)
    text = refusal(engine, limits)
    assert text.startswith('nobody/nothing_8-bit needs 10.0 MiB')
    assert 'held: ' in text and 'to do: ' in text and 'use 4-bit' in text
    # What it offers works.
    plan(engine, limits, '4-bit')
    region.release().wait()


def test_force_counts_by_its_value(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    small = limits | {'gpu_memory_gb': 9 / 1024}
    refusal(engine, small)
    for no in (False, 'false', 0, None):
        refusal(engine, small | {'allow_low_memory': no})
    assert 'Forced by allow_low_memory.' in plan(engine, small | {'allow_low_memory': True})


@pytest.mark.parametrize(
    'changed',
    [
        {'gpu_memory_fraction': 0.5},
        {'gpu_memory_gb': 9 / 1024},
        {'max_memory': {'DEVICE': '9MiB', 'cpu': '16GiB'}},
        {'8-bit_memory_gb': 20 / 1024},
    ],
    ids=lambda one: next(iter(one)),
)
def test_each_key_changes_the_verdict(
    engine: Engine, fakes: type[FakeLoader], limits: Limits, device: str, changed: Limits
) -> None:
    if 'max_memory' in changed:
        changed = {'max_memory': {device: '9MiB', 'cpu': '16GiB'}}
    refusal(engine, limits | changed)
    assert plan(engine, limits | {'device_map': 'auto', 'low_cpu_mem_usage': True}).startswith('load: ')


def test_the_size_of_the_other_quantizations(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    for quantization in ('4-bit', 'none'):
        refusal(engine, limits | {f'{quantization}_memory_gb': 20 / 1024}, quantization)
        assert plan(engine, limits, quantization).startswith('load: ')


def test_gpu_device(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    other = f'host:{17 * MIB}'
    unstick.shared({'gpu_device': other}, granule_bytes=64 * KIB)
    plan(engine, limits)
    assert plan(engine, limits | {'gpu_device': other}).startswith('load: ')
    assert len(fakes.calls) == 2
    assert 'is none of these' in refusal(engine, limits | {'gpu_device': 'NVIDIA L4 (22 GB)'})


def test_cpu_memory(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    """Without host memory for its backup, a model cannot leave."""
    device = f'host:{18 * MIB}'
    unstick.shared({'gpu_device': device}, granule_bytes=64 * KIB, has_backup=False)
    given = limits | {'gpu_device': device}
    plan(engine, given)
    refusal(engine, given | {'cpu_memory_gb': 1 / 1024}, '4-bit')
    assert 'left' in plan(engine, given | {'cpu_memory_gb': 1}, '4-bit')


def test_a_load_that_fails(engine: Engine, fakes: type[FakeLoader], limits: Limits, device: str) -> None:
    fakes.fails = [ImportError('No module named bitsandbytes')]
    text = refusal(engine, limits)
    assert 'could not be loaded' in text and 'No module named bitsandbytes' in text and 'install' in text
    assert unstick.shared(limits).device.info()['resident_bytes'] == 0
    assert plan(engine, limits).startswith('load: ')
    # Nothing at another precision stands under this key.
    assert fakes.calls == ['nobody/nothing_8-bit'] * 2


def test_a_failure_that_is_dealt_with(engine: Engine, fakes: type[FakeLoader], limits: Limits) -> None:
    """With the Failed output connected, the flow goes on there."""

    async def main() -> Any:
        await engine.new_flow()
        await engine.add('FluxInference', 'first', model='a/b', system_constraints=limits | {'gpu_memory_gb': 0.001})
        second = await engine.add('MemoryReport', 'report', system_constraints=limits)
        await engine.connect('first', 'report', 'failure', 'exec_in')
        await engine.play()
        return second

    report = engine.run(main())
    assert report.parameter_output_values['data']['last_plan']['verdict'] == 'refused'
    assert 'last plan, for a/b_8-bit: refused' in report.parameter_output_values['report']
