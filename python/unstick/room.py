# SPDX-License-Identifier: Apache-2.0
"""A device and the components on it: who has to go when another one needs room.

One lock per device guards the bookkeeping. It is held while a component is brought back, so that no two threads fight
for the same room; it is never held while waiting for somebody's use to end, who would need it to say so. So who finds
no room, and another thread about to give some back, undoes what it began, lets go of the lock, and tries again.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from ._unstick import CanceledError, Context, Device, Lease, OutOfDeviceMemoryError, Region, Task, TimedOutError
from .reclaiming import perform
from .working import reading, trim_all

if TYPE_CHECKING:
    from ._unstick import DeviceInfo
    from .component import Component

HOLD_SECONDS = 2.0
"""A component that was used this recently goes only when nothing else is left: against thrash."""

PATIENCE_SECONDS = 1.0
"""How long memory may be short while tasks are under way, before it is said to be."""

AHEAD_BYTES = 1 << 30
"""The next component begins to come when so much is missing of those before it: the link is never without work."""


class Room:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.lock = threading.RLock()
        self.components: weakref.WeakSet[Component] = weakref.WeakSet()

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device('cuda', self.device.index) if self.device.kind == 'cuda' else torch.device('cpu')

    def bring(self, component: Component) -> None:
        """Makes a component resident, at the cost of others that are not in use. Without the lock, as patiently()."""

        def has_come() -> bool:
            self.bring_now(component)
            return True

        self.patiently(has_come)

    def bring_now(self, component: Component) -> None:
        """As bring(), for a part of an attempt: what is missing now is an error at once."""
        with self.lock:
            refuse(shortage_after(lambda: self._try(component), lambda nbytes: self.make(nbytes, component)))

    def patiently(self, attempt: Callable[[], bool]) -> None:
        """Makes an attempt with the lock held until it succeeds, waiting without: uses end, and evictions go on.

        False: what is in its way ends by itself. A shortage is believed when it is seen twice and nothing moves, or
        when it has lasted.
        """
        short_since: float | None = None
        is_moving = True
        while True:
            try:
                with self.lock:
                    if attempt():
                        return
                short_since = None
            except OutOfDeviceMemoryError:
                now = time.monotonic()
                if short_since is None:
                    short_since = now  # what was on its way out during the attempt may just have gone
                elif not is_moving or now > short_since + PATIENCE_SECONDS:
                    raise
            time.sleep(0.001)
            is_moving = self.device.context.info()['n_tasks'] > 0  # evictions of other threads may bring room

    def free_bytes(self, keep: Component | None = None) -> int:
        """What models can have: free, cached by torch, and with `keep` what others could make way with for it."""
        now = reading(self.device)
        others = sum(one.resident_bytes for one in self._victims(keep)) if keep is not None else 0
        return self._free_bytes(now.cached_bytes if now else 0) + others

    def has_room(self, nbytes: int) -> bool:
        """Whether so much more fits beside all that is there now; torch's cache is given back if that decides it."""
        granule_bytes = self.device.info()['granule_bytes']
        needed = -(-nbytes // granule_bytes) * granule_bytes
        return self._free_bytes() >= needed or (self.give_back() and self._free_bytes() >= needed)

    def _free_bytes(self, cached_bytes: int = 0) -> int:
        """Free under the limit; what torch caches counts where it is named."""
        info = self.device.info()
        free = info['total_bytes'] - info['used_bytes'] + info['spare_bytes'] + cached_bytes
        return min(left_by_limit(info), free)

    def give_back(self) -> bool:
        """Gives the driver back what torch has cached; False where it caches nothing."""
        if self.device.kind != 'cuda':
            return False
        torch.cuda.current_stream(self.device.index).synchronize()
        return perform('empty_cache', 0, self.device.index)[0] == 0

    def bring_together(self, components: list[Component]) -> None:
        """Brings components back if there is room for all of them; each is still to be asked by itself.

        One close behind the other: what a component then does about itself is done while the next is on its way.
        """
        coming: list[tuple[Component, list[Task]]] = []
        with self.lock:
            if sum(one.nbytes - one.resident_bytes for one in components) > self.free_bytes():
                return
            for one in components:
                while sum(_missing_bytes(task) for _, tasks in coming for task in tasks) > AHEAD_BYTES:
                    time.sleep(0.001)
                coming.append((one, one.begin_to_restore()))
            for one, tasks in coming:
                with suppress(OutOfDeviceMemoryError):
                    one.wait_for(tasks)

    def make(self, nbytes: int, keep: Component) -> bool:
        """Frees about `nbytes`: what torch only caches, else others have to leave. False if nothing could go."""
        with self.lock:
            before = self._free_bytes()
            return (self.give_back() and self._free_bytes() > before) or self.give_way(nbytes, keep)

    def make_for_call(self, component: Component) -> None:
        """Before a call of a resident component: room for what the call takes, as far as others can leave."""
        with self.lock:
            now = reading(self.device)
            if now is not None and (missing := component.working.begin(now)):
                self.give_way(missing, component)

    def _try(self, component: Component) -> OutOfDeviceMemoryError | None:
        try:
            component.restore_regions()
        except OutOfDeviceMemoryError as error:
            return error.with_traceback(None)
        return None

    def _victims(self, keep: Component) -> list[Component]:
        wanted = keep.closure()
        return [one for one in self.components if one not in wanted and not one.is_in_use and one.resident_bytes > 0]

    def give_way(self, nbytes: int, keep: Component) -> bool:
        """Evicts others until about `nbytes` more are free; False if nothing could go. With the lock held."""
        now = time.monotonic()
        victims = self._victims(keep)

        def cost(one: Component) -> tuple[bool, bool, float]:
            # A pipeline calls its components in turn: the one it used last is the one it needs again last. Of other
            # models the one that was idle longest goes first, and before any of this one.
            is_own = any(model in keep.models for model in one.models)
            return now - one.last_used < HOLD_SECONDS, is_own, -one.last_used if is_own else one.last_used

        victims.sort(key=cost)
        missing, gone = max(nbytes, 1), 0
        for victim in victims:
            if gone >= missing:
                break
            gone += victim.evict_regions(max_bytes=missing - gone)
        return gone > 0


def left_by_limit(info: DeviceInfo) -> int:
    """How much more a device's limit lets regions have."""
    return info['limit_bytes'] - info['resident_bytes'] - info['sentinel_bytes'] - info['poisoned_bytes']


def current_stream(room: Room) -> int | None:
    """The stream to fence: -1 where there are none, None while it is being captured."""
    if room.device.kind != 'cuda':
        return -1
    if torch.cuda.is_current_stream_capturing():
        return None
    return int(torch.cuda.current_stream(room.device.index).cuda_stream)


def name_stream(lease: Lease, stream: int) -> None:
    """Has a lease that goes on end behind what was submitted to a stream, too, as current_stream() names it."""
    if stream >= 0:
        lease.use_stream(stream)


def end_lease(lease: Lease, stream: int) -> None:
    """Ends a lease behind what was submitted to a stream."""
    name_stream(lease, stream)
    lease.end()


def try_to_bring(region: Region, nbytes: int = 0) -> OutOfDeviceMemoryError | None:
    """Brings memory, for so many more bytes of the region or for all of it; what is missing, if there is none."""
    return shortage_of([region.restore(max_bytes=nbytes)])


def shortage_of(tasks: list[Task]) -> OutOfDeviceMemoryError | None:
    """Waits for all of them; what one of them was missing, without the frames that saw it, and what those hold."""
    shortage = None
    for task in tasks:
        try:
            task.wait()
        except OutOfDeviceMemoryError as error:
            shortage = error.with_traceback(None)
    return shortage


def shortage_after(
    attempt: Callable[[], OutOfDeviceMemoryError | None], make: Callable[[int], bool]
) -> OutOfDeviceMemoryError | None:
    """What is missing when nobody makes room for an attempt any more; None if it has succeeded before."""
    while (shortage := attempt()) is not None:
        if not make(shortage.required_bytes - shortage.available_bytes):
            break
    return shortage


def _missing_bytes(task: Task) -> float:
    """Of what it set out to bring; how much that is, nobody knows before it has begun."""
    if task.done:
        return 0
    result = task.result()
    return result['total_bytes'] - result['done_bytes'] if result['started_ns'] else math.inf


def refuse(shortage: OutOfDeviceMemoryError | None) -> None:
    """Raises what is missing, if anything is."""
    if shortage is not None:
        try:
            raise shortage
        finally:
            del shortage  # it holds this frame, which holds it


def evict_unless_leased(region: Region, max_bytes: int = 0) -> None:
    """With the room's lock held: a cache may lease the region at any time, and then its user needs that lock."""
    if region.info()['n_leases']:
        return
    task = region.evict(max_bytes=max_bytes)
    while not task.done:
        with suppress(TimedOutError, CanceledError):
            task.wait(0.02)
        if not task.done and region.info()['n_leases']:
            task.cancel()
    with suppress(CanceledError):
        task.wait()


_context: Context | None = None
_default_rooms: dict[str, Room] = {}
_rooms: weakref.WeakValueDictionary[int, Room] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def room_of(device: Device | str) -> Room:
    """The room of a device. One that is named by a string is opened once and stays open."""
    global _context
    with _lock:
        if isinstance(device, str):
            if device not in _default_rooms:
                if _context is None:
                    _context = Context()
                room = Room(_open(_context, device))
                _default_rooms[device] = room
                _rooms[id(room.device)] = room
            return _default_rooms[device]
        found = _rooms.get(id(device))
        if found is None or found.device is not device:
            found = _rooms[id(device)] = Room(device)
        return found


def _open(context: Context, spec: str) -> Device:
    """Opening takes memory for the sentinel: what torch only caches may have to go for it."""
    try:
        return Device(context, spec)
    except OutOfDeviceMemoryError:
        if not trim_all():
            raise
    return Device(context, spec)


def is_anything_leased() -> bool:
    return any(component.is_in_use for room in list(_rooms.values()) for component in room.components)
