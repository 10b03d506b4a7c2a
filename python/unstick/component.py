# SPDX-License-Identifier: Apache-2.0
"""Component: one module of a model, its regions on a device, and who uses it at the moment.

Memory follows the module: while it lives the component holds its regions, and when it has died a region lives as long
as a tensor still lies in it. So dropping a component of a pipeline gives its memory back, unless somebody kept a
tensor; and then it can still be evicted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from torch import nn

from . import guards
from ._unstick import (
    BusyError,
    CanceledError,
    Lease,
    NotResidentError,
    OutOfDeviceMemoryError,
    Region,
    Task,
)
from .calls import Call, my_last
from .errors import busy, evicted, revoked
from .intake import Intake
from .report import Moved
from .room import Room, current_stream, end_lease, evict_unless_leased, name_stream, refuse, shortage_of
from .slices import Slices
from .storages import move_out
from .working import Working, reading

if TYPE_CHECKING:
    from .model import Model

log = logging.getLogger('unstick')

GuardMode = Literal['restore', 'raise']


class Component:
    def __init__(self, name: str, module: nn.Module, room: Room, guard: GuardMode) -> None:
        self.name = name
        self.room = room
        self.guard = guard
        self.models: weakref.WeakSet[Model] = weakref.WeakSet()
        self.needs: list[Component] = []
        """Others whose regions hold bytes that this module uses, too."""
        self.last_used = time.monotonic()
        self.working = Working()
        self.slices = Slices(self)
        self.intake = Intake(self)
        self.is_revoked = False
        self.module_ref = weakref.ref(module)
        self._regions: list[Callable[[], Region | None]] = []
        self._owned: list[Region] = []
        self.is_guarded_with_forward: bool | None = None
        """None: not guarded."""
        self.n_references = 0
        self.n_modules = 1
        self._graphs: list[int] = []
        """The threads whose calls have made graphs that still live."""
        self._uses: list[Call] = []
        self._leases: list[Lease] = []
        weakref.finalize(module, self._owned.clear).atexit = False
        room.components.add(self)

    def __repr__(self) -> str:
        return f'<unstick.Component {self.name!r}: {self.state}>'

    # --- what it holds ---

    @property
    def module(self) -> nn.Module | None:
        return self.module_ref()

    @property
    def regions(self) -> list[Region]:
        self.room.device.context.info()  # lets go of what lies in no tensor any more
        alive = [region for region in (ref() for ref in self._regions) if region is not None and not _is_dead(region)]
        if len(alive) < len(self._regions):
            self._regions = [weakref.ref(region) for region in alive]
            self._owned[:] = [region for region in self._owned if region in alive]
        return alive

    @property
    def nbytes(self) -> int:
        return sum(_live_bytes(region) for region in self.regions)

    @property
    def resident_bytes(self) -> int:
        return sum(region.info()['resident_bytes'] for region in self.regions)

    @property
    def state(self) -> str:
        states = {region.state for region in self.regions}
        if self.is_revoked:
            return 'revoked'
        if not states:
            return 'empty'
        return states.pop() if len(states) == 1 else 'partial'

    @property
    def is_resident(self) -> bool:
        return all(region.state == 'resident' for one in self.closure() for region in one.regions)

    @property
    def is_in_use(self) -> bool:
        self._forget_broken_uses()
        return bool(self._uses or self._leases)

    @property
    def is_leased(self) -> bool:
        return bool(self._leases)

    @property
    def working_bytes(self) -> int:
        """What a call takes beside it, where there is an allocator to ask."""
        return self.working.needed_bytes if reading(self.room.device) is not None else 0

    def closure(self) -> list[Component]:
        """This component and all that it needs."""
        result: list[Component] = [self]
        for one in result:
            result += [need for need in one.needs if need not in result]
        return result

    def need(self, other: Component) -> None:
        if other is not self and other not in self.needs:
            self.needs.append(other)

    def own(self, region: Region) -> None:
        """Takes a region with tensors in it over; it goes when the module and the last tensor have died."""
        self._owned.append(region)
        self._regions.append(weakref.ref(region))
        region.sheds = True

    def _disown(self, region: Region) -> None:
        if region in self._owned:
            self._owned.remove(region)
        self._regions = [ref for ref in self._regions if ref() is not region]
        self.intake.forget(region)

    def drop_unused(self) -> None:
        """Lets regions go in which no tensor lies any more."""
        for region in list(self._owned):
            if not region.tensors():
                self._disown(region)

    # --- moving ---

    def begin_to_restore(self) -> list[Task]:
        """Has all of it come back, and whatever it needs."""
        tasks = []
        for one in self.closure():
            for region in one.regions:
                if region.state == 'poisoned':
                    one._rescue(region)
                elif region.state not in ('resident', 'revoked'):
                    tasks.append(region.restore())
        return tasks

    def restore_regions(self) -> None:
        self.wait_for(self.begin_to_restore())

    def wait_for(self, tasks: list[Task]) -> None:
        """Waits until what begin_to_restore() began has come back."""
        guarded = [(one, guards.guarded(one)) for one in self.closure()]
        refuse(shortage_of(tasks))
        for one, parts in guarded:
            guards.remove(one, parts)

    def _rescue(self, region: Region) -> None:
        """The driver keeps memory under an address that nobody can use again: the contents go to memory of torch's own.

        The next refresh takes them in anew.
        """
        move_out(region, self.room.torch_device, is_readable=False)
        self._disown(region)
        log.warning('%s: the driver does not let go of memory of a region: its contents were laid elsewhere', self.name)

    def evict_regions(self, max_bytes: int = 0) -> int:
        """Evicts, the last granules first if only so much has to go; returns the bytes that went."""
        guards.install(self)
        before = self.resident_bytes
        for region in reversed(self.regions):
            gone = before - self.resident_bytes
            if region.info()['resident_bytes'] and (not max_bytes or gone < max_bytes):
                evict_unless_leased(region, max_bytes - gone if max_bytes else 0)
        return before - self.resident_bytes

    def refuse_from_inside(self, operation: str) -> None:
        """A thread cannot wait for its own call to end."""
        self._forget_broken_uses()
        if self._is_mine():
            reason = f'{self.name} is in use by this very thread: it cannot leave from inside its own call'
            raise busy(reason, operation)
        if threading.get_ident() in self._graphs:
            reason = (
                f'an output of a call of this thread lives, and with it an autograd graph that reads {self.name}: drop '
                'it first, or call under torch.no_grad()'
            )
            raise busy(reason, operation)

    def begin_to_evict(self) -> Eviction:
        """Has all of it leave as soon as other threads' uses have ended."""
        self.refuse_from_inside('evict')
        guards.install(self)
        return Eviction(self)

    def evict(self) -> Moved:
        """Evicts all of it, waiting for other threads' uses to end."""
        return self.begin_to_evict().end()

    def restore(self) -> Moved:
        started = time.monotonic()
        self.check_usable('restore')
        before = sum(one.resident_bytes for one in self.closure())
        self.room.bring(self)
        return Moved(sum(one.resident_bytes for one in self.closure()) - before, 0, time.monotonic() - started)

    def revoke(self) -> None:
        self.is_revoked = True
        guards.install(self)
        for region in self.regions:
            region.revoke().wait()

    def release(self) -> None:
        """Drops the contents and this component's hold on the regions; their addresses last as long as tensors do."""
        self.is_revoked = True
        guards.install(self)
        for region in self.regions:
            region.release().wait()
        self._owned.clear()

    # --- use ---

    def check_usable(self, operation: str) -> None:
        if self.is_revoked:
            raise revoked(f'{self.name} was revoked: its contents are gone, load the model again', operation)

    def come_back(self, operation: str) -> None:
        """Before something reads the contents: they come back, or the caller hears why not."""
        if self._has_to_come_back(operation):
            self.room.bring(self)

    def _has_to_come_back(self, operation: str) -> bool:
        self.check_usable(operation)
        if self.is_resident:
            guards.remove(self)
            return False
        if self.guard == 'raise':
            raise evicted(f'{operation}: {self.name} is evicted; call restore() first', operation)
        _refuse_while_capturing(self)
        return True

    def enter(self, module: nn.Module | None, operation: str = 'forward') -> None:
        """Begins a use: resident from here on, and not moved until the matching leave()."""
        self.room.patiently(partial(self._try_to_enter, module, operation))

    def _try_to_enter(self, module: nn.Module | None, operation: str) -> bool:
        """With the room's lock held. False: an eviction that another thread asked for is under way."""
        if module is None and self.slices.is_streaming and not self._is_mine():
            return False  # all of it is wanted, and another thread's call has it come block by block: that ends
        # What is leased is resident, and its guards are gone.
        if not self._leases and not self.slices.is_streaming and not self._begin_to_stream(module):
            if self._has_to_come_back(operation):
                self.room.bring_now(self)
            if module is not None and current_stream(self.room) is not None:
                self.room.make_for_call(self)
        begun: list[Component] = []
        is_begun = False
        try:
            for one in self.closure():
                begun.append(one)
                one._begin(module)
            is_begun = True
        except (BusyError, NotResidentError):
            pass
        finally:
            if not is_begun:
                for one in begun:
                    one._take_back(module)
        return is_begun

    def _begin_to_stream(self, module: nn.Module | None) -> bool:
        """True if the call that begins is the component's own, and all of it together would not fit."""
        if not self.slices or module is not self.module or self.guard == 'raise' or current_stream(self.room) is None:
            return False
        if self._uses:
            return False  # a cache has leased all of it
        self.check_usable('forward')
        if not self.slices.begin():
            return False
        try:
            now = reading(self.room.device)
            if now is not None:
                self.working.begin(now)
            for one in self.closure():
                if one is not self:
                    self.room.bring_now(one)
        except BaseException:
            self.slices.end()
            raise
        return True

    def leave(self, module: nn.Module | None) -> None:
        with self.room.lock:
            for one in self.closure():
                one._take_back(module)

    @contextmanager
    def use(self, operation: str = 'use') -> Iterator[None]:
        self.enter(None, operation)
        try:
            yield
        finally:
            self.leave(None)

    def begin_use(self) -> Noted:
        """Notes a use of what a cache has leased already, by whatever thread."""
        use = Call(None)
        self._uses.append(use)  # without the lock: who holds it may be trying to evict this very component
        return Noted(self, use)

    def end_use(self, use: Call) -> None:
        with self.room.lock:
            with suppress(ValueError):
                self._uses.remove(use)
            self.last_used = time.monotonic()
            self._end_leases()

    def hold(self) -> list[Component]:
        """Begins a use without a call: an autograd graph that will read the contents. What let_go() is to be told."""
        with self.room.lock:
            held = self.closure()
            for one in held:
                one._graphs.append(threading.get_ident())
        return held

    def let_go(self, held: list[Component], thread: int) -> None:
        with self.room.lock:
            for one in held:
                one._graphs.remove(thread)
                one._end_leases()

    def _begin(self, module: nn.Module | None) -> None:
        self._uses.append(Call(module))  # first: a graph may die now, and ends what nobody uses
        if not self._leases:
            regions = self.slices.outside() if self.slices.is_streaming else self.regions
            self._leases = [region.lease(cancel_eviction=True) for region in regions]
        self.last_used = time.monotonic()

    def _take_back(self, module: nn.Module | None) -> None:
        use = my_last(self._uses, module)
        if use is not None:
            self._uses.remove(use)
        self.last_used = time.monotonic()
        self._end_leases()

    def _end_leases(self) -> None:
        stream = current_stream(self.room)
        if stream is None:  # being captured: the leases end with a later use
            return
        if self._uses or self._graphs:
            for lease in self._leases:  # whoever ends them may be on another stream
                name_stream(lease, stream)
            return
        if self._leases or self.slices.is_streaming:
            self.working.end(reading(self.room.device))
            self.slices.end()
        while self._leases:
            end_lease(self._leases[-1], stream)
            self._leases.pop()

    def _is_mine(self) -> bool:
        return any(use.is_mine for use in self._uses)

    def _forget_broken_uses(self) -> None:
        """A KeyboardInterrupt leaves no word behind: a use whose call is on no stack any more has ended."""
        with self.room.lock:  # a call that begins or ends meanwhile is on other stacks than those looked at
            if self._uses or self.slices.is_in_use:
                frames = sys._current_frames()
                self.slices.forget_broken_uses(frames)
                for use in list(self._uses):
                    if not use.is_running(frames):
                        self._uses.remove(use)
                del frames  # this frame is among them: a cycle that would keep what all callers hold
            if not self._uses and (self._leases or self.slices.is_streaming):
                self._end_leases()


class Eviction:
    """A component on its way out."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.started = time.monotonic()
        self._tasks: list[Task] = []
        self._begin()

    def _begin(self) -> bool:
        self._tasks = [region.evict() for region in self.component.regions if region.state in ('resident', 'partial')]
        return bool(self._tasks)

    def call_off(self) -> None:
        """Has it stay; what has left by now comes back, if there is room."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(CanceledError):
                task.wait()
        with suppress(OutOfDeviceMemoryError):
            self.component.room.bring_now(self.component)
        self._guard()

    def end(self) -> Moved:
        """Waits until it has left."""
        nbytes = copied = 0
        while self._tasks:
            is_canceled = False
            for task in self._tasks:
                try:
                    task.wait()
                except CanceledError:  # by a call that came first: its end is waited for
                    is_canceled = True
                result = task.result()
                nbytes += result['done_bytes']
                copied += result['copied_bytes']
            if not is_canceled or not self._begin():
                break
        self._guard()
        return Moved(nbytes, copied, time.monotonic() - self.started)

    def _guard(self) -> None:
        with self.component.room.lock:
            if any(region.state != 'resident' for region in self.component.regions):
                guards.install(self.component)  # a call that came first took them away


class Noted:
    """A use that lasts until end(), or until nobody holds this any more: then its user has gone without a word."""

    def __init__(self, component: Component, use: Call) -> None:
        self.component = component
        self._use: Call | None = use

    def end(self) -> None:
        use, self._use = self._use, None
        if use is not None:
            self.component.end_use(use)

    def __del__(self) -> None:
        self.end()


def _is_dead(region: Region) -> bool:
    info = region.info()
    return info['n_dead'] == info['n_granules']


def _live_bytes(region: Region) -> int:
    info = region.info()
    return max(info['bytes'] - info['dead_bytes'], 0)


def _refuse_while_capturing(component: Component) -> None:
    if current_stream(component.room) is None:
        raise busy(f'{component.name} is evicted and a CUDA graph is being captured: restore() it before', 'restore')
