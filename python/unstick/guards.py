# SPDX-License-Identifier: Apache-2.0
"""Guards: what reads the contents of an evicted module brings it back first, or raises.

A forward hook tells of a call. Saving, copying and converting tell nobody, so while a component is not resident its
modules carry instance attributes that stand before those methods; they go when the component has come back, and
nothing is slower then. Submodules carry them too: `pipe.transformer.proj_out.state_dict()` asks no other module.

They also stand in front of every submodule's forward, for a caller that reaches past the component. A tensor that is
read on its own cannot be guarded: it reads as NaN (or -1) while it is evicted.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .component import Component

STORED = (
    '_apply', 'to', 'state_dict', 'load_state_dict', 'save_pretrained', '__deepcopy__', '__reduce_ex__',
    'fuse_lora', 'unfuse_lora', 'load_lora_adapter', 'load_adapter', 'add_adapter', 'merge_adapter',
    'unmerge_adapter', 'merge_and_unload', 'fuse_qkv_projections', 'dequantize',
)  # fmt: skip
GUARDED = *STORED, 'forward'

_MISSING: Any = object()

_guarded_of: dict[type[nn.Module], tuple[str, ...]] = {}


def guarded_of(kind: type[nn.Module]) -> tuple[str, ...]:
    """The methods to guard that a class has. Looked up once: a pipeline has 1,500 modules of 30 classes."""
    names = _guarded_of.get(kind)
    if names is None:
        names = tuple(name for name in GUARDED if name == '__deepcopy__' or hasattr(kind, name))
        _guarded_of[kind] = names
    return names


class Guard:
    """Stands before one method of one module."""

    __slots__ = ('component', 'module', 'name', 'previous')

    def __init__(self, component: Component, module: nn.Module, name: str) -> None:
        self.component = component
        self.module = weakref.ref(module)
        self.name = name
        self.previous = module.__dict__.get(name, _MISSING)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module()
        if self.name == 'forward':
            with self.component.use('forward'):
                assert module is not None
                return module.forward(*args, **kwargs)
        self.component.come_back(self.name)
        if self.name == '__deepcopy__' and self.previous is _MISSING and not hasattr(type(module), '__deepcopy__'):
            import copy

            return copy.deepcopy(module, *args, **kwargs)
        return getattr(module, self.name)(*args, **kwargs)


def install(component: Component, with_forward: bool = True) -> None:
    """Without forward: for a component whose blocks come back one by one, when they are called."""
    module = component.module
    names = GUARDED if with_forward else STORED
    if module is None or component.n_guards == len(names):
        return
    if component.n_guards > len(names):
        remove(component)
    component.n_guards = len(names)
    for part in module.modules():
        own = part.__dict__
        for name in guarded_of(type(part)):
            if (with_forward or name != 'forward') and not isinstance(own.get(name), Guard):
                own[name] = Guard(component, part, name)


def remove(component: Component) -> None:
    module = component.module
    if module is None or not component.n_guards:
        return
    component.n_guards = 0
    for part in module.modules():
        own = part.__dict__
        for name in GUARDED:
            guard = own.get(name)
            if isinstance(guard, Guard) and guard.component is component:
                if guard.previous is _MISSING:
                    del own[name]
                else:
                    own[name] = guard.previous
