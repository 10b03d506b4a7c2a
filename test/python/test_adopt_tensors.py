# SPDX-License-Identifier: Apache-2.0
"""Which tensors are taken in, how they lie afterwards, and how what drifts away comes back."""

import gc
import io
import time

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402
from unstick import walk  # noqa: E402
from unstick._unstick import modules  # noqa: E402
from unstick.adoption import Adopter  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def device(context):
    """Granules small enough that a tiny model has several."""
    return unstick.Device(context, 'host:1GiB', granule_bytes=1 << 20)


def held(device):
    return device.info()['resident_bytes']


class Holder(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self):
        return [buffer.clone() for buffer in self.buffers()]


def is_inside(model, tensor):
    return any(
        region.address <= tensor.data_ptr() < region.address + region.info()['bytes']
        for component in model.components.values()
        for region in component.regions
    )


def cycle(model, device):
    model.evict()
    assert held(device) == 0
    model.restore()


def test_views_and_aliases_keep_their_places(device):
    whole = torch.arange(1000.0)
    outside = whole[100:200]
    twin = torch.from_dlpack(whole)
    module = Holder(whole=whole, part=whole[10:20], column=whole.view(10, 100)[:, 3], twin=twin[500:])
    model = unstick.adopt(module, device=device)
    assert len(model.adoption.taken) == 1
    cycle(model, device)
    assert module.part.data_ptr() == module.whole.data_ptr() + 40
    assert module.part.untyped_storage()._cdata == module.whole.untyped_storage()._cdata
    assert module.twin.untyped_storage()._cdata == twin.untyped_storage()._cdata
    assert module.whole.untyped_storage().nbytes() == 4000
    assert torch.equal(module.column, torch.arange(10) * 100.0 + 3)
    module.whole.mul_(2)
    assert outside[0] == 200
    assert module.twin[0] == 1000
    assert twin[1] == 2


def test_shared_bytes_are_saved_once(device):
    whole = torch.zeros(10000)
    module = Holder(whole=whole, part=whole[5:10])
    unstick.adopt(module, device=device)
    file = io.BytesIO()
    torch.save({'a': module.whole, 'b': module.part}, file)
    assert file.tell() < 45000


def test_empty_and_null_are_left_alone(device):
    module = Holder(real=torch.ones(10), empty=torch.empty(0), shaped=torch.empty(0, 5))
    model = unstick.adopt(module, device=device)
    assert [taken.name for taken in model.adoption.taken] == ['real']
    cycle(model, device)
    assert module.shaped.shape == (0, 5)


def test_inference_tensors(device):
    with torch.inference_mode():
        inner = torch.ones(100)
    module = Holder(inner=inner, normal=torch.ones(100))
    model = unstick.adopt(module, device=device)
    cycle(model, device)
    assert module.inner.is_inference()
    assert not module.normal.is_inference()
    assert torch.equal(module.inner, torch.ones(100))


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda: torch.randn(4, dtype=torch.complex64).conj(), 'conjugate'),
        (lambda: torch.randn(4, dtype=torch.complex64).conj().imag, 'negative'),
        (lambda: torch.eye(4).to_sparse(), 'sparse'),
        (lambda: torch.ones(4, 4).to_mkldnn(), 'mkldnn'),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 'nested'),
        (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), 'quantized'),
    ],
)
def test_what_cannot_move_is_left_and_named(device, make, reason):
    module = Holder(odd=make(), plain=torch.ones(4))
    model = unstick.adopt(module, device=device)
    (left,) = model.adoption.left
    assert left.name == 'odd'
    assert reason in left.reason
    assert [taken.name for taken in model.adoption.taken] == ['plain']


def test_a_view_that_cannot_move_keeps_the_bytes_it_shares(device):
    base = torch.randn(4, dtype=torch.complex64)
    module = Holder(base=base, conjugate=base.conj(), plain=torch.ones(4))
    model = unstick.adopt(module, device=device)
    assert {left.name for left in model.adoption.left} == {'base', 'conjugate'}
    assert torch.equal(module.conjugate, module.base.conj())


class Scaled(torch.Tensor):
    """A wrapper subclass as torchao and quanto make them: it has no memory, its inner tensors do."""

    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=scale.dtype)

    def __init__(self, data, scale):
        self.inner, self.scale = data, scale

    def __tensor_flatten__(self):
        return ['inner', 'scale'], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Scaled(inner['inner'], inner['scale'])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Scaled(args[0].inner, args[0].scale)
        plain = torch.utils._pytree.tree_map(
            lambda one: one.inner.to(one.scale.dtype) * one.scale if isinstance(one, Scaled) else one, args
        )
        return func(*plain, **(kwargs or {}))


def test_inner_tensors_of_wrapper_subclasses(device):
    module = nn.Linear(8, 8, bias=False)
    data, scale = torch.randint(-9, 9, (8, 8), dtype=torch.int8), torch.rand(8, 1)
    module.weight = nn.Parameter(Scaled(data, scale), requires_grad=False)
    x = torch.rand(2, 8)
    with torch.no_grad():
        expected = module(x)
        model = unstick.adopt(module, device=device)
        assert {taken.name for taken in model.adoption.taken} == {'weight.inner', 'weight.scale'}
        cycle(model, device)
        assert torch.equal(module(x), expected)


def test_components_that_share_bytes_need_each_other(device):
    shared = nn.Parameter(torch.rand(64, 64), requires_grad=False)
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    first.weight = second.weight = shared
    x = torch.rand(1, 64)
    with torch.no_grad():
        expected = second(x)
        model = unstick.adopt({'first': first, 'second': second}, device=device)
        model.evict()
        assert torch.equal(second(x), expected)


class Attributes(nn.Module):
    """Keeps tensors the way quantized layers do: in plain objects, slots, containers and unregistered modules."""

    class Slots:
        __slots__ = ('tensor',)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.weight.CB = torch.ones(9)
        self.state = type('State', (), {})()
        self.state.nested = {'a': [torch.ones(10)]}
        self.slots = self.Slots()
        self.slots.tensor = torch.ones(11)
        self.hidden = [nn.Linear(3, 4)]
        self.cycle = self.state
        self.state.back = self

    def forward(self):
        return self.weight.sum()


def test_tensors_in_attributes(device):
    model = unstick.adopt(Attributes(), device=device)
    names = {taken.name for taken in model.adoption.taken}
    assert names == {
        'weight', 'weight.CB', "state.nested['a'][0]", 'slots.tensor', 'hidden[0].weight', 'hidden[0].bias'
    }  # fmt: skip


def test_what_drifts_away_is_taken_in_again(device):
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    before = held(device)
    module[0].weight.data = module[0].weight.data.clone()
    module.load_state_dict({key: value.clone() for key, value in module.state_dict().items()}, assign=True)
    assert not is_inside(model, module[1].weight)
    report = model.refresh()
    assert {taken.name for taken in report.taken} == {'0.weight', '0.bias', '1.weight', '1.bias'}
    assert held(device) == before, 'it took the places of those that had died'
    expected = module[1].weight.detach().clone()
    cycle(model, device)
    assert torch.equal(module[1].weight, expected)


def test_a_conversion_is_taken_in_before_the_next_eviction(device):
    module = nn.Sequential(nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    module.to(torch.float64)
    assert not is_inside(model, module[0].weight)
    expected = module[0].weight.detach().clone()
    model.evict()
    assert held(device) == 0
    model.restore()
    assert is_inside(model, module[0].weight)
    assert torch.equal(module[0].weight, expected)


def test_drift_over_and_over_takes_no_more_memory(device):
    module = nn.Sequential(nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    before = held(device)
    for _ in range(20):
        module[0].bias.data = module[0].bias.data.clone()
        model.evict()
        model.restore()
    assert held(device) == before
    assert len(model.components['Sequential'].regions) == 1


@pytest.fixture
def look_late(device, monkeypatch):
    """Has an eviction look for what has drifted when all has left; then `afterwards` is called."""
    look = Adopter.look

    def install(afterwards=lambda: None):
        def late(*arguments):
            deadline = time.monotonic() + 10
            while held(device) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert not held(device), 'it leaves while it is looked at'
            afterwards()
            return look(*arguments)

        monkeypatch.setattr(Adopter, 'look', late)

    return install


def test_what_drifted_is_found_beside_the_eviction(device, look_late):
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    before = held(device)
    module[0].weight.data = module[0].weight.data + 1
    expected = [parameter.detach().clone() for parameter in module.parameters()]
    look_late()
    model.evict()
    assert held(device) == 0
    model.restore()
    assert all(map(torch.equal, module.parameters(), expected))
    assert is_inside(model, module[0].weight)
    assert held(device) == before, 'it took its old place'
    assert len(model.components['Sequential'].regions) == 1


def interrupted():
    raise KeyboardInterrupt


def test_an_eviction_that_is_interrupted_is_called_off(device, look_late, monkeypatch):
    module = nn.Sequential(nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    expected = module(torch.ones(64)).detach()
    before = held(device)
    look_late(interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.evict()
    assert held(device) == before
    assert not model.is_evicted
    assert torch.equal(module(torch.ones(64)).detach(), expected)
    monkeypatch.undo()
    cycle(model, device)
    assert torch.equal(module(torch.ones(64)).detach(), expected)


def test_an_eviction_that_cannot_be_called_off_leaves_guards(context, monkeypatch):
    device = unstick.Device(context, 'host:8MiB', granule_bytes=1 << 20)
    module = nn.Sequential(nn.Linear(512, 512))
    model = unstick.adopt(module, device=device)
    expected = module(torch.ones(512)).detach()
    others = []

    def taken_by_others(*_):
        deadline = time.monotonic() + 10
        while model.resident_bytes and time.monotonic() < deadline:
            time.sleep(0.001)
        info = device.info()
        others.append(unstick.Region(device, 'others', info['limit_bytes'] - info['sentinel_bytes']))
        others[0].restore().wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Adopter, 'look', taken_by_others)
    with pytest.raises(KeyboardInterrupt):
        model.evict()
    assert model.state == 'evicted'
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        module.state_dict()
    others[0].release().wait()
    assert torch.equal(module(torch.ones(512)).detach(), expected)


def test_small_tensors_of_a_call_stay_outside(device):
    module = nn.Sequential(nn.Linear(64, 64))
    model = unstick.adopt(module, device=device)
    module[0].index = torch.ones(5)
    module[0].table = torch.ones(1 << 19)
    report = model.refresh()
    assert [left.name for left in report.left] == ['0.index']
    assert [taken.name for taken in report.taken] == ['0.table']


def test_what_autograd_holds_is_reported(device):
    module = nn.Linear(64, 64)
    output = module(torch.rand(1, 64, requires_grad=True)).sum()
    model = unstick.adopt(module, device=device)
    assert model.adoption.still_held_bytes == 64 * 64 * 4
    assert 'outside Python' in str(model.adoption)
    del output
    gc.collect()
    assert model.refresh().still_held_bytes == 0


def test_peft_added_later_leaves_too(device, flux):
    peft = pytest.importorskip('peft')
    pipe = flux.tiny_flux('8-bit')
    model = unstick.adopt(pipe, device=device)
    pipe.transformer.add_adapter(peft.LoraConfig(r=4, target_modules=['to_q', 'to_v'], init_lora_weights='gaussian'))
    for name, parameter in pipe.transformer.named_parameters():
        if 'lora_B' in name:
            parameter.data.normal_(std=0.1)
    expected = flux.run(pipe)
    model.evict()
    assert held(device) == 0
    lora = [p for name, p in pipe.transformer.named_parameters() if 'lora_' in name]
    assert lora
    assert all(is_inside(model, parameter) for parameter in lora)
    assert torch.equal(flux.run(pipe), expected)


def test_a_repack_by_bitsandbytes_leaves_too(device, flux):
    pipe = flux.tiny_flux('4-bit')
    model = unstick.adopt(pipe, device=device)
    before = held(device)
    layers = [part for part in pipe.transformer.modules() if type(part).__name__ == 'Linear4bit']
    expected = flux.run(pipe)
    for layer in layers:  # what its CPU kernels do at the first call: new storages under the same names
        layer.weight.data = layer.weight.data.clone()
        layer.weight.quant_state.absmax = layer.weight.quant_state.absmax.clone()
    model.evict()
    assert held(device) == 0
    assert all(is_inside(model, layer.weight.quant_state.absmax) for layer in layers)
    assert torch.equal(flux.run(pipe), expected)
    assert held(device) == before


def test_a_lazy_module_elsewhere(device):
    lazy, module = nn.LazyLinear(8), nn.Linear(16, 16)
    assert unstick.adopt(module, device=device).nbytes
    assert lazy.in_features == 0


# --- what cannot be adopted ---


@pytest.mark.parametrize('nothing', [object(), {}, [], None, 5, {'a': 1}])
def test_nothing_to_adopt(nothing):
    with pytest.raises(unstick.AdoptError, match='no torch module'):
        unstick.adopt(nothing)


def test_a_module_without_tensors(device):
    with pytest.raises(unstick.AdoptError, match='no tensor'):
        unstick.adopt(nn.ReLU(), device=device)


def test_meta_tensors(device):
    with pytest.raises(unstick.AdoptError, match='meta') as caught:
        unstick.adopt(nn.Sequential(nn.Linear(2, 2, device='meta')), device=device)
    assert caught.value.names == ('Sequential.0.weight', 'Sequential.0.bias')
    assert caught.value.remedy
    assert caught.value.status_name == 'INVALID_ARGUMENT'


def test_a_device_that_the_tensors_are_not_on():
    with pytest.raises(unstick.AdoptError, match='tensors are on cpu'):
        unstick.adopt(nn.Linear(2, 2), device='cuda:0')


def test_an_unknown_guard(device):
    with pytest.raises(unstick.AdoptError, match='guard'):
        unstick.adopt(nn.Linear(2, 2), device=device, guard='perhaps')


def test_a_device_that_is_too_small():
    device = unstick.Device(unstick.Context(), 'host:64MiB', granule_bytes=1 << 20, limit_bytes=8 << 20)
    module = nn.Sequential(*[nn.Linear(512, 512) for _ in range(10)])
    x = torch.rand(1, 512)
    expected = module(x).detach()
    with pytest.raises(unstick.OutOfDeviceMemoryError) as caught:
        unstick.adopt(module, device=device, tight=True)
    assert caught.value.required_bytes > caught.value.available_bytes
    del caught
    assert torch.equal(module(x), expected), 'it works as before'
    assert held(device) == 0


def test_a_torch_that_is_too_old(device, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.1+cu124')
    with pytest.raises(unstick.UnsupportedError, match='too old') as caught:
        unstick.adopt(nn.Linear(2, 2), device=device)
    assert caught.value.status_name == 'UNSUPPORTED'


def test_parameters_on_two_accelerators(device, monkeypatch):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    places = {id(module[0].weight): torch.device('cuda:0'), id(module[1].weight): torch.device('cuda:1')}

    class Elsewhere:
        def __init__(self, tensor):
            self.tensor = tensor
            self.device = places.get(id(tensor), torch.device('cpu'))
            self.is_meta = False

    real = walk.tensors
    moved = lambda part: (found._replace(tensor=Elsewhere(found.tensor)) for found in real(part))  # noqa: E731
    monkeypatch.setattr(walk, 'tensors', moved)
    with pytest.raises(unstick.AdoptError, match='several accelerators') as caught:
        unstick.adopt(module, device=device)
    assert len(caught.value.names) == 2
    assert 'reset_device_map()' in caught.value.remedy


def test_offload_by_accelerate_is_refused(device):
    accelerate = pytest.importorskip('accelerate')
    module = nn.Sequential(nn.Linear(4, 4))
    accelerate.cpu_offload(module, execution_device='cpu')
    with pytest.raises(unstick.AdoptError) as caught:
        unstick.adopt(module, device=device)
    assert caught.value.remedy or 'meta' in str(caught.value)
    module = nn.Sequential(nn.Linear(4, 4))
    accelerate.cpu_offload_with_hook(module, execution_device='cpu')
    with pytest.raises(unstick.AdoptError, match=r'remove_all_hooks\(\)'):
        unstick.adopt(module, device=device)


def test_group_offload_by_diffusers_is_refused(device, flux):
    from diffusers.hooks import apply_group_offloading

    pipe = flux.tiny_flux('plain')
    apply_group_offloading(
        pipe.transformer,
        onload_device=torch.device('cpu'),
        offload_device=torch.device('cpu'),
        offload_type='leaf_level',
    )
    with pytest.raises(unstick.AdoptError, match='remove_hook') as caught:
        unstick.adopt(pipe, device=device)
    assert 'group_offloading' in str(caught.value)


def test_an_alias_that_reaches_further_moves_along(device):
    """Memory was expected for less than what moves in the end: it goes again, and nothing of it stays."""
    whole = torch.arange(3 << 20, dtype=torch.uint8)
    part = torch.from_dlpack(whole[: 1 << 20])
    module = Holder(part=part)
    model = unstick.adopt(module, device=device)
    assert is_inside(model, part)
    assert is_inside(model, whole)
    assert whole.data_ptr() == part.data_ptr()
    assert held(device) == model.resident_bytes == 3 << 20
    assert torch.equal(whole, torch.arange(3 << 20, dtype=torch.uint8))


def test_adoption_that_is_interrupted_gives_back_what_it_expected(device, monkeypatch):
    module = Holder(one=torch.ones(1 << 20))
    monkeypatch.setattr(walk, 'all_tensors_and_wrappers', interrupted)
    with pytest.raises(KeyboardInterrupt):
        unstick.adopt(module, device=device)
    assert held(device) == 0
    monkeypatch.undo()
    assert unstick.adopt(module, device=device).resident_bytes == held(device) > 0


class Slotted:
    __slots__ = ('kept', 'missing')

    def __init__(self, kept):
        self.kept = kept


class Lazy(dict):
    """A mapping that makes what it holds when it is asked."""

    def items(self):
        return [(name, torch.full((2,), value)) for name, value in super().items()]


def test_the_walk_names_what_it_finds():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    module.tied = module[0].weight  # registered under two names, found under the first
    module[0].state = {'list': [torch.ones(1), Slotted((torch.ones(2), module))], 7: Lazy(value=3)}
    module.beside = [nn.Linear(1, 1, bias=False)]  # nn.Module does not know of it
    found = walk.tensors(module)
    assert {one.name: one.kind for one in found} == {
        'tied': 'parameter',
        '1.0.running_mean': 'buffer',
        '1.0.running_var': 'buffer',
        '1.0.num_batches_tracked': 'buffer',
        "0.state['list'][0]": 'state',
        "0.state['list'][1].kept[0]": 'state',
        "0.state[7]['value']": 'state',
        'beside[0].weight': 'parameter',
    }
    assert len({id(one.tensor) for one in found}) == len(found)


def test_the_walk_passes_on_what_goes_wrong():
    class Broken(dict):
        def items(self):
            raise RuntimeError('not now')

    class Odd:
        def __init__(self, items):
            self.items = lambda: items

    module = nn.Linear(2, 2)
    module.state = Broken(one=1)
    with pytest.raises(RuntimeError, match='not now'):
        walk.tensors(module)
    module.state = None
    for items in (5, [5], [(1, 2, 3)]):
        module.__dict__['_modules'] = Odd(items)
        with pytest.raises(TypeError):
            walk.tensors(module)
    del module.__dict__['_modules']
    with pytest.raises(AttributeError):
        walk.tensors(module)


def test_modules_within_modules_without_end():
    module = nn.Sequential()
    for _ in range(20_000):
        module = nn.Sequential(module)
    with pytest.raises(RecursionError):
        modules(module)
    while len(module):  # from the outside in: taking it apart would recurse as well
        module = module._modules.pop('0')


def test_what_tells_of_the_last_call_stays_outside(device):
    """bitsandbytes leaves the columns of outliers in the layer's state, a new tensor with each call."""
    module = nn.Linear(64, 64)
    module.state = type('MatmulLtState', (), {})()
    module.state.SCB = torch.ones(64)
    for _ in range(2):
        module.state.idx = torch.arange(7)
        model = unstick.adopt(module, device=device)
        assert not is_inside(model, module.state.idx) and is_inside(model, module.state.SCB)
        assert [(left.name, left.reason) for left in model.adoption.left] == [('state.idx', 'of the last call')]
    assert not model.refresh().taken


def test_many_that_drift_are_taken_in_at_once(device, monkeypatch):
    module = Holder(**{f'b{i}': torch.full((1000 + i % 3,), i) for i in range(300)})
    model = unstick.adopt(module, device=device)
    looked = []
    component = model.components['Holder']
    real = component.intake._vacancies
    monkeypatch.setattr(component.intake, '_vacancies', lambda region: looked.append(region) or real(region))
    before = held(device)
    for name, buffer in list(module.named_buffers()):
        setattr(module, name, buffer.clone())
    assert len(model.refresh().taken) == 300
    assert len(looked) == 1
    assert held(device) <= before + (128 << 10)  # where tensors had died in all of a granule, another one has come
    assert all(is_inside(model, buffer) and bool((buffer == i).all()) for i, buffer in enumerate(module.buffers()))


@pytest.mark.parametrize('is_enabled', [True, False])
def test_the_collector_rests_meanwhile(device, is_enabled, monkeypatch):
    """It would go through all there is, which can take longer than the adoption itself."""
    module, states = nn.Linear(16, 16), []
    take = Adopter._take
    monkeypatch.setattr(Adopter, '_take', lambda *args: states.append(gc.isenabled()) or take(*args))
    if not is_enabled:
        gc.disable()
    try:
        unstick.adopt(module, device=device)
        assert gc.isenabled() is is_enabled
        monkeypatch.setattr(Adopter, '_take', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            unstick.adopt(nn.Linear(16, 16), device=device)
        assert gc.isenabled() is is_enabled
    finally:
        gc.enable()
    assert states == [False]
