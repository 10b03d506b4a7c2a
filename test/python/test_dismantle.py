# SPDX-License-Identifier: Apache-2.0
"""A pipeline is taken apart: what only it held dies at once, what others hold is kept and named, or emptied."""

import gc
import weakref

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def device(context):
    """Granules small enough that a tiny model has several."""
    return unstick.Device(context, 'host:1GiB', granule_bytes=1 << 20)


class Parts:
    """A pipeline as far as dismantle() knows: an object with components and hooks."""

    def __init__(self, **components):
        self.__dict__.update(components)
        self._all_hooks = []
        self.hf_device_map = None

    @property
    def components(self):
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}


def layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))


def test_nobody_else_holds_it(flux):
    for quantization in ('8-bit', '4-bit'):
        pipe = flux.tiny_flux(quantization)
        flux.run(pipe)
        weights = [weakref.ref(tensor) for part in (pipe.transformer, pipe.vae) for tensor in part.parameters()]
        gc.disable()
        try:
            result = unstick.dismantle(pipe)
            assert not any(ref() is not None for ref in weights)
        finally:
            gc.enable()
        assert result.survivors == []
        assert result.freed_bytes > 1 << 20
        assert set(result.components) == {'vae', 'text_encoder', 'text_encoder_2', 'transformer'}
        assert pipe.transformer is pipe.tokenizer is None


def test_a_shared_component_is_kept_whole_and_named():
    shared = layers()
    expected = shared[0].weight.detach().clone()
    first, second = Parts(text_encoder_2=shared, transformer=layers(1)), Parts(text_encoder_2=shared)
    del shared
    result = unstick.dismantle(first)
    (survivor,) = result.survivors
    assert survivor.name == 'text_encoder_2'
    assert not survivor.is_emptied
    assert any('text_encoder_2' in holder for holder in survivor.holders)
    assert 'held by' in str(result)
    assert torch.equal(second.text_encoder_2[0].weight, expected)


def test_a_single_weight_that_is_held():
    pipe = Parts(transformer=layers())
    kept = [pipe.transformer[0].weight]
    result = unstick.dismantle(pipe)
    (survivor,) = result.survivors
    assert survivor.nbytes == 64 * 64 * 4
    assert len(survivor.holders) == 1
    assert "test_a_single_weight_that_is_held() local" in survivor.holders[0]
    assert 'kept' in survivor.holders[0]
    assert result.freed_bytes == (64 * 64 + 128) * 4
    assert kept[0].shape == (64, 64)


def test_force_empties_what_is_held():
    pipe = Parts(transformer=layers())
    module = pipe.transformer
    module(torch.rand(1, 64)).sum().backward()
    unstick.dismantle(pipe, force=True)
    assert all(parameter.numel() == 0 and parameter.grad is None for parameter in module.parameters())


def test_force_clears_int8_state(flux):
    pipe = flux.tiny_flux('8-bit')
    flux.run(pipe)
    module = pipe.transformer
    held = [part for part in pipe.text_encoder_2.modules() if type(part).__name__ == 'Linear8bitLt']
    unstick.dismantle(pipe, force=True)
    layers = [part for part in module.modules() if type(part).__name__ == 'Linear8bitLt']
    assert all(layer.state.CB is None and layer.weight.numel() == 0 for layer in layers)
    assert all(layer.state.CB.numel() == 0 and layer.weight.numel() == 0 for layer in held)


def test_an_adopted_pipeline(device):
    pipe = Parts(transformer=layers(), vae=layers(1))
    unstick.adopt(pipe, device=device)
    unstick.dismantle(pipe)
    assert device.info()['resident_bytes'] == 0


def test_force_revokes_what_is_held_of_an_adopted_pipeline(device):
    pipe = Parts(transformer=layers(), vae=layers(1))
    unstick.adopt(pipe, device=device)
    module = pipe.transformer
    result = unstick.dismantle(pipe, force=True)
    assert [survivor.name for survivor in result.survivors] == ['transformer']
    assert device.info()['resident_bytes'] == 0
    with pytest.raises(unstick.RevokedError):
        module(torch.rand(1, 64))


def test_offload_hooks_go_and_nothing_is_moved(monkeypatch):
    accelerate = pytest.importorskip('accelerate')
    pipe = Parts(text_encoder=layers(), transformer=layers(1))
    _, hook = accelerate.cpu_offload_with_hook(pipe.text_encoder, execution_device='cpu')
    _, last = accelerate.cpu_offload_with_hook(pipe.transformer, execution_device='cpu', prev_module_hook=hook)
    pipe._all_hooks = [hook, last]
    pipe.hf_device_map = {'': 'cpu'}
    encoder = weakref.ref(pipe.text_encoder)
    kept = pipe.transformer
    del hook, last
    monkeypatch.setattr(nn.Module, '_apply', lambda *_: pytest.fail('something was moved'))
    result = unstick.dismantle(pipe)
    assert encoder() is None, 'the chain of offload hooks does not hold it'
    assert [survivor.name for survivor in result.survivors] == ['transformer']
    assert pipe.hf_device_map is None
    assert not hasattr(pipe, '_all_hooks')
    assert kept[0].weight.numel()


def test_a_dict_of_modules():
    parts = {'a': layers(), 'b': layers(1), 'n': 3}
    unstick.dismantle(parts)
    assert parts == {'a': None, 'b': None, 'n': 3}


@pytest.mark.parametrize('nothing', [None, 3, {}, nn.Linear(2, 2)])
def test_nothing_to_take_apart(nothing):
    with pytest.raises(unstick.AdoptError, match='no components'):
        unstick.dismantle(nothing)
