# SPDX-License-Identifier: Apache-2.0
"""Cache: models under their keys on one device. The core decides; here are the loaders, and the objects themselves."""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _unstick
from ._unstick import BusyError, Context, Device, NotFoundError, Region, Request
from .constraints import Constraints
from .errors import busy, explained, invalid
from .loading import Held, Loader, give_back
from .reclaiming import cuda
from .sizes import size_of
from .use import Demand, Steps, Use

if TYPE_CHECKING:
    from .unloading import Unloaded

BACKUP_SECONDS = 3.0
"""What clear() waits for one backup that is being written; what takes longer stays."""
NEVER_WAIT = (1 << 64) - 1


class Cache:
    """Models under their keys on one device.

        cache = unstick.Cache()
        with cache.use('black-forest-labs/FLUX.1-dev', '8-bit', load=load_flux) as pipe:
            image = pipe('a lighthouse').images[0]

    `load(model_id, quantization, **settings)` returns the model on the cache's device. It is called once per key, as
    long as the settings stay the same; from then on the model leaves the device when another one needs the room, and
    comes back bit-identical. Changed settings are another model: the old one is given up and loaded anew.

    `limit_bytes`: the most that models may hold; `host_bytes`: the most that their backups may; `working_bytes`: to be
    free beside the weights; `idle`: seconds after which what is not used leaves; `max_wait`: seconds that a demand
    waits for memory (None: as long as leases of others last; 0: not at all); `strategy="seed"`: the whole table of
    reclaiming rounds, else only what can still yield. Any thread may use it.
    """

    def __init__(
        self,
        device: Device | str = 'auto',
        *,
        limit_bytes: int = 0,
        host_bytes: int = 0,
        granule_bytes: int = 0,
        working_bytes: int | None = None,
        allow_low_memory: bool = False,
        idle: float | None = None,
        max_wait: float | None = None,
        policy: str = 'cost',
        strategy: str = 'default',
        tier: str = 'auto',
        has_backup: bool = True,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        if isinstance(device, str):
            context = Context(host_bytes=host_bytes)
            device = Device(context, device, limit_bytes=limit_bytes, granule_bytes=granule_bytes)
        elif limit_bytes or host_bytes or granule_bytes:
            raise invalid('a device that is open has its limits already; name it by a string to set them', 'Cache')
        self.device = device
        self.working_bytes = working_bytes
        self.allow_low_memory = allow_low_memory
        self.max_wait = max_wait
        self.sizes = {_unstick.key('any', name)[1]: nbytes for name, nbytes in (sizes or {}).items()}
        """Device memory that models of a quantization take, where their user knows better."""
        self.ignored: tuple[str, ...] = ()
        """Names in the constraints that mean nothing here."""
        self.last_plan: dict[str, Any] = {}
        """The result of the last way to a use, and its key: what was decided, and why."""
        self.native = _unstick.Cache(
            device,
            idle_ms=None if idle is None else int(idle * 1000),
            policy=policy,
            strategy=strategy,
            tier=tier,
            has_figures=device.kind == 'cuda',
            has_backup=has_backup,
        )
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, Held]] = {}
        self._wake = threading.Event()
        self._keeper: threading.Thread | None = None
        weakref.finalize(self, self._wake.set).atexit = False

    @classmethod
    def from_constraints(cls, constraints: Mapping[str, Any], **options: Any) -> Cache:
        """A cache from a dict of system constraints.

        gpu_device ("auto", "cuda:1", 1, "NVIDIA L4 (22 GB)", "cpu"), gpu_memory_fraction, gpu_memory_gb,
        cpu_memory_gb, max_memory, allow_low_memory (by its value) and {4-bit,8-bit,none}_memory_gb are honoured; names
        that mean nothing here are listed in `ignored`.
        """
        read = Constraints(constraints)
        cache = cls(**{**read.options(), **options})
        cache.ignored = read.ignored
        return cache

    def __repr__(self) -> str:
        return f'<unstick.Cache on {self.device.spec}: {len(self._held)} models>'

    # --- use ---

    def use(
        self,
        model_id: str,
        quantization: str = 'none',
        *,
        load: Loader | None = None,
        components: tuple[str, ...] | None = None,
        required_bytes: int = 0,
        working_bytes: int | None = None,
        allow_low_memory: bool | None = None,
        max_wait: float | None = None,
        verify: bool = False,
        holder: int = 0,
        strategy: str = 'default',
        constraints: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Use:
        """The model, on the device and in use for as long as the context lasts.

        A pipeline of which not all fits runs all the same: its smallest component is leased, the others come back by
        themselves when they are called, and make room for one another. `components` names what is leased instead.
        `required_bytes`: what it takes, where neither its files nor an earlier run say it. `constraints`: limits of
        this use alone, as from_constraints() takes them. `strategy="seed"`: as of a Cache, for this use. `settings` are
        passed to the loader, and part of what the entry is.
        """
        fingerprint = _fingerprint(settings)
        key, name = _unstick.key(model_id, quantization)
        limits: dict[str, Any] = {}
        if constraints is not None:
            read = Constraints(constraints, self.device.spec)
            limits |= read.limits(int(self.device.info()['total_bytes']))
            required_bytes = required_bytes or read.sizes.get(name, 0)
            known = [(other, nbytes, 'rules') for other, nbytes in read.sizes.items() if other != name]
            if known:
                limits['alternatives'] = known
            allow_low_memory = read.allow_low_memory if allow_low_memory is None else allow_low_memory
        fields = self._fields(key, name, model_id, fingerprint, required_bytes, working_bytes) | limits
        wait = self.max_wait if max_wait is None else max_wait
        fields['allow_low_memory'] = self.allow_low_memory if allow_low_memory is None else allow_low_memory
        fields['max_wait_ms'] = 0 if wait is None else max(1, int(wait * 1000)) if wait > 0 else NEVER_WAIT
        fields['has_verify'] = verify
        fields['holder'] = holder
        fields['is_seed'] = _is_seed(strategy)
        return Use(self, Demand(key, model_id, name, fingerprint, load, settings, components, fields))

    def ause(self, model_id: str, quantization: str = 'none', **options: Any) -> Use:
        """The same for `async with`; the loader runs in a thread, and nothing blocks the loop."""
        import asyncio

        options.setdefault('holder', _id_of(asyncio.current_task()))
        return self.use(model_id, quantization, **options)

    def steps(self, model_id: str, quantization: str = 'none', **options: Any) -> Steps:
        """The same for an engine that takes callables: `use = yield from cache.steps(...)`, then `with use as pipe:`.

        Each callable is run by the engine, in a thread of its choice, before it comes for the next one.
        """
        use = self.use(model_id, quantization, **options)
        if not options.get('holder'):
            use._demand.fields['holder'] = _id_of(use)
        yield from use.steps()
        return use

    def preload(self, model_id: str, quantization: str = 'none', **options: Any) -> dict[str, Any]:
        """Brings a model to the device without using it; returns how that went."""
        use = self.use(model_id, quantization, **options)
        use._demand.fields['is_preload'] = True
        use._run()
        return use.result

    def prefetch(self, model_id: str, quantization: str = 'none', **options: Any) -> bool:
        """The same, only if nothing has to leave and nothing to be waited for; False if it was not done."""
        use = self.use(model_id, quantization, **options)
        use._demand.fields['is_prefetch'] = True
        use._run()
        return bool(use.result['verdict'] != 'refused')

    # --- entries ---

    def evict(self, model_id: str, quantization: str = 'none') -> dict[str, Any]:
        """Has a model leave the device, when those who use it have ended; its contents stay."""
        key = _unstick.key(model_id, quantization)[0]
        request = self.native.evict(key)
        try:
            while (action := self.next(request)) is not None:
                if action[0] == 'wait':
                    request.poll()
            error, result = request.error(), request.result()
        finally:
            request.close()
        if error is not None:
            raise explained(error, key, result)
        return result

    def drop(self, model_id: str, quantization: str = 'none') -> None:
        """Forgets a model: its memory and its backup go, and using it is an error. BusyError while it is in use."""
        self._drop(_unstick.key(model_id, quantization)[0])

    def _drop(self, key: str, patience: float = math.inf) -> None:
        started = time.monotonic()
        while True:
            with self._lock:
                known = self._held.get(key)
            if self._try_to_drop(key):
                break
            if time.monotonic() - started > patience:
                raise busy(f'{key}: somebody is on the way to it', 'drop')
            time.sleep(0.002)  # its backup is being written, which ends by itself
            self.native.step()
        if known is not None:
            self.forget(key, known[1])
            known[1].release(self.regions())

    def _try_to_drop(self, key: str) -> bool:
        try:
            self.native.drop(key)
        except BusyError:
            entries = [one for one in self.native.entries() if one['key'] == key]
            if any(one['n_leases'] or one['state'] == 'loading' for one in entries):
                raise
            return False
        return True

    def pin(self, model_id: str, quantization: str = 'none', is_pinned: bool = True) -> None:
        """A pinned model never leaves to make room."""
        self.native.pin(_unstick.key(model_id, quantization)[0], is_pinned)

    def idle(self, model_id: str, quantization: str = 'none', seconds: float | None = None) -> None:
        """How long a model may be idle before it leaves: 0: it leaves at once; None: it may stay."""
        ms = None if seconds is None else int(seconds * 1000)
        self.native.set_idle(_unstick.key(model_id, quantization)[0], ms)
        self.wake()

    def entries(self) -> list[dict[str, Any]]:
        """The entries as data: state, bytes by tier, counts and times; their components under "components"."""
        found = self.native.entries()
        for entry in found:
            try:
                entry['components'] = self.native.components(entry['key'])
            except NotFoundError:  # dropped meanwhile
                entry['components'] = []
        return found

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """What happened after event number `since`, oldest first; the last 256 are kept."""
        return self.native.events(since)

    def report(self) -> str:
        """Per model, component and tier where everything is."""
        from .report import size

        info = self.device.info()
        lines = [
            f'{info["name"]} ({self.device.spec}): {size(info["resident_bytes"])} of models, '
            f'{size(info["used_bytes"])} of {size(info["total_bytes"])} in use'
        ]
        for entry in self.entries():
            tiers = ', '.join(f'{size(entry[f"{tier}_bytes"])} {tier}' for tier in ('pinned', 'pageable', 'file')
                              if entry[f'{tier}_bytes'])  # fmt: skip
            lines.append(
                f'  {entry["key"]}: {entry["state"]}, {size(entry["resident_bytes"])} of {size(entry["bytes"])}'
                + (f', backup {tiers}' if tiers else '')
                + (f', in use {entry["n_leases"]} times' if entry['n_leases'] else '')
                + (', pinned' if entry['is_pinned'] else '')
                + f'; {entry["n_hits"]} hits, {entry["n_restores"]} restores, {entry["n_loads"]} loads'
            )
            lines += [
                f'    {one["name"]}: {size(one["resident_bytes"])} of {size(one["bytes"])}'
                for one in entry['components']
            ]
        return '\n'.join(lines)

    def unload(
        self,
        keys: Iterable[str] | None = None,
        *,
        waits: bool = False,
        forgets: bool = False,
        check: Callable[[], None] | None = None,
    ) -> Unloaded:
        """Has models leave the device now, all if no keys are given, and says how much the device has got back.

        What is in use stays, unless `waits`: then its users are waited for. `forgets`: their contents go, too.
        `check` is called while it waits; what it raises ends the wait.
        """
        from .unloading import unload

        return unload(self, keys, waits=waits, forgets=forgets, check=check)

    def clear(self) -> None:
        """Drops every model that is not in use, and that nobody is on the way to."""
        for entry in self.native.entries():
            with suppress(BusyError, NotFoundError):
                self._drop(entry['key'], patience=BACKUP_SECONDS)

    # --- for Use ---

    @property
    def most_bytes(self) -> int:
        """What models could have together at best."""
        info = self.device.info()
        return min(info['limit_bytes'] or info['total_bytes'], info['total_bytes'])

    @property
    def usable_bytes(self) -> int:
        """The same without what the device keeps for itself."""
        info = self.device.info()
        return self.most_bytes - info['sentinel_bytes'] - info['poisoned_bytes']

    def part_of(self, key: str, fingerprint: str) -> tuple[str, ...] | None:
        """What a use leases of a pipeline that is larger than the device; None: all of it."""
        with self._lock:
            known = self._held.get(key)
        return known[1].part if known is not None and known[0] == fingerprint else None

    def add_rest(self, key: str, held: Held) -> None:
        """What joins the entry after the request that loaded it."""
        part = held.part
        for name, region in held.regions.items():
            if part is not None and name not in part:
                self.native.add(key, name, region)

    def next(self, request: Request, **report: Any) -> Any:
        """The next action of a request, which may have had models leave."""
        self.guard()
        return request.next(**report)

    def guard(self) -> None:
        with self._lock:
            held = [one for _, one in self._held.values()]
        for one in held:
            one.guard()

    def held(self, key: str) -> Held:
        with self._lock:
            return self._held[key][1]

    def regions(self) -> list[Region]:
        """Of all models that are held."""
        with self._lock:
            held = [one for _, one in self._held.values()]
        return [region for one in held for region in one.regions.values()]

    def keep(self, key: str, fingerprint: str, held: Held) -> None:
        with self._lock:
            self._held[key] = fingerprint, held

    def take_held(self, key: str) -> Held | None:
        with self._lock:
            found = self._held.pop(key, None)
        return found[1] if found is not None else None

    def forget(self, key: str, held: Held) -> None:
        """Lets go of a model, unless another one has come under its key."""
        with self._lock:
            if key in self._held and self._held[key][1] is held:
                del self._held[key]

    def take_new(self, key: str, held: Held) -> None:
        """What came to a model during its use belongs to its entry."""
        held.refresh()
        for name, region in held.take_new().items():
            self.native.add(key, name, region)

    def let_go(self, key: str, held: Held) -> None:
        for name in held.gone():
            with suppress(BusyError):  # it goes at the next look
                self._remove(key, name)
                held.forget(name)

    def _remove(self, key: str, name: str) -> None:
        with suppress(NotFoundError):
            self.native.remove(key, name)

    def give_back(self) -> None:
        if not any(entry['n_leases'] for entry in self.native.entries()):
            give_back(self.device)

    def current_stream(self) -> int | None:
        torch = cuda() if self.device.kind == 'cuda' else None
        return int(torch.cuda.current_stream(self.device.index).cuda_stream) if torch is not None else None

    def wake(self) -> None:
        """Has the keeper look: it backs up behind a use, and has leave what was idle for too long."""
        if self._keeper is None and not _is_ending:
            with self._lock:
                if self._keeper is None:
                    self._keeper = threading.Thread(
                        target=_keep, args=(weakref.ref(self), self._wake), name='unstick-cache', daemon=True
                    )
                    _keepers[self._keeper] = self._wake
                    self._keeper.start()
        self._wake.set()

    def _fields(
        self, key: str, name: str, model_id: str, fingerprint: str, required_bytes: int, working_bytes: int | None
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {'working_bytes': working_bytes or self.working_bytes or 0}
        required_bytes = required_bytes or self.sizes.get(name, 0)
        with self._lock:
            known = self._held.get(key)
        if required_bytes:
            fields |= {'required_bytes': required_bytes, 'basis': 'rules'}
        elif known is None or known[0] != fingerprint:
            size = size_of(model_id, name, key, fingerprint)
            fields |= {'required_bytes': size.nbytes, 'basis': size.basis, 'alternatives': size.alternatives}
            if working_bytes is None and self.working_bytes is None and self.device.kind == 'cuda':
                fields['working_bytes'] = size.working_bytes
        self._fit(fields)
        return fields

    def _fit(self, fields: dict[str, Any]) -> None:
        """A pipeline over the limit, but not over the device, can be loaded, and then runs component by component."""
        usable = self.usable_bytes
        required = fields.get('required_bytes', 0)
        if usable < required <= self.device.info()['total_bytes'] and find_spec('torch') is not None:
            fields['required_bytes'] = max(usable - fields['working_bytes'], 1)


_keepers: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()
_is_ending = False


def _keep(ref: weakref.ref[Cache], wake: threading.Event) -> None:
    while not _is_ending and (cache := ref()) is not None:
        try:
            cache.guard()
            timeout_ms = cache.native.step()
        except _unstick.ForkedError:
            return
        del cache
        wake.wait(None if timeout_ms < 0 else timeout_ms / 1000)
        wake.clear()


def _end_keepers() -> None:
    """At exit, before the interpreter goes: it would end these threads by force, in the middle of whatever they do."""
    global _is_ending
    _is_ending = True
    for keeper, wake in list(_keepers.items()):
        while keeper.is_alive() and keeper is not threading.current_thread():
            wake.set()  # again and again: it may be about to clear it
            keeper.join(0.01)


atexit.register(_end_keepers)


def _fingerprint(settings: dict[str, Any]) -> str:
    texts = []
    for name, value in settings.items():
        text = repr(value)
        if ' at 0x' in text:
            raise invalid(
                f'{name} is a {type(value).__name__} whose repr changes: settings say what was loaded; let the loader '
                'close over it instead',
                'use',
            )
        texts.append(f'{name}={text}'.replace('\n', ' '))
    return _unstick.fingerprint(texts) if texts else ''


def _is_seed(strategy: str) -> bool:
    if strategy not in ('default', 'seed'):
        raise invalid(f'strategy is {strategy!r}: it is "default" or "seed"', 'use')
    return strategy == 'seed'


def _id_of(obj: object) -> int:
    return id(obj) & ((1 << 63) - 1)
