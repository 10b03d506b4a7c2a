# SPDX-License-Identifier: Apache-2.0
"""Where a call enters a component: hooks that bring it back, lease it for the call, and let go at the end.

They sit on the module and on its direct children: a VAE's encode() and decode() fire no hook of their own, but they
call `encoder` and `decoder`. Compiled code must not see them (it would trace them), so while torch.compile looks they
do nothing, and the hooks of a compiled module sit on its wrapper instead, outside of what is compiled.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._unstick import instances, modules
from .guards import names_of
from .walk import wrapper_type

if TYPE_CHECKING:
    from .component import Component
    from .slices import Slices


def nothing(*_: Any) -> None:
    """What a hook becomes in a copy of the module: the copy is not adopted."""


def no_hook() -> Any:
    return nothing


class _Hook:
    def __deepcopy__(self, memo: Any) -> Any:
        return nothing

    def __reduce__(self) -> Any:
        return no_hook, ()


class _CallHook(_Hook):
    def __init__(self, component: Component, compiled: nn.Module | None = None) -> None:
        self.component = component
        self.compiled = compiled
        """What a wrapper of torch.compile() stands for."""


class Before(_CallHook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self.component.enter(module)
            if self.compiled is not None:
                self.component.slices.enter_all(self.compiled, module)


class After(_CallHook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for node in _graphs_of(output):  # backward will read the weights: the use ends when the graph has gone
            node.metadata.setdefault('unstick', []).append(_Held(self.component))
        if isinstance(sys.exception(), torch.OutOfMemoryError):
            self.component.working.fail()
        if self.compiled is not None:
            self.component.slices.leave_all(self.compiled, module)
        self.component.leave(module)


class _Held:
    """A use that lasts as long as an autograd graph."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.thread = threading.get_ident()
        self.held = component.hold()

    def __del__(self) -> None:
        self.component.let_go(self.held, self.thread)


def _graphs_of(output: Any) -> set[Any]:
    """Where the graphs of the outputs begin: none need be a part of another."""
    if not torch.is_grad_enabled():
        return set()
    if isinstance(output, torch.Tensor):
        return {output.grad_fn} - {None} if output.requires_grad else set()
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return set().union(*map(_graphs_of, output))
    return set()


class _BlockHook(_Hook):
    def __init__(self, slices: Slices) -> None:
        self.slices = slices


class BeforeBlock(_BlockHook):
    def __call__(self, block: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self.slices.enter(block, block)


class AfterBlock(_BlockHook):
    def __call__(self, block: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.slices.leave(block, block)


class CompiledCall:
    """Stands before what module.compile() has put in place of the module's call."""

    def __init__(self, component: Component, module: nn.Module, call: Any) -> None:
        self.component = component
        self.module = module
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.call(*args, **kwargs)
        slices = self.component.slices
        with self.component.use('forward'):
            try:
                slices.enter_all(self.module, None)
                return self.call(*args, **kwargs)
            finally:
                slices.leave_all(self.module, None)

    def __reduce__(self) -> Any:
        return self.call.__reduce__()


class _Wrappers:
    """Whether torch.compile() has wrapped a module since somebody looked through the heap: that takes long.

    A wrapper holds its class, so a new one shows in how often that is held, less those that have died; and it holds its
    module, which shows by itself where another reference to the class went at the same time.
    """

    def __init__(self) -> None:
        self._known: list[weakref.ref[nn.Module]] = []
        self._n_references = 0

    def look(self, kind: type[nn.Module], is_suspected: bool) -> list[nn.Module] | None:
        """All of them; None if there is none that was not there last time."""
        n_dead = sum(ref() is None for ref in self._known)
        if not is_suspected and sys.getrefcount(kind) <= self._n_references - n_dead:
            return None
        wrappers = instances(kind)[0]
        self.note(kind, wrappers)
        return wrappers

    def note(self, kind: type[nn.Module], wrappers: list[nn.Module]) -> None:
        self._known = [weakref.ref(wrapper) for wrapper in wrappers]
        self._n_references = sys.getrefcount(kind)


_wrappers = _Wrappers()


def attach(components: list[Component], wrappers: list[nn.Module] | None = None) -> None:
    """Puts hooks where calls enter, and before compiled calls; calling it again adds what has come since.

    `wrappers` are all wrappers of compiled modules, where somebody has looked for them already.
    """
    owners: dict[nn.Module, Component] = {}
    is_suspected = False
    for component in components:
        module = component.module
        if module is None:
            continue
        n_references = sys.getrefcount(module)
        is_suspected |= n_references > component.n_references
        component.n_references = n_references
        for part in (module, *module.children()):
            if type(part).forward is not nn.Module.forward:
                _attach(part, component)
        parts = modules(module)
        component.n_modules = len(parts)
        names_of(parts, with_forward=True)  # found out now: the first eviction would have to wait for it
        for part in parts:
            owners[part] = component
            call = part._compiled_call_impl
            if isinstance(call, CompiledCall):
                call.component = _heir(call.component, component)
            elif call is not None:
                part._compiled_call_impl = CompiledCall(component, part, call)
    kind = wrapper_type()
    if kind is not None:
        if wrappers is None:
            wrappers = _wrappers.look(kind, is_suspected)
        else:
            _wrappers.note(kind, wrappers)
    for wrapper in wrappers or ():
        inner = wrapper.__dict__.get('_modules', {}).get('_orig_mod')
        if inner in owners:
            _attach(wrapper, owners[inner], inner)


def _attach(module: nn.Module, component: Component, compiled: nn.Module | None = None) -> None:
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    known = [hook for hook in hooks if isinstance(hook, _CallHook)]
    for hook in known:
        hook.component = _heir(hook.component, component)
    if not known:
        module.register_forward_pre_hook(Before(component, compiled), prepend=True)
        module.register_forward_hook(After(component, compiled), always_call=True)


def _heir(known: Component, component: Component) -> Component:
    """Who is asked when a module is called: its first component, unless that was revoked and it was adopted anew."""
    return component if known.is_revoked else known


def attach_block(block: nn.Module, slices: Slices) -> None:
    """Puts hooks on a block of a component that runs block by block; calling it again changes nothing."""
    if not any(isinstance(hook, BeforeBlock) for hook in block._forward_pre_hooks.values()):
        block.register_forward_pre_hook(BeforeBlock(slices), prepend=True)
        block.register_forward_hook(AfterBlock(slices), always_call=True)
