# SPDX-License-Identifier: Apache-2.0
"""Giving device memory back on demand: what it returns is what the driver says, not what was meant to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._unstick import BusyError, Error, NotFoundError

if TYPE_CHECKING:
    from .cache import Cache


@dataclass(slots=True)
class Unloaded:
    """What came of it."""

    freed_bytes: int = 0
    """By how much the device's own figure of what is in use fell."""
    keys: list[str] = field(default_factory=list)
    """What is no longer on the device."""
    busy: list[str] = field(default_factory=list)
    """What is in use, and stayed."""


def unload(
    cache: Cache,
    keys: Iterable[str] | None,
    *,
    waits: bool,
    forgets: bool,
    check: Callable[[], None] | None,
) -> Unloaded:
    done = Unloaded()
    before = cache.device.info()['used_bytes']
    for key in [entry['key'] for entry in cache.native.entries()] if keys is None else list(keys):
        try:
            has_left = _evict(cache, key, waits, check)
            if has_left and forgets:
                cache._drop(key)
        except NotFoundError:
            continue
        except BusyError:
            has_left = False
        (done.keys if has_left else done.busy).append(key)
    cache.give_back()
    done.freed_bytes = max(0, before - cache.device.info()['used_bytes'])
    return done


def _evict(cache: Cache, key: str, waits: bool, check: Callable[[], None] | None) -> bool:
    """False if it is in use, and nobody wants to wait for that."""
    if not waits and _is_in_use(cache, key):
        return False
    request = cache.native.evict(key)
    try:
        while (action := cache.next(request)) is not None:
            if check is not None:
                check()
            if not waits and _n_leases(cache, key):
                return False
            if action[0] == 'wait':
                request.poll()
        error: Error | None = request.error()
    finally:
        request.close()
    if error is not None:
        try:
            raise error
        finally:
            del error
    return True


def _is_in_use(cache: Cache, key: str) -> bool:
    return any(one['n_leases'] or one['state'] == 'loading' for one in cache.native.entries() if one['key'] == key)


def _n_leases(cache: Cache, key: str) -> int:
    """While it leaves, an entry is busy with that itself."""
    return sum(int(one['n_leases']) for one in cache.native.entries() if one['key'] == key)
