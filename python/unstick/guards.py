# SPDX-License-Identifier: Apache-2.0
"""Guards: what reads the contents of an evicted module brings it back first, or raises.

A forward hook tells of a call. Saving, copying and converting tell nobody, so while a component is not resident its
modules carry instance attributes that stand before those methods; they go when the component has come back, and
nothing is slower then. Submodules carry them too: `pipe.transformer.proj_out.state_dict()` asks no other module.

They also stand in front of every submodule's forward, for a caller that reaches past the component. A tensor that is
read on its own cannot be guarded: it reads as NaN (or -1) while it is evicted.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from . import _unstick
from ._unstick import guards_put, guards_take, modules

if TYPE_CHECKING:
    from .component import Component

STORED = (
    '_apply', 'to', 'state_dict', 'load_state_dict', '_load_from_state_dict', 'save_pretrained', '__deepcopy__',
    '__reduce_ex__', 'fuse_lora', 'unfuse_lora', 'load_lora_adapter', 'load_adapter', 'add_adapter', 'merge_adapter',
    'unmerge_adapter', 'merge_and_unload', 'merge', 'unmerge', 'fuse_qkv_projections', 'dequantize',
)  # fmt: skip

_COMES_TO = {'to': '_apply', 'load_state_dict': '_load_from_state_dict', '__deepcopy__': '__reduce_ex__'}
"""What a method that a class has from nn.Module comes to before it reads anything: a guard there is enough."""

_names_of: dict[bool, dict[type[nn.Module], tuple[str, ...]]] = {True: {}, False: {}}
"""The methods to guard that a class has, with and without forward: a pipeline has 1,500 modules of 30 classes."""


def names_of(parts: list[nn.Module], with_forward: bool) -> dict[type[nn.Module], tuple[str, ...]]:
    known = _names_of[with_forward]
    names = (*STORED, 'forward') if with_forward else STORED
    for kind in set(map(type, parts)).difference(known):
        known[kind] = tuple(name for name in names if hasattr(kind, name) and not _is_covered(kind, name))
    return known


def _is_covered(kind: type[nn.Module], name: str) -> bool:
    return name in _COMES_TO and getattr(kind, name) is getattr(nn.Module, name, None)


class Guard(_unstick.Guard):
    """Stands before one method of one module."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name == 'forward' and not self.component.slices.are_there_for(self.module()):
            with self.component.use('forward'):
                return self._behind()(*args, **kwargs)
        if self.name != 'forward':
            self.component.come_back(self.name)
        return self._behind()(*args, **kwargs)

    def _behind(self) -> Callable[..., Any]:
        """What it stands before. Not what the module has under that name, which may be this guard, or call it.

        Guards stay while a call holds the component and another thread waits to evict it; whoever wrapped the method
        meanwhile holds the guard; and a module that was taken out of the component has its guards still.
        """
        module = self.module()
        assert module is not None
        if self.component.is_guarded_with_forward is None and vars(module).get(self.name) is self:
            _take(self.component, modules(module))
        if hasattr(self, 'previous'):
            return cast(Callable[..., Any], self.previous)
        method = getattr_static(type(module), self.name)
        return cast(Callable[..., Any], method.__get__(module, type(module)))


def install(component: Component, with_forward: bool = True) -> None:
    """Without forward: for a component whose blocks come back one by one, when they are called."""
    module = component.module
    if module is None or component.is_guarded_with_forward is with_forward:
        return
    if component.is_guarded_with_forward:
        remove(component)
    component.is_guarded_with_forward = with_forward
    parts = modules(module)
    guards_put(Guard, component, parts, names_of(parts, with_forward), tuple(_COMES_TO))


def guarded(component: Component) -> list[nn.Module]:
    """The modules of a component that have guards now: found before there is something to wait for."""
    module = component.module
    return modules(module) if module is not None and component.is_guarded_with_forward is not None else []


def remove(component: Component, parts: list[nn.Module] | None = None) -> None:
    """With `parts` what guarded() returned."""
    module = component.module
    if module is None or component.is_guarded_with_forward is None:
        return
    component.is_guarded_with_forward = None
    _take(component, modules(module) if parts is None else parts)


def _take(component: Component, parts: list[nn.Module]) -> None:
    guards_take(component, parts, names_of(parts, True), tuple(_COMES_TO))
