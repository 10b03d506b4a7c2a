# SPDX-License-Identifier: Apache-2.0
"""The cache with small models of torch: uses that end in some other way than they should, and what stands guard."""

import gc
import time

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402

pytestmark = pytest.mark.torch

MIB = 1 << 20


@pytest.fixture
def cache():
    return unstick.Cache('host:64MiB', granule_bytes=MIB)


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(512, 512)).requires_grad_(False)


def use(cache, module, **options):
    return cache.use('a', load=lambda *_: module, required_bytes=MIB, **options)


def component(cache, module):
    return unstick.adopt(module, device=cache.device).components['Sequential']


def check_idle(cache, module):
    assert [entry['n_leases'] for entry in cache.entries()] == [0]
    one = component(cache, module)
    assert not one.is_in_use
    assert all(region.info()['n_leases'] == 0 for region in one.regions)


def test_a_use_that_is_dropped_has_ended(cache, module):
    steps = cache.steps('a', load=lambda *_: module, required_bytes=MIB)
    using = None
    try:
        while True:
            next(steps)()
    except StopIteration as end:
        using = end.value
    module(torch.rand(1, 512))
    assert component(cache, module).is_in_use
    del using
    gc.collect()
    check_idle(cache, module)


def test_an_interrupt_on_the_last_bit_of_the_way(cache, module, monkeypatch):
    from unstick import guards

    with use(cache, module):
        pass

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guards, 'remove', interrupt)
        with pytest.raises(KeyboardInterrupt) as caught, use(cache, module):
            pass
    check_idle(cache, module)
    assert caught.value.__traceback__ is not None


def test_a_use_whose_end_fails_has_ended(cache, module, monkeypatch):
    from unstick.model import Model

    def fail(self):
        raise ValueError('planted')

    with monkeypatch.context() as patch, pytest.raises(ValueError, match='planted') as caught, use(cache, module):
        patch.setattr(Model, 'refresh', fail)
    check_idle(cache, module)
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize('how', ['preloaded', 'called', 'read'])
def test_what_the_core_has_leave_is_guarded(cache, module, how):
    expected = module[0].weight.clone()
    cache.preload('a', load=lambda *_: module, required_bytes=MIB)
    if how != 'preloaded':
        with use(cache, module):
            pass
    if how == 'called':
        module(torch.rand(1, 512))
    elif how == 'read':
        module.state_dict()
    cache.evict('a')
    assert cache.device.info()['resident_bytes'] == 0
    assert torch.equal(module.state_dict()['0.weight'], expected)


def test_what_leaves_when_it_was_idle_is_guarded(module):
    cache = unstick.Cache('host:64MiB', granule_bytes=MIB, idle=0.1)
    expected = module[0].weight.clone()
    cache.preload('a', load=lambda *_: module, required_bytes=MIB)
    while cache.device.info()['resident_bytes']:
        time.sleep(0.01)
    assert torch.equal(module.state_dict()['0.weight'], expected)
