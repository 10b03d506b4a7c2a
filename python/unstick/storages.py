# SPDX-License-Identifier: Apache-2.0
"""Storages grouped by the bytes they share, and how tensors are laid over new memory.

Two tensors may share a storage (a view; bitsandbytes' weight.data and CB), and two storages may share bytes (a tensor
that went through DLPack or NumPy). Whatever overlaps moves as one piece and keeps its distances. Every old storage
gets exactly one new one of the same size, and every tensor its old place in it: so torch.save still writes shared
bytes once, and what was the same storage still is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ._unstick import Region
from .walk import Found, all_tensors, refusal

HOST_PIECE_BYTES = 16 << 20
"""The link is no faster with longer ones. A power of two, to which torch rounds what it locks, and keeps it."""


@dataclass(slots=True)
class Storage:
    """An old storage and the tensors that look at it."""

    storage: torch.UntypedStorage | None
    """None: let go."""
    address: int
    nbytes: int
    tensors: list[Found] = field(default_factory=list)

    def as_bytes(self, device: torch.device) -> torch.Tensor:
        assert self.storage is not None
        return torch.empty(0, dtype=torch.uint8, device=device).set_(self.storage)


@dataclass(slots=True)
class Group:
    """Storages whose bytes overlap, directly or through one another."""

    address: int
    end: int
    storages: list[Storage]

    @property
    def nbytes(self) -> int:
        return self.end - self.address

    @property
    def tensors(self) -> list[Found]:
        return [found for storage in self.storages for found in storage.tensors]

    def part(self, whole: torch.Tensor, storage: Storage) -> torch.Tensor:
        """The bytes of one storage in those of all."""
        at = storage.address - self.address
        return whole[at : at + storage.nbytes]

    @property
    def name(self) -> str:
        return self.storages[0].tensors[0].name


def has_memory(tensor: torch.Tensor) -> bool:
    """False for what has no bytes of its own: empty, or without a storage."""
    try:
        storage = tensor.untyped_storage()
        return bool(storage.nbytes() and storage.data_ptr())
    except (RuntimeError, NotImplementedError, ValueError):  # ValueError: of a lazy module that was not called yet
        return False


def by_storage(found: Iterable[Found]) -> list[Storage]:
    storages: dict[int, Storage] = {}
    for one in found:
        storage = one.tensor.untyped_storage()
        key = storage._cdata
        if key not in storages:
            storages[key] = Storage(storage, storage.data_ptr(), storage.nbytes())
        storages[key].tensors.append(one)
    return list(storages.values())


def by_range(storages: Iterable[Storage]) -> list[Group]:
    groups: list[Group] = []
    for storage in sorted(storages, key=lambda storage: storage.address):
        end = storage.address + storage.nbytes
        if groups and storage.address < groups[-1].end:
            groups[-1].end = max(groups[-1].end, end)
            groups[-1].storages.append(storage)
        else:
            groups.append(Group(storage.address, end, [storage]))
    return groups


Place = tuple[Group, int]
"""A group, and the offset in a region that it moves to."""

Bring = Callable[[], None]
"""Gives a region memory."""


def _over(region: Region, place: Place) -> list[torch.Tensor]:
    """The bytes of a place: a tensor, with a storage of its own, for each storage of the group."""
    group, offset = place
    # As a capsule: from_dlpack() of an object first asks it for its device and orders streams, which costs more.
    return [
        torch.from_dlpack(region.tensor(offset + old.address - group.address, old.nbytes).__dlpack__())
        for old in group.storages
    ]


def move(
    places: list[Place], region: Region, device: torch.device, ready: Callable[[], object] | None = None
) -> None:
    """Copies groups into a region and lays their tensors over it. On failure they all are where they were.

    `ready` waits for the memory of the region, for which the first part of the work need not wait.
    """
    pairs = [
        (old, new)
        for place in places
        for old, new in zip(place[0].storages, _over(region, place), strict=True)
    ]  # fmt: skip
    into, from_ = [new for _, new in pairs], [old.as_bytes(device) for old, _ in pairs]
    if ready is not None:
        ready()
    with torch.no_grad():
        copy(into, from_)
    del into, from_
    lay([(found.tensor, new.untyped_storage()) for old, new in pairs for found in old.tensors])


def copy(into: list[torch.Tensor], from_: list[torch.Tensor]) -> None:
    """Copies tensors of bytes into others: on a GPU in few launches, of which each would take longer than its bytes."""
    if into and into[0].is_cuda:
        torch._foreach_copy_(into, from_)
    else:
        for new, old in zip(into, from_, strict=True):
            new.copy_(old)


@dataclass(slots=True)
class Waiting:
    """A group that is laid over its place in a region, where there is no memory yet: its bytes wait on the host."""

    place: Place
    contents: list[tuple[torch.Tensor, list[torch.Tensor]]]
    """For each storage its new bytes, and pieces of host memory with what comes there."""

    @property
    def end(self) -> int:
        group, offset = self.place
        return offset + group.nbytes


def move_by_host(places: list[Place], region: Region, device: torch.device, bring: Bring) -> None:
    """As move(), where there is no room beside the old memory: the bytes wait on the host until that has gone.

    `bring` gives the region memory. If it cannot, the tensors get memory of torch's own again, on the host at worst.
    """
    waiting: list[Waiting] = []
    try:
        to_host([(region, place, waiting) for place in places], device)
        bring()
        from_host(waiting)
        _synchronize(device)
    except BaseException:
        put_back(waiting, device)
        raise


def to_host(leaving: list[tuple[Region, Place, MutableSequence[Waiting]]], device: torch.device) -> None:
    """Copies groups to the host, lays their tensors over their places and lets the old memory go.

    Each is added to those that wait, for put_back(). The copies may still run: who has torch give memory back waits.
    """
    host = _HostMemory(device)
    pairs = []
    for region, place, waiting in leaving:
        contents = []
        for old, new in zip(place[0].storages, _over(region, place), strict=True):
            contents.append((new, host.copy_of(old.as_bytes(device))))
            pairs += [(found.tensor, new.untyped_storage()) for found in old.tensors]
        waiting.append(Waiting(place, contents))
    lay(pairs)
    for _, (group, _), _ in leaving:
        for old in group.storages:
            old.storage = None


def from_host(waiting: Iterable[Waiting]) -> None:
    """Copies what waits to its place, which has memory now. The copies may still run."""
    for one in waiting:
        for new, pieces in one.contents:
            _join(pieces, new)


def put_back(waiting: Iterable[Waiting], device: torch.device) -> None:
    """Lays what waits over memory of torch's own, on the host at worst."""
    _synchronize(device)
    for one in waiting:
        group, _ = one.place
        try:
            whole = torch.empty(group.nbytes, dtype=torch.uint8, device=device)
        except RuntimeError:
            whole = torch.empty(group.nbytes, dtype=torch.uint8)
        for old, (_, pieces) in zip(group.storages, one.contents, strict=True):
            _join(pieces, group.part(whole, old))
        _lay(group, whole)


class _HostMemory:
    """Memory of the host that copies run beside, handed out piece by piece; a piece goes when nobody holds it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_pinned = device.type == 'cuda'
        self._rest = torch.empty(0, dtype=torch.uint8)

    def copy_of(self, contents: torch.Tensor) -> list[torch.Tensor]:
        pieces = []
        with torch.no_grad():
            while len(contents):
                if not len(self._rest):
                    self._rest = self._new()
                piece = self._rest[: len(contents)]
                piece.copy_(contents[: len(piece)], non_blocking=True)
                contents, self._rest = contents[len(piece) :], self._rest[len(piece) :]
                pieces.append(piece)
        return pieces

    def _new(self) -> torch.Tensor:
        if self.is_pinned:
            try:
                with torch.cuda.device(self.device):  # else a context may begin on another one
                    return torch.empty(HOST_PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
            except RuntimeError:  # no more may be locked: copies are slower then
                self.is_pinned = False
        return torch.empty(HOST_PIECE_BYTES, dtype=torch.uint8)


def give_host_back(device: torch.device) -> None:
    """Has the system get the page-locked memory that torch keeps for next time, once the copies have ended."""
    if device.type == 'cuda' and hasattr(torch._C, '_host_emptyCache'):
        with torch.cuda.device(device):
            torch._C._host_emptyCache()


def _join(pieces: list[torch.Tensor], into: torch.Tensor) -> None:
    at = 0
    with torch.no_grad():
        for piece in pieces:
            into[at : at + len(piece)].copy_(piece, non_blocking=True)
            at += len(piece)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.current_stream(device).synchronize()


def _lay(group: Group, whole: torch.Tensor) -> None:
    for old in group.storages:
        # A storage of its own for each, over the same bytes.
        new = torch.from_dlpack(group.part(whole, old)) if len(group.storages) > 1 else whole
        lay([(found.tensor, new.untyped_storage()) for found in old.tensors])


def move_out(region: Region, device: torch.device, is_readable: bool = True) -> None:
    """Lays every tensor of a region over memory of torch's own again; unless readable there, from the backup."""
    start, end = region.address, region.address + region.info()['bytes']
    inside = [
        Found('', 'alias', tensor)
        for tensor in all_tensors()
        if tensor.device == device and has_memory(tensor) and start <= tensor.untyped_storage().data_ptr() < end
    ]
    for group in by_range(by_storage(inside)):
        whole = torch.empty(group.nbytes, dtype=torch.uint8, device=device)
        with torch.no_grad():
            for old in group.storages:
                if is_readable:
                    contents = old.as_bytes(device)
                else:
                    raw = bytearray(region.read(old.address - start, old.nbytes))
                    contents = torch.frombuffer(raw, dtype=torch.uint8)
                group.part(whole, old).copy_(contents)
        _lay(group, whole)


def lay(pairs: list[tuple[torch.Tensor, torch.UntypedStorage]]) -> None:
    """Lays tensors over storages, each at its own offset, shape and strides; the objects stay the same.

    On failure they all are where they were.
    """
    done: list[tuple[torch.Tensor, torch.UntypedStorage]] = []
    try:
        # An inference tensor takes only another one.
        for is_inference in (False, True):
            with _unseen(is_inference):
                for tensor, storage in pairs:
                    if tensor.is_inference() is is_inference:
                        before = tensor.untyped_storage()
                        _assign(tensor, storage)
                        done.append((tensor, before))
    except BaseException:
        for tensor, before in reversed(done):
            with _unseen(tensor.is_inference()):
                _assign(tensor, before)
        raise


@contextmanager
def _unseen(is_inference: bool) -> Iterator[None]:
    """A subclass would see the assignment and might act on it."""
    with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(is_inference):
        yield


def _assign(tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
    view = torch.empty(0, dtype=tensor.dtype, device=storage.device)
    view.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())
    tensor.data = view


def unmovable(group: Group) -> str | None:
    """Why a group has to stay: one tensor that cannot move keeps the bytes it shares."""
    for found in group.tensors:
        reason = refusal(found.tensor) if found.kind == 'alias' else None  # who looked for the others asked
        if reason:
            return f'{reason} ({found.name})'
    return None
