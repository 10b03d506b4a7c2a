# SPDX-License-Identifier: Apache-2.0
"""Tight adoption: how tensors come into regions where hardly anything may be on the device twice.

torch gives memory back in whole pages, of 20 MiB where tensors are large, and the tensors of one component lie in the
holes between those of another: a VAE that moves by itself frees not one page. So tensors move in the order of their
old addresses, whichever region each is for, and by the host: their bytes wait there until torch has given back what
the regions have taken. Then a granule comes, and is the only one that is there beside its old memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

from ._unstick import Region
from .room import Room
from .storages import Group, Place, Waiting, from_host, give_host_back, put_back, to_host
from .working import reading

CHUNK_BYTES = 192 << 20
"""What goes to the host before torch is asked to give back, for which the device has to be waited for."""

HOST_BYTES = 768 << 20
"""With more than this on the host memory comes though torch has not given back enough: others lie in its pages."""


@dataclass(slots=True)
class Filling:
    """A new region, without memory yet, and the groups that come into it."""

    region: Region
    groups: list[Group]
    bring: Callable[[int], None]
    """Brings memory for so many more bytes of the region, or raises."""
    leave: Callable[[Group], None]
    """Hears of a group whose old memory is about to go."""
    land: Callable[[list[Place]], None]
    """Hears of groups that have come."""
    waiting: deque[Waiting] = field(default_factory=deque)
    there_bytes: int = 0
    needed_bytes: int = 0
    """Up to where it is wanted: by what has come, and by what waits."""

    @property
    def missing_bytes(self) -> int:
        return max(0, self.needed_bytes - self.there_bytes)

    def may_come(self, budget_bytes: int) -> int:
        """How much memory to bring for what waits: whole granules, but for the last one."""
        info = self.region.info()
        granule_bytes = info['granule_bytes']
        wanted = -(-self.missing_bytes // granule_bytes) * granule_bytes
        wanted = min(wanted, info['bytes'] - self.there_bytes)
        return wanted if wanted <= budget_bytes else max(budget_bytes, 0) // granule_bytes * granule_bytes


def fill(fillings: list[Filling], room: Room) -> None:
    """Moves groups into their regions. After a failure some are there, and the others in memory of torch's own."""
    todo = deque(sorted(((group, one) for one in fillings for group in one.groups), key=lambda pair: pair[0].address))
    for one in fillings:
        one.groups.clear()
    account = _Account(room)
    try:
        while todo:
            account.moved_bytes += _send(todo, room)
            _receive(fillings, room, account, is_all=not todo)
        room.give_back()  # waits for the copies
        give_host_back(room.torch_device)
    except BaseException:
        put_back([one for filling in fillings for one in filling.waiting], room.torch_device)
        raise


def _send(todo: deque[tuple[Group, Filling]], room: Room) -> int:
    """Has the bytes of the next groups wait on the host; how many."""
    nbytes = 0
    sent: list[tuple[Filling, Place]] = []
    while todo and (not sent or nbytes + todo[0][0].nbytes <= CHUNK_BYTES):
        group, filling = todo.popleft()
        offset = filling.region.alloc(group.nbytes)
        filling.leave(group)
        filling.needed_bytes = offset + group.nbytes
        sent.append((filling, (group, offset)))
        nbytes += group.nbytes
    to_host([(filling.region, place, filling.waiting) for filling, place in sent], room.torch_device)
    return nbytes


def _receive(fillings: list[Filling], room: Room, account: _Account, is_all: bool) -> None:
    """Brings as much memory as may be there twice, and what has a place in it; all of it when nothing else can go."""
    room.give_back()
    budget_bytes = account.budget_bytes
    for one in fillings:
        _land(one)
    while (one := max(fillings, key=lambda one: one.missing_bytes)).missing_bytes:
        waiting_bytes = sum(filling.missing_bytes for filling in fillings)
        nbytes = one.may_come(one.missing_bytes + account.granule_bytes if is_all else budget_bytes)
        if not nbytes and waiting_bytes > HOST_BYTES:
            nbytes = one.may_come(account.granule_bytes)
        if not nbytes:
            return
        one.bring(nbytes)
        one.there_bytes += nbytes
        account.came_bytes += nbytes
        budget_bytes -= nbytes
        _land(one)


def _land(filling: Filling) -> None:
    """Copies what has a place in the memory that is there."""
    come = list(takewhile(lambda waiting: waiting.end <= filling.there_bytes, filling.waiting))
    from_host(come)
    filling.land([filling.waiting.popleft().place for _ in come])


class _Account:
    """What has come against what torch has given back."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.granule_bytes: int = room.device.info()['granule_bytes']
        self.came_bytes = self.moved_bytes = 0
        room.give_back()  # what was only cached is no memory of the tensors'
        self._reserved_bytes = self._reserved()

    def _reserved(self) -> int | None:
        now = reading(self.room.device)
        return now.reserved_bytes if now is not None else None

    @property
    def budget_bytes(self) -> int:
        """How much more may come, so that no more than a granule is there twice.

        A quarter of it is left to the driver: it takes 2 MiB of the device for each GiB of the host that it locks.
        """
        reserved = self._reserved()
        gone = self.moved_bytes
        if reserved is not None and self._reserved_bytes is not None:
            gone = self._reserved_bytes - reserved
        return gone + self.granule_bytes * 3 // 4 - self.came_bytes
