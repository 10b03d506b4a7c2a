# SPDX-License-Identifier: Apache-2.0
"""How long an event loop did not come back, and what of that was nobody's fault here."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

import unstick

WALKERS = ('unstick.walk', 'unstick.entry')
"""Who looks through the whole heap."""
EVERY = 0.005
Span = tuple[float, float]

# A process of its own: what keeps it from waking up is the machine, not this interpreter. Like this one it has threads
# that hold the interpreter's lock, a few milliseconds at a time, and may be put aside by the system meanwhile.
_MACHINE = f"""
import sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
def hold():
    while not stop.is_set():
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        time.sleep(0.006)
for _ in range(2):
    threading.Thread(target=hold, daemon=True).start()
print('ready', flush=True)
while not stop.is_set():
    before = time.monotonic()
    time.sleep({EVERY})
    after = time.monotonic()
    if after - before > 0.02:
        print(before, after, flush=True)
"""


class Watch:
    """Around what runs on the loop. `longest` is the loop's longest stall, less collections, walks through the heap,
    and what the machine itself was late by. Both of the former hold the interpreter's lock, and are counted."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float, float]] = []
        """From, to, and the processor time that all threads of this process had meanwhile."""
        self.collections: list[Span] = []
        self.walks: list[Span] = []
        self.machine: list[Span] = []
        self.longest_walk = 0.0
        """Of processor time."""
        self.n_collects = 0
        """Full collections that somebody asked for."""

    async def __aenter__(self) -> Watch:
        self._other = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, '-c', _MACHINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        await asyncio.to_thread(self._other.stdout.readline)
        gc.callbacks.append(self._on_gc)
        self._collect, gc.collect = gc.collect, self._counted
        self._walk = unstick._unstick.instances
        for name in WALKERS:
            importlib.import_module(name).instances = self._walked  # type: ignore[attr-defined]
        self._task = asyncio.ensure_future(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        gc.collect = self._collect
        for name in WALKERS:
            importlib.import_module(name).instances = self._walk  # type: ignore[attr-defined]
        gc.callbacks.remove(self._on_gc)
        text, _ = await asyncio.to_thread(self._other.communicate, '')
        self.machine = [(float(a), float(b)) for a, b in (line.split() for line in text.splitlines())]

    async def _tick(self) -> None:
        while True:
            before, had = time.monotonic(), time.process_time()
            await asyncio.sleep(EVERY)
            after = time.monotonic()
            if after - before > 2 * EVERY:
                self.stalls.append((before + EVERY, after, time.process_time() - had))

    def _counted(self, *arguments: Any) -> int:
        self.n_collects += 1
        return int(self._collect(*arguments))

    def _walked(self, *kinds: type) -> Any:
        started, had = time.monotonic(), time.thread_time()
        try:
            return self._walk(*kinds)
        finally:
            self.walks.append((started, time.monotonic()))
            self.longest_walk = max(self.longest_walk, time.thread_time() - had)

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == 'start':
            self._gc_began = time.monotonic()
        else:
            self.collections.append((self._gc_began, time.monotonic()))

    @property
    def longest(self) -> float:
        excused = _joined(self.collections + self.walks + self.machine)
        # Where others use the machine, too, only what this process itself did counts: it may have been put aside.
        is_shared = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
        return max(
            (
                min(end - start - _common((start, end), excused), had if is_shared else end)
                for start, end, had in self.stalls
            ),
            default=0.0,
        )

    @property
    def late(self) -> float:
        """What the machine lets any process wait for at most: 0 on one that has nothing else to do."""
        return max((end - start - EVERY for start, end in self.machine), default=0.0)

    def __str__(self) -> str:
        raw = max((end - start for start, end, _ in self.stalls), default=0.0)
        collections = max((end - start for start, end in self.collections), default=0.0)
        walks = max((end - start for start, end in self.walks), default=0.0)
        return (
            f'longest stall {self.longest * 1000:.0f} ms (with what is excused {raw * 1000:.0f}); '
            f'{self.n_collects} collects, the longest of all collections {collections * 1000:.0f} ms; '
            f'{len(self.walks)} walks through the heap, the longest {walks * 1000:.0f} ms '
            f'({self.longest_walk * 1000:.0f} of the processor); '
            f'the machine itself {self.late * 1000:.0f} ms'
        )


def _joined(spans: list[Span]) -> list[Span]:
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((start, end))
    return result


def _common(one: Span, spans: list[Span]) -> float:
    return sum(max(0.0, min(one[1], end) - max(one[0], start)) for start, end in spans)
