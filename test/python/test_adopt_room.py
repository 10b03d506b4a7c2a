# SPDX-License-Identifier: Apache-2.0
"""Adopting where there is no room for a second copy.

The host device does not see torch's own memory, so a card is acted: what torch holds (and what its cache has not given
back) is taken from the device by somebody else, as the fault device calls it.
"""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402

import unstick  # noqa: E402
from unstick import adoption, intake, room, tight  # noqa: E402
from unstick._unstick import FaultDevice  # noqa: E402

pytestmark = pytest.mark.torch

KIB, MIB = 1 << 10, 1 << 20
TOTAL = 256 * MIB
SENTINELS = 128 * KIB


class Card:
    """A card of so many bytes on which torch has loaded a module."""

    def __init__(self, context, module, nbytes, is_one_segment=False):
        self.device = FaultDevice(context, f'host:{TOTAL}', granule_bytes=64 * KIB)
        self.nbytes = nbytes
        self.is_one_segment = is_one_segment
        self.old = [(StorageWeakRef(one.untyped_storage()), one.untyped_storage().nbytes())
                    for one in module.parameters()]  # fmt: skip
        self.loaded = sum(nbytes for _, nbytes in self.old)
        self.n_given_back = 0
        self.give_back(None)

    def give_back(self, _):
        """What torch.cuda.empty_cache() does; one segment goes only as a whole."""
        held = sum(nbytes for ref, nbytes in self.old if not ref.expired())
        if self.is_one_segment and held:
            held = self.loaded
        self.device.set_faults(steal_bytes=TOTAL - self.nbytes + held)
        self.n_given_back += 1
        return True


def made(n=24, width=256):
    torch.manual_seed(1)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(n))).eval().requires_grad_(False)


@pytest.fixture
def acted(monkeypatch):
    monkeypatch.setattr(intake, 'CHUNK_BYTES', 1 * MIB)
    monkeypatch.setattr(tight, 'CHUNK_BYTES', 64 * KIB)

    def act(card):
        monkeypatch.setattr(room.Room, 'give_back', lambda self: card.give_back(self))

    return act


SIZE = 24 * 256 * KIB


def check(model, module, expected, x):
    assert not model.adoption.left and not model.adoption.still_held_bytes
    assert model.nbytes == SIZE
    assert torch.equal(module(x), expected)
    assert model.evict().nbytes == SIZE
    assert torch.equal(module(x), expected)
    assert model.is_resident


@pytest.mark.parametrize('is_one_segment', [False, True])
def test_model_and_a_chunk(context, acted, is_one_segment):
    """In one segment nothing of the old memory comes back before all of it is dead: then it goes through the backup."""
    module, x = made(), torch.randn(2, 256)
    expected = module(x)
    card = Card(context, module, SIZE + 1 * MIB + SENTINELS, is_one_segment)
    acted(card)
    model = unstick.adopt(module, device=card.device)
    check(model, module, expected, x)
    assert len(next(iter(model.components.values())).regions) == 6
    assert card.n_given_back > 1


@pytest.mark.parametrize(('n', 'width'), [(24, 256), (6, 512), (24 * 16, 64)])
def test_tight(context, acted, n, width):
    """Larger than a granule or smaller: no more than one is there twice, and all of it is in one region."""
    module, x = made(n, width), torch.randn(2, width)
    expected = module(x)
    card = Card(context, module, SIZE + 64 * KIB + SENTINELS)
    acted(card)
    model = unstick.adopt(module, device=card.device, tight=True)
    assert model.resident_bytes == SIZE
    assert len(next(iter(model.components.values())).regions) == 1
    check(model, module, expected, x)


@pytest.mark.parametrize('chunk_bytes', [1 * KIB, 32 * KIB, 1 * MIB])
def test_tight_takes_every_tensor(context, acted, monkeypatch, chunk_bytes):
    """Those, too, that end in a granule that was there before they came to the host."""
    module = nn.ParameterList(torch.full((2560,), float(n)) for n in range(9)).requires_grad_(False)
    card = Card(context, module, 4 * MIB)
    acted(card)
    monkeypatch.setattr(tight, 'CHUNK_BYTES', chunk_bytes)
    model = unstick.adopt(module, device=card.device, tight=True)
    assert sum(len(one.names) for one in model.adoption.taken) == len(module)
    assert [one.unique().item() for one in module] == list(range(9))


def test_tight_and_short_half_way(context, acted):
    """What has moved stays in its region, the rest where it was, and a second attempt takes that."""
    module, x = made(), torch.randn(2, 256)
    expected = module(x)
    card = Card(context, module, SIZE + 64 * KIB + SENTINELS)

    def give_back(_):
        if card.n_given_back == 10:  # somebody else takes what is free
            card.nbytes -= 1 * MIB
        return Card.give_back(card, None)

    acted(SimpleNamespace(give_back=give_back))
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        unstick.adopt(module, device=card.device, tight=True)
    part = adoption.component_of(module)
    assert 0 < part.nbytes < SIZE and part.is_resident
    assert torch.equal(module(x), expected)
    card.nbytes = 2 * SIZE
    card.give_back(None)
    part.evict()
    assert torch.equal(module(x), expected)
    check(unstick.adopt(module, device=card.device, tight=True), module, expected, x)


class PagedCard(Card):
    """Memory goes back in whole pages, in which tensors of several modules lie."""

    def __init__(self, context, module, nbytes, n_to_a_page=4):
        storages = [one.untyped_storage() for one in module.parameters()]
        storages.sort(key=lambda storage: storage.data_ptr())
        refs = [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]
        self.pages = [refs[at : at + n_to_a_page] for at in range(0, len(refs), n_to_a_page)]
        del storages
        super().__init__(context, module, nbytes)

    def give_back(self, _):
        alive = [page for page in self.pages if not all(ref.expired() for ref, _ in page)]
        self.reserved = sum(nbytes for page in alive for _, nbytes in page)
        self.device.set_faults(steal_bytes=TOTAL - self.nbytes + self.reserved)
        self.n_given_back += 1
        return True

    def reading(self, _):
        return SimpleNamespace(reserved_bytes=self.reserved)


@pytest.mark.parametrize('n_to_a_page', [2, 4, 10])
def test_tight_with_tensors_of_others_in_the_same_pages(context, acted, monkeypatch, n_to_a_page):
    """A component that moved by itself would free hardly a page: they move together, by the addresses they had."""
    modules = made(), made()
    parameters = [one for both in zip(*(module.parameters() for module in modules), strict=True) for one in both]
    places = sorted((torch.empty(256, 256) for _ in parameters), key=torch.Tensor.data_ptr)
    for parameter, place in zip(parameters, places, strict=True):
        parameter.data = place.copy_(parameter)
    del parameter, place, places
    x = torch.randn(2, 256)
    expected = [module(x) for module in modules]
    card = PagedCard(context, nn.ModuleList(modules), 2 * SIZE + 64 * KIB + SENTINELS, n_to_a_page)
    acted(card)
    monkeypatch.setattr(tight, 'reading', card.reading)
    monkeypatch.setattr(tight, 'HOST_BYTES', (n_to_a_page + 2) * 256 * KIB)
    model = unstick.adopt(list(modules), device=card.device, tight=True)
    assert model.resident_bytes == 2 * SIZE
    assert [len(one.regions) for one in model.components.values()] == [1, 1]
    assert [torch.equal(module(x), one) for module, one in zip(modules, expected, strict=True)] == [True, True]


def test_tight_goes_on_where_pages_do_not_go(context, acted, monkeypatch):
    """Somebody else's tensors hold them: more is there twice, but the host is not filled."""
    module, x = made(), torch.randn(2, 256)
    expected = module(x)
    card = PagedCard(context, module, 2 * SIZE + SENTINELS, n_to_a_page=1000)
    acted(card)
    monkeypatch.setattr(tight, 'reading', card.reading)
    monkeypatch.setattr(tight, 'HOST_BYTES', 1 * MIB)
    waiting = []
    real = tight.to_host

    def to_host(leaving, device):
        real(leaving, device)
        waiting.append(sum(one.end - one.place[1] for one in leaving[0][2]))

    monkeypatch.setattr(tight, 'to_host', to_host)
    check(unstick.adopt(module, device=card.device, tight=True), module, expected, x)
    assert 1 * MIB < max(waiting) <= 1 * MIB + 512 * KIB


def test_not_a_byte_more_than_the_model(context, acted):
    module, x = made(), torch.randn(2, 256)
    expected = module(x)
    card = Card(context, module, SIZE + SENTINELS)
    acted(card)
    check(unstick.adopt(module, device=card.device), module, expected, x)


def test_with_room_it_is_one_copy(context, acted):
    module, x = made(), torch.randn(2, 256)
    expected = module(x)
    card = Card(context, module, 2 * SIZE + SENTINELS)
    acted(card)
    model = unstick.adopt(module, device=card.device)
    assert len(next(iter(model.components.values())).regions) == 1
    check(model, module, expected, x)


def test_others_leave(context, acted):
    other, x = made(), torch.randn(2, 256)
    card = Card(context, other, 2 * SIZE + SENTINELS)
    acted(card)
    first = unstick.adopt(other, device=card.device)
    expected_other = other(x)
    torch.manual_seed(2)
    module = made()
    expected = module(x)
    card.old += [(StorageWeakRef(one.untyped_storage()), one.untyped_storage().nbytes())
                 for one in module.parameters()]  # fmt: skip
    card.give_back(None)
    second = unstick.adopt(module, device=card.device)
    assert second.is_resident and first.resident_bytes < SIZE
    assert torch.equal(module(x), expected) and torch.equal(other(x), expected_other)


@pytest.mark.parametrize('tight', [False, True])
def test_where_even_that_does_not_fit_nothing_is_lost(context, acted, tight):
    module, x = made(6, 512), torch.randn(2, 512)
    expected = module(x)
    card = Card(context, module, SIZE - 1 * MIB)
    acted(card)
    with pytest.raises(unstick.OutOfDeviceMemoryError):
        unstick.adopt(module, device=card.device, tight=tight)
    card.nbytes = 4 * SIZE
    card.give_back(None)
    assert torch.equal(module(x), expected)
    check(unstick.adopt(module, device=card.device), module, expected, x)


def test_a_group_of_several_storages_by_host(device):
    """Bytes that two storages share are one piece, on the way out, back, and after a failure."""
    from unstick.storages import by_range, by_storage, move_by_host
    from unstick.walk import Found

    whole = torch.arange(64 * KIB, dtype=torch.uint8)
    twin = torch.from_dlpack(whole[4096:])
    expected = whole.clone()
    region = unstick.Region(device, 'twins', 64 * KIB)

    def groups():
        return by_range(by_storage([Found('whole', 'buffer', whole), Found('twin', 'alias', twin)]))

    def fail():
        raise MemoryError

    (group,) = groups()
    with pytest.raises(MemoryError):
        move_by_host([(group, 0)], region, torch.device('cpu'), fail)
    assert torch.equal(whole, expected) and torch.equal(twin, expected[4096:])
    twin[0] = 77
    assert whole[4096] == 77
    (group,) = groups()
    move_by_host([(group, 0)], region, torch.device('cpu'), lambda: region.restore().wait())
    assert whole.data_ptr() == region.address and twin.data_ptr() == region.address + 4096
    assert whole[4096] == 77 and torch.equal(twin[1:], expected[4097:])


def test_chunks():
    def group(nbytes):
        return intake.Group(0, nbytes, [])

    sizes = [512, 512, 5120, 100, 1, 1024]
    chunks = list(intake.in_chunks([group(one) for one in sizes], 1024))
    assert [[one.nbytes for one in chunk] for chunk in chunks] == [[512, 512], [5120], [100, 1], [1024]]
