# SPDX-License-Identifier: Apache-2.0
"""Model: the components of one adopted object under one key."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ._unstick import OutOfDeviceMemoryError
from .adoption import IN_USE, Adopter
from .component import Component, Eviction, GuardMode
from .report import Adoption, Moved, size
from .room import Room

log = logging.getLogger('unstick')


class Model:
    """What adopt() returns. The object itself goes on being used as before; a Model moves what it holds.

    evict() gives the device memory back and keeps the contents; every reference stays valid. restore() brings them
    back to the same addresses; so does calling a component. revoke() drops the contents for good. refresh() takes in
    what has left the regions or come anew. release() ends it.
    """

    def __init__(self, obj: Any, key: str, room: Room, guard: GuardMode, tight: bool) -> None:
        self.key = key
        self.room = room
        self.is_evicted = False
        self.is_released = False
        self.components: dict[str, Component] = {}
        self._adopter = Adopter(room, guard, tight)
        self._object = obj if not hasattr(type(obj), '__weakref__') else None
        self._object_ref = weakref.ref(obj) if self._object is None else None
        self.adoption = self._adopter.adopt(obj, self)
        """What adoption took and left."""

    def __repr__(self) -> str:
        return (
            f'<unstick.Model {self.key!r}: {self.state}, {size(self.resident_bytes)} of {size(self.nbytes)} on '
            f'{self.room.device.spec}>'
        )

    @property
    def object(self) -> Any:
        """The adopted object, or None when it has died."""
        return self._object_ref() if self._object_ref is not None else self._object

    @property
    def nbytes(self) -> int:
        """Device memory that the model takes when it is resident."""
        return sum(one.nbytes for one in self.components.values())

    @property
    def resident_bytes(self) -> int:
        """Device memory that it takes now."""
        return sum(one.resident_bytes for one in self.components.values())

    @property
    def state(self) -> str:
        """empty, resident, evicted, partial, revoked or poisoned."""
        states = {one.state for one in self.components.values() if one.nbytes} or {'empty'}
        return states.pop() if len(states) == 1 else 'partial'

    @property
    def is_resident(self) -> bool:
        return all(one.is_resident for one in self.components.values())

    def evict(self) -> Moved:
        """Gives the device memory back and keeps the contents. Waits for calls of other threads to end.

        A component that another model uses too stays, until that one is evicted as well.
        """
        started = time.monotonic()
        leaving = self._leaving()
        evictions = [one.begin_to_evict() for one in leaving]
        is_waiting = False
        if not self._is_inside(evictions):
            # What has left the regions returns to its old place, which is there only as long as they are.
            is_waiting = not self._refresh_if_room()
            leaving = self._leaving()
            evictions = [one.begin_to_evict() for one in leaving]
        self.is_evicted = True
        moved = [eviction.end() for eviction in evictions]
        if is_waiting:
            self.refresh()
        moved += [one.evict() for one in leaving if one.resident_bytes]
        return Moved(
            sum(one.nbytes for one in moved),
            sum(one.copied_bytes for one in moved),
            time.monotonic() - started,
            tuple(name for name, one in self.components.items() if one not in leaving),
        )

    def _leaving(self) -> list[Component]:
        """The components that nobody else wants to have there."""
        leaving = [
            one for one in self.components.values() if all(other is self or other.is_evicted for other in one.models)
        ]
        for one in leaving:
            one.refuse_from_inside('evict')
        # Guards come before an eviction, one for each module: first what has much to take away and few of them.
        return sorted(leaving, key=_bytes_per_guard, reverse=True)

    def _is_inside(self, evictions: list[Eviction]) -> bool:
        """Whether everything lies in a region; if not, the evictions, beside which this is looked at, are called off.

        Hardly ever has anything left them, and to look takes as long as a third of an eviction.
        """
        is_inside = False
        try:
            is_inside = self._look()
        finally:
            if not is_inside:
                for eviction in evictions:
                    eviction.call_off()
        return is_inside

    def restore(self) -> Moved:
        """Brings everything back to the same addresses, bit-identical."""
        started = time.monotonic()
        self.is_evicted = False
        before = self.resident_bytes
        # Guards go when a component has come: last comes what has few of them for so much memory.
        self.room.bring_together(sorted(self.components.values(), key=_bytes_per_guard))
        for one in self.components.values():
            one.restore()
        return Moved(self.resident_bytes - before, 0, time.monotonic() - started)

    def revoke(self) -> None:
        """Drops the contents for good, even while references live. Using the model raises RevokedError from then on."""
        self._end(Component.revoke)

    def release(self) -> None:
        """Ends the model: what only it uses is dropped, and its addresses go with the last tensor."""
        self._end(Component.release)

    def _end(self, how: Any) -> None:
        self.is_evicted = self.is_released = True
        for one in self.components.values():
            one.models.discard(self)
            if not one.models and not one.is_revoked:
                how(one)

    def refresh(self) -> Adoption:
        """Takes in tensors that left the regions (LoRA, .to(), repacking) or came anew; returns what it did."""
        obj = self.object
        if obj is None or self.is_released:
            return Adoption()
        report = self._adopter.adopt(obj, self)
        self._note(report)
        if report.taken:
            log.info('%s: %s', self.key, report)
        return report

    def _look(self) -> bool:
        """Whether refresh() would find nothing to take in, now or later."""
        obj = self.object
        if obj is None or self.is_released:
            return True
        report = self._adopter.look(obj, self)
        if report is None:
            return False
        self._note(report)
        return not _is_waiting(report)

    def _note(self, report: Adoption) -> None:
        self.adoption.left = report.left
        self.adoption.still_held_bytes = report.still_held_bytes

    def _refresh_if_room(self) -> bool:
        """True when everything lies in a region now."""
        try:
            report = self.refresh()
        except OutOfDeviceMemoryError:
            return False
        return not _is_waiting(report)

    @contextmanager
    def lease(self, *names: str) -> Iterator[None]:
        """Holds components resident (all, if none is named): for what calls no module, such as a graph's replay."""
        with ExitStack() as stack:
            for name in names or tuple(self.components):
                stack.enter_context(self.components[name].use('lease'))
            yield

    def report(self) -> str:
        """Where the model is, component by component, and what was left outside."""
        lines = [repr(self)]
        for name, one in self.components.items():
            shared = [model.key for model in one.models if model is not self]
            lines.append(
                f'  {name}: {one.state}, {size(one.resident_bytes)} of {size(one.nbytes)}'
                + (', in use' if one.is_in_use else '')
                + (f', shared with {", ".join(shared)}' if shared else '')
            )
        for left in self.adoption.left:
            lines.append(f'  left: {left.component}.{left.name}, {size(left.nbytes)}, {left.reason}')
        return '\n'.join(lines)


def _bytes_per_guard(component: Component) -> float:
    return component.nbytes / component.n_modules


def _is_waiting(report: Adoption) -> bool:
    """Whether something is to be taken in when a call has ended."""
    return any(left.reason == IN_USE for left in report.left)
