# SPDX-License-Identifier: Apache-2.0
"""What reads an evicted model brings it back first, or says that it is evicted; a revoked one always raises."""

import copy
import io
import pickle
import threading
import time
import types

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

import unstick  # noqa: E402
from unstick import component, room  # noqa: E402
from unstick._unstick import FaultDevice  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def device(context):
    """Granules small enough that a tiny model has several."""
    return unstick.Device(context, 'host:1GiB', granule_bytes=1 << 20)


class Saved(nn.Linear):
    def save_pretrained(self, path):
        torch.save(self.state_dict(), path)


def saved(module, write):
    file = io.BytesIO()
    write(module, file)
    file.seek(0)
    return file


def weight_of(loaded):
    if isinstance(loaded, dict):
        return next(tensor for key, tensor in loaded.items() if key.endswith('weight'))
    return next(part for part in loaded.modules() if isinstance(part, nn.Linear)).weight


READS = {
    'state_dict': lambda module: module.state_dict(),
    'deepcopy': copy.deepcopy,
    'pickle': lambda module: pickle.loads(pickle.dumps(module)),
    'torch.save': lambda module: torch.load(saved(module, torch.save), weights_only=False),
    'save of state_dict': lambda module: torch.load(saved(module, lambda m, f: torch.save(m.state_dict(), f))),
    'save_pretrained': lambda module: torch.load(saved(module[0], lambda m, f: m.save_pretrained(f))),
    'to': lambda module: module.to(torch.float64),
    'cpu': lambda module: module.cpu(),
    'double': lambda module: module.double(),
    'part.state_dict': lambda module: module[0].state_dict(),
    'part.to': lambda module: module[0].to(torch.float64),
    'deepcopy of part': lambda module: copy.deepcopy(module[0]),
    'pickle of list': lambda module: pickle.loads(pickle.dumps([module]))[0],
}


LEAVE = ('to', 'double', 'part.to')


def adopted(device, **options):
    module = nn.Sequential(Saved(16, 16), nn.ReLU())
    expected = module[0].weight.detach().clone()
    model = unstick.adopt(module, device=device, **options)
    model.evict()
    return module, model, expected


@pytest.mark.parametrize('read', READS)
def test_reading_restores_first(device, read):
    module, model, expected = adopted(device)
    result = READS[read](module)
    assert torch.equal(weight_of(result).detach().to(expected.dtype), expected)
    # What lies in other memory now has left nothing behind.
    assert model.components['Sequential'].state == ('empty' if read in LEAVE else 'resident')
    left = [value for part in module.modules() for value in vars(part).values()]
    assert not any(isinstance(value, unstick.guards.Guard) for value in left)


@pytest.mark.parametrize('read', READS)
def test_reading_raises_when_asked_to(device, read):
    module, model, expected = adopted(device, guard='raise')
    with pytest.raises(unstick.EvictedError, match='is evicted') as caught:
        READS[read](module)
    assert caught.value.status_name == 'NOT_RESIDENT'
    with pytest.raises(unstick.EvictedError):
        module(torch.rand(1, 16))
    assert device.info()['resident_bytes'] == 0
    model.restore()
    assert torch.equal(weight_of(READS[read](module)).detach().to(expected.dtype), expected)


@pytest.mark.parametrize('how', ['revoke', 'release'])
@pytest.mark.parametrize('read', READS)
def test_reading_what_was_revoked_raises(device, read, how):
    module, model, _ = adopted(device)
    model.restore()
    getattr(model, how)()
    assert device.info()['resident_bytes'] == 0
    with pytest.raises(unstick.RevokedError):
        READS[read](module)
    with pytest.raises(unstick.RevokedError), torch.no_grad():
        module(torch.rand(1, 16))


def test_a_copy_is_no_longer_adopted(device):
    module, model, expected = adopted(device)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        model.evict()
        assert torch.equal(twin[0].weight, expected)
        twin(torch.rand(1, 16))
        assert device.info()['resident_bytes'] == 0


def test_a_write_comes_back_from_the_backup(device):
    module, model, _ = adopted(device)
    model.restore()
    with torch.no_grad():
        module[0].weight.fill_(3)
    assert model.evict().copied_bytes > 0
    model.restore()
    assert torch.equal(module[0].weight, torch.full((16, 16), 3.0))


def test_a_method_of_the_instance_survives(device):
    module = nn.Sequential(Saved(16, 16))
    module.to = lambda *_: 'mine'
    model = unstick.adopt(module, device=device)
    model.evict()
    assert module.to('cpu') == 'mine'
    assert model.is_resident
    assert module.__dict__['to']('cpu') == 'mine'


class OwnMethods(nn.Linear):
    """What torch.nn.Module's own would come to by another guarded method, these do by themselves."""

    def to(self, *_):
        return self.weight.detach().clone()

    def __deepcopy__(self, _):
        return self.weight.detach().clone()

    def load_state_dict(self, *_, **__):
        return self.weight.detach().clone()


@pytest.mark.parametrize('read', ['to', 'deepcopy', 'load_state_dict'])
def test_a_method_of_the_class_is_guarded(device, read):
    module = nn.Sequential(OwnMethods(16, 16))
    expected = module[0].weight.detach().clone()
    model = unstick.adopt(module, device=device)
    model.evict()
    result = copy.deepcopy(module[0]) if read == 'deepcopy' else getattr(module[0], read)({})
    assert torch.equal(result, expected)
    assert model.is_resident


def test_a_method_that_is_wrapped_while_it_is_away(device):
    """As monkey patches and the caches of diffusers do: what they hold is the guard."""
    module, model, expected = adopted(device)
    forward, state_dict = module[0].forward, module[0].state_dict
    module[0].forward = lambda *args: forward(*args)
    module[0].state_dict = lambda *args, **kwargs: state_dict(*args, **kwargs)
    x = torch.rand(1, 16)
    for _ in range(2):
        assert torch.equal(module[0](x), torch.nn.functional.linear(x, expected, module[0].bias))
        model.evict()
        assert torch.equal(module.state_dict()['0.weight'], expected)
        model.evict()


def test_a_module_that_is_taken_out_while_it_is_away(device):
    module, model, expected = adopted(device)
    part, module[0] = module[0], nn.Identity()
    model.restore()
    x = torch.rand(1, 16)
    assert torch.equal(part(x), torch.nn.functional.linear(x, expected, part.bias))
    assert torch.equal(part.state_dict()['weight'], expected)
    assert torch.equal(copy.deepcopy(part).weight, expected)


def test_an_eviction_that_waits_lets_the_call_go_on(device):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 16))

        def forward(self, x):
            x = self.first(x)
            begun.set()
            go_on.wait(10)
            return self.last(x)

    module, x = Slow().requires_grad_(False), torch.rand(1, 16)
    go_on.set()
    expected = module(x)
    begun.clear()
    go_on.clear()
    model = unstick.adopt(module, device=device)
    results = []
    call = threading.Thread(target=lambda: results.append(module(x)))
    call.start()
    assert begun.wait(10)
    eviction = threading.Thread(target=model.evict)
    eviction.start()
    while 'forward' not in vars(module.last[0]):
        time.sleep(0.001)
    go_on.set()
    call.join(10)
    eviction.join(10)
    assert torch.equal(results[0], expected)
    assert device.info()['resident_bytes'] == 0


def test_guards_after_an_eviction_that_a_call_came_before(device):
    module, model, expected = adopted(device)
    x = torch.rand(1, 16)
    for _ in range(40):
        model.restore()
        eviction = model.components['Sequential'].begin_to_evict()
        module(x)  # cancels it, or brings it back
        eviction.end()
        if model.state == 'evicted':
            assert torch.equal(module.state_dict()['0.weight'], expected)


def test_a_parent_that_loads_a_state_dict(device):
    """It asks the modules below it by another name."""
    module, model, expected = adopted(device)
    nn.Sequential(module).load_state_dict({'0.0.weight': expected + 1, '0.0.bias': module[0].bias.detach() * 0})
    model.restore()
    assert torch.equal(module[0].weight, expected + 1)


def test_peft_that_merges_layer_by_layer(device):
    peft = pytest.importorskip('peft')
    module, model, expected = adopted(device)
    config = peft.LoraConfig(target_modules=['0'], r=2, init_lora_weights=False)
    wrapped = peft.get_peft_model(module, config)
    model.restore()
    with torch.no_grad():
        merged = expected + module[0].get_delta_weight('default')
    model.evict()
    wrapped.merge_and_unload()
    model.restore()
    assert torch.allclose(module[0].weight, merged)


def test_adopted_anew_after_it_was_released(device):
    module, model, _ = adopted(device)
    model.release()
    module[0].weight, module[0].bias = nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.zeros(16))
    anew = unstick.adopt(module, device=device)
    x = torch.rand(1, 16)
    for _ in range(2):
        with torch.no_grad():
            assert torch.allclose(module(x), torch.relu(x @ torch.ones(16, 16)))
        assert torch.equal(module.state_dict()['0.weight'], torch.ones(16, 16))
        anew.evict()


@pytest.fixture
def uneven(context):
    """A pipeline whose components have so much memory for each of their guards: some, many guards before it, few."""
    shapes = {'some': (16, 256), 'many': (64, 8), 'few': (1, 1024)}
    parts = {name: nn.Sequential(*(nn.Linear(width, width) for _ in range(n))) for name, (n, width) in shapes.items()}
    pipe = types.SimpleNamespace(components=parts, **parts)
    model = unstick.adopt(pipe, device=FaultDevice(context, 'host:64MiB', granule_bytes=1 << 16))
    model.kept = pipe
    return model


def test_what_has_few_guards_before_much_memory_leaves_first(uneven, monkeypatch):
    """The guards of the others are put while it leaves."""
    order = []
    begin = component.Component.begin_to_evict
    monkeypatch.setattr(component.Component, 'begin_to_evict', lambda self: (order.append(self.name), begin(self))[1])
    uneven.evict()
    assert order == ['few', 'some', 'many']


def test_what_has_few_guards_before_much_memory_comes_last_and_behind_the_others(uneven, monkeypatch):
    """The guards of the others are taken while it is on its way."""
    tasks = {}
    missing = {}
    begin = component.Component.begin_to_restore

    def noting(self):
        results = [task.result() for task in tasks.values()]
        missing.setdefault(self.name, [result['total_bytes'] - result['done_bytes'] for result in results])
        begun = begin(self)
        if begun:
            tasks[self.name] = begun[0]
        return begun

    uneven.evict()
    uneven.room.device.set_faults(pending_polls=10000)  # a slow link: about ten MiB a second
    monkeypatch.setattr(room, 'AHEAD_BYTES', 1 << 20)
    monkeypatch.setattr(component.Component, 'begin_to_restore', noting)
    uneven.restore()
    assert list(tasks) == ['many', 'some', 'few']
    assert missing['few'][0] == 0 < missing['few'][1] <= 1 << 20
    assert uneven.is_resident


def test_nothing_waits_for_what_does_not_come(uneven, monkeypatch):
    uneven.evict()
    uneven.components['some'].revoke()
    monkeypatch.setattr(room, 'AHEAD_BYTES', 0)
    with pytest.raises(unstick.RevokedError):
        uneven.restore()
    assert uneven.components['few'].is_resident
