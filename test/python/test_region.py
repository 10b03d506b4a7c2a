# SPDX-License-Identifier: Apache-2.0
"""The extension's types: regions move, memory outlives what it came from, failures carry their detail."""

import gc
import logging
import signal
import subprocess
import sys
import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unstick

MIB = 1 << 20


def resident_bytes(device):
    return device.info()['resident_bytes']


def make_region(device, nbytes=16 * MIB, name='transformer'):
    region = unstick.Region(device, name, nbytes)
    region.restore().wait()
    return region


def test_contents_come_back_to_the_same_address(device):
    region = make_region(device)
    view = memoryview(region.tensor(0, 16 * MIB))
    view[:4] = b'abcd'
    view[-4:] = b'wxyz'
    address = region.address

    evicted = region.evict().wait()
    assert (region.state, resident_bytes(device)) == ('evicted', 0)
    assert evicted['copied_bytes'] == 16 * MIB
    assert bytes(view[:4]) == b'\xff' * 4, 'the sentinel lies under an evicted range'

    region.restore(verify=True).wait()
    assert (region.state, resident_bytes(device), region.address) == ('resident', 16 * MIB, address)
    assert bytes(view[:4]) + bytes(view[-4:]) == b'abcdwxyz'


def test_an_unchanged_region_is_evicted_without_a_copy(device):
    region = make_region(device)
    region.evict().wait()
    region.restore().wait()
    assert region.evict().wait()['copied_bytes'] == 0


def test_read_and_write(device):
    region = make_region(device)
    region.write(5, b'hello')
    region.evict().wait()
    assert region.read(5, 5) == b'hello'
    with pytest.raises(unstick.NotResidentError):
        region.write(5, b'world')


def test_alloc_gives_offsets_that_are_aligned(device):
    region = make_region(device, 4096)
    assert [region.alloc(100), region.alloc(1), region.alloc(512)] == [0, 512, 1024]
    with pytest.raises(unstick.OutOfDeviceMemoryError) as caught:
        region.alloc(MIB * 64)
    assert caught.value.required_bytes == 64 * MIB
    assert caught.value.available_bytes < 64 * MIB


def test_memory_outlives_region_device_and_context():
    region = make_region(unstick.Device(unstick.Context(), 'host:64MiB'))
    view = memoryview(region.tensor(0, 100))
    view[:] = bytes(range(100))
    del region
    gc.collect()
    assert bytes(view) == bytes(range(100))


def test_the_last_piece_gives_the_memory_back(device):
    region = make_region(device)
    memory = region.tensor(0, 100)
    capsule = memory.__dlpack__()
    assert region.tensors() == [(0, 100)]
    del region, memory
    assert resident_bytes(device) == 16 * MIB, 'the capsule holds it'
    del capsule
    assert resident_bytes(device) == 0


def test_tensors_lists_what_is_still_held(device):
    region = make_region(device)
    first, second = region.tensor(512, 10), region.tensor(0, 20)
    assert region.tensors() == [(0, 20), (512, 10)]
    del second
    assert region.tensors() == [(512, 10)]
    assert (first.offset, first.nbytes, first.address) == (512, 10, region.address + 512)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=200)
def test_a_piece_lies_inside_its_region(offset, nbytes):
    region = test_a_piece_lies_inside_its_region.region
    if offset + nbytes <= 4096:
        assert region.tensor(offset, nbytes).nbytes == nbytes
    else:
        with pytest.raises(unstick.InvalidArgumentError):
            region.tensor(offset, nbytes)


test_a_piece_lies_inside_its_region.region = unstick.Region(unstick.Device(unstick.Context(), 'host:16MiB'), 'r', 4096)


def test_a_closed_device_is_told_from_a_used_one(device):
    region = make_region(device)
    with pytest.raises(unstick.BusyError):
        device.close()
    del region
    device.close()
    assert 'closed' in repr(device)
    with pytest.raises(unstick.InvalidArgumentError):
        device.info()
    with pytest.raises(unstick.InvalidArgumentError):
        unstick.Region(device, 'late', 1)


def test_an_error_carries_its_detail(context):
    with pytest.raises(unstick.NoDeviceError) as caught:
        unstick.Device(context, 'abacus')
    error = caught.value
    assert (error.status, error.status_name) == (-9, 'NO_DEVICE')
    assert error.operation == 'unstick_device_open'
    assert error.native == error.required_bytes == error.available_bytes == 0
    assert str(error) == error.text
    assert 'abacus' in error.text
    assert isinstance(error, unstick.Error)


def test_a_shortage_says_how_much(device):
    first = make_region(device, 200 * MIB)
    second = unstick.Region(device, 'second', 100 * MIB)
    with pytest.raises(unstick.OutOfDeviceMemoryError) as caught:
        second.restore().wait()
    assert isinstance(caught.value, MemoryError)
    assert caught.value.required_bytes > caught.value.available_bytes
    assert first.state == 'resident'


def test_revoke_takes_memory_while_it_is_held(device):
    region = make_region(device)
    view = memoryview(region.tensor(0, 16))
    region.revoke().wait()
    assert (region.state, resident_bytes(device)) == ('revoked', 0)
    assert len(view) == 16
    with pytest.raises(unstick.RevokedError):
        region.restore().wait()


def test_wait_lets_other_threads_run(device):
    region = make_region(device)
    lease = region.lease()
    task = region.evict()
    waited = threading.Thread(target=task.wait)
    waited.start()
    assert not task.done
    lease.end()
    waited.join(60)
    assert task.done
    assert region.state == 'evicted'


def test_wait_has_a_timeout(device):
    region = make_region(device)
    with region.lease():
        task = region.evict()
        with pytest.raises(unstick.TimedOutError):
            task.wait(0.005)
        with pytest.raises(TimeoutError):
            task.wait(timeout=0)
    assert task.wait()['status'] == 0


def test_a_signal_ends_a_wait(device):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    region = make_region(device)
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with region.lease():
            task = region.evict()
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(KeyboardInterrupt):
                task.wait()
    finally:
        signal.signal(signal.SIGALRM, previous)
    task.wait()
    assert region.state == 'evicted'


def test_a_task_that_is_dropped_is_cancelled(device):
    region = make_region(device)
    with region.lease():
        region.evict()
    region.backup().wait()
    assert region.state == 'resident'


def test_a_cancelled_task_says_so(device):
    region = make_region(device)
    with region.lease():
        task = region.evict()
        task.cancel()
        with pytest.raises(unstick.CanceledError):
            task.wait()
    assert task.result()['status_name'] == 'CANCELED'
    assert task.region is region


def test_hand_over_takes_the_memory_of_what_leaves(context):
    device = unstick.Device(context, 'host:64MiB', limit_bytes=32 * MIB)
    first, second = make_region(device, 24 * MIB), unstick.Region(device, 'second', 24 * MIB)
    leaving = first.evict(hand_over=True)
    second.restore(sources=[leaving]).wait()
    assert (first.state, second.state) == ('evicted', 'resident')


@pytest.mark.parametrize(
    ('call', 'kind'),
    [
        (lambda region: region.evict(tier='fast'), ValueError),
        (lambda region: region.evict(fence='tall'), ValueError),
        (lambda region: region.restore(sources=[1]), TypeError),
        (lambda region: region.restore(sources=3), TypeError),
        (lambda region: region.read(0, -1), unstick.InvalidArgumentError),
        (lambda region: region.read(1 << 40, 1), unstick.InvalidArgumentError),
        (lambda region: region.tensor(-1, 1), OverflowError),
        (lambda region: region.alloc('much'), TypeError),
        (lambda region: unstick.Region(region.device, '', 1), unstick.InvalidArgumentError),
        (lambda region: unstick.Region(region.device, 'r', 0), unstick.InvalidArgumentError),
        (lambda region: unstick.Region(region.device, 'r', 2, reserve_bytes=1), unstick.InvalidArgumentError),
        (lambda region: unstick.Device(region.device.context, 'host:'), unstick.InvalidArgumentError),
        (lambda region: unstick.Context(n_threads=1000), unstick.InvalidArgumentError),
        (lambda region: unstick.Task(), TypeError),
        (lambda region: unstick.Lease(), TypeError),
    ],
)
def test_bad_arguments(device, call, kind):
    with pytest.raises(kind):
        call(make_region(device))


def test_reprs_say_what_matters(device):
    region = make_region(device)
    task = region.evict()
    task.wait()
    lease_of = make_region(device, name='vae').lease()
    memory = region.tensor(0, 2048)
    texts = [repr(thing) for thing in (device.context, device, region, task, memory, lease_of)]
    lease_of.end()
    assert 'host:256MiB' in texts[1]
    assert texts[2] == (
        "<unstick.Region 'transformer' on host:256MiB: evicted, 0 B of 16.0 MiB on the device, 1 tensor>"
    )
    assert texts[3] == "<unstick.Task: evict of 'transformer', done, 16.0 MiB of 16.0 MiB>"
    assert texts[4] == '<unstick.Memory: 2.0 KiB at offset 0 of a region on host:256MiB>'
    assert texts[5] == "<unstick.Lease of 'vae'>"
    assert repr(lease_of) == "<unstick.Lease of 'vae': ended>"


def test_a_region_can_be_watched(device):
    region = make_region(device)
    watch = weakref.ref(region)
    assert watch() is region
    del region
    assert watch() is None


def test_the_log_goes_to_logging(caplog):
    with caplog.at_level(logging.DEBUG, logger='unstick'):
        context = unstick.Context(log_level=3)
        device = unstick.Device(context, 'auto')
        context.info()
    if device.kind == 'host':
        assert any('no GPU found' in record.getMessage() for record in caplog.records)
    assert all(record.name == 'unstick' for record in caplog.records)


def test_a_collection_while_pieces_are_listed(here):
    """It may come with any object that is made, and what it runs may have the list of pieces swept."""
    script = """
import gc, unstick
context = unstick.Context()
region = unstick.Region(unstick.Device(context, 'host:64MiB'), 'pieces', 1 << 20)
region.restore().wait()

class Node:
    pass

gc.callbacks.append(lambda phase, _: phase == 'stop' and context.info())
gc.collect()
gc.disable()
spare = [(number, -number) for number in range(5000)]  # none of these is left to be used again
gc.collect()
kept = [region.tensor(number * 512, 512) for number in range(1000)]
node = Node()
node.self, node.pieces = node, [region.tensor(0, 512) for _ in range(1000)]
kept += [region.tensor(number * 512, 512) for number in range(1000)]
del node
gc.set_threshold(gc.get_count()[0] + 1500, 10, 10)
gc.enable()
assert len(region.tensors()) >= 2000
"""
    environment = {**here, 'MALLOC_PERTURB_': '165'}
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
