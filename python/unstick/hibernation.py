# SPDX-License-Identifier: Apache-2.0
"""Another process gives up all that it holds on the GPUs, its CUDA context included, and gets it back later."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from . import _unstick
from .errors import invalid

if TYPE_CHECKING:
    from ._unstick import HibernationInfo, ProcessState


class Hibernation(NamedTuple):
    """What hibernate() or wake() did. Bytes are None where the driver's management library (NVML) does not say."""

    pid: int
    state: ProcessState
    process_before_bytes: int | None
    """What the process held on the GPUs before the call."""
    process_after_bytes: int | None
    """And after it."""
    device_before_bytes: int | None
    """In use on all GPUs of the machine, whoever holds it, before the call."""
    device_after_bytes: int | None
    """And after it."""
    lock_s: float
    """How long it took until what the process had submitted was done."""
    copy_s: float
    total_s: float

    @property
    def moved_bytes(self) -> int | None:
        """What came free, or was taken again: the process's own figure if it is known, else that of the GPUs."""
        for before, after in (
            (self.process_before_bytes, self.process_after_bytes),
            (self.device_before_bytes, self.device_after_bytes),
        ):
            if before is not None and after is not None:
                return abs(before - after)
        return None


def _milliseconds(timeout: float | None, operation: str) -> int:
    if timeout is None:
        return 0
    if not 0 < timeout <= 4294967:
        raise invalid(f'a timeout of {timeout} s: give more than 0, or None for as long as it takes', operation)
    return math.ceil(timeout * 1000)


def _report(info: HibernationInfo) -> Hibernation:
    return Hibernation(
        info['pid'],
        info['state'],
        info['process_before_bytes'],
        info['process_after_bytes'],
        info['device_before_bytes'],
        info['device_after_bytes'],
        info['lock_ns'] / 1e9,
        info['copy_ns'] / 1e9,
        info['total_ns'] / 1e9,
    )


def hibernate(pid: int, timeout: float | None = 30.0) -> Hibernation:
    """Has the driver move everything that a process of this user holds on the GPUs into host memory.

    The process lives on, and sleeps when it calls CUDA, until wake(). `timeout` is for the work that it has submitted,
    in seconds; when it is over, TimedOutError is raised and the process runs on as before. Needs driver 570 or newer.
    """
    return _report(_unstick.hibernate(pid, _milliseconds(timeout, 'hibernate')))


def wake(pid: int, timeout: float | None = 30.0) -> Hibernation:
    """Gives a hibernated process back what it held, at the same addresses, and lets it go on.

    Without room on its GPUs OutOfDeviceMemoryError is raised, and it stays hibernated.
    """
    return _report(_unstick.wake(pid, _milliseconds(timeout, 'wake')))


def hibernate_state(pid: int) -> ProcessState:
    """Asks the driver which state a process is in; changes nothing."""
    return _unstick.hibernate_state(pid)
