# SPDX-License-Identifier: Apache-2.0
"""A component that is larger than what is free runs block by block."""

import threading

import pytest

import unstick

pytestmark = pytest.mark.torch
torch = pytest.importorskip('torch')
nn = torch.nn

MIB = 1 << 20
WIDTH = 512  # a block of 1 MiB


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.fails = False

    def forward(self, x):
        if self.fails:
            raise ValueError('planted')
        return x + torch.tanh(self.linear(x))


class Stack(nn.Module):
    def __init__(self, n_blocks=16):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(n_blocks))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


@pytest.fixture
def device():
    return unstick.Device(unstick.Context(), 'host:20MiB', granule_bytes=MIB)


@pytest.fixture
def stack():
    torch.manual_seed(0)
    return Stack().eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(4, WIDTH)


def ballast(device, nbytes):
    region = unstick.Region(device, 'ballast', nbytes)
    region.restore().wait()
    return region


def squeezed(device, stack, leave_bytes):
    """The model, adopted and evicted, and so much of the device left."""
    model = unstick.adopt(stack, 'stack', device=device)
    model.evict()
    return model, ballast(device, 20 * MIB - leave_bytes)


def test_with_plenty_of_room_a_component_is_one_region(stack):
    device = unstick.Device(unstick.Context(), 'host:64MiB', granule_bytes=MIB)
    model = unstick.adopt(stack, 'stack', device=device)
    assert len(model.components['Stack'].regions) == 1


def test_where_memory_is_short_blocks_have_regions_of_their_own(device, stack):
    model = unstick.adopt(stack, 'stack', device=device)
    component = model.components['Stack']
    assert len(component.regions) > 8
    # Two slices leave at once: whoever is called first needs room, and may be another component.
    assert [one.state for one in component.regions[-3:]] == ['resident', 'evicted', 'evicted']
    assert model.nbytes == 18 * MIB + 2 * 4 * WIDTH


def test_it_runs_in_a_third_of_its_size_with_the_same_result(device, stack, x):
    expected = stack(x)
    model, _held = squeezed(device, stack, 7 * MIB)
    for _ in range(3):
        assert torch.equal(stack(x), expected)
    assert 0 < model.resident_bytes <= 7 * MIB
    assert device.info()['resident_bytes'] <= 20 * MIB


def test_only_what_does_not_fit_is_copied(device, stack, x, monkeypatch):
    from unstick.slices import Slices

    model, _held = squeezed(device, stack, 14 * MIB)
    stack(x)
    regions = model.components['Stack'].regions
    assert len(regions) == 9
    n_fitting = (14 * MIB - regions[0].info()['resident_bytes']) // regions[1].info()['bytes']
    came = []
    bring = Slices._bring

    def counting(self, region):
        came.append(region.state != 'resident')
        bring(self, region)

    monkeypatch.setattr(Slices, '_bring', counting)
    for _ in range(4):
        came.clear()
        stack(x)
        assert sum(came) == 8 - n_fitting


def test_when_there_is_room_again_nothing_is_streamed(device, stack, x):
    expected = stack(x)
    model, held = squeezed(device, stack, 7 * MIB)
    stack(x)
    held.release().wait()
    del held
    assert torch.equal(stack(x), expected)
    assert model.state == 'resident'
    assert torch.equal(stack(x), expected)


def test_others_go_before_the_component_is_cut(device, stack, x):
    other = nn.Linear(WIDTH, 2 * WIDTH, bias=False).requires_grad_(False)
    other_model = unstick.adopt(other, 'other', device=device)
    model = unstick.adopt(stack, 'stack', device=device)
    other(x)
    stack(x)
    assert model.state == 'resident'
    assert torch.equal(other(x), torch.nn.functional.linear(x, other.weight))
    assert other_model.state == 'resident'


def test_reading_what_cannot_come_back_is_an_error_and_loses_nothing(device, stack, x):
    expected = stack(x)
    model, held = squeezed(device, stack, 7 * MIB)
    stack(x)
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        stack.state_dict()
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        model.restore()
    assert torch.equal(stack(x), expected)
    held.release().wait()
    del held
    assert set(stack.state_dict()) and model.state == 'resident'


def test_a_failure_in_the_middle_leaves_nothing_leased(device, stack, x):
    expected = stack(x)
    model, _held = squeezed(device, stack, 7 * MIB)
    stack.blocks[9].fails = True
    with pytest.raises(ValueError, match='planted'):
        stack(x)
    assert not model.components['Stack'].is_in_use
    assert all(region.info()['n_leases'] == 0 for region in model.components['Stack'].regions)
    stack.blocks[9].fails = False
    assert torch.equal(stack(x), expected)
    model.evict()
    assert model.resident_bytes == 0


def in_time(function):
    """Whether it comes to an end; a thread that does not is left behind."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_an_interrupt_in_the_middle_leaves_nothing_leased(device, stack, x):
    expected = stack(x)
    model, _held = squeezed(device, stack, 7 * MIB)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = stack.blocks[9].linear.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack(x)
    handle.remove()
    assert in_time(model.evict)
    assert model.resident_bytes == 0
    assert torch.equal(stack(x), expected)


def test_what_it_needs_and_cannot_have_ends_it(device, stack, x, monkeypatch):
    from unstick.component import Component

    other = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
    stack.other = [other.weight]
    unstick.adopt(other, 'other', device=device)
    model, _held = squeezed(device, stack, 7 * MIB)
    component = model.components['Stack']
    assert component.needs

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Component, 'restore_regions', interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack(x)
    assert not component.slices.is_streaming


def test_evictions_beside_it(device, stack, x):
    expected = stack(x)
    model, _held = squeezed(device, stack, 7 * MIB)
    found = []
    calls = threading.Thread(target=lambda: found.extend(torch.equal(stack(x), expected) for _ in range(30)))
    calls.start()
    while calls.is_alive():
        model.evict()
    assert found == [True] * 30


def test_a_block_waits_for_what_is_leaving(device, stack, x, monkeypatch):
    from unstick import room, slices

    expected = stack(x)
    _model, held = squeezed(device, stack, 2 * MIB)
    lease = held.lease()
    eviction = held.evict()
    try_to_bring, shortages = slices.try_to_bring, []

    def counting(region):
        shortage = try_to_bring(region)
        if shortage is not None:
            shortages.append(region)
            if len(shortages) == 3:
                lease.end()
        return shortage

    monkeypatch.setattr(slices, 'try_to_bring', counting)
    monkeypatch.setattr(room, 'PATIENCE_SECONDS', 10)
    assert torch.equal(stack(x), expected)
    assert len(shortages) >= 3
    eviction.wait()


def test_a_lease_of_all_waits_until_it_has_ended(device, stack, x):
    model, held = squeezed(device, stack, 7 * MIB)
    seen = []

    def lease():
        with model.lease():
            seen.append(model.is_resident)

    thread = threading.Thread(target=lease)
    stack.blocks[5].register_forward_hook(lambda *_: thread.start())
    stack.last.register_forward_hook(lambda *_: (held.release().wait(), thread.join(0.2)))
    stack(x)
    thread.join(10)
    assert seen == [True]


@pytest.mark.parametrize('how', ['in place', 'in place before', 'wrapper', 'a part of it'])
def test_compiled_blocks(device, stack, x, how):
    """In compiled code no hook of a block runs."""
    torch._dynamo.reset()
    expected = stack(x)
    if how == 'in place before':
        for block in stack.blocks:
            block.compile(backend='eager')
    if how == 'a part of it':  # half of the blocks, which fit together
        stack.blocks = nn.ModuleList([*stack.blocks[:12], nn.Sequential(*stack.blocks[12:])])
    _model, _held = squeezed(device, stack, 9 * MIB)
    if how == 'in place':
        for block in stack.blocks:
            block.compile(backend='eager')
    elif how == 'a part of it':
        stack.blocks[12].compile(backend='eager')
    elif how == 'wrapper':
        for index, block in enumerate(stack.blocks):
            stack.blocks[index] = torch.compile(block, backend='eager')
    for _ in range(2):
        assert torch.equal(stack(x), expected)


def test_what_reaches_past_a_block_finds_its_contents(device, stack, x):
    """Also after a call, for which the guards inside of the blocks had to go."""
    expected = stack.blocks[9].linear(x)
    _model, held = squeezed(device, stack, 7 * MIB)
    stack(x)
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        stack.blocks[9].linear(x)
    held.release().wait()
    assert torch.equal(stack.blocks[9].linear(x), expected)


def test_a_block_that_is_called_by_itself_comes_back(device, stack, x):
    expected = stack.blocks[15](x)
    _model, _held = squeezed(device, stack, 7 * MIB)
    stack(x)
    assert torch.equal(stack.blocks[15](x), expected)


def test_two_threads_share_the_slices(device, stack, x):
    expected = stack(x)
    _model, _held = squeezed(device, stack, 8 * MIB)
    found = []

    def call():
        for _ in range(5):
            found.append(torch.equal(stack(x), expected))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 10


def test_guard_raise_does_not_run_block_by_block(device, stack, x):
    model = unstick.adopt(stack, 'stack', device=device, guard='raise')
    model.evict()
    with pytest.raises(unstick.EvictedError):
        stack(x)


def test_less_than_two_slices_is_out_of_memory(device, stack, x):
    model, _held = squeezed(device, stack, 2 * MIB)
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        stack(x)
    assert not model.components['Stack'].is_in_use
