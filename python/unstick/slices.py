# SPDX-License-Identifier: Apache-2.0
"""Slices: a component that is larger than what is free runs block by block.

Where memory is short, adoption lays the blocks of a component in regions of their own, in the order of the module.
As long as all of them fit, nothing is different. When they do not, a call leases only what is in no block, and each
block brings its slices when it is reached. The slice that was used last leaves first: blocks are called in turn, so
it is the one that is needed again last, and those at the front stay. What is copied per call is what does not fit.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from torch import nn

from . import entry, guards
from ._unstick import BusyError, Lease, NotResidentError, OutOfDeviceMemoryError, Region, modules
from .calls import Call, my_last
from .room import (
    current_stream,
    end_lease,
    evict_unless_leased,
    name_stream,
    refuse,
    shortage_after,
    try_to_bring,
)
from .storages import Group

if TYPE_CHECKING:
    from .component import Component

SLICE_BYTES = 256 << 20
N_SLICES = 16
"""Small components are cut finer than SLICE_BYTES."""

SHARE = 0.75
"""A component that would take more than this of what there is for models may have to run block by block."""


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """The elements of the outermost lists of modules, by name: what a model calls in turn."""
    lists: list[str] = []
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > 1 and not any(name.startswith(f'{one}.') for one in lists):
            lists.append(name)
            found |= {f'{name}.{index}': block for index, block in enumerate(part)}
    return found


def block_of(group: Group, blocks: dict[str, nn.Module]) -> str | None:
    """The block that a group's tensors are of; None if that is none, or several."""
    found = set()
    for tensor in group.tensors:
        if tensor.kind != 'alias':
            parts = tensor.name.split('.')
            names = ('.'.join(parts[:n]) for n in range(1, len(parts)))
            found.add(next((name for name in names if name in blocks), None))
    return found.pop() if len(found) == 1 else None


@dataclass(slots=True)
class Part:
    """What goes in one region: groups of storages, and the blocks that they are of."""

    groups: list[Group]
    blocks: list[nn.Module] = field(default_factory=list)


@dataclass(slots=True)
class Slice:
    region: weakref.ref[Region]
    lease: Lease | None = None
    uses: list[Call] = field(default_factory=list)
    used_at: int = 0


class Slices:
    """The slices of one component, and the call that runs over them."""

    def __init__(self, component: Component) -> None:
        self._component = weakref.ref(component)
        self.is_streaming = False
        self._budget_bytes = 0
        self._slices: dict[int, Slice] = {}
        self._of: weakref.WeakKeyDictionary[nn.Module, Slice] = weakref.WeakKeyDictionary()
        self._clock = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._slices)

    @property
    def component(self) -> Component:
        component = self._component()
        assert component is not None  # who calls holds it
        return component

    # --- at adoption ---

    def is_plenty(self, nbytes: int) -> bool:
        """Whether the device has so much room that a component of this size need never run block by block."""
        room = self.component.room
        old = nbytes if room.device.kind == 'cuda' else 0  # the memory that it has now
        return nbytes <= SHARE * (room.free_bytes(keep=self.component) + old)

    def cut(self, groups: list[Group]) -> list[Part]:
        """How groups are to be laid in regions: in one if there is plenty of room; else first what is in no block."""
        module = self.component.module
        total = sum(group.nbytes for group in groups)
        blocks = blocks_of(module) if module is not None else {}
        if not blocks or self.component.regions or self.is_plenty(total):
            return [Part(groups)]
        base = Part([])
        inner: dict[str, list[Group]] = {name: [] for name in blocks}
        for group in groups:
            name = block_of(group, blocks)
            (inner[name] if name is not None else base.groups).append(group)
        parts, nbytes = [base], min(SLICE_BYTES, total // N_SLICES)
        for name, own in inner.items():
            if len(parts) == 1 or sum(group.nbytes for group in parts[-1].groups) >= nbytes:
                parts.append(Part([]))
            parts[-1].groups += own
            parts[-1].blocks.append(blocks[name])
        return [part for part in parts if part.groups]

    def add(self, region: Region, blocks: list[nn.Module]) -> None:
        """A region was filled with what these blocks hold."""
        one = Slice(weakref.ref(region))
        self._slices[region.address] = one
        for block in blocks:
            self._of[block] = one

    def leave_room(self) -> None:
        """After adoption: it fills the device, and whoever is called first needs some of it. The last slices leave."""
        guards.install(self.component)
        self._drop(2 * max((_nbytes(one) for one in self._slices.values()), default=0), from_the_end=True)

    def outside(self) -> list[Region]:
        """The component's regions that are no slices: what a call needs from its beginning to its end."""
        slices = {id(one.region()) for one in self._slices.values()}
        return [region for region in self.component.regions if id(region) not in slices]

    # --- a call ---

    def begin(self) -> bool:
        """Before a call of the component: True if it has to run block by block, what is in no block being there."""
        component, room = self.component, self.component.room
        working_bytes = component.working_bytes
        missing = component.nbytes + working_bytes - component.resident_bytes - room.free_bytes()
        if missing <= 0:
            return False
        room.give_way(missing, component)
        there = component.resident_bytes + room.free_bytes()
        self._budget_bytes = max(there - working_bytes, self._least_bytes())
        if self._budget_bytes >= component.nbytes:
            return False
        if working_bytes:
            room.give_back()
        self.is_streaming = True
        try:
            guards.install(component, with_forward=False)
            entry.attach([component])  # what was compiled since the last look
            for block in self._of:
                entry.attach_block(block, self)
            self._drop(component.resident_bytes - self._budget_bytes, from_the_end=True)
            for region in self.outside():
                self._bring(region)
        except BaseException:
            self.end()
            raise
        return True

    def end(self) -> None:
        if self.is_streaming:
            self.is_streaming = False
            guards.install(self.component)  # inside of the blocks, too, most of which may be away now

    def enter(self, block: nn.Module, caller: nn.Module | None) -> None:
        """A block is called: what it lies in comes back and stays until leave().

        `caller` is the module whose call says so: the block itself, or what was compiled around it. None: no module.
        """
        self.component.room.patiently(partial(self._try_to_enter, block, caller))

    def _try_to_enter(self, block: nn.Module, caller: nn.Module | None) -> bool:
        """With the room's lock held. False: an eviction that another thread asked for is under way."""
        if not self.is_streaming and self.component.is_leased:
            return True  # all of it is there
        one = self._of.get(block)
        region = one.region() if one is not None else None
        if one is None or region is None:
            return True
        if not one.uses:
            self._bring(region)
            try:
                one.lease = region.lease(cancel_eviction=True)
            except (BusyError, NotResidentError):
                return False
        one.uses.append(Call(caller))
        return True

    def leave(self, block: nn.Module, caller: nn.Module | None) -> None:
        with self.component.room.lock:
            one = self._of.get(block)
            use = my_last(one.uses, caller) if one is not None else None
            if one is not None and use is not None:
                self._end_use(one, use)

    def enter_all(self, compiled: nn.Module, caller: nn.Module | None) -> None:
        """Compiled code is called, in which no hook of a block runs: what all blocks in it lie in comes back."""
        for block in self._blocks_in(compiled):
            self.enter(block, caller)

    def leave_all(self, compiled: nn.Module, caller: nn.Module | None) -> None:
        for block in self._blocks_in(compiled):
            self.leave(block, caller)

    def _blocks_in(self, module: nn.Module) -> list[nn.Module]:
        return [part for part in modules(module) if part in self._of] if self._slices else []

    def are_there_for(self, module: nn.Module | None) -> bool:
        """Whether this thread is in a call of a block, and the module a part of that."""
        uses = [use for one in self._slices.values() for use in one.uses if use.is_mine]
        return any(use.module is not None and module in modules(use.module) for use in uses)

    @property
    def is_in_use(self) -> bool:
        return any(one.uses for one in self._slices.values())

    def forget_broken_uses(self, frames: dict[int, FrameType]) -> None:
        for one in self._slices.values():
            for use in list(one.uses):
                if not use.is_running(frames):
                    self._end_use(one, use)

    def _end_use(self, one: Slice, use: Call) -> None:
        one.uses.remove(use)
        stream = current_stream(self.component.room)
        if not one.uses:
            one.used_at = next(self._clock)
        if one.lease is not None and stream is not None:
            if one.uses:
                name_stream(one.lease, stream)
            else:
                end_lease(one.lease, stream)
                one.lease = None

    def _least_bytes(self) -> int:
        """The least to run with: what is in no block, and two slices."""
        sizes = [_nbytes(one) for one in self._slices.values()]
        return int(self.component.nbytes - sum(sizes) + 2 * max(sizes, default=0))

    def _bring(self, region: Region) -> None:
        component = self.component

        def attempt() -> OutOfDeviceMemoryError | None:
            info = region.info()
            missing = info['bytes'] - info['resident_bytes']
            self._drop(component.resident_bytes + missing - self._budget_bytes)
            return try_to_bring(region)

        if region.state != 'resident':
            refuse(shortage_after(attempt, lambda nbytes: self._drop(nbytes) or component.room.make(nbytes, component)))

    def _drop(self, nbytes: int, from_the_end: bool = False) -> bool:
        """Evicts slices that are not in use: the ones at the end, or the one that was used last. False if none went."""
        gone = 0
        victims = [one for one in self._slices.values() if not one.uses]
        for one in victims[::-1] if from_the_end else sorted(victims, key=lambda one: -one.used_at):
            if gone >= nbytes:
                break
            region = one.region()
            if region is not None and (resident := region.info()['resident_bytes']):
                evict_unless_leased(region)
                gone += resident - region.info()['resident_bytes']
        return gone > 0


def _nbytes(one: Slice) -> int:
    region = one.region()
    return region.info()['bytes'] if region is not None else 0
