# SPDX-License-Identifier: Apache-2.0
"""unstick, told by its model and by its cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .tool import Tool


class Unstick(Tool):
    name = 'unstick'
    label = 'unstick, `model.evict()`'
    how = 'model.evict(), model.restore(); what is larger than the card comes and goes by itself'
    packages = ('unstick',)
    allocator = ''  # it sets it up by itself
    runs_on_cpu = True
    has_switches = False  # those are its cache's
    backs_up = True

    def prepare(self) -> None:
        import unstick  # before CUDA starts

        self.unstick = unstick
        self.models: dict[str, Any] = {}

    def take(self) -> None:
        spec = 'cuda:0' if self.options['device'] == 'cuda' else f'host:{self.options["host_device_bytes"] >> 20}MiB'
        granule_bytes = 0 if self.options['device'] == 'cuda' else 1 << 16
        self.unstick_device = self.unstick.Device(self.unstick.Context(), spec, granule_bytes=granule_bytes)
        for name, pipe in self.pipes.items():
            self.models[name] = self.unstick.adopt(pipe, name, device=self.unstick_device)

    def leave(self, name: str) -> None:
        self.models[name].evict()

    def come_back(self, name: str) -> None:
        self.models[name].restore()

    def backup(self, name: str) -> Callable[[], None]:
        tasks = [region.backup() for one in self.models[name].components.values() for region in one.regions]
        waiter = threading.Thread(target=lambda: [task.wait() for task in tasks])
        waiter.start()
        return waiter.join

    def vacate(self) -> None:
        self.resident = set(self.pipes)  # any may have come back by itself
        super().vacate()

    def used_bytes(self) -> int:
        return int(self.unstick_device.info()['resident_bytes']) if self.models else 0

    def details(self) -> dict[str, Any]:
        if not self.models:
            return {}
        device, context = self.unstick_device.info(), self.unstick_device.context.info()
        return {
            'resident_bytes': device['resident_bytes'],
            'sentinel_bytes': device['sentinel_bytes'],
            'spare_bytes': device['spare_bytes'],
            'host_pinned_bytes': context['host_pinned_bytes'],
        }

    def walk(self) -> dict[str, Any]:
        started = time.monotonic()
        for model in self.models.values():
            model.refresh()
        return {
            'refresh_s': time.monotonic() - started,  # of all models: part of evict(), not of the cache's
            'left_outside': {name: model.adoption.left_bytes for name, model in self.models.items()},
            'still_held': {name: model.adoption.still_held_bytes for name, model in self.models.items()},
        }


class UnstickCache(Unstick):
    """The same models under the keys of a cache, which knows when they were used and need not look at them."""

    name = 'unstick_cache'
    label = 'unstick, `cache.evict()`'
    how = 'cache.evict(), cache.preload(); switches by cache.use()'
    has_switches = True
    backs_up = False
    has_backup_before = True

    def take(self) -> None:
        super().take()
        self.cache = self.unstick.Cache(self.unstick_device, working_bytes=self.options['working_bytes'])
        self._use: Any = None
        for name in self.pipes:
            with self._entry(name):
                pass
        for name in self.pipes:  # its cache backs up when it thinks fit: no time is to have that beside it
            self.backup(name)()

    def _entry(self, name: str) -> Any:
        pipe = self.pipes[name]
        return self.cache.use(
            'FLUX.1-dev', name, load=lambda *_, **__: pipe, required_bytes=self.models[name].nbytes
        )

    def leave(self, name: str) -> None:
        self.cache.evict('FLUX.1-dev', name)

    def come_back(self, name: str) -> None:
        self.cache.preload('FLUX.1-dev', name)

    def acquire(self, name: str) -> None:
        self._use = self._entry(name)
        self._use.__enter__()
        self.resident.add(name)

    def release(self, name: str) -> None:
        if self._use is not None:
            self._use.__exit__(None, None, None)
            self._use = None
