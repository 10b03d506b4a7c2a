# SPDX-License-Identifier: Apache-2.0
"""A granule whose last tensor has died is given back at once, while the rest of its region lives on."""

import gc

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402

pytestmark = pytest.mark.torch

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def device(context):
    return unstick.Device(context, 'host:256MiB', granule_bytes=64 * KIB)


def resident(device):
    return device.info()['resident_bytes']


def made():
    """Eight layers of 256 KiB: four granules each."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(8))).eval().requires_grad_(False)


def test_layers_that_are_dropped_give_their_granules_back(device):
    module = made()
    model = unstick.adopt(module, device=device)
    x = torch.randn(2, 256)
    before = resident(device)
    assert before == 8 * 256 * KIB
    expected = module[:4](x)
    del module[4:]
    gc.collect()
    assert resident(device) == before // 2
    assert model.resident_bytes == model.nbytes == before // 2
    assert model.state == 'resident'
    assert torch.equal(module(x), expected)

    model.evict()
    assert resident(device) == 0 and model.state == 'evicted'
    del module[2:]
    expected = None
    gc.collect()
    info = next(iter(model.components.values())).regions[0].info()
    assert info['pinned_bytes'] + info['pageable_bytes'] == before // 4, 'the backup goes, too'
    result = module(x)
    assert resident(device) == before // 4
    assert model.evict().nbytes == before // 4
    assert torch.equal(module(x), result)


def test_what_comes_anew_does_not_go_where_granules_are_dead(device):
    module = made()
    model = unstick.adopt(module, device=device)
    x = torch.randn(2, 256)
    expected = module(x)
    for layer in module[:3]:
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    gc.collect()
    before = resident(device)
    assert before == 5 * 256 * KIB
    model.refresh()
    assert resident(device) == 8 * 256 * KIB
    assert torch.equal(module(x), expected)
    assert model.evict().nbytes == 8 * 256 * KIB
    assert torch.equal(module(x), expected)


def test_not_while_it_is_in_use(device):
    module = made()
    model = unstick.adopt(module, device=device)
    before = resident(device)
    with model.lease():
        del module[4:]
        gc.collect()
        assert resident(device) == before
    assert resident(device) == before // 2


def test_all_of_it(device):
    module = made()
    model = unstick.adopt(module, device=device)
    kept = module[3].weight
    expected = kept.detach().clone()
    del module[:]
    gc.collect()
    assert resident(device) == 256 * KIB
    model.evict()
    assert resident(device) == 0
    model.restore()
    assert torch.equal(kept, expected)
    del kept
    gc.collect()
    assert resident(device) == 0
    assert model.nbytes == 0 and model.state == 'empty'


def test_many_deaths_are_one_look(device):
    """A thousand tensors of one granule each: as a whole, not one search per tensor."""
    import time

    module = nn.ParameterList([nn.Parameter(torch.zeros(16 * KIB)) for _ in range(1000)])
    holder = nn.Module()
    holder.list = module
    holder.rest = nn.Linear(64, 64)
    unstick.adopt(holder, device=device)
    before = resident(device)
    del holder.list, module
    started = time.perf_counter()
    gc.collect()
    assert resident(device) <= before - 1000 * 64 * KIB + 64 * KIB
    assert time.perf_counter() - started < 5
