# SPDX-License-Identifier: Apache-2.0
"""Working memory: what a call takes beside the weights, which torch's allocator gets and keeps.

It is learned from the allocator's own figures, call by call: nothing of them is reset, they are the user's. The first
call of a component has nothing to go by, and finds room made for a guess. What torch keeps but does not use is given
back before anything has to leave for a component that returns: it serves nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._unstick import Device
from .reclaiming import cuda, perform

FIRST_CALL_BYTES = 4 << 30
"""More than the decoder of a VAE takes for an image of 1024 x 1024."""

MARGIN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """torch's allocator and the driver, on one device."""

    free_bytes: int
    reserved_bytes: int
    allocated_bytes: int
    peak_bytes: int
    """The most that was allocated at a time, as far back as the user's own count goes."""

    @property
    def cached_bytes(self) -> int:
        return self.reserved_bytes - self.allocated_bytes

    @property
    def available_bytes(self) -> int:
        """What a call can have: torch frees its cache by itself when the driver has no more."""
        return self.free_bytes + self.cached_bytes


def reading(device: Device) -> Reading | None:
    """None where there is no allocator to ask: on the host, with another allocator, before CUDA has started."""
    torch = cuda() if device.kind == 'cuda' else None
    if torch is None or torch.cuda.memory.get_allocator_backend() != 'native':
        return None
    try:
        stats = torch.cuda.memory_stats_as_nested_dict(device.index)
    except RuntimeError:  # a pluggable allocator keeps none
        return None
    if not stats:
        return None
    allocated = stats['allocated_bytes']['all']
    return Reading(
        free_bytes=int(torch.cuda.mem_get_info(device.index)[0]),
        reserved_bytes=int(stats['reserved_bytes']['all']['current']),
        allocated_bytes=int(allocated['current']),
        peak_bytes=int(allocated['peak']),
    )


def trim_all() -> bool:
    """Has torch give back what it caches, before a device is open; False where there is no torch to ask."""
    return perform('empty_cache', 0, 0)[0] == 0


@dataclass(slots=True)
class Working:
    """What the calls of one component took at most."""

    learned_bytes: int = 0
    _before: Reading | None = None

    @property
    def needed_bytes(self) -> int:
        """What to have ready for the next call: what was learned and a quarter, as the allocator rounds and splits."""
        return self.learned_bytes + self.learned_bytes // 4 + MARGIN_BYTES if self.learned_bytes else FIRST_CALL_BYTES

    def begin(self, now: Reading) -> int:
        """A call begins; the bytes that it may be short of."""
        self._before = now
        return max(0, self.needed_bytes - now.available_bytes)

    def fail(self) -> None:
        """A call ran out of memory: the next one finds twice the room."""
        self.learned_bytes = max(2 * self.learned_bytes, FIRST_CALL_BYTES)

    def end(self, now: Reading | None) -> None:
        """The call has ended. If it made the peak, that says what it took; else it is at most what was reserved."""
        if now is not None and self._before is not None:
            is_peak = now.peak_bytes > self._before.peak_bytes
            most = now.peak_bytes if is_peak else min(now.reserved_bytes, now.peak_bytes)
            self.learned_bytes = max(self.learned_bytes, most - self._before.allocated_bytes, 1)
        self._before = None
