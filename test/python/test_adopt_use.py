# SPDX-License-Identifier: Apache-2.0
"""Components come back when they are called, make room for one another, and stay what a compiler saw."""

import gc
import sys
import threading
import time

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402
from unstick import _unstick, entry  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def device(context):
    """Granules small enough that a tiny model has several."""
    return unstick.Device(context, 'host:1GiB', granule_bytes=1 << 20)


def held(device):
    return device.info()['resident_bytes']


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()


def test_a_pipeline_larger_than_the_device_runs_without_a_word(flux):
    pipe = flux.tiny_flux('8-bit', scale=4)
    expected = flux.run(pipe)
    largest = max(sum(t.untyped_storage().nbytes() for t in part.parameters()) for part in (pipe.transformer, pipe.vae))
    # One granule is the sentinel's, one more is lost to rounding.
    limit = largest + (1 << 20)
    device = unstick.Device(unstick.Context(), 'host:1GiB', granule_bytes=1 << 18, limit_bytes=limit)
    model = unstick.adopt(pipe, device=device)
    assert model.nbytes > limit
    for _ in range(3):
        assert torch.equal(flux.run(pipe), expected)
        info = device.info()
        assert sum(info[key] for key in ('resident_bytes', 'sentinel_bytes', 'spare_bytes')) <= limit


def test_encode_and_decode_of_the_vae(device, flux):
    pipe = flux.tiny_flux('plain')
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        latents = pipe.vae.encode(image).latent_dist.mode()
        decoded = pipe.vae.decode(latents).sample
        model = unstick.adopt(pipe, device=device)
        model.evict()
        assert torch.equal(pipe.vae.encode(image).latent_dist.mode(), latents)
        assert model.components['vae'].is_resident
        assert model.components['transformer'].state == 'evicted'
        model.evict()
        assert torch.equal(pipe.vae.decode(latents).sample, decoded)


def test_a_call_of_a_deeper_module_brings_it_back(device, flux):
    pipe = flux.tiny_flux('8-bit')
    norm = pipe.transformer.transformer_blocks[0].ff.net[2]
    x = torch.rand(2, norm.in_features)
    with torch.no_grad():
        expected = norm(x)
        unstick.adopt(pipe, device=device).evict()
        assert torch.equal(norm(x), expected)


def test_an_eviction_waits_for_the_call_of_another_thread(device):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1 << 16), requires_grad=False)

        def forward(self):
            begun.set()
            go_on.wait(10)
            return self.weight.sum()

    module = Slow()
    model = unstick.adopt(module, device=device)
    results = []
    call = threading.Thread(target=lambda: results.append(module().item()))
    call.start()
    assert begun.wait(10)
    eviction = threading.Thread(target=model.evict)
    eviction.start()
    time.sleep(0.05)
    assert eviction.is_alive()
    assert held(device) > 0
    go_on.set()
    call.join(10)
    eviction.join(10)
    assert not eviction.is_alive()
    assert results == [1 << 16]
    assert held(device) == 0


def test_drift_during_a_call_is_taken_in_when_it_has_ended(device):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1 << 16), requires_grad=False)

        def forward(self):
            self.weight.data = self.weight.data + 1
            where = self.weight.data_ptr()
            begun.set()
            go_on.wait(10)
            return where == self.weight.data_ptr()

    module = Slow()
    model = unstick.adopt(module, device=device)
    results = []
    call = threading.Thread(target=lambda: results.append(module()))
    call.start()
    assert begun.wait(10)
    report = model.refresh()
    assert [left.reason for left in report.left] == ['in use by a call, taken in later']
    eviction = threading.Thread(target=model.evict)
    eviction.start()
    time.sleep(0.05)
    go_on.set()
    call.join(10)
    eviction.join(10)
    assert results == [True]
    assert held(device) == 0
    model.restore()
    assert torch.equal(module.weight, torch.full((1 << 16,), 2.0))


class Waiting(nn.Module):
    """Says when a call of it has begun, and ends when it is told to."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1 << 16), requires_grad=False)

    def forward(self, begun, go_on):
        begun.set()
        go_on.wait(10)
        return self.weight.sum().item()


class Call(threading.Thread):
    """A call of Waiting, or of what takes the same, on a thread of its own."""

    def __init__(self, module):
        super().__init__()
        self.begun, self.go_on, self.results = threading.Event(), threading.Event(), []
        self.module = module

    def run(self):
        self.results.append(self.module(self.begun, self.go_on))

    def finish(self):
        self.go_on.set()
        self.join(10)
        return self.results


def test_a_call_that_begins_while_somebody_looks_is_no_broken_one(device, monkeypatch):
    module = Waiting()
    model = unstick.adopt(module, device=device)
    component = model.components['Waiting']
    first, second = Call(module), Call(module)
    current_frames = sys._current_frames

    def frames():
        found = current_frames()
        if second.ident is None:
            second.start()
            second.begun.wait(0.2)
        return found

    first.start()
    assert first.begun.wait(10)
    monkeypatch.setattr(sys, '_current_frames', frames)
    model.report()
    assert second.begun.wait(10)
    first.finish()
    assert component.is_in_use
    assert [region.info()['n_leases'] for region in component.regions] == [1]
    assert second.finish() == [1 << 16]
    assert not component.is_in_use


def test_a_lease_ends_behind_the_streams_of_all_calls(device, monkeypatch):
    """There are none on the host: what would be asked of a lease is noted."""
    from unstick import component

    stream, noted = threading.local(), []
    monkeypatch.setattr(component, 'current_stream', lambda _: getattr(stream, 'number', -1))
    monkeypatch.setattr(component, 'name_stream', lambda _, number: noted.append(number))
    monkeypatch.setattr(component, 'end_lease', lambda lease, number: (noted.append(number), lease.end()))
    module = Waiting()
    model = unstick.adopt(module, device=device)

    class OnStream(Call):
        def run(self):
            stream.number = self.number
            super().run()

    first, second = OnStream(module), OnStream(module)
    first.number, second.number = 1, 2
    for call in (first, second):
        call.start()
        assert call.begun.wait(10)
    first.finish()
    second.finish()
    assert noted == [1, 2]
    assert not model.components['Waiting'].is_in_use


def test_evictions_beside_calls(device):
    module = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))).requires_grad_(False)
    x = torch.rand(1, 64)
    expected = module(x)
    model = unstick.adopt(module, device=device)
    calls = threading.Thread(target=lambda: found.extend(torch.equal(module(x), expected) for _ in range(200)))
    found = []
    calls.start()
    while calls.is_alive():
        model.evict()
    assert found == [True] * 200


@pytest.fixture
def leaving(context):
    """A model that is away, and in its place another one, which is leaving: as soon as a call of it has ended.

    The end of that call, on a thread of its own, takes the lock of the room.
    """
    device = unstick.Device(context, 'host:384KiB', granule_bytes=64 << 10)
    module, other = small(), Waiting()
    model = unstick.adopt(module, device=device)
    model.evict()
    call = Call(other)
    component = unstick.adopt(other, device=device).components['Waiting']
    call.start()
    assert call.begun.wait(10)
    eviction = component.begin_to_evict()
    yield module, model, call
    call.finish()
    eviction.end()


@pytest.mark.parametrize('how', ['restore', 'call', 'state_dict'])
def test_what_another_thread_has_leave_is_waited_for(leaving, monkeypatch, how):
    from unstick import room
    from unstick.component import Component

    module, model, call = leaving
    restore_regions, n_attempts = Component.restore_regions, 0

    def counting(self):
        nonlocal n_attempts
        n_attempts += 1
        if n_attempts == 2:
            call.go_on.set()
        restore_regions(self)

    monkeypatch.setattr(Component, 'restore_regions', counting)
    monkeypatch.setattr(room, 'PATIENCE_SECONDS', 10)
    if how == 'restore':
        model.restore()
    elif how == 'call':
        module(torch.rand(1, 64))
    else:
        module.state_dict()
    assert model.is_resident and n_attempts > 2
    assert call.finish() == [1 << 16]


def test_what_does_not_leave_is_waited_for_so_long_and_no_longer(leaving, monkeypatch):
    from unstick import room

    module, model, call = leaving
    monkeypatch.setattr(room, 'PATIENCE_SECONDS', 0.05)
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        module(torch.rand(1, 64))
    assert not model.is_resident
    assert not any(one.is_in_use for one in model.components.values())
    assert call.finish() == [1 << 16]
    module(torch.rand(1, 64))
    assert model.is_resident


def test_evicting_from_inside_the_own_call_is_an_error(device):
    module = small()
    model = unstick.adopt(module, device=device)
    module[1].register_forward_hook(lambda *_: model.evict())
    with pytest.raises(unstick.BusyError, match='in use by this very thread'):
        module(torch.rand(1, 64))
    model.evict()
    assert held(device) == 0


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_call_that_fails_leaves_no_lease_behind(device, error):
    module = small()
    model = unstick.adopt(module, device=device)

    def fail(*_):
        raise error

    handle = module[1].register_forward_hook(fail)
    with pytest.raises(error), torch.no_grad():
        module(torch.rand(1, 64))
    handle.remove()
    assert not next(iter(model.components.values())).is_in_use
    model.evict()
    assert held(device) == 0


def test_a_graph_for_backward_holds_the_component(device):
    module = small()
    model = unstick.adopt(module, device=device)
    component = next(iter(model.components.values()))
    output = module(torch.rand(1, 64)).sum()
    assert component.is_in_use
    output.backward()
    assert module[0].weight.grad is not None
    with pytest.raises(unstick.BusyError, match='no_grad') as caught:  # waiting for what it holds itself it would hang
        model.evict()
    del output, caught
    gc.collect()
    assert not component.is_in_use
    model.evict()
    assert held(device) == 0


def test_a_graph_of_the_second_output_holds_the_component(device):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.rand(64, 64)) for _ in range(2))

        def forward(self, x):
            return x @ self.first, {'second': x @ self.second}

    module = Two()
    model = unstick.adopt(module, device=device)
    first, rest = module(torch.rand(1, 64))
    del first
    gc.collect()
    assert model.components['Two'].is_in_use
    del rest
    gc.collect()
    assert not model.components['Two'].is_in_use


def test_a_graph_lets_go_of_what_it_held(device):
    """And not of what the component has come to need meanwhile."""
    module, other = small(), small(1).requires_grad_(False)
    model, other_model = unstick.adopt(module, device=device), unstick.adopt(other, device=device)
    output = module(torch.rand(1, 64))
    module.extra = [other[0].weight]
    model.refresh()
    assert model.components['Sequential'].needs
    del output
    gc.collect()
    other(torch.rand(1, 64))
    assert not other_model.components['Sequential'].is_in_use
    other_model.evict()
    assert other_model.resident_bytes == 0


def test_a_graph_that_dies_as_a_use_begins(device, monkeypatch):
    from unstick import component

    module = small()
    model = unstick.adopt(module, device=device)
    outputs = [module(torch.rand(1, 64))]

    class Use(component.Call):
        __slots__ = ()

        def __init__(self, *arguments):
            outputs.clear()
            gc.collect()
            super().__init__(*arguments)

    monkeypatch.setattr(component, 'Call', Use)
    with model.lease():
        assert [region.info()['n_leases'] for region in model.components['Sequential'].regions] == [1]


def test_a_use_that_cannot_begin_leaves_nothing_behind(device):
    module, other = small(), small(1)
    module.extra = [other[0].weight]
    other_model = unstick.adopt(other, device=device)
    model = unstick.adopt(module, device=device)
    other_model.release()
    with pytest.raises(unstick.RevokedError), model.lease():
        pass
    assert not model.components['Sequential'].is_in_use
    model.evict()
    assert model.resident_bytes == 0


def test_a_lease_holds_what_it_names(device, flux):
    pipe = flux.tiny_flux('8-bit')
    model = unstick.adopt(pipe, device=device)
    model.evict()
    with model.lease('vae'):
        assert model.components['vae'].is_resident
        assert model.components['transformer'].state == 'evicted'
        with pytest.raises(unstick.BusyError):
            model.components['vae'].evict()
    with model.lease():
        assert model.is_resident


@pytest.mark.parametrize('how', ['wrapper', 'wrapper first', 'in place'])
def test_compiled_code_stays_valid(device, how):
    torch._dynamo.reset()
    module = small()
    x = torch.rand(2, 64)
    with torch.no_grad():
        expected = module(x)
        if how == 'wrapper first':
            call = torch.compile(module, fullgraph=True, backend='eager')
            assert torch.equal(call(x), expected)
        model = unstick.adopt(module, device=device)
        if how == 'wrapper':
            call = torch.compile(module, fullgraph=True, backend='eager')
        elif how == 'in place':
            module.compile(fullgraph=True, backend='eager')
            call = module
        assert torch.equal(call(x), expected)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for turn in range(10):
                model.evict()
                assert held(device) == 0
                if turn % 2:
                    model.restore()
                assert torch.equal(call(x), expected)
        assert model.is_resident


def test_the_heap_is_walked_only_if_a_module_was_compiled(device, monkeypatch):
    """A walk takes longer than an eviction."""
    torch._dynamo.reset()
    walks = []
    monkeypatch.setattr(entry, 'instances', lambda *kinds: walks.append(kinds) or _unstick.instances(*kinds))
    module, bystander, x = small(), torch.compile(small(), backend='eager'), torch.rand(2, 64)
    parts = {'one': module}
    model = unstick.adopt(parts, device=device)
    references = [module, *module]
    with torch.no_grad():
        for _ in range(2):
            model.evict()
            model.restore()
            references.clear()
        assert not walks
        expected = module(x)
        del bystander  # a wrapper goes, and another one comes
        gc.collect()
        call = torch.compile(module, fullgraph=True, backend='eager')
        model.evict()
        assert len(walks) == 1
        for _ in range(3):
            assert torch.equal(call(x), expected)
            model.evict()
        assert len(walks) <= 2  # what was compiled at the first call holds the module, too


def test_a_compiled_transformer_of_a_pipeline(device, flux):
    torch._dynamo.reset()
    pipe = flux.tiny_flux('plain')
    pipe.transformer = torch.compile(pipe.transformer, backend='eager')
    expected = flux.run(pipe)
    model = unstick.adopt(pipe, device=device)
    assert torch.equal(flux.run(pipe), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            model.evict()
            assert torch.equal(flux.run(pipe), expected)
