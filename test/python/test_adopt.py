# SPDX-License-Identifier: Apache-2.0
"""A real FluxPipeline, 8-bit and 4-bit, leaves memory with every reference alive and comes back bit-identical."""

import gc
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('bitsandbytes')
pytest.importorskip('diffusers')

import unstick  # noqa: E402
from tiny_flux import LIBRARIES, QUANTIZATIONS, run, tiny_flux  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def device(context):
    """Granules small enough that a tiny model has several."""
    return unstick.Device(context, 'host:1GiB', granule_bytes=1 << 20)


def held(device):
    info = device.info()
    return info['resident_bytes'] + info['spare_bytes'] + info['poisoned_bytes']


def needed(what):
    """The library that a kind of model is made with; nothing is skipped where requirements-torch.txt is installed."""
    modules = {'peft': 'peft', 'torchao': 'torchao', 'quanto': 'optimum.quanto'}
    if what in modules:
        pytest.importorskip(modules[what])


class Hostile:
    """Keeps every tensor and module of a pipeline alive, in the ways that real programs do."""

    cache: list = []  # noqa: RUF012

    def __init__(self, pipe):
        module = pipe.transformer
        weight = module.proj_out.weight
        self.expected = weight.data.clone()
        Hostile.cache.append(dict(pipe.components))
        self.list = [tensor for component in (pipe.transformer, pipe.vae) for tensor in component.parameters()]
        self.alias = weight.data
        self.view = weight.data.view(-1)[3:]
        self.closure = lambda: (module, weight)
        try:
            self.fail(pipe)
        except ValueError as error:
            self.error = error
        cycle = {'weight': weight}
        cycle['self'] = cycle
        self.generator = self.generate(pipe)
        next(self.generator)

    @staticmethod
    def fail(pipe):
        latents = pipe.transformer.proj_out.weight  # noqa: F841 the traceback keeps it
        raise ValueError('kept')

    @staticmethod
    def generate(pipe):
        held = list(pipe.vae.parameters())
        yield len(held)
        yield held

    def check(self):
        assert torch.equal(self.alias, self.expected)
        assert torch.equal(self.view, self.expected.view(-1)[3:])
        assert self.list[0].data_ptr()


@pytest.mark.parametrize('quantization', QUANTIZATIONS)
def test_evict_and_restore_with_every_reference_alive(quantization, device):
    pipe = tiny_flux(quantization)
    before = run(pipe)
    hostile = Hostile(pipe)

    model = unstick.adopt(pipe, f'flux_{quantization}', device=device)
    assert torch.equal(run(pipe), before)
    nbytes = held(device)
    assert nbytes >= model.adoption.taken_bytes > 0

    gone = model.evict()
    assert gone.nbytes == nbytes
    assert held(device) == 0
    assert model.state == 'evicted'
    assert not torch.equal(hostile.alias, hostile.expected)

    model.restore()
    assert held(device) == nbytes
    hostile.check()
    assert torch.equal(run(pipe), before)

    assert model.evict().copied_bytes == 0, 'nothing was written, nothing is copied'
    assert torch.equal(run(pipe), before), 'it comes back by itself'
    hostile.check()

    model.release()
    assert held(device) == 0
    Hostile.cache.clear()
    del model, pipe, hostile
    gc.collect()
    assert held(device) == 0
    device.close()


@pytest.mark.parametrize('library', LIBRARIES)
def test_wrapper_subclasses_leave_and_come_back(library, device):
    needed(library)
    pipe = tiny_flux(library)
    before = run(pipe, steps=1)
    keep = list(pipe.transformer.parameters())
    model = unstick.adopt(pipe, device=device)
    nbytes = held(device)
    assert torch.equal(run(pipe, steps=1), before)
    model.evict()
    assert held(device) == 0
    assert torch.equal(run(pipe, steps=1), before)
    assert held(device) == nbytes
    assert all(one is other for one, other in zip(pipe.transformer.parameters(), keep, strict=True))


def test_two_models_take_turns(device):
    pipes = [tiny_flux('8-bit'), tiny_flux('4-bit')]
    expected = [run(pipe) for pipe in pipes]
    models = [unstick.adopt(pipe, name, device=device) for pipe, name in zip(pipes, ('a', 'b'), strict=True)]
    for model in models:
        model.evict()
    assert held(device) == 0
    for turn in range(6):
        mine = turn % 2
        assert torch.equal(run(pipes[mine]), expected[mine])
        models[mine].evict()
        assert held(device) == 0


def test_adopting_again_is_a_refresh(device):
    pipe = tiny_flux('8-bit')
    model = unstick.adopt(pipe, device=device)
    before = held(device)
    assert unstick.adopt(pipe, device=device) is model
    assert held(device) == before


def test_a_shared_component_is_borrowed_and_stays_for_the_other(device):
    first = tiny_flux('8-bit')
    second = tiny_flux('4-bit', text_encoder_2=first.text_encoder_2)
    expected = run(first), run(second)
    one = unstick.adopt(first, 'one', device=device)
    before = held(device)
    two = unstick.adopt(second, 'two', device=device)
    assert two.adoption.borrowed == {'text_encoder_2': 'one'}
    assert held(device) - before < two.nbytes
    assert one.evict().kept == ('text_encoder_2',)
    assert torch.equal(run(second), expected[1])
    assert two.evict().kept == ()
    assert held(device) == 0
    assert torch.equal(run(first), expected[0])
    one.release()
    assert torch.equal(run(second), expected[1])
    two.release()
    assert held(device) == 0


def test_what_only_the_module_held_goes_with_it(device):
    pipe = tiny_flux('8-bit')
    model = unstick.adopt(pipe, device=device)
    before = held(device)
    size = model.components['text_encoder_2'].resident_bytes
    pipe.text_encoder_2 = None
    gc.collect()
    assert held(device) == before - size
    assert model.components['text_encoder_2'].state == 'empty'


def test_a_tensor_that_was_kept_keeps_its_component_evictable(device):
    pipe = tiny_flux('8-bit')
    model = unstick.adopt(pipe, device=device)
    kept = pipe.text_encoder_2.shared.weight
    expected = kept.detach().clone()
    pipe.text_encoder_2 = None
    gc.collect()
    model.evict()
    assert held(device) == 0
    model.restore()
    assert torch.equal(kept, expected)
    model.evict()
    del kept
    gc.collect()
    assert model.components['text_encoder_2'].state == 'empty'


COMPLETE = """
    import gc, sys
    import torch, unstick
    from tiny_flux import LIBRARIES, quantize, quantized, run, tiny_flux
    from unstick.storages import has_memory
    from unstick.walk import all_tensors

    def ranges():
        found = {}
        for tensor in filter(has_memory, all_tensors()):  # a wrapper subclass has none itself
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found[storage.data_ptr()] = max(found.get(storage.data_ptr(), 0), storage.nbytes())
        return found

    what = sys.argv[1]
    quantized(torch.nn.Linear(64, 32), '4-bit-double')  # from here on bitsandbytes has its own tables
    if what in LIBRARIES:
        quantize(torch.nn.Sequential(torch.nn.Linear(64, 32)), what)  # and so has any other library
    before = ranges()
    pipe = tiny_flux('8-bit' if what in ('peft', 'shared') else what)
    if what == 'peft':
        from peft import LoraConfig
        pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=['to_q', 'to_v']))
    if what == 'shared':
        other = tiny_flux('4-bit', text_encoder_2=pipe.text_encoder_2)
        run(other)
    run(pipe)
    gc.collect()
    device = unstick.Device(unstick.Context(), 'host:1GiB', granule_bytes=1 << 20)
    models = [unstick.adopt(pipe, device=device)]
    if what == 'shared':
        models.append(unstick.adopt(other, device=device))
    gc.collect()
    taken = sum(model.adoption.taken_bytes for model in models)
    left = sum(model.adoption.left_bytes for model in models)
    inside = [region for model in models for one in model.components.values() for region in one.regions]
    adopted = 0
    unexplained = []
    pipes = [pipe] + ([other] if what == 'shared' else [])
    schedulers = [value for one in pipes for value in vars(one.scheduler).values() if isinstance(value, torch.Tensor)]
    explained = {tensor.untyped_storage().data_ptr() for tensor in schedulers}
    for address, nbytes in ranges().items():
        if any(region.address <= address < region.address + region.info()['bytes'] for region in inside):
            adopted += nbytes
        elif address not in before and address not in explained:
            unexplained.append((nbytes, [tuple(t.shape) for t in all_tensors()
                                         if has_memory(t) and t.untyped_storage().data_ptr() == address]))
    unexplained_bytes = sum(nbytes for nbytes, _ in unexplained)
    assert adopted == taken, (adopted, taken)
    table_bytes = sum(one.nbytes for model in models for one in model.adoption.left if 'table of' in one.reason)
    assert unexplained_bytes == left - table_bytes, (unexplained, [str(model.adoption) for model in models])
    assert not any(model.adoption.still_held_bytes for model in models)
    print('complete', taken, left)
"""


@pytest.mark.parametrize('what', [*QUANTIZATIONS, *LIBRARIES, 'peft', 'shared'])
def test_the_report_is_complete_in_a_fresh_process(what, here):
    needed(what)
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(COMPLETE), what], capture_output=True, text=True, env=here, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith('complete')
