# SPDX-License-Identifier: Apache-2.0
"""Storages grouped by the bytes they share, and how tensors are laid over new memory.

Two tensors may share a storage (a view; bitsandbytes' weight.data and CB), and two storages may share bytes (a tensor
that went through DLPack or NumPy). Whatever overlaps moves as one piece and keeps its distances. Every old storage
gets exactly one new one of the same size, and every tensor its old place in it: so torch.save still writes shared
bytes once, and what was the same storage still is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from ._unstick import Region
from .walk import Found, all_tensors, refusal


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
    except (RuntimeError, NotImplementedError):
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


def move(group: Group, region: Region, offset: int, device: torch.device) -> None:
    """Copies a group into a region and lays its tensors over it. On failure they all are where they were."""
    fresh = [
        torch.from_dlpack(region.tensor(offset + storage.address - group.address, storage.nbytes))
        for storage in group.storages
    ]
    with torch.no_grad():
        for new, old in zip(fresh, group.storages, strict=True):
            new.copy_(old.as_bytes(device))
    done: list[tuple[torch.Tensor, torch.UntypedStorage]] = []
    try:
        for new, old in zip(fresh, group.storages, strict=True):
            for found in old.tensors:
                point(found.tensor, new.untyped_storage())
                done.append((found.tensor, old.storage))
    except BaseException:
        for tensor, storage in reversed(done):
            point(tensor, storage)
        raise


def move_by_host(
    places: list[tuple[Group, int]], region: Region, device: torch.device, bring: Callable[[], None]
) -> None:
    """As move(), where there is no room beside the old memory: the bytes wait on the host until that has gone.

    `bring` gives the region memory. If it cannot, the tensors get memory of torch's own again, on the host at worst.
    """
    waiting = []
    for group, offset in places:
        whole = torch.empty(group.nbytes, dtype=torch.uint8)
        with torch.no_grad():
            for old in group.storages:
                group.part(whole, old).copy_(old.as_bytes(device))
        waiting.append((group, whole, torch.from_dlpack(region.tensor(offset, group.nbytes)), offset))
    try:
        for group, _, _, offset in waiting:
            for old in group.storages:
                new = torch.from_dlpack(region.tensor(offset + old.address - group.address, old.nbytes))
                for found in old.tensors:
                    point(found.tensor, new.untyped_storage())
                old.storage = None
        bring()
        with torch.no_grad():
            for _, whole, new, _ in waiting:
                new.copy_(whole)
    except BaseException:
        for group, whole, _, _ in waiting:
            try:
                back = whole.to(device, copy=True)
            except RuntimeError:
                back = whole
            _lay(group, back)
        raise


def _lay(group: Group, whole: torch.Tensor) -> None:
    for old in group.storages:
        # A storage of its own for each, over the same bytes.
        new = torch.from_dlpack(group.part(whole, old)) if len(group.storages) > 1 else whole
        for found in old.tensors:
            point(found.tensor, new.untyped_storage())


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


def point(tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
    """Lays a tensor over a storage, at its own offset, shape and strides; the object stays the same."""
    # A subclass would see the assignment and might act on it. An inference tensor takes only another one.
    with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(tensor.is_inference()):
        view = torch.empty(0, dtype=tensor.dtype, device=storage.device)
        view.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())
        tensor.data = view


def unmovable(group: Group) -> str | None:
    """Why a group has to stay: one tensor that cannot move keeps the bytes it shares."""
    for found in group.tensors:
        reason = refusal(found.tensor)
        if reason:
            return reason if len(group.tensors) == 1 else f'{reason} ({found.name})'
    return None
