# SPDX-License-Identifier: Apache-2.0
"""The caches of a process: one for each device, whoever asks. What belongs to one user only is said with each use."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ._unstick import Context, Device
from .cache import Cache
from .constraints import device_of

_lock = threading.Lock()
_context: Context | None = None
_caches: dict[str, Cache] = {}


def shared(constraints: Mapping[str, Any] | None = None, **options: Any) -> Cache:
    """The process's cache of a device: the one that constraints name by gpu_device, else the GPU with most room.

    It is made when it is first asked for, with `options` of a Cache (and granule_bytes of a Device); later calls get
    the same one, and their options mean nothing. Limits are those of each use: `cache.use(..., constraints=...)`.
    """
    global _context
    spec = device_of((constraints or {}).get('gpu_device'))
    with _lock:
        if spec == 'auto' and 'auto' not in _caches and 'cuda:0' in _caches:
            spec = 'cuda:0'
        if spec in _caches:
            return _caches[spec]
        if _context is None:
            _context = Context()
        device = Device(_context, spec, granule_bytes=options.pop('granule_bytes', 0))
        cache = Cache(device, **options)
        for name in {spec, f'cuda:{device.index}' if device.kind == 'cuda' else spec}:
            _caches[name] = cache
        return cache


def shared_caches() -> list[Cache]:
    """Those that there are."""
    with _lock:
        return list({id(cache): cache for cache in _caches.values()}.values())


def forget_shared() -> None:
    """Drops every model of theirs that is not in use, and forgets the caches: the next one to ask gets a new one."""
    caches = shared_caches()
    with _lock:
        _caches.clear()
    for cache in caches:
        cache.clear()
