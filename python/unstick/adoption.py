# SPDX-License-Identifier: Apache-2.0
"""adopt(): takes the tensors of a loaded model into regions, where they are.

The object, its modules and its tensors stay the same objects: every tensor is laid over a copy of its bytes in a
region. From then on the region decides whether there is memory behind them.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import entry, guards, walk
from ._unstick import Device
from ._unstick import modules as all_modules
from .component import Component, GuardMode
from .errors import AdoptError, unsupported
from .intake import Intake, rounded, take_together
from .report import Adoption, Left
from .room import Room, room_of
from .storages import Group, Storage, by_range, by_storage, has_memory, unmovable

if TYPE_CHECKING:
    from .model import Model

PER_CALL_BYTES = 1 << 20
"""A tensor that appears later, has no name that was adopted and is smaller than this belongs to a call."""

OF_A_CALL = ('.state.idx',)
"""How names end that only tell of the last call: the columns in which bitsandbytes found outliers."""

IN_USE = 'in use by a call, taken in later'

OLDEST_TORCH = (2, 7)

_components: weakref.WeakKeyDictionary[nn.Module, Component] = weakref.WeakKeyDictionary()
_models: weakref.WeakValueDictionary[int, Model] = weakref.WeakValueDictionary()


def adopt(
    obj: Any,
    key: str | None = None,
    *,
    device: Device | str | None = None,
    guard: GuardMode = 'restore',
    tight: bool = False,
) -> Model:
    """Takes a loaded model under management: a pipeline, a module, or a dict, list or object that holds modules.

    `device` is by default where the tensors are: the GPU, or the host device for tensors on the CPU ("host:SIZE" sets
    its size). `guard="raise"` makes an evicted model raise EvictedError instead of coming back by itself. `tight` keeps
    the old and the new copy of no more than a granule (64 MiB) at a time. Adopting an object again is a refresh.

    Whatever Python holds over the same bytes moves along. What looks at them without being a tensor does not: a NumPy
    array made of one of the tensors must be gone before.
    """
    from .model import Model

    if tuple(map(int, torch.__version__.split('.')[:2])) < OLDEST_TORCH:
        raise unsupported(f'torch {torch.__version__} is too old: unstick needs 2.7 or newer', 'adopt')
    if guard not in ('restore', 'raise'):
        raise AdoptError(f'guard is {guard!r}', remedy='It is "restore" or "raise"')
    known = _models.get(id(obj))
    if known is not None and known.object is obj and not known.is_released:
        known.refresh()
        return known
    modules = walk.components(obj)
    if not modules:
        raise AdoptError(
            f'there is no torch module under this {type(obj).__name__}',
            remedy='Adopt a pipeline, an nn.Module, or a dict of modules',
        )
    refuse_offloading(obj, modules)
    room = room_of(device_of(modules, device))
    model = Model(obj, key or type(obj).__name__, room, guard, tight)
    if not model.nbytes:
        raise AdoptError(f'no tensor under this {type(obj).__name__} has any memory', remedy=str(model.adoption))
    _models[id(obj)] = model
    return model


def component_of(module: nn.Module) -> Component | None:
    """The component that a module was adopted as."""
    return _components.get(module)


def device_of(modules: dict[str, nn.Module], wanted: Device | str | None) -> Device | str:
    """The device that the tensors are on, checked against the one that was asked for."""
    where: dict[torch.device, str] = {}
    meta = []
    for name, module in modules.items():
        for found in walk.tensors(module):
            if found.tensor.is_meta:
                meta.append(f'{name}.{found.name}')
            elif found.kind != 'state':
                where.setdefault(found.tensor.device, f'{name}.{found.name}')
    if meta:
        raise AdoptError(
            f'{len(meta)} tensors are on the meta device and have no contents, the first is {meta[0]}',
            names=tuple(meta),
            remedy='Load their weights first (without disk offload)',
        )
    accelerators = [device for device in where if device.type != 'cpu']
    if len(accelerators) > 1:
        places = ', '.join(f'{where[device]} on {device}' for device in accelerators)
        raise AdoptError(
            f'the tensors are on several accelerators: {places}',
            names=tuple(where[device] for device in accelerators),
            remedy='Call pipe.reset_device_map() and move all of it to one device with .to()',
        )
    if accelerators and accelerators[0].type != 'cuda':
        raise AdoptError(f'{where[accelerators[0]]} is on {accelerators[0]}', remedy='Only CUDA and the CPU are known')
    actual = accelerators[0] if accelerators else torch.device('cpu')
    if wanted is None:
        return f'cuda:{actual.index}' if actual.type == 'cuda' else host_spec()
    if isinstance(wanted, str):
        kind = wanted.partition(':')[0]
        if kind == 'auto':
            return device_of(modules, None)
    else:
        kind = wanted.kind
    if (kind == 'cuda') != (actual.type == 'cuda'):
        raise AdoptError(
            f'the tensors are on {actual}, the device that was asked for is {wanted}',
            remedy='Move the model with .to() first, or leave device out',
        )
    return wanted


def host_spec() -> str:
    """A host device of half of the memory that is there, the same each time."""
    global _host_spec
    if not _host_spec:
        import os

        _host_spec = f'host:{os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 >> 20}MiB'
    return _host_spec


_host_spec = ''


def refuse_offloading(obj: Any, modules: dict[str, nn.Module]) -> None:
    """Two parties that move the same weights would not know of each other."""
    for name, module in modules.items():
        for part in all_modules(module):
            hook = part.__dict__.get('_hf_hook')
            registry = part.__dict__.get('_diffusers_hook')
            if hook is None and registry is None:
                continue
            part_name = next(known for known, one in module.named_modules() if one is part)
            where = f'{name}.{part_name}' if part_name else name
            for one in (hook, *getattr(hook, 'hooks', ())):
                if type(one).__name__ == 'CpuOffload' or getattr(one, 'offload', False):
                    raise AdoptError(
                        f'{where} is offloaded by accelerate ({type(one).__name__})',
                        names=(where,),
                        remedy='Call pipe.remove_all_hooks() (accelerate.hooks.remove_hook_from_module(module, '
                        'recurse=True) for a module) and move it to the device: components come back by themselves',
                    )
            for hook_name in getattr(registry, 'hooks', {}):
                if 'offload' in hook_name:
                    raise AdoptError(
                        f'{where} is under group offload of diffusers ({hook_name})',
                        names=(where,),
                        remedy=f'Call module._diffusers_hook.remove_hook({hook_name!r}, recurse=True) and move it to '
                        'the device: components come back by themselves',
                    )


class Adopter:
    """Finds what lies outside the regions and takes it in: the first time everything, later what has drifted."""

    def __init__(self, room: Room, guard: GuardMode, tight: bool) -> None:
        self.room = room
        self.guard: GuardMode = guard
        self.is_tight = tight
        self.device = room.torch_device

    def adopt(self, obj: Any, model: Model) -> Adoption:
        with _uncollected():
            report = self._adopt(obj, model, may_take=True)
        assert report is not None
        return report

    def look(self, obj: Any, model: Model) -> Adoption | None:
        """As adopt() where there is nothing to take in; where there is, None."""
        return self._adopt(obj, model, may_take=False)

    def _adopt(self, obj: Any, model: Model, may_take: bool) -> Adoption | None:
        report = Adoption()
        with self.room.lock:
            components = self._components(obj, model, report)
            wrappers: list[nn.Module] | None = None
            try:
                outside = self._outside(components, report)
                if outside and not may_take:
                    return None
                if outside:
                    wrappers = self._take(components, outside, report)
            finally:
                # What a failure left half way works like the rest: some tensors in a region, some outside.
                for component in components.values():
                    component.intake.expect_nothing()
                    component.drop_unused()
                entry.attach(list(components.values()), wrappers)
            report.still_held_bytes = sum(one.intake.still_held_bytes for one in components.values())
        return report

    def _components(self, obj: Any, model: Model, report: Adoption) -> dict[str, Component]:
        """The component of each module; one that another model has adopted is borrowed."""
        for name, module in walk.components(obj).items():
            component = _components.get(module)
            if component is not None and component.is_revoked:
                guards.remove(component)
            if component is None or component.is_revoked:
                component = _components[module] = Component(name, module, self.room, self.guard)
            elif component.room is not self.room:
                raise AdoptError(
                    f'{name} was adopted on {component.room.device.spec} already',
                    names=(name,),
                    remedy='Name that device',
                )
            else:
                other = next((other for other in component.models if other is not model), None)
                if other is not None and model not in component.models:
                    report.borrowed[name] = other.key
            component.models.add(model)
            model.components[name] = component
        return {name: one for name, one in model.components.items() if one.module is not None}

    def _outside(self, components: dict[str, Component], report: Adoption) -> dict[int, tuple[Component, walk.Found]]:
        """Tensors that should be in a region and are not, by identity; what has to stay is reported."""
        outside: dict[int, tuple[Component, walk.Found]] = {}
        regions = [(region.address, region.address + region.info()['bytes'], one)
                   for one in self.room.components for region in one.regions]  # fmt: skip
        spans = [(start, end) for start, end, _ in regions]
        tables: dict[int, str] | None = None  # looked for when there is something to look up
        for name, component in components.items():
            assert component.module is not None
            is_busy = component.is_in_use  # no new call begins while this thread holds the room's lock
            strays, hits = walk.tensors_outside(component.module, spans)
            for hit in hits:
                component.need(regions[hit][2])
            for found in strays:
                if id(found.tensor) in outside:
                    component.need(outside[id(found.tensor)][0])
                    continue
                reason = self._stays(component, found, regions)
                if reason is None and is_busy:
                    reason = IN_USE
                if reason == '':
                    continue
                if reason is None:
                    tables = walk.library_tables() if tables is None else tables
                    if id(found.tensor) in tables:
                        reason = f'a table of {tables[id(found.tensor)]} itself'
                if reason is None:
                    outside[id(found.tensor)] = component, found
                else:
                    report.left.append(Left(name, found.name, _nbytes(found.tensor), reason))
        return outside

    def _stays(
        self, component: Component, found: walk.Found, regions: list[tuple[int, int, Component]]
    ) -> str | None:
        """None: take it. '': it is where it should be, or has no bytes. Else why it stays outside."""
        tensor = found.tensor
        reason = walk.refusal(tensor)
        if reason:
            return reason
        if not has_memory(tensor):
            return ''
        if tensor.device != self.device:
            return f'on {tensor.device}'
        owner = _owner_of(tensor, regions)  # an empty one, that lies where its storage does
        if owner is not None:
            component.need(owner)
            return ''
        if found.kind == 'state' and tensor.grad_fn is not None:
            return 'part of an autograd graph'
        if f'.{found.name}'.endswith(OF_A_CALL):
            return 'of the last call'
        is_later = bool(component.intake.names) and found.name not in component.intake.names
        if found.kind == 'state' and is_later and _nbytes(tensor) < PER_CALL_BYTES:
            return 'small, and came with a call'
        return None

    def _take(
        self, components: dict[str, Component], outside: dict[int, tuple[Component, walk.Found]], report: Adoption
    ) -> list[nn.Module]:
        """Moves what lies outside into regions. Returns the wrappers of compiled modules that it came across."""
        owners = {id(found.tensor): component for component, found in outside.values()}
        storages = by_storage(found for _, found in outside.values())
        groups = by_range(storages)
        self._expect(groups, owners)
        tensors, wrappers = walk.all_tensors_and_wrappers()
        extra = self._aliases(tensors, storages, groups, owners)
        if extra:
            groups = by_range(storages + extra)
        groups_of: dict[Component, list[Group]] = {}
        for group in groups:
            own = [found for found in group.tensors if id(found.tensor) in owners]
            mine = list(dict.fromkeys(owners[id(found.tensor)] for found in own))
            reason = unmovable(group)
            if reason is not None:
                report.left += [
                    Left(owners[id(found.tensor)].name, found.name, _nbytes(found.tensor), f'shares bytes: {reason}')
                    for found in own
                ]
                continue
            groups_of.setdefault(mine[0], []).append(group)
            for other in mine[1:]:
                other.need(mine[0])
        order = list(components.values())
        for holders in (outside, tensors, storages, groups, extra):
            holders.clear()  # the old memory goes as soon as its tensors have moved
        if self.is_tight:
            take_together(groups_of, self.room, report)
        for component in sorted(groups_of, key=order.index):
            component.intake.take(groups_of.pop(component), self.is_tight, report)
        self.room.give_back()
        return wrappers

    def _expect(self, groups: list[Group], owners: dict[int, Component]) -> None:
        """Has memory come while the heap is walked: for nearly every adoption it is what is needed in the end."""
        if self.is_tight:
            return
        sizes: dict[Component, int] = {}
        for group in groups:
            owner = owners[id(group.storages[0].tensors[0].tensor)]
            sizes[owner] = sizes.get(owner, 0) + rounded(group.nbytes)
        expecting: list[Intake] = []
        total = 0
        for component, nbytes in sizes.items():
            if component.intake.expect(nbytes, beside_bytes=total):
                expecting.append(component.intake)
                total += nbytes
        for intake in expecting:
            intake.come()

    def _aliases(
        self, tensors: list[torch.Tensor], storages: list[Storage], groups: list[Group], owners: dict[int, Component]
    ) -> list[Storage]:
        """Tensors that somebody else holds over the same bytes: they move along. Returns storages not yet known."""
        known = {storage.tensors[0].tensor.untyped_storage()._cdata: storage for storage in storages}
        extra: dict[int, Storage] = {}
        for tensor in tensors:
            if id(tensor) in owners or tensor.device != self.device or not has_memory(tensor):
                continue
            storage = tensor.untyped_storage()
            found = walk.Found('(an alias)', 'alias', tensor)
            if storage._cdata in known:
                known[storage._cdata].tensors.append(found)
            elif storage._cdata in extra:
                extra[storage._cdata].tensors.append(found)
            elif _overlaps(groups, storage.data_ptr(), storage.nbytes()):
                extra[storage._cdata] = Storage(storage, storage.data_ptr(), storage.nbytes(), [found])
        return list(extra.values())


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: so many objects are made that it would look through all there are, for nothing."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def _owner_of(tensor: torch.Tensor, regions: list[tuple[int, int, Component]]) -> Component | None:
    """The component in whose region a tensor lies."""
    try:
        # Where it begins, unless it is empty; a storage lies in one region.
        address = tensor.data_ptr() or tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # it has none, or none that may be asked for
        return None
    for start, end, component in regions:
        if start <= address < end:
            return component
    return None


def _overlaps(ranges: list[Group], address: int, nbytes: int) -> bool:
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle].end <= address:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low].address < address + nbytes


def _nbytes(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage().nbytes())
    except (RuntimeError, NotImplementedError):
        return int(tensor.numel() * tensor.element_size())
