# SPDX-License-Identifier: Apache-2.0
"""With torch: tensors over regions, and what holds a tensor that only C++ knows of."""

import gc
import threading
import weakref

import pytest

import unstick

pytestmark = pytest.mark.torch
MIB = 1 << 20
HELD = []


@pytest.fixture(autouse=True)
def _clean(collected):
    yield
    HELD.clear()


def make_region(device, nbytes=8 * MIB):
    region = unstick.Region(device, 'transformer', nbytes)
    region.restore().wait()
    return region


@pytest.mark.parametrize('how', ['object', 'capsule'])
def test_a_tensor_lies_in_the_region(torch, device, how):
    region = make_region(device)
    memory = region.tensor(1024, 4096)
    tensor = torch.from_dlpack(memory) if how == 'object' else torch.utils.dlpack.from_dlpack(memory.__dlpack__())
    assert (tensor.dtype, tuple(tensor.shape), tensor.data_ptr()) == (torch.uint8, (4096,), region.address + 1024)
    weights = tensor.view(torch.float32)
    weights.copy_(torch.arange(1024.0))
    expected = weights.clone()
    region.evict().wait()
    assert weights.isnan().all(), 'a stray read of floats gives NaN'
    region.restore().wait()
    assert torch.equal(weights, expected)


def test_a_region_lives_as_long_as_its_tensors(torch, device):
    region = make_region(device)
    tensor = torch.from_dlpack(region.tensor(0, 4096))
    view = tensor[10:20]
    assert region.tensors() == [(0, 4096)]
    del region, tensor
    assert device.info()['resident_bytes'] == 8 * MIB
    view.fill_(3)
    del view
    assert device.info()['resident_bytes'] == 0


def test_tensors_die_on_any_thread(torch, device):
    region = make_region(device)
    tensors = [torch.from_dlpack(region.tensor(0, 64)) for _ in range(1000)]

    def drop():
        while tensors:
            try:
                tensors.pop()
            except IndexError:
                return

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        region.tensors()
    assert region.tensors() == []
    del region
    assert device.info()['resident_bytes'] == 0


def test_a_parameter_is_pointed_into_a_region(torch, device):
    region = make_region(device)
    layer = torch.nn.Linear(64, 64, bias=False)
    data = torch.from_dlpack(region.tensor(0, 64 * 64 * 4)).view(torch.float32).view(64, 64)
    data.copy_(layer.weight.data)
    layer.weight.data = data
    inputs = torch.randn(4, 64)
    expected = layer(inputs)
    for _ in range(3):
        region.evict().wait()
        region.restore().wait()
    assert torch.equal(layer(inputs), expected)


def test_cpp_owner(torch):
    weight = torch.ones(4, requires_grad=True)
    reference = weakref.ref(weight)
    result = (weight * weight).sum()
    del weight
    (chain,) = unstick.holders(reference())
    assert chain.kind == 'c'
    assert 'C++ owner (autograd graph)' in chain.text
    del result


def test_no_cpp_owner_where_there_is_none(torch):
    HELD.append(torch.ones(4))
    (chain,) = unstick.holders(HELD[0])
    assert chain.text == f'module {__name__} -> HELD -> [0]'


def test_module_names_read_as_they_are_written(torch):
    HELD.append(torch.nn.Sequential(torch.nn.Linear(4, 4)))
    HELD[0].register_buffer('mask', torch.ones(3))
    assert [chain.text for chain in unstick.holders(HELD[0][0].weight)] == [
        f'module {__name__} -> HELD -> [0] -> .0 -> .weight'
    ]
    assert [chain.text for chain in unstick.holders(HELD[0].mask)] == [f'module {__name__} -> HELD -> [0] -> .mask']


def test_tensors_on_the_same_storage_hold_it(torch):
    HELD.append(torch.ones(100))
    HELD.append(HELD[0][10:])
    found = [chain.text for chain in unstick.holders(HELD[0])]
    assert f'module {__name__} -> HELD -> [0]' in found
    assert f'module {__name__} -> HELD -> [1] (another tensor on the same storage)' in found
    assert not any('same storage' in chain.text for chain in unstick.holders(HELD[0], same_storage=False))


@pytest.mark.parametrize('make', ['meta', 'sparse'])
def test_tensors_without_a_storage(torch, make):
    HELD.append(torch.ones(3, device='meta') if make == 'meta' else torch.eye(3).to_sparse())
    assert len(unstick.holders(HELD[0])) >= 1


def test_cycles_that_hold_tensors(torch):
    gc.disable()
    try:
        assert unstick.cycles() == []
        module = torch.nn.Linear(128, 128)
        module.forward = module.forward
        storage = module.weight.nbytes + module.bias.nbytes
        empty = []
        empty.append(empty)
        del module, empty
        (found,) = unstick.cycles()
        assert (found.n_held, found.held_bytes) == (2, storage)
        assert 'bound method' in found.text
        assert len(unstick.cycles(collect=True)) == 1
        assert unstick.cycles() == []
    finally:
        gc.enable()


def test_exit_with_tensors(run_script):
    run_script(
        """
import torch, unstick
region = unstick.Region(unstick.Device(unstick.Context(), 'host:64MiB'), 'r', 8 << 20)
region.restore().wait()
layer = torch.nn.Linear(64, 64)
layer.weight.data = torch.from_dlpack(region.tensor(0, 64 * 64 * 4)).view(torch.float32).view(64, 64)
loss = layer(torch.ones(1, 64)).sum()
region.evict().wait()
ring = [layer, region]
ring.append(ring)
"""
    )
