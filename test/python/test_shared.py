# SPDX-License-Identifier: Apache-2.0
"""One cache for each device of a process, limits of one use, unloading, and which GPU a name means."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import unstick
from unstick import constraints
from unstick.constraints import device_of, gpu_name

MIB, GIB = 1 << 20, 1 << 30
MODEL = 40 * MIB
FIRST, SECOND = 'GPU-facec0da-0001-0203-0405-060708090a00', 'GPU-facec0da-0001-0203-0405-060708090a01'


def load_into(cache: unstick.Cache) -> Any:
    def load(model_id: str, quantization: str, **_: Any) -> unstick.Loaded:
        region = unstick.Region(cache.device, 'weights', MODEL)
        region.restore().wait()
        return unstick.Loaded(model_id, {'weights': region})

    return load


@pytest.fixture
def cache() -> Iterator[unstick.Cache]:
    unstick.forget_shared()
    yield unstick.shared({'gpu_device': 'host:96MiB'}, granule_bytes=2 * MIB)
    unstick.forget_shared()


def use(cache: unstick.Cache, model_id: str = 'a', **options: Any) -> unstick.Use:
    return cache.use(model_id, '8-bit', load=load_into(cache), required_bytes=MODEL, **options)


# --- which device ---


@pytest.fixture
def two_equal_gpus(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    gpus = [
        {'index': index, 'name': 'NVIDIA L4', 'uuid': uuid, 'total_bytes': 22 * GIB, 'free_bytes': (index + 1) * GIB}
        for index, uuid in enumerate((FIRST, SECOND))
    ]
    monkeypatch.setattr(constraints._unstick, 'gpus', lambda: gpus)
    return gpus


def test_auto_is_the_gpu_with_most_room(two_equal_gpus: list[dict[str, Any]]) -> None:
    assert [device_of(auto) for auto in ('auto', '', None)] == ['cuda:1'] * 3
    two_equal_gpus[0]['free_bytes'] = 20 * GIB
    assert device_of('auto') == 'cuda:0'
    two_equal_gpus[1]['free_bytes'] = None  # nobody knows: then there is no choice to make
    assert device_of('auto') == 'auto'


def test_equal_gpus_differ(two_equal_gpus: list[dict[str, Any]]) -> None:
    assert [device_of(gpu_name(gpu)) for gpu in two_equal_gpus] == ['cuda:0', 'cuda:1']
    assert device_of(SECOND.lower()) == 'cuda:1'
    with pytest.raises(unstick.InvalidArgumentError, match=f'fits several GPUs.*{FIRST}.*{SECOND}'):
        device_of('NVIDIA L4 (22 GB)')
    two_equal_gpus[1]['name'] = 'NVIDIA T4'
    assert device_of('NVIDIA T4 (15 GB)') == 'cuda:1'
    with pytest.raises(unstick.InvalidArgumentError, match=r'is none of these: cuda:0 is NVIDIA L4 \(22 GB\)'):
        device_of('NVIDIA H100')


def test_a_gpu_that_is_hidden(two_equal_gpus: list[dict[str, Any]]) -> None:
    """What CUDA_VISIBLE_DEVICES hides is not there, and what is left moves up."""
    del two_equal_gpus[0]
    two_equal_gpus[0]['index'] = 0
    assert device_of(SECOND) == 'cuda:0'
    with pytest.raises(unstick.InvalidArgumentError, match=f'there is no GPU {FIRST} here'):
        device_of(FIRST)


def test_max_memory_of_another_gpu() -> None:
    given = {'gpu_device': 'cuda:1', 'max_memory': {0: '1GiB', 1: '2GiB', 'cpu': '3GiB'}}
    read = constraints.Constraints(given)
    assert (read.limit_bytes(0), read.host_bytes) == (2 * GIB, 3 * GIB)


# --- one cache, limits of one use ---


def test_everybody_gets_the_same_cache(cache: unstick.Cache) -> None:
    assert unstick.shared({'gpu_device': 'host:96MiB', 'gpu_memory_fraction': 0.1}) is cache
    assert unstick.shared({'gpu_device': 'host:97MiB'}) is not cache
    assert len(unstick.shared_caches()) == 2
    with use(cache):
        pass
    unstick.forget_shared()
    assert cache.entries() == [] and unstick.shared_caches() == []
    assert cache.device.info()['resident_bytes'] == 0


def test_limits_of_one_use(cache: unstick.Cache) -> None:
    small = {'gpu_memory_fraction': 0.4}
    with pytest.raises(unstick.OutOfDeviceMemoryError, match=r'needs 40.0 MiB'), use(cache, constraints=small):
        pass
    forced = use(cache, constraints=small | {'allow_low_memory': True})
    with forced:
        pass
    assert forced.result['verdict'] == 'forced'
    with use(cache, 'b'):  # which has the whole device
        pass
    assert [entry['state'] for entry in cache.entries()] == ['resident'] * 2
    tight = use(cache, 'c', constraints={'gpu_memory_gb': 50 / 1024})
    with tight:
        pass
    assert len(tight.result['evictions']) == 2


def test_an_unknown_strategy(cache: unstick.Cache) -> None:
    with pytest.raises(unstick.InvalidArgumentError, match='strategy is'):
        use(cache, strategy='hope')


# --- the way there ---


def test_observe_sees_and_ends_the_way(cache: unstick.Cache) -> None:
    seen: list[dict[str, Any]] = []
    using = use(cache)
    using.observe = lambda one: seen.append(one.progress())
    with using:
        pass
    assert seen and all(one['status'] == 1 for one in seen) and using.progress()['outcome'] == 'load'
    assert cache.last_plan['key'] == 'a_8-bit'

    def stop(_: unstick.Use) -> None:
        raise KeyboardInterrupt

    stopped = use(cache, 'b')
    stopped.observe = stop
    with pytest.raises(KeyboardInterrupt), stopped:
        pass
    assert [entry['n_leases'] for entry in cache.entries()] == [0, 0]


def test_asyncio_keeps_its_loop_free(cache: unstick.Cache) -> None:
    """Whatever lies between two steps, and the end of the use, is another thread's work."""
    loop_thread = threading.get_ident()
    threads: set[int] = set()

    async def main() -> None:
        using = cache.ause('a', '8-bit', load=load_into(cache), required_bytes=MODEL)
        using.observe = lambda _: threads.add(threading.get_ident())
        async with using:
            pass

    asyncio.run(main())
    assert threads and loop_thread not in threads


# --- unloading ---


def test_unload_says_what_came_back(cache: unstick.Cache) -> None:
    with use(cache), use(cache, 'b'):
        done = cache.unload()
        assert (done.freed_bytes, done.keys, sorted(done.busy)) == (0, [], ['a_8-bit', 'b_8-bit'])
    done = cache.unload(['a_8-bit', 'nobody_8-bit'])
    assert (done.freed_bytes, done.keys) == (MODEL, ['a_8-bit'])
    done = cache.unload(forgets=True)
    assert (done.freed_bytes, done.keys) == (MODEL, ['a_8-bit', 'b_8-bit'])
    assert cache.entries() == []


def test_unload_waits_for_those_who_use_it(cache: unstick.Cache) -> None:
    using = use(cache, holder=7)  # somebody else: who holds a lease never waits for one
    using.__enter__()
    timer = threading.Timer(0.2, using.end)
    timer.start()
    assert cache.unload(waits=True).keys == ['a_8-bit']
    timer.join()

    def stop() -> None:
        raise KeyboardInterrupt

    with use(cache), pytest.raises(KeyboardInterrupt):
        run_elsewhere(lambda: cache.unload(waits=True, check=stop))
    assert cache.unload().keys == ['a_8-bit']


def run_elsewhere(call: Any) -> None:
    """In another thread: who holds a lease never waits for one."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_readings(cache: unstick.Cache) -> None:
    with use(cache):
        reading = unstick.reading(cache.device, (0, 8 * MIB, 5 * MIB, 1 * MIB))
    assert reading['ours_bytes'] >= MODEL and reading['largest'] == 'ours'
    assert (reading['torch_live_bytes'], reading['torch_cached_bytes']) == (5 * MIB, 2 * MIB)
    assert unstick.system()['total_bytes'] > MODEL
    assert isinstance(unstick.gpus(), list)
