# SPDX-License-Identifier: Apache-2.0
"""The cache with a real FluxPipeline in real bitsandbytes layers, on a device with room for one of two."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import unstick

pytestmark = pytest.mark.torch

KIB, MIB = 1 << 10, 1 << 20
SIZE = 7 * MIB


@pytest.fixture
def cache() -> unstick.Cache:
    return unstick.Cache('host:8MiB', granule_bytes=64 * KIB)


@pytest.fixture
def load(flux: Any) -> Any:
    def load(model_id: str, quantization: str, scale: int = 4, **_: Any) -> Any:
        load.calls.append(quantization)
        return flux.tiny_flux('plain' if quantization == 'none' else quantization, scale=scale)

    load.calls = []
    return load


def use(cache: unstick.Cache, quantization: str, load: Any = None, **options: Any) -> unstick.Use:
    return cache.use('flux', quantization, load=load, required_bytes=SIZE, **options)


def entry(cache: unstick.Cache, key: str) -> dict[str, Any]:
    return next(one for one in cache.entries() if one['key'] == key)


def test_two_quantizations_alternate(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    images: dict[str, Any] = {}
    outcomes = []
    for quantization in ('8-bit', '4-bit') * 3:
        using = use(cache, quantization, load)
        with using as pipe:
            image = flux.run(pipe)
        outcomes.append(using.result['outcome'])
        assert torch.equal(images.setdefault(quantization, image), image)
    assert outcomes == ['load', 'load'] + ['restore'] * 4
    assert load.calls == ['8-bit', '4-bit']
    assert not torch.equal(images['8-bit'], images['4-bit'])
    assert cache.device.info()['resident_bytes'] <= 8 * MIB


def test_outside_of_a_use_it_comes_back_by_itself(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    with use(cache, '8-bit', load) as pipe:
        image = flux.run(pipe)
    cache.evict('flux', '8-bit')
    assert cache.device.info()['resident_bytes'] == 0
    state = pipe.transformer.state_dict()
    assert not any(torch.isnan(one).any() for one in state.values() if one.is_floating_point())
    cache.evict('flux', '8-bit')
    assert torch.equal(flux.run(pipe), image)


def test_a_model_in_use_is_not_evicted_by_another_ones_call(
    cache: unstick.Cache, load: Any, flux: Any, torch: Any
) -> None:
    with use(cache, '4-bit', load) as other:
        wanted = flux.run(other)
    with use(cache, '8-bit', load) as pipe:
        image = flux.run(pipe)
        with pytest.raises(unstick.OutOfDeviceMemoryError):
            flux.run(other)
        with pytest.raises(unstick.BusyError):
            cache.held('flux_8-bit').model.evict()
        assert torch.equal(flux.run(pipe), image)
    assert torch.equal(flux.run(other), wanted)


def test_what_drifts_belongs_to_the_entry(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    with use(cache, '8-bit', load) as pipe:
        image = flux.run(pipe)
        layer = pipe.transformer.x_embedder
        layer.weight.data = layer.weight.detach().clone()
    held = cache.device.info()['resident_bytes']
    assert entry(cache, 'flux_8-bit')['resident_bytes'] == held
    cache.evict('flux', '8-bit')
    assert cache.device.info()['resident_bytes'] == 0
    with use(cache, '8-bit') as pipe:
        assert torch.equal(flux.run(pipe), image)


def test_a_component_that_is_dropped_leaves_the_entry(cache: unstick.Cache, load: Any, flux: Any) -> None:
    with use(cache, '8-bit', load) as pipe:
        before = entry(cache, 'flux_8-bit')['bytes']
        flux.run(pipe)
        pipe.text_encoder_2 = None
        gc.collect()
    with use(cache, '8-bit'):
        pass
    for _ in range(200):  # its backup may be on its way
        with use(cache, '8-bit'):
            pass
        names = [one['name'] for one in entry(cache, 'flux_8-bit')['components']]
        if 'text_encoder_2' not in names:
            break
    assert 'text_encoder_2' not in names and entry(cache, 'flux_8-bit')['bytes'] < before
    assert cache.device.info()['resident_bytes'] == entry(cache, 'flux_8-bit')['bytes']


def test_a_pipeline_larger_than_the_device(load: Any, flux: Any, torch: Any) -> None:
    """Without a word about it: the limit is less than the pipeline, with and without a size that was known before."""
    with unstick.Cache('host:64MiB').use('flux', '8-bit', load=load, required_bytes=SIZE) as pipe:
        wanted = flux.run(pipe)
    for required_bytes in (SIZE, 2 * MIB):
        cache = unstick.Cache('host:64MiB', limit_bytes=6 * MIB, granule_bytes=64 * KIB)
        for outcome in ('load', 'hit'):
            using = cache.use('flux', '8-bit', load=load, required_bytes=required_bytes)
            with using as pipe:
                assert torch.equal(flux.run(pipe), wanted)
                assert entry(cache, 'flux_8-bit')['n_leases'] == 1
            assert using.result['outcome'] in (outcome, 'restore')
            names = {one['name'] for one in entry(cache, 'flux_8-bit')['components']}
            assert {'vae', 'text_encoder', 'text_encoder_2', 'transformer'} <= names
            assert cache.device.info()['resident_bytes'] <= 6 * MIB < entry(cache, 'flux_8-bit')['bytes']
        cache.evict('flux', '8-bit')
        assert cache.device.info()['resident_bytes'] == 0
        with cache.use('flux', '8-bit') as pipe:
            assert torch.equal(flux.run(pipe), wanted)


def test_components_that_are_named(load: Any, flux: Any, torch: Any) -> None:
    with unstick.Cache('host:64MiB').use('flux', '8-bit', load=load, required_bytes=SIZE) as pipe:
        wanted = flux.run(pipe)
    cache = unstick.Cache('host:64MiB', limit_bytes=6 * MIB, granule_bytes=64 * KIB)
    with cache.use('flux', '8-bit', load=load, components=('vae',), required_bytes=MIB) as pipe:
        assert torch.equal(flux.run(pipe), wanted)
    assert cache.device.info()['resident_bytes'] <= 6 * MIB < entry(cache, 'flux_8-bit')['bytes']


def test_a_failed_load_holds_no_tensors(cache: unstick.Cache, flux: Any, torch: Any) -> None:
    lost = []

    def failing(model_id: str, quantization: str) -> Any:
        pipe = flux.tiny_flux('8-bit', scale=4)
        lost.append(weakref.ref(pipe.transformer))
        try:
            raise RuntimeError('CUDA error: no kernel image')
        except RuntimeError as error:
            weights = pipe.transformer.x_embedder.weight
            raise ValueError(f'{tuple(weights.shape)}') from error

    with pytest.raises(unstick.LoadError) as raised, use(cache, '8-bit', failing):
        pass
    assert isinstance(raised.value.__cause__, ValueError)
    assert lost[0]() is None
    assert cache.device.info()['resident_bytes'] == 0


def test_out_of_memory_of_torch_is_tried_once_more(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    lost = []

    def failing(model_id: str, quantization: str) -> Any:
        pipe = load(model_id, quantization)
        if not lost:
            lost.append(weakref.ref(pipe.transformer))
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        assert lost[0]() is None
        return pipe

    with use(cache, '4-bit', load):
        pass
    using = use(cache, '8-bit', failing)
    with using as pipe:
        flux.run(pipe)
    assert load.calls == ['4-bit', '8-bit', '8-bit']
    assert [one['key'] for one in using.result['evictions']] == ['flux_4-bit']


def test_what_is_not_a_model(cache: unstick.Cache) -> None:
    with (
        pytest.raises(unstick.LoadError, match='there is no torch module under this list') as raised,
        use(cache, '8-bit', lambda *_: []),
    ):
        pass
    assert isinstance(raised.value.__cause__, unstick.AdoptError) and raised.value.key == 'flux_8-bit'


def test_a_model_that_was_revoked_is_loaded_again(cache: unstick.Cache, load: Any, flux: Any) -> None:
    with use(cache, '8-bit', load):
        pass
    cache.held('flux_8-bit').model.revoke()
    using = use(cache, '8-bit', load)
    with using as pipe:
        flux.run(pipe)
    assert (using.result['outcome'], len(load.calls)) == ('load', 2)


def test_changed_settings_release_the_old_model(cache: unstick.Cache, load: Any, flux: Any) -> None:
    with use(cache, '8-bit', load, revision=1) as pipe:
        old = weakref.ref(pipe.transformer)
        del pipe
    with use(cache, '8-bit', load, revision=2) as pipe:
        flux.run(pipe)
        gc.collect()
        assert old() is None and len(load.calls) == 2
    assert cache.device.info()['resident_bytes'] == entry(cache, 'flux_8-bit')['resident_bytes']


def test_five_threads_two_quantizations(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    images: dict[str, list[Any]] = {'8-bit': [], '4-bit': []}
    locks = {name: threading.Lock() for name in images}
    failures = []

    def work(quantization: str) -> None:
        try:
            for _ in range(2):
                with use(cache, quantization, load) as pipe, locks[quantization]:  # a pipeline runs one job at a time
                    images[quantization].append(flux.run(pipe, steps=1))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(('8-bit', '4-bit')[index % 2],)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert sorted(load.calls) == ['4-bit', '8-bit']
    for ones in images.values():
        assert len(ones) in (4, 6) and all(torch.equal(ones[0], one) for one in ones)


def test_asyncio(cache: unstick.Cache, load: Any, flux: Any, torch: Any) -> None:
    async def work(quantization: str) -> Any:
        async with cache.ause('flux', quantization, load=load, required_bytes=SIZE) as pipe:
            return await asyncio.to_thread(flux.run, pipe)

    async def main() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(work(q) for q in ('8-bit', '4-bit'))), 120)

    eight, four = asyncio.run(main())
    assert sorted(load.calls) == ['4-bit', '8-bit'] and not torch.equal(eight, four)


def test_the_example(here: dict[str, str], flux: Any) -> None:
    example = Path(__file__).parents[2] / 'examples' / 'flux_switch.py'
    done = subprocess.run(
        [sys.executable, str(example), 'nobody/nothing', '4'], capture_output=True, text=True, env=here, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith('a tiny FLUX on host memory')
    assert [line.split(' in ')[0] for line in lines[1:5]] == [
        '8-bit: load', '4-bit: load', '8-bit: restore', '4-bit: restore'
    ]  # fmt: skip
    assert all(line.endswith('the same image') for line in lines[1:5])


def test_the_notebook(here: dict[str, str], flux: Any) -> None:
    """Its cells, one after the other in one process, as Jupyter runs them; what is kept of them has no outputs."""
    folder = Path(__file__).parents[2] / 'examples'
    notebook = json.loads((folder / 'flux_switch.ipynb').read_text())
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert len(cells) >= 5
    for cell in cells:
        assert cell['outputs'] == [] and cell['execution_count'] is None and cell['metadata'] == {}
    # From the notebook's own folder, as Jupyter starts them.
    script = '\n'.join(['import sys', 'sys.path.insert(0, "")', *(''.join(cell['source']) for cell in cells)])
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env=here, timeout=300, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    outcomes = [line.split(',')[0] for line in done.stdout.splitlines() if ': ' in line and 'ready after' in line]
    assert outcomes == ['8-bit: load', '4-bit: load', '8-bit: restore', '4-bit: restore', '8-bit: restore']
