# SPDX-License-Identifier: Apache-2.0
"""A loader is called, and what it returns becomes an entry of the cache.

Whatever goes wrong is dealt with after the handler has been left, and the frames of the failure are cleared: an
exception holds its traceback, a traceback its frames, and frames the tensors that the loader had got so far.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ._unstick import Device, Error, Region
from .errors import LoadError, invalid, unsupported
from .reclaiming import cuda, perform

if TYPE_CHECKING:
    from .component import Component, _Use
    from .model import Model

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
    """A model that the cache keeps: the object, and the regions that its entry consists of."""

    def __init__(self, obj: Any, model: Model | None, regions: dict[str, Region]) -> None:
        self.object = obj
        self.model = model
        self.regions = regions

    @classmethod
    def of(cls, returned: Any, key: str, device: Device) -> Held:
        if returned is None:
            raise invalid('the loader returned None: it has to return the pipeline that it loaded', 'load')
        if isinstance(returned, Loaded):
            if not returned.regions:
                raise invalid('the loader returned no regions: there is nothing to keep', 'load')
            return cls(returned.object, None, dict(returned.regions))
        if find_spec('torch') is None:
            raise unsupported(
                f'the loader returned a {type(returned).__name__}, which only torch could take apart, and torch is not '
                'installed; without it, return unstick.Loaded(object, regions)',
                'load',
            )
        from .adoption import adopt

        model = adopt(returned, key, device=device)
        return cls(returned, model, regions_of(model))

    @property
    def nbytes(self) -> int:
        return sum(region.info()['bytes'] for region in self.regions.values())

    def components(self, names: tuple[str, ...] | None) -> list[Component]:
        if self.model is None:
            return []
        if names is None:
            return list(self.model.components.values())
        return [one for name, one in self.model.components.items() if name in names]

    def begin(self, names: tuple[str, ...] | None) -> list[tuple[Component, _Use]]:
        """Notes that a lease of the cache uses the components: nothing of this process moves them."""
        if self.model is not None:
            from . import guards

            self.model.is_evicted = False
            for one in self.components(names):
                guards.remove(one)
        return [(one, one.begin_use()) for one in self.components(names)]

    def end(self, uses: list[tuple[Component, _Use]]) -> None:
        from . import guards

        for component, use in uses:
            component.end_use(use)
            guards.install(component)  # from here on it may leave at any time

    def release(self) -> None:
        if self.model is not None:
            self.model.release()
        else:
            for region in self.regions.values():
                region.release().wait()
        self.regions.clear()


def regions_of(model: Model) -> dict[str, Region]:
    """The regions of a model by the names that the entry's components have."""
    regions: dict[str, Region] = {}
    for name, component in model.components.items():
        for index, region in enumerate(component.regions):
            regions[f'{name}.{index}' if index else name] = region
    return regions


class Loading:
    """The call of a loader, as a step that any thread may take."""

    def __init__(self, load: Loader, key: str, arguments: tuple[str, str], settings: dict[str, Any], device: Device):
        self.load = load
        self.key = key
        self.arguments = arguments
        self.settings = settings
        self.device = device
        self.held: Held | None = None
        self.failure: Exception | None = None
        self.status = 0
        self.status_name = ''
        self.text = ''
        self.old: Held | None = None
        """What this load replaces."""

    def __call__(self) -> None:
        if self.old is not None:
            self.old.release()
            self.old = None
        failure = self._attempt()
        if failure is None:
            return
        self.held = None
        self.failure = failure
        self.status, self.status_name = status_of(failure)
        lines = str(failure).strip().splitlines()
        self.text = f'{type(failure).__name__}: {lines[0] if lines else "no message"}'
        gc.collect()  # half-built modules hold one another

    def _attempt(self) -> Exception | None:
        try:
            self.held = Held.of(self.load(*self.arguments, **self.settings), self.key, self.device)
        except Exception as error:
            return stripped(error)
        return None

    def undo(self) -> None:
        """The request failed after the load had succeeded."""
        if self.held is not None:
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
            try:
                at.tb_frame.clear()
            except RuntimeError:  # it still runs
                pass
            at = at.tb_next
        rest += [other for other in (one.__cause__, one.__context__) if other is not None]
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def give_back(device: Device) -> None:
    """After a failed load: torch keeps what was freed."""
    if cuda() is not None:
        perform('empty_cache', 0, device.index)
