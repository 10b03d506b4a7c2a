# SPDX-License-Identifier: Apache-2.0
"""The cache without torch: what a loader returns says itself where its memory lies."""

import asyncio
import gc
import json
import struct
import threading
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import unstick

MIB = 1 << 20
MODEL = 40 * MIB


class Model:
    """Something to refer to weakly."""

    def __init__(self, region: unstick.Region, text: bytes) -> None:
        self.region = region
        self.text = text

    def check(self) -> None:
        assert self.region.state == 'resident'
        assert self.region.read(0, len(self.text)) == self.text
        assert self.region.read(MODEL - len(self.text), len(self.text)) == self.text


class Loader:
    """Loads models of 40 MiB into regions, counts, and fails as often as it is told to."""

    def __init__(self, cache: unstick.Cache, fails: int = 0, error: BaseException | None = None) -> None:
        self.cache = cache
        self.fails = fails
        self.error = error or MemoryError('no room')
        self.calls: list[str] = []
        self.lost: list[weakref.ref[Any]] = []
        self.lock = threading.Lock()

    def __call__(self, model_id: str, quantization: str, **settings: Any) -> unstick.Loaded:
        text = f'{model_id} {quantization} {sorted(settings.items())}'.encode()
        region = unstick.Region(self.cache.device, 'weights', MODEL)
        region.restore().wait()
        with self.lock:
            self.calls.append(model_id)
            self.fails -= 1
            if self.fails >= 0:
                self.lost.append(weakref.ref(region))
                raise self.error
        region.write(0, text)
        region.write(MODEL - len(text), text)
        return unstick.Loaded(Model(region, text), {'weights': region})


@pytest.fixture
def cache(device: unstick.Device) -> unstick.Cache:
    return unstick.Cache('host:64MiB', granule_bytes=2 * MIB)


@pytest.fixture
def load(cache: unstick.Cache) -> Loader:
    return Loader(cache)


def use(cache: unstick.Cache, model_id: str, load: Any = None, quantization: str = '8-bit', **options: Any) -> str:
    using = cache.use(model_id, quantization, load=load, required_bytes=MODEL, **options)
    with using as model:
        model.check()
    return str(using.result['outcome'])


def state(cache: unstick.Cache, key: str) -> dict[str, Any]:
    return next(entry for entry in cache.entries() if entry['key'] == key)


def test_two_models_take_turns_where_one_fits(cache: unstick.Cache, load: Loader) -> None:
    assert [use(cache, name, load) for name in 'abbaba'] == ['load', 'load', 'hit', 'restore', 'restore', 'restore']
    assert load.calls == ['a', 'b']
    assert state(cache, 'b_8-bit')['state'] == 'partial'
    assert 'b_8-bit: partial' in cache.report() and '2 hits' not in cache.report()


def test_two_quantizations_are_two_entries(cache: unstick.Cache, load: Loader) -> None:
    assert [use(cache, 'a', load, q) for q in ('8-bit', 'nf4', 'int8', '4-bit')] == ['load', 'load'] + 2 * ['restore']
    assert [entry['key'] for entry in cache.entries()] == ['a_8-bit', 'a_4-bit']


def test_changed_settings_are_another_model(cache: unstick.Cache, load: Loader) -> None:
    assert [use(cache, 'a', load, dtype=d, steps=4) for d in ('bf16', 'bf16', 'fp16')] == ['load', 'hit', 'load']
    assert use(cache, 'a', load, steps=4, dtype='fp16') == 'hit'
    assert len(cache.entries()) == 1 and cache.device.info()['resident_bytes'] == MODEL


def test_settings_without_a_lasting_repr(cache: unstick.Cache, load: Loader) -> None:
    with pytest.raises(unstick.InvalidArgumentError, match='hook is a object whose repr changes'):
        cache.use('a', '8-bit', load=load, hook=object())


def test_eviction_comes_before_the_load(cache: unstick.Cache, load: Loader) -> None:
    seen = []

    def look(*arguments: str) -> unstick.Loaded:
        seen.append(cache.device.info()['resident_bytes'])
        return load(*arguments)

    use(cache, 'a', load)
    use(cache, 'b', look)
    assert seen == [20 * MIB]  # of 62: 40 were asked for


def test_the_memory_of_a_dropped_model_goes(cache: unstick.Cache, load: Loader) -> None:
    use(cache, 'a', load)
    cache.drop('a', '8-bit')
    assert cache.device.info()['resident_bytes'] == 0 and cache.entries() == []
    with pytest.raises(unstick.NotFoundError):
        cache.drop('a', '8-bit')
    assert use(cache, 'a', load) == 'load'
    with cache.use('a', '8-bit'), pytest.raises(unstick.BusyError):
        cache.drop('a', '8-bit')
    assert use(cache, 'a') == 'hit'


def test_clear(cache: unstick.Cache, load: Loader) -> None:
    with cache.use('a', '8-bit', load=load, required_bytes=MODEL):
        cache.clear()
        assert [entry['key'] for entry in cache.entries()] == ['a_8-bit']
    cache.clear()
    assert cache.entries() == [] and cache.device.info()['resident_bytes'] == 0


def test_a_context_is_entered_once(cache: unstick.Cache, load: Loader) -> None:
    using = cache.use('a', '8-bit', load=load, required_bytes=MODEL)
    with pytest.raises(unstick.BusyError):
        assert using.object
    with using as model:
        with pytest.raises(unstick.BusyError), using:
            pass
        assert using.object is model
    with using as again:
        assert again is model and using.result['outcome'] == 'hit'


def test_evict_pin_idle(cache: unstick.Cache, load: Loader) -> None:
    use(cache, 'a', load)
    cache.evict('a', '8-bit')
    assert (state(cache, 'a_8-bit')['state'], cache.device.info()['resident_bytes']) == ('evicted', 0)
    assert use(cache, 'a') == 'restore'

    cache.pin('a', '8-bit')
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised:
        use(cache, 'b', load)
    assert raised.value.key == 'b_8-bit' and raised.value.required_bytes >= MODEL > raised.value.available_bytes
    cache.pin('a', '8-bit', False)
    assert use(cache, 'b', load) == 'load'

    cache.idle('b', '8-bit', 0)
    deadline = time.monotonic() + 30
    while state(cache, 'b_8-bit')['resident_bytes'] and time.monotonic() < deadline:
        cache.native.step()
    assert state(cache, 'b_8-bit')['state'] == 'evicted'


def test_preload_and_prefetch(cache: unstick.Cache, load: Loader) -> None:
    assert cache.preload('a', '8-bit', load=load, required_bytes=MODEL)['outcome'] == 'load'
    assert state(cache, 'a_8-bit')['n_leases'] == 0
    assert not cache.prefetch('b', '8-bit', load=load, required_bytes=MODEL)
    assert load.calls == ['a']
    cache.drop('a', '8-bit')
    assert cache.prefetch('b', '8-bit', load=load, required_bytes=MODEL)
    assert use(cache, 'b') == 'hit'


def test_a_failed_load_leaves_nothing(cache: unstick.Cache) -> None:
    load = Loader(cache, fails=1, error=ImportError('bitsandbytes is missing'))
    with pytest.raises(unstick.LoadError) as raised:
        use(cache, 'a', load)
    error = raised.value
    assert (error.key, error.operation, error.status_name) == ('a_8-bit', 'load', 'UNSUPPORTED')
    assert isinstance(error.__cause__, ImportError) and any('bitsandbytes' in one for one in error.suggestions)
    assert load.lost[0]() is None, 'the traceback holds what the loader had'
    assert error.__cause__.__traceback__ is not None, 'but it still says where'
    assert cache.device.info()['resident_bytes'] == 0
    assert state(cache, 'a_8-bit')['state'] == 'failed'
    assert use(cache, 'a', load) == 'load'


def test_a_failed_quantized_load_is_no_other_precision(cache: unstick.Cache) -> None:
    with pytest.raises(unstick.LoadError) as raised:
        use(cache, 'a', Loader(cache, fails=1, error=RuntimeError('no kernel')), '4-bit')
    assert any('nothing is loaded at another precision' in one for one in raised.value.suggestions)
    assert [entry['state'] for entry in cache.entries()] == ['failed']


def test_out_of_memory_is_tried_once_more(cache: unstick.Cache, load: Loader) -> None:
    use(cache, 'b', load)
    seen = []

    def larger_than_said(model_id: str, quantization: str) -> unstick.Loaded:
        seen.append(cache.device.info()['resident_bytes'])
        return load(model_id, quantization)

    # 8 MiB are said, 40 are taken: 22 are free. Then all that is not in use goes.
    with cache.use('a', '8-bit', load=larger_than_said, required_bytes=8 * MIB) as model:
        model.check()
    assert seen == [MODEL, 0]
    assert use(cache, 'b') == 'restore'


def test_out_of_memory_twice_is_an_error(cache: unstick.Cache, load: Loader) -> None:
    failing = Loader(cache, fails=2)
    use(cache, 'b', load)
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised:
        use(cache, 'a', failing)
    assert (failing.calls, raised.value.key) == (['a', 'a'], 'a_8-bit')
    assert isinstance(raised.value.__cause__, MemoryError) and 'no room' in str(raised.value)
    assert all(ref() is None for ref in failing.lost)
    assert use(cache, 'b') == 'restore'


def test_too_large_is_said_before_anything_is_loaded(cache: unstick.Cache, load: Loader) -> None:
    with (
        pytest.raises(unstick.OutOfDeviceMemoryError) as raised,
        cache.use('a', '8-bit', load=load, required_bytes=100 * MIB),
    ):
        pass
    error = raised.value
    assert (load.calls, error.key, error.required_bytes) == ([], 'a_8-bit', 100 * MIB)
    assert any('components=' in one for one in error.suggestions)
    assert error.available_bytes < 64 * MIB and error.held_by_us_bytes == 0
    assert [step['freed_bytes'] for step in error.steps] and 'held:' in str(error) and 'tried:' in str(error)


def test_a_region_of_two_entries_counts_once() -> None:
    """A text encoder that two pipelines share: it is there once, and can make room once."""
    device = unstick.Device(unstick.Context(), 'host:64MiB', limit_bytes=16 * MIB, granule_bytes=MIB)
    cache = unstick.Cache(device)

    def region(name: str) -> unstick.Region:
        made = unstick.Region(device, name, 4 * MIB)
        made.restore().wait()
        return made

    shared = region('t5')

    def load(model_id: str, quantization: str) -> unstick.Loaded:
        return unstick.Loaded(object(), {'own': region(model_id), 't5': shared})

    for name in ('a', 'b'):
        with cache.use(name, '8-bit', load=load, required_bytes=4 * MIB):
            pass
    filler = unstick.Region(device, 'filler', 2 * MIB)
    filler.restore().wait()
    assert device.info()['resident_bytes'] == 14 * MIB
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised, cache.use('c', load=load, required_bytes=14 * MIB):
        pass
    assert raised.value.available_bytes < 14 * MIB
    assert device.info()['resident_bytes'] == 14 * MIB, 'it is said before anybody leaves'

    # What b needs is not what leaves for it, though a has it, too.
    cache.evict('b', '8-bit')
    large = unstick.Region(device, 'large', 3 * MIB)
    large.restore().wait()
    using = cache.use('b', '8-bit')
    with using:
        assert shared.state == 'resident'
    assert device.info()['resident_bytes'] <= 16 * MIB
    cache.drop('a', '8-bit')
    with cache.use('b', '8-bit'):
        assert shared.state == 'resident'


def test_who_holds_a_lease_does_not_wait(cache: unstick.Cache, load: Loader) -> None:
    with cache.use('a', '8-bit', load=load, required_bytes=MODEL) as model:
        with pytest.raises(unstick.OutOfDeviceMemoryError) as raised:
            use(cache, 'b', load)
        assert raised.value.held_by_us_bytes == MODEL
        with pytest.raises(unstick.BusyError):
            cache.evict('a', '8-bit')
        assert use(cache, 'a') == 'hit'
        model.check()


def test_waiting_ends_with_the_time_given(cache: unstick.Cache, load: Loader) -> None:
    with cache.use('a', '8-bit', load=load, required_bytes=MODEL, holder=7):
        with pytest.raises(unstick.TimedOutError):
            use(cache, 'b', load, max_wait=0.05)
        with pytest.raises(unstick.OutOfDeviceMemoryError):
            use(cache, 'b', load, max_wait=0)
    assert use(cache, 'b', load, max_wait=0) == 'load'


def test_forced_by_value(load: Loader, cache: unstick.Cache) -> None:
    using = cache.use('a', '8-bit', load=load, required_bytes=100 * MIB, allow_low_memory=True)
    with using:
        assert using.result['verdict'] == 'forced'


def test_five_threads_two_keys(cache: unstick.Cache, load: Loader) -> None:
    failures = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                using = cache.use(name, '8-bit', load=load, required_bytes=MODEL)
                with using as model:
                    for _ in range(5):
                        model.check()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=('ab'[index % 2],)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert sorted(load.calls) == ['a', 'b']
    assert all(entry['n_leases'] == 0 for entry in cache.entries())


def test_users_of_one_key_load_once(cache: unstick.Cache, load: Loader) -> None:
    gate = threading.Event()
    outcomes: list[str] = []

    def slow(*arguments: str) -> unstick.Loaded:
        gate.wait(30)
        return load(*arguments)

    threads = [threading.Thread(target=lambda: outcomes.append(use(cache, 'a', slow))) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ['hit'] * 4 + ['load'] and load.calls == ['a']


def test_a_loader_that_is_interrupted(cache: unstick.Cache, load: Loader) -> None:
    with pytest.raises(KeyboardInterrupt):
        use(cache, 'a', Loader(cache, fails=1, error=KeyboardInterrupt()))
    gc.collect()
    cache.native.step()
    assert cache.device.info()['resident_bytes'] == 0
    assert use(cache, 'a', load) == 'load'


# --- asyncio ---


def test_asyncio(cache: unstick.Cache, load: Loader) -> None:
    beats = 0
    threads = []

    def slow(*arguments: str) -> unstick.Loaded:
        threads.append(threading.get_ident())
        return load(*arguments)

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    async def work(name: str) -> None:
        for _ in range(5):
            async with cache.ause(name, '8-bit', load=slow, required_bytes=MODEL) as model:
                await asyncio.to_thread(model.check)

    async def main() -> None:
        heart = asyncio.ensure_future(beat())
        await asyncio.wait_for(asyncio.gather(work('a'), work('b'), work('a')), 60)
        heart.cancel()

    asyncio.run(main())
    assert sorted(load.calls) == ['a', 'b'] and threading.get_ident() not in threads
    assert beats > 100


def test_asyncio_canceled_in_a_load(cache: unstick.Cache, load: Loader) -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(*arguments: str) -> unstick.Loaded:
        begun.set()
        gate.wait(30)
        return load(*arguments)

    async def main() -> None:
        async def work() -> None:
            async with cache.ause('a', '8-bit', load=slow, required_bytes=MODEL):
                raise AssertionError('it was canceled')

        task = asyncio.ensure_future(work())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    cache.native.step()
    assert cache.device.info()['resident_bytes'] == 0
    assert use(cache, 'a', load) == 'load'


@pytest.mark.parametrize('outcome', ['load', 'restore'])
def test_abandoned_on_the_way(cache: unstick.Cache, load: Loader, outcome: str) -> None:
    """Whoever goes away in the middle of an eviction or a restore: it comes to an end by itself."""
    for name in 'ab' if outcome == 'restore' else 'b':
        use(cache, name, load)
    using = cache.use('a', '8-bit', load=load, required_bytes=MODEL)
    steps = using.steps()
    for step in steps:
        if isinstance(step, unstick.use.Wait):
            break
        step()
    steps.close()
    deadline = time.monotonic() + 10
    while any(entry['state'] == 'loading' for entry in cache.entries()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(entry['state'] != 'loading' and not entry['n_leases'] for entry in cache.entries())
    assert use(cache, 'a', load) == outcome
    assert use(cache, 'b', load) == 'restore'


# --- steps ---


def engine(steps: Generator[Callable[[], Any], Any, Any]) -> tuple[Any, list[Any]]:
    """Runs each callable in a thread, as an engine does that swallows their exceptions."""
    taken = []
    try:
        step = next(steps)
        while True:
            taken.append(step)
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
            step = steps.send(None)
    except StopIteration as stop:
        return stop.value, taken


def test_steps(cache: unstick.Cache, load: Loader) -> None:
    threads = []

    def look(*arguments: str) -> unstick.Loaded:
        threads.append(threading.get_ident())
        return load(*arguments)

    for name in 'aba':
        use, taken = engine(cache.steps(name, '8-bit', load=look, required_bytes=MODEL))
        with use as model:
            model.check()
        assert all(step.seconds <= 0.5 for step in taken if hasattr(step, 'seconds'))
    assert load.calls == ['a', 'b'] and threading.get_ident() not in threads
    assert use.result['outcome'] == 'restore'


def test_steps_of_a_failing_loader(cache: unstick.Cache) -> None:
    with pytest.raises(unstick.LoadError):
        engine(cache.steps('a', '8-bit', load=Loader(cache, 1, ValueError('x')), required_bytes=MODEL))
    assert cache.device.info()['resident_bytes'] == 0


def test_steps_wait_in_chunks_for_another_use(cache: unstick.Cache, load: Loader) -> None:
    with cache.use('a', '8-bit', load=load, required_bytes=MODEL):
        steps = cache.steps('b', '8-bit', load=load, required_bytes=MODEL)
        for _ in range(20):
            step = next(steps)
            assert step.seconds <= 0.5
            step()
    use, _ = engine(steps)
    use.end()
    assert load.calls == ['a', 'b']


def test_steps_that_are_not_taken_to_their_end(cache: unstick.Cache, load: Loader) -> None:
    steps = cache.steps('a', '8-bit', load=load, required_bytes=MODEL)
    step = next(steps)
    step()  # it is loaded, and never handed on
    steps.close()
    cache.native.step()
    assert cache.device.info()['resident_bytes'] == 0
    assert use(cache, 'a', load) == 'load'


# --- what is known before ---


def test_from_constraints() -> None:
    cache = unstick.Cache.from_constraints({
        'gpu_device': 'host:39MiB', 'gpu_memory_fraction': 0.9, 'cpu_memory_gb': 1, 'gpu_memory_gb': 0.03125,
        'allow_low_memory': 'false', '8-bit_memory_gb': 40 / 1024, '4-bit_memory_gb': 16 / 1024, 'device_map': 'auto',
        'low_cpu_mem_usage': True, 'colour': 'red',
    })  # fmt: skip
    assert cache.device.info()['limit_bytes'] == 32 * MIB
    assert cache.device.context.info()['host_limit_bytes'] == 1 << 30
    assert (cache.allow_low_memory, cache.ignored) == (False, ('colour',))
    load = Loader(cache)
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised, cache.use('a', '8-bit', load=load):
        pass
    assert raised.value.required_bytes == MODEL and not load.calls


def test_a_gpu_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is asked, without torch; a name of several is no name."""
    from unstick import constraints

    names = ('NVIDIA L4', 'NVIDIA H200', 'NVIDIA H200')
    gpus = [
        {'index': index, 'name': name, 'uuid': f'GPU-{index}', 'total_bytes': 1 << 34, 'free_bytes': None}
        for index, name in enumerate(names)
    ]
    monkeypatch.setattr(constraints._unstick, 'gpus', lambda: gpus)
    assert constraints.Constraints({'gpu_device': 'NVIDIA L4 (22 GB)'}).device == 'cuda:0'
    with pytest.raises(unstick.InvalidArgumentError, match=r'several GPUs: cuda:1 is .*cuda:2 is '):
        constraints.Constraints({'gpu_device': 'NVIDIA H200'})
    with pytest.raises(unstick.InvalidArgumentError, match='none of these: cuda:0 is NVIDIA L4'):
        constraints.Constraints({'gpu_device': 'Voodoo 2'})


@pytest.mark.parametrize(
    ('value', 'wanted'), [(True, True), (False, False), ('true', True), ('False', False), ('0', False), (None, False)]
)
def test_override_counts_by_its_value(value: Any, wanted: bool) -> None:
    read = unstick.Cache.from_constraints({'gpu_device': 'host:64MiB', 'allow_low_memory': value})
    assert read.allow_low_memory is wanted


@pytest.mark.parametrize(
    'constraints',
    [{'gpu_memory_fraction': 2}, {'cpu_memory_gb': 'many'}, {'gpu_device': 'Voodoo 2 (12 MB)'}, {'gpu_memory_gb': -1}],
)
def test_constraints_that_make_no_sense(constraints: dict[str, Any]) -> None:
    with pytest.raises(unstick.InvalidArgumentError) as raised:
        unstick.Cache.from_constraints({'gpu_device': 'host:64MiB', **constraints})
    assert raised.value.operation == 'from_constraints'


def write_model(folder: Path, n_elements: int) -> None:
    header = json.dumps({'w': {'dtype': 'F16', 'shape': [n_elements], 'data_offsets': [0, 2 * n_elements]}}).encode()
    (folder / 'vae').mkdir(parents=True)
    (folder / 'model_index.json').write_text(
        json.dumps({'_class_name': 'FluxPipeline', 'vae': ['diffusers', 'AutoencoderKL']})
    )
    (folder / 'vae' / 'config.json').write_text(json.dumps({'_class_name': 'AutoencoderKL'}))
    (folder / 'vae' / 'diffusion_pytorch_model.safetensors').write_bytes(
        struct.pack('<Q', len(header)) + header + bytes(2 * n_elements)
    )


def test_estimate_from_the_hub_cache(
    cache: unstick.Cache, load: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    folder = tmp_path / 'models--somebody--model'
    write_model(folder / 'snapshots' / 'abc', 50 * MIB)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text('abc\n')
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised, cache.use('somebody/model', 'none', load=load):
        pass
    assert raised.value.required_bytes == 100 * MIB and not load.calls
    with pytest.raises(unstick.OutOfDeviceMemoryError) as raised, cache.use('somebody/else', 'none', load=load):
        pass
    assert raised.value.required_bytes == 20 << 30, 'nothing is known: the guess'


def test_peaks_are_learned(cache: unstick.Cache, load: Loader, state_home: Path) -> None:
    use(cache, 'a', load)
    known = json.loads((state_home / 'unstick' / 'peaks.json').read_text())
    assert known['peaks']['a_8-bit']['bytes'] == MODEL
    cache.drop('a', '8-bit')
    using = cache.use('a', '8-bit', load=load)
    with using:
        assert using.result['required_bytes'] == MODEL


# --- bad input ---


def test_bad_input(cache: unstick.Cache, load: Loader) -> None:
    with pytest.raises(unstick.InvalidArgumentError, match='3-bit'):
        cache.use('a', '3-bit', load=load)
    with pytest.raises(unstick.InvalidArgumentError):
        cache.use('', '8-bit', load=load)
    with pytest.raises(unstick.LoadError, match='returned None') as raised:
        use(cache, 'a', lambda *_: None)
    assert (raised.value.key, raised.value.status_name) == ('a_8-bit', 'INVALID_ARGUMENT')
    with pytest.raises(unstick.LoadError, match='no regions'):
        use(cache, 'a', lambda *_: unstick.Loaded(1, {}))
    with pytest.raises(unstick.LoadError, match='no load= was given'):
        use(cache, 'a')
    with pytest.raises(unstick.NotFoundError):
        cache.evict('nobody', '8-bit')
    with pytest.raises(unstick.InvalidArgumentError):
        unstick.Cache(cache.device, limit_bytes=5)


def test_a_region_of_another_device(cache: unstick.Cache, device: unstick.Device) -> None:
    def load(*_: str) -> unstick.Loaded:
        region = unstick.Region(device, 'weights', MIB)
        return unstick.Loaded(region, {'weights': region})

    with pytest.raises(unstick.LoadError, match='another device'):
        use(cache, 'a', load)
    assert use(cache, 'a', Loader(cache)) == 'load'


def test_without_torch(run_script: Callable[[str], str]) -> None:
    assert 'UNSUPPORTED torch is not installed' in run_script("""
import sys
sys.modules['torch'] = None
import unstick
cache = unstick.Cache('host:64MiB')
try:
    with cache.use('a', '8-bit', load=lambda *_: bytearray(100), required_bytes=1 << 20):
        pass
except unstick.LoadError as error:
    print(error.status_name, 'torch is not installed' if 'torch is not installed' in str(error) else error)
""")


@pytest.mark.parametrize('ending', ['', 'use.__enter__()', 'import os; os.fork() or os._exit(0); os.wait()'])
def test_the_process_ends_cleanly(run_script: Callable[[str], str], ending: str) -> None:
    run_script(f"""
import unstick
cache = unstick.Cache('host:64MiB')
def load(*_):
    region = unstick.Region(cache.device, 'weights', 1 << 20)
    region.restore().wait()
    return unstick.Loaded(region, {{'weights': region}})
use = cache.use('a', '8-bit', load=load, required_bytes=1 << 20)
with use:
    pass
{ending}
""")


def test_a_forked_child_is_told(cache: unstick.Cache, load: Loader, run_script: Callable[[str], str]) -> None:
    assert run_script("""
import os, unstick
cache = unstick.Cache('host:64MiB')
if not os.fork():
    try:
        cache.entries()
    except unstick.ForkedError:
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
""") == '7\n'
