# SPDX-License-Identifier: Apache-2.0
"""Use: one demand on its way to a lease, and the lease.

The core decides what happens next; what it cannot do itself (wait, load, collect) comes as steps. The same steps are
taken by a thread that blocks (`with`), by an event loop (`async with`) or by an engine that runs callables
(`use = yield from cache.steps(...)`): between two steps nothing blocks, and no step waits for longer than 500 ms.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ._unstick import CacheLease, Error, Request
from .errors import busy, explained
from .loading import Held, Loader, Loading
from .reclaiming import figures, perform
from .sizes import record

if TYPE_CHECKING:
    from .cache import Cache
    from .component import Noted

_T = TypeVar('_T')

BUSY = -4

Steps = Generator[Callable[[], Any], Any, Any]


@dataclass(slots=True)
class Demand:
    """What is asked for, in the core's words."""

    key: str
    model_id: str
    quantization: str
    fingerprint: str
    load: Loader | None
    settings: dict[str, Any]
    components: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def request(self, cache: Cache, changes: dict[str, Any]) -> Request:
        given = {**self.fields, **changes}
        components = self.components if self.components is not None else cache.part_of(self.key, self.fingerprint)
        if components is not None:
            given['components'] = components
        return cache.native.request(
            self.key, fingerprint=self.fingerprint, quantization=self.quantization, **given
        )


class Wait:
    """Lets a little time pass, or less if there is something to see."""

    def __init__(self, request: Request, timeout_ms: int) -> None:
        self.request = request
        self.seconds = max(timeout_ms, 0) / 1000

    def __call__(self) -> None:
        self.request.poll()


class Measure:
    def __init__(self, index: int) -> None:
        self.index = index
        self.figures: tuple[int, int, int, int] | None = None

    def __call__(self) -> None:
        self.figures = figures(self.index)


class Reclaim:
    def __init__(self, action: str, stats: int, index: int) -> None:
        self.arguments = action, stats, index
        self.status = 0
        self.n_collected = 0

    def __call__(self) -> None:
        self.status, self.n_collected = perform(*self.arguments)


class Use:
    """A model in use, as a context manager of either kind; made by Cache.use(), ause() and steps().

    `result` says how the way to it went: `outcome` (hit, restore or load), what was evicted, how long things took.
    """

    def __init__(self, cache: Cache, demand: Demand) -> None:
        self.cache = cache
        self.key = demand.key
        self.result: dict[str, Any] = {}
        self._demand = demand
        self._held: Held | None = None
        self._lease: CacheLease | None = None
        self._uses: list[Noted] = []
        self._is_entered = False
        self._request: Request | None = None
        self.observe: Callable[[Use], None] | None = None
        """Called between two steps, by whoever takes them; what it raises ends the way there."""

    def __repr__(self) -> str:
        state = 'in use' if self._lease is not None else self.result.get('outcome', 'not begun')
        return f'<unstick.Use {self.key!r}: {state}>'

    @property
    def object(self) -> Any:
        """The model, while it is in use."""
        if self._held is None:
            raise busy(f'{self.key} is not in use: enter the context first', 'use')
        return self._held.object

    def progress(self) -> dict[str, Any]:
        """How far the way is, as `result` will say in the end; between two steps of steps()."""
        return self._request.result() if self._request is not None else self.result

    # --- the way there ---

    def steps(self) -> Steps:
        """Yields callables that the caller runs, in any thread, one after the other."""
        cache, demand = self.cache, self._demand
        changes: dict[str, Any] = {}
        for attempt in range(3):
            loading = Loading(demand.load or _no_loader, demand.key, (demand.model_id, demand.quantization),
                              demand.settings, cache.device)  # fmt: skip
            request = self._request = demand.request(cache, changes)
            status, error = 1, None
            try:
                yield from self._drive(request, loading)
                status, error = request.status, request.error()
                self.result = request.result()
                cache.last_plan = {'key': demand.key, **self.result}
                if error is None:
                    self._take(request, loading)
                    return
            finally:
                self._request = None
                request.close()
                if status != 0:
                    loading.undo()
                    cache.wake()  # who gave up on the way leaves it to the keeper to bring that to an end
            if loading.failure is not None:
                cache.give_back()
            if loading.ran_out_of_memory and attempt == 0:
                # What the host did not know of took the room: now everything goes that is not in use.
                changes = {
                    'required_bytes': cache.device.info()['total_bytes'],
                    'basis': 'guess',
                    'allow_low_memory': True,
                    'max_wait_ms': (1 << 64) - 1,
                }
                continue
            if status == BUSY and changes:  # another one loads it by now
                changes = {}
                continue
            break
        try:
            self._raise(error, loading)
        finally:
            del error  # it holds this frame

    def _drive(self, request: Request, loading: Loading) -> Steps:
        index = self.cache.device.index
        action = self.cache.next(request)
        while action is not None:
            if self.observe is not None:
                self.observe(self)
            if action[0] == 'wait':
                yield Wait(request, action[1])
                action = self.cache.next(request)
            elif action[0] == 'measure':
                measure = Measure(index)
                yield measure
                action = self.cache.next(request, figures=measure.figures)
            elif action[0] == 'reclaim':
                reclaim = Reclaim(action[1], action[2], index)
                yield reclaim
                action = self.cache.next(request, status=reclaim.status, n_collected=reclaim.n_collected)
            else:
                loading.old = self.cache.take_held(self.key)
                loading.others = self.cache.regions()
                yield loading
                loading.register(
                    request, self.cache, self._demand.fingerprint, has_choice=self._demand.components is not None
                )
                action = self.cache.next(request, status=loading.status, text=loading.text)

    def _take(self, request: Request, loading: Loading) -> None:
        if loading.held is not None:
            record(self.key, self._demand.fingerprint, loading.held.nbytes)
            self.cache.add_rest(self.key, loading.held)
        self._lease = request.take_lease()
        if self._lease is not None:
            self._held = self.cache.held(self.key)
            self._held.begin(
                self._uses, self._demand.components if self._demand.components is not None else self._held.part
            )
        self.cache.wake()

    def _raise(self, error: Error | None, loading: Loading) -> None:
        assert error is not None
        suggestions: tuple[str, ...] = ()
        if loading.failure is not None:
            suggestions = loading.suggestions(self._demand.quantization)
            if not loading.ran_out_of_memory:
                error = loading.error()
            error.__cause__ = loading.failure
        elif error.required_bytes > self.cache.most_bytes and self._demand.components is None:
            suggestions = (
                'lease some of it only, such as components=("transformer",): the others come back when they are called',
            )
        try:
            raise explained(error, self.key, self.result, suggestions)
        finally:
            del error, loading  # the error holds this frame, which would hold it

    # --- the use ---

    def end(self, stream: int | None = None) -> None:
        """Ends the use; leaving the context does. `stream`: what it was used on, if not this thread's current one."""
        lease, self._lease = self._lease, None
        held, self._held = self._held, None
        if lease is None or held is None:
            return
        self._is_entered = False
        try:
            held.end(self._uses)
            self.cache.take_new(self.key, held)
        finally:
            stream = self.cache.current_stream() if stream is None else stream
            if stream is not None:
                lease.use_stream(stream)
            lease.end()
            self.cache.let_go(self.key, held)
            self.cache.wake()

    def _run(self) -> None:
        steps = self.steps()
        try:
            for step in steps:
                step()
        except BaseException:
            self.end()  # it may have been there already when the interrupt came
            raise
        finally:
            steps.close()

    def _enter(self) -> Any:
        self._is_entered = True
        return self.object

    def _check_entry(self) -> None:
        if self._is_entered:
            raise busy(f'{self.key} is in use by this very context: ask the cache for another one', 'use')

    def __enter__(self) -> Any:
        self._check_entry()
        if self._lease is None:
            self._run()
        return self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    async def _arun(self) -> None:
        steps = self.steps()
        pause = 0.002
        stop = threading.Event()
        try:
            while (wait := await in_thread(_advance, steps, stop, on_cancel=stop.set)) is not None:
                # A descriptor has one reader in a loop, and there may be several of us.
                await asyncio.sleep(min(wait.seconds, pause))
                pause = min(pause * 1.5, 0.01)
        except BaseException:
            await in_thread(self.end, None)  # it may have been there already when the task was canceled
            raise
        finally:
            steps.close()

    async def __aenter__(self) -> Any:
        self._check_entry()
        if self._lease is None:
            await self._arun()
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What it was used on is this thread's stream; what came anew is looked for in another one.
        await in_thread(self.end, self.cache.current_stream())


def _advance(steps: Steps, stop: threading.Event) -> Wait | None:
    """What is to be done until there is something to wait for."""
    for step in steps:
        if isinstance(step, Wait):
            return step
        step()
        if stop.is_set():
            steps.close()
    return None


async def in_thread(
    function: Callable[..., _T], *arguments: Any, on_cancel: Callable[[], None] | None = None
) -> _T:
    """As asyncio.to_thread(), but a canceled task waits: a thread cannot be stopped, and what it holds is ours."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # said to nobody, and so not missed
        raise


def _no_loader(model_id: str, quantization: str, **_: Any) -> Any:
    from .errors import invalid

    raise invalid(f'{model_id} at {quantization} is not in the cache, and no load= was given', 'load')
