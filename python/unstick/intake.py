# SPDX-License-Identifier: Apache-2.0
"""Intake: how storages come into the regions of a component, with as much room as there is.

Where tensors of a region have died, what has the same size takes their place. The rest comes into new regions: one, if
there is room for all of it beside the old memory; chunks, of which each makes room for the next; or one that is filled
tightly (tight.py), if hardly anything may be there twice.
"""

from __future__ import annotations

import functools
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from torch.multiprocessing.reductions import StorageWeakRef

from ._unstick import BusyError, NotResidentError, OutOfDeviceMemoryError, Region, Task
from .report import Adoption, Taken
from .room import Room, left_by_limit, refuse, shortage_after, try_to_bring
from .storages import Bring, Group, Place, move, move_by_host, move_out
from .tight import Filling, fill

if TYPE_CHECKING:
    from .component import Component

ALIGNMENT = 512
CHUNK_BYTES = 1 << 30

def rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def room_for(groups: list[Group]) -> int:
    """The bytes of a region in which the groups lie one behind the other."""
    return sum(rounded(group.nbytes) for group in groups)


def in_chunks(groups: list[Group], chunk_bytes: int) -> Iterator[list[Group]]:
    """Groups in their order, as many at a time as a chunk holds; one that is larger is alone."""
    chunk: list[Group] = []
    nbytes = 0
    for group in groups:
        if chunk and nbytes + rounded(group.nbytes) > chunk_bytes:
            yield chunk
            chunk, nbytes = [], 0
        chunk.append(group)
        nbytes += rounded(group.nbytes)
    yield chunk


class Intake:
    """The places of a component's tensors in its regions, and how more come in."""

    def __init__(self, component: Component) -> None:
        self._component = weakref.ref(component)
        self.room = component.room
        self.names: set[str] = set()
        """What was adopted, by name: what drifts away under the same name comes back."""
        self._expected: tuple[Region, Task | None] | None = None
        self._old: list[tuple[StorageWeakRef, int]] = []
        self._spans: dict[int, dict[int, int]] = {}
        """By the address of a region: what lies or lay in it, its size by its offset."""

    @property
    def component(self) -> Component:
        component = self._component()
        assert component is not None  # who calls holds it
        return component

    def take(self, groups: list[Group], is_tight: bool, report: Adoption) -> None:
        """Moves groups of storages into this component's regions: first where others have died, then into new ones.

        With room for all of it beside the old memory: into one. Without: chunk by chunk, so that what one leaves
        behind makes room for the next. Tight: granule by granule. Where the room is not short, torch's cache keeps the
        old memory.
        """
        rest = self._reuse(list(groups), report)
        groups.clear()
        if not rest:
            return
        if self._take_expected(rest, report):
            return
        parts = self.component.slices.cut(rest)
        if len(parts) > 1:
            for part in parts:
                region = self._take_tightly(part.groups, report) if is_tight else self._take(part.groups, report)
                if part.blocks:
                    self.component.slices.add(region, part.blocks)
            self.room.give_back()
            self.component.slices.leave_room()
            return
        if is_tight:
            self._take_tightly(rest, report)
        elif self._take_if_room(rest, report):
            return
        else:
            for chunk in in_chunks(rest, CHUNK_BYTES):
                self._take(chunk, report)
        self.room.give_back()
        if any(region.state != 'resident' for region in self.component.regions):
            with suppress(OutOfDeviceMemoryError):  # then a call brings it back
                self.component.restore_regions()

    def expect(self, nbytes: int, beside_bytes: int) -> bool:
        """Makes a region for so much, if all of it fits beside all else and what others expect; then come() is next."""
        component = self.component
        has_room = not component.regions and self.room.has_room(beside_bytes + nbytes)
        if not has_room or not component.slices.is_plenty(nbytes):
            return False
        self._expected = Region(self.room.device, component.name, nbytes), None
        return True

    def come(self) -> None:
        """Begins to bring memory for what was expected; take() uses it if that is what comes.

        Not before all have their regions: to make one takes a turn between the calls that bring another's memory.
        """
        assert self._expected is not None
        region, _ = self._expected
        self._expected = region, region.restore()

    def expect_nothing(self) -> None:
        if self._expected is not None:
            region, task = self._expected
            self._expected = None
            with suppress(OutOfDeviceMemoryError):
                if task is not None:
                    task.wait()
            region.release().wait()

    def _take_expected(self, groups: list[Group], report: Adoption) -> bool:
        """Moves groups into the region that was expected, if it is the one that is needed, and gets its memory."""
        if self._expected is None:
            return False
        region, task = self._expected
        if task is not None and region.info()['bytes'] == room_for(groups):
            self._expected = None
            try:
                self._fill(region, groups, report, ready=task.wait)
                return True
            except OutOfDeviceMemoryError:
                self._expected = region, task
        self.expect_nothing()
        return False

    def _region(self, groups: list[Group]) -> Region:
        """A region for all of the groups; it has no memory yet."""
        return Region(self.room.device, self.component.name, room_for(groups))

    def _take_if_room(self, groups: list[Group], report: Adoption) -> bool:
        """Moves groups into one region if there is room for it beside them, and nobody has to leave."""
        if not self.room.has_room(room_for(groups)):
            return False
        region = self._region(groups)
        if try_to_bring(region) is not None:
            return False
        self._fill(region, groups, report)
        return True

    def _take(self, groups: list[Group], report: Adoption) -> Region:
        """Moves groups into one region, for which others make room; by the host, if that is not enough."""
        region = self._region(groups)
        is_short = self._shortage(region) is not None
        self._fill(region, groups, report, functools.partial(self._bring_for_old, region) if is_short else None)
        return region

    def _take_tightly(self, groups: list[Group], report: Adoption) -> Region:
        """Moves groups into one region of which hardly anything is there beside the old memory."""
        filling = self.filling(groups, report)
        try:
            fill([filling], self.room)
        finally:
            self.keep(filling)
        return filling.region

    def filling(self, groups: list[Group], report: Adoption) -> Filling:
        """A new region for all of the groups, to be filled tightly."""
        region = self._region(groups)
        device = self.room.device.info()
        if region.info()['bytes'] > device['limit_bytes'] - device['sentinel_bytes']:
            self._bring(region)  # it never will: said before anything has moved
        self._spans[region.address] = {}
        bring, land = functools.partial(self._bring, region), functools.partial(self._note, region, report)
        return Filling(region, groups, bring, self._watch, land)

    def keep(self, filling: Filling) -> None:
        """Takes over what was filled; after a failure some are in it, and the others where they were."""
        if self._spans[filling.region.address]:
            self.component.own(filling.region)
        else:
            del self._spans[filling.region.address]

    def _fill(
        self, region: Region, groups: list[Group], report: Adoption, bring: Bring | None = None,
        ready: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        self._spans[region.address] = {}
        n_taken = len(report.taken)
        try:
            self._move([(group, region.alloc(group.nbytes)) for group in groups], region, report, bring, ready)
        except BaseException:
            # Half a region could not come back by itself: all of it goes where it came from.
            move_out(region, self.room.torch_device)
            del report.taken[n_taken:], self._spans[region.address]
            raise
        self.component.own(region)  # not before: an eviction that another thread asks for must not find it half filled

    def _shortage(self, region: Region, nbytes: int = 0) -> OutOfDeviceMemoryError | None:
        """Brings memory for a new region, at the cost of whatever can go; what is missing, if that is not enough.

        torch's cache goes first, then others, and then what came of this very component before: its contents are in
        its backup.
        """
        component, room = self.component, self.room
        return shortage_after(
            lambda: try_to_bring(region, nbytes),
            lambda missing: room.make(missing, component) or component.evict_regions(missing) > 0,
        )

    def _bring(self, region: Region, nbytes: int = 0) -> None:
        refuse(self._shortage(region, nbytes))

    def _bring_for_old(self, region: Region, nbytes: int = 0) -> None:
        """As _bring(), where the old memory has just gone to torch's cache: it makes way before any other is taken."""
        self.room.give_back()
        self._bring(region, nbytes)

    def _reuse(self, groups: list[Group], report: Adoption) -> list[Group]:
        """Moves what fits exactly where others have died; the rest."""
        for region in self.component.regions:
            sizes = self._spans.get(region.address, {}).values()
            if region.state != 'resident' or not any(rounded(group.nbytes) in sizes for group in groups):
                continue
            places: list[Place] = []
            rest: list[Group] = []
            with suppress(BusyError, NotResidentError), region.lease():  # nothing of it is taken away meanwhile
                vacant = self._vacancies(region)
                for group in groups:
                    offsets = vacant.get(rounded(group.nbytes))
                    if offsets:
                        places.append((group, offsets.pop()))
                    else:
                        rest.append(group)
                if places:
                    self._move(places, region, report)
                groups = rest
        return groups

    def _vacancies(self, region: Region) -> dict[int, list[int]]:
        """By size, where tensors have died, and memory is left as others share its granules."""
        info, tensors = region.info(), region.tensors()
        granule = info['granule_bytes']
        live = sorted(offset for offset, _ in tensors)
        held = {index for at, nbytes in tensors for index in range(at // granule, -(-(at + nbytes) // granule))}
        vacant: dict[int, list[int]] = {}
        for offset, nbytes in self._spans[region.address].items():
            following = bisect_left(live, offset)
            if following < len(live) and live[following] < offset + nbytes:
                continue
            if not info['n_dead'] or held.issuperset(range(offset // granule, -(-(offset + nbytes) // granule))):
                vacant.setdefault(nbytes, []).append(offset)
        return vacant

    def _move(
        self, places: list[Place], region: Region, report: Adoption, bring: Bring | None = None,
        ready: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        """Moves groups to their places, whose memory is there once `ready` has returned.

        With `bring` by the host, and memory comes when theirs has gone.
        """
        n_old = len(self._old)
        for group, _ in places:
            self._watch(group)
        try:
            if bring is not None:
                move_by_host(places, region, self.room.torch_device, bring)
            else:
                move(places, region, self.room.torch_device, ready)
        except BaseException:
            del self._old[n_old:]
            raise
        self._note(region, report, places)

    def _watch(self, group: Group) -> None:
        """Whether the old memory of a group goes will be asked later."""
        self._old += [(StorageWeakRef(one.storage), one.nbytes) for one in group.storages]

    def _note(self, region: Region, report: Adoption, places: list[Place]) -> None:
        """Groups have come to their places."""
        spans = self._spans[region.address]
        for group, offset in places:
            spans[offset] = rounded(group.nbytes)
            names = tuple(found.name for found in group.tensors)
            self.names.update(names)
            report.taken.append(Taken(self.component.name, group.name, names, group.nbytes))
            group.storages.clear()

    @property
    def still_held_bytes(self) -> int:
        """Old memory of adopted tensors that something outside Python's sight still refers to."""
        self._old = [(ref, nbytes) for ref, nbytes in self._old if not ref.expired()]
        return sum(nbytes for _, nbytes in self._old)

    def forget(self, region: Region) -> None:
        """A region that is the component's no more."""
        self._spans.pop(region.address, None)


def take_together(groups_of: dict[Component, list[Group]], room: Room, report: Adoption) -> None:
    """Takes tightly what several components have outside, and out of `groups_of`; nothing, if not all has room at once.

    Then each takes its turn, and what came before can make way for what comes.
    """
    if sum(map(room_for, groups_of.values())) > left_by_limit(room.device.info()):
        return
    if any(one.regions or len(one.slices.cut(groups)) > 1 for one, groups in groups_of.items()):
        return
    fillings = [(one.intake, one.intake.filling(groups, report)) for one, groups in groups_of.items()]
    groups_of.clear()
    try:
        fill([filling for _, filling in fillings], room)
    finally:
        for intake, filling in fillings:
            intake.keep(filling)
