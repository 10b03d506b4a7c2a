# SPDX-License-Identifier: Apache-2.0
"""A loader is called, and what it returns becomes an entry of the cache.

Whatever goes wrong is dealt with after the handler has been left, and the frames of the failure are cleared: an
exception holds its traceback, a traceback its frames, and frames the tensors that the loader had got so far.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ._unstick import Device, Error, OutOfDeviceMemoryError, Region, Request
from .errors import LoadError, invalid, unsupported
from .reclaiming import cuda, perform

if TYPE_CHECKING:
    from .cache import Cache
    from .component import Component, Noted
    from .model import Model

log = logging.getLogger('unstick')

Loader = Callable[..., Any]

OUT_OF_DEVICE_MEMORY = -100


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader returns that lays its memory into regions itself, torch or not: the object, and its regions.

    The regions are on the cache's device, and resident.
    """

    object: Any
    regions: Mapping[str, Region]


class Held:
    """A model that the cache keeps: the object, and the regions that its entry consists of, by their names there."""

    def __init__(self, obj: Any, model: Model | None, regions: Mapping[str, Region]) -> None:
        self.object = obj
        self.model = model
        self._own = dict(regions)
        self._names: dict[str, weakref.ref[Region]] = {name: weakref.ref(one) for name, one in regions.items()}
        self.part: tuple[str, ...] | None = None
        """Of a pipeline larger than the device: what a use leases of it, by the names in the entry; None: all."""

    @classmethod
    def of(cls, returned: Any, key: str, device: Device) -> Held:
        if returned is None:
            raise invalid('the loader returned None: it has to return the pipeline that it loaded', 'load')
        if isinstance(returned, Loaded):
            if not returned.regions:
                raise invalid('the loader returned no regions: there is nothing to keep', 'load')
            return cls(returned.object, None, returned.regions)
        if find_spec('torch') is None:
            raise unsupported(
                f'the loader returned a {type(returned).__name__}, which only torch could take apart, and torch is not '
                'installed; without it, return unstick.Loaded(object, regions)',
                'load',
            )
        from .adoption import adopt

        held = cls(returned, adopt(returned, key, device=device), {})
        held.take_new()
        return held

    @property
    def regions(self) -> dict[str, Region]:
        alive = ((name, ref()) for name, ref in self._names.items())
        return {name: region for name, region in alive if region is not None}

    @property
    def nbytes(self) -> int:
        return sum(region.info()['bytes'] for region in self.regions.values())

    def take_new(self) -> dict[str, Region]:
        """Regions that the model has and the entry does not, under the names that they get there."""
        known = {id(region) for region in self.regions.values()}
        new: dict[str, Region] = {}
        for name, component in self.model.components.items() if self.model is not None else ():
            for region in component.regions:
                if id(region) in known:
                    continue
                called, n = name, 1
                while called in self._names:
                    called, n = f'{name}.{n}', n + 1
                new[called] = region
                self._names[called] = weakref.ref(region)
        return new

    def choose_part(self, usable_bytes: int) -> None:
        """Of what does not fit as a whole the smallest component is leased.

        The others come back when they are called, and what is left of the device is theirs. Without a model nothing
        comes back by itself.
        """
        if self.model is None or self.nbytes <= usable_bytes:
            return
        sizes = {name: one.nbytes for name, one in self.model.components.items() if one.nbytes}
        smallest = min(sizes, key=lambda name: sizes[name])
        regions = self.model.components[smallest].regions
        self.part = tuple(name for name, region in self.regions.items() if region in regions)

    def gone(self) -> list[str]:
        """Names of regions that the model has let go."""
        return [name for name, ref in self._names.items() if ref() is None]

    def forget(self, name: str) -> None:
        del self._names[name]

    def components(self, names: tuple[str, ...] | None) -> list[Component]:
        if self.model is None:
            return []
        return [one for name, one in self.model.components.items() if names is None or name in names]

    def begin(self, uses: list[Noted], names: tuple[str, ...] | None) -> None:
        """Notes that a lease of the cache uses the components: nothing of this process moves them."""
        uses += [one.begin_use() for one in self.components(names)]
        if self.model is not None:
            from . import guards

            self.model.is_evicted = False
            with self.model.room.lock:
                for use in uses:
                    guards.remove(use.component)

    def end(self, uses: list[Noted]) -> None:
        while uses:
            uses.pop().end()
        self.guard()

    def guard(self) -> None:
        """Puts guards before what is not in use: from here on it may leave at any time, and the core tells nobody."""
        bare = [one for one in self.components(None) if one.is_guarded_with_forward is None]
        if self.model is None or not bare or not self.model.room.lock.acquire(blocking=False):
            return  # who holds the lock moves components; it is asked again soon
        try:
            from . import guards

            for component in bare:
                if not component.is_in_use:
                    guards.install(component)
        finally:
            self.model.room.lock.release()

    def refresh(self) -> None:
        """Takes in what has left the regions during the use, as far as there is room for it."""
        if self.model is not None:
            try:
                self.model.refresh()
            except OutOfDeviceMemoryError as error:
                log.info('%s: what came anew stays outside: %s', self.model.key, error)

    def release(self, others: Collection[Region] = ()) -> None:
        """Gives its memory up, but what others have, too. (A model knows that of its components.)"""
        if self.model is not None:
            self.model.release()
        else:
            for region in self.regions.values():
                if region not in others:
                    region.release().wait()
        self._own.clear()
        self._names.clear()


class Loading:
    """The call of a loader, as a step that any thread may take."""

    def __init__(self, load: Loader, key: str, arguments: tuple[str, str], settings: dict[str, Any], device: Device):
        self.load = load
        self.key = key
        self.arguments = arguments
        self.settings = settings
        self.device = device
        self.held: Held | None = None
        self._cache: Cache | None = None
        self.failure: Exception | None = None
        self.status = 0
        self.status_name = ''
        self.text = ''
        self.old: Held | None = None
        """What this load replaces."""
        self.others: Collection[Region] = ()
        """Regions of other models, which it does not take along."""

    def __call__(self) -> None:
        if self.old is not None:
            self.old.release(self.others)
            self.old = None
            self.others = ()
        failure = self._attempt()
        if failure is not None:
            self._fail(failure)
            gc.collect()  # half-built modules hold one another

    def _attempt(self) -> Exception | None:
        try:
            self.held = Held.of(self.load(*self.arguments, **self.settings), self.key, self.device)
        except Exception as error:
            return stripped(error)
        return None

    def _fail(self, failure: Exception) -> None:
        self.undo()
        self.failure = failure
        self.status, self.status_name = status_of(failure)
        lines = str(failure).strip().splitlines()
        self.text = f'{type(failure).__name__}: {lines[0] if lines else "no message"}'

    def register(self, request: Request, cache: Cache, fingerprint: str, has_choice: bool) -> None:
        """Hands over to the cache what was loaded. The object first: who finds the entry finds it, too.

        Of a pipeline that is larger than the device only a part is this request's, unless its user chose one: the rest
        joins the entry when the request is over.
        """
        if self.held is None:
            return
        self._cache = cache
        if not has_choice:
            self.held.choose_part(cache.usable_bytes)
        cache.keep(self.key, fingerprint, self.held)
        regions, part = self.held.regions, self.held.part
        failure = self._try_to_register(
            request, {name: one for name, one in regions.items() if part is None or name in part}
        )
        if failure is not None:
            self._fail(failure)

    def _try_to_register(self, request: Request, regions: dict[str, Region]) -> Exception | None:
        try:
            for name, region in regions.items():
                request.add(name, region)
        except Error as error:
            return stripped(error)
        return None

    def undo(self) -> None:
        """The load, or the request after it, failed: nothing of it stays."""
        if self.held is None:
            return
        if self._cache is not None:
            self._cache.forget(self.key, self.held)
        self.held.release()
        self.held = None

    @property
    def ran_out_of_memory(self) -> bool:
        return self.failure is not None and is_out_of_memory(self.failure)

    def error(self) -> LoadError:
        assert self.failure is not None
        return LoadError(f'{self.key} could not be loaded: {self.text}', self.status, self.status_name)

    def suggestions(self, quantization: str) -> tuple[str, ...]:
        if isinstance(self.failure, ImportError):
            return (f'install what the loader needs: {self.failure}',)
        if quantization != 'none':
            return (
                f'see that bitsandbytes works for {quantization} on this device',
                'ask for "none" by name, which is another entry: nothing is loaded at another precision under this key',
            )
        return ()


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, Error):
        return error.status == OUT_OF_DEVICE_MEMORY
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == 'OutOfMemoryError'
        or (isinstance(error, RuntimeError) and 'out of memory' in str(error).lower())
    )


def status_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, Error):
        return error.status, error.status_name
    if is_out_of_memory(error):
        return OUT_OF_DEVICE_MEMORY, 'OUT_OF_DEVICE_MEMORY'
    if isinstance(error, OSError):
        return -8, 'IO'
    if isinstance(error, ImportError):
        return -3, 'UNSUPPORTED'
    return -1, 'INVALID_ARGUMENT'


def stripped(error: Exception) -> Exception:
    """The exception with frames that hold nothing, and without the frame that caught it."""
    rest: list[BaseException] = [error]
    seen = set()
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        at = one.__traceback__
        while at is not None:
            with suppress(RuntimeError):  # it still runs
                at.tb_frame.clear()
            at = at.tb_next
        rest += [other for other in (one.__cause__, one.__context__) if other is not None]
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def give_back(device: Device) -> None:
    """After a failed load: torch keeps what was freed."""
    if cuda() is not None:
        perform('empty_cache', 0, device.index)
