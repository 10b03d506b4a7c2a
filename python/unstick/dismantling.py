# SPDX-License-Identifier: Apache-2.0
"""dismantle(): takes a pipeline apart, so that its memory goes now and not when somebody happens to collect garbage.

Nothing is copied to the CPU on the way: hooks and the device map are taken off by hand, where the libraries' own calls
would move every weight first. A component is destroyed only when nobody outside the pipeline holds it. Who does is not
asked beforehand, which is a guess, but afterwards: the pipeline lets go of its parts, the collector runs once, and
what is still there is held from outside. That is kept whole and named; `force=True` empties it all the same.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from . import walk
from .adoption import component_of
from .errors import AdoptError
from .heap import holders
from .report import size
from .storages import has_memory


@dataclass(frozen=True, slots=True)
class Survivor:
    """What outlived the pipeline, and who holds it."""

    name: str
    nbytes: int
    holders: tuple[str, ...]
    is_emptied: bool

    def __str__(self) -> str:
        what = 'emptied' if self.is_emptied else 'kept'
        return f'{self.name}: {size(self.nbytes)} {what}, held by {"; ".join(self.holders) or "C++ or a running frame"}'


@dataclass(slots=True)
class Dismantled:
    """What dismantle() did."""

    components: tuple[str, ...] = ()
    survivors: list[Survivor] = field(default_factory=list)
    freed_bytes: int = 0
    """What the device got back, by its own reading; on the host, what died or was emptied."""
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f'dismantled {", ".join(self.components)}: {size(self.freed_bytes)} in {self.seconds * 1000:.0f} ms']
        return '\n'.join(lines + [f'  {survivor}' for survivor in self.survivors])


def dismantle(obj: Any, *, force: bool = False) -> Dismantled:
    """Takes a pipeline (or a dict of modules) apart and gives its memory back.

    What somebody outside holds (another pipeline that shares the T5, a list, a closure) is kept whole and named, with
    its holders; `force=True` takes its contents away: storages are emptied, and regions of an adopted one revoked.
    """
    started = time.monotonic()
    modules = walk.components(obj)
    if isinstance(obj, nn.Module) or not modules:
        raise AdoptError(
            f'a {type(obj).__name__} has no components to take apart',
            remedy='Pass the pipeline, or a dict that holds the modules',
        )
    result = Dismantled(components=tuple(modules))
    before = _device_free(modules)
    remains = [_Remains(name, module) for name, module in modules.items()]
    modules.clear()
    _detach(obj)
    gc.collect()

    for one in remains:
        nbytes = one.living_bytes()
        if not nbytes:
            continue
        result.survivors.append(Survivor(one.name, nbytes, one.holders(), force))
        if force:
            one.empty()
    total = sum(one.nbytes for one in remains)
    survived = 0 if force else sum(one.nbytes for one in result.survivors)
    result.freed_bytes = total - survived
    if before is not None:
        _give_back()
        after = torch.cuda.mem_get_info(before[0])[0]
        result.freed_bytes = max(0, after - before[1])
    result.seconds = time.monotonic() - started
    return result


class _Remains:
    """Weak references to a component and all its tensors: what is alive afterwards is held by somebody else."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.component = component_of(module)
        self._module = weakref.ref(module)
        tables = walk.library_tables()
        found = [one.tensor for one in walk.tensors(module) if has_memory(one.tensor) and id(one.tensor) not in tables]
        self._tensors = [weakref.ref(tensor) for tensor in found]
        self.nbytes = self.living_bytes()

    def _living(self) -> list[torch.Tensor]:
        alive = (ref() for ref in self._tensors)
        return [tensor for tensor in alive if tensor is not None and has_memory(tensor)]

    def living_bytes(self) -> int:
        storages = (tensor.untyped_storage() for tensor in self._living())
        return sum({storage._cdata: storage.nbytes() for storage in storages}.values())

    def holders(self) -> tuple[str, ...]:
        """Who refers to the module, or to the first tensor that is left of it: the shortest chains."""
        return _chains_to(self._module() or next(iter(self._living()), None))

    def empty(self) -> None:
        """Takes the contents away from whoever holds them."""
        module = self._module()
        if self.component is not None:
            self.component.revoke()
            return
        if module is not None:
            strip(module)
        for tensor in self._living():
            tensor.grad = None
            with torch.inference_mode(tensor.is_inference()):
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _chains_to(target: Any) -> tuple[str, ...]:
    own = f'{sys._getframe().f_code.co_name}()'
    return tuple(chain.text for chain in holders(target, limit=5) if not (chain.kind == 'frame' and own in chain.text))


def _detach(obj: Any) -> None:
    """The object lets go of its components, its hooks and its device map; nothing is moved."""
    own = obj if isinstance(obj, dict) else getattr(obj, '__dict__', {})
    for name, value in list(own.items()):
        if isinstance(value, nn.Module):
            # accelerate chains the components, so that one would keep the others.
            for hook in (value.__dict__.get('_hf_hook'), getattr(value, '_hf_hook', None)):
                if getattr(hook, 'prev_module_hook', None) is not None:
                    hook.prev_module_hook = None  # type: ignore[union-attr]
            own[name] = None
        elif name.startswith(('tokenizer', 'feature_extractor', 'image_processor', 'scheduler')):
            own[name] = None
    if not isinstance(obj, dict):
        own.pop('_all_hooks', None)
        if own.get('hf_device_map') is not None:
            own['hf_device_map'] = None


def strip(module: nn.Module) -> None:
    """Takes hooks, the device map and int8 state off a module that is about to go, and copies nothing."""
    for part in module.modules():
        own = part.__dict__
        # accelerate leaves its wrapper in the instance, also when asked to remove the hook: a cycle.
        if '_old_forward' in own or '_hf_hook' in own:
            for name in ('forward', '_old_forward', '_hf_hook'):
                own.pop(name, None)
        for name in ('to', 'cuda'):
            if name in own and '_hf_hook' not in own:
                own.pop(name)
        registry = own.pop('_diffusers_hook', None)
        if registry is not None:
            own.pop('forward', None)
            registry._module_ref = None
        own.pop('hf_device_map', None)
        for parameter in part._parameters.values():
            extra = getattr(parameter, '__dict__', {})
            extra.pop('module', None)  # bitsandbytes: Params4bit -> Linear4bit -> Params4bit
            for name in ('CB', 'SCB'):
                if extra.get(name) is not None:
                    extra[name] = None
            if parameter is not None:
                parameter.grad = None
        state = own.get('state')
        for name in ('CB', 'SCB'):
            if getattr(state, name, None) is not None:
                setattr(state, name, None)


def _device_free(modules: dict[str, nn.Module]) -> tuple[torch.device, int] | None:
    for module in modules.values():
        for parameter in module.parameters():
            if parameter.device.type == 'cuda':
                return parameter.device, torch.cuda.mem_get_info(parameter.device)[0]
    return None


def _give_back() -> None:
    """torch's own caches: cuBLAS workspaces pin whole segments, so they go before empty_cache()."""
    from .room import is_anything_leased

    if is_anything_leased():
        return
    clear = getattr(torch._C, '_cuda_clearCublasWorkspaces', None)
    if clear is not None:
        clear()
    torch.cuda.empty_cache()
