# SPDX-License-Identifier: Apache-2.0
"""What belongs to a model: the tensors of the modules under it, found by walking, not by a list of names.

Parameters and buffers are where nn.Module keeps them. Quantization keeps more: bitsandbytes in attributes of the
weight (CB, SCB, quant_state with its nested state2) and of the layer (state.CB), torchao and quanto in the inner
tensors of wrapper subclasses. So whatever a module's or tensor's own attributes lead to is walked, through containers
and plain objects; it ends at other pipelines, Python modules, classes, functions, frames and threads.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ._unstick import instances
from .guards import Guard

Kind = Literal['parameter', 'buffer', 'state', 'alias']

_ATOMS = frozenset({
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type, range, slice,
    Guard,
})  # fmt: skip

_ENDS = (
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.FrameType,
    types.GeneratorType, types.CoroutineType, types.CodeType, types.TracebackType, weakref.ReferenceType,
    threading.Thread, logging.Logger, type, torch.Generator, torch.UntypedStorage, functools.partial,
)  # fmt: skip

# What nn.Module and its hooks keep beside tensors.
_BOOKKEEPING = frozenset({
    'training', '_parameters', '_buffers', '_modules', '_non_persistent_buffers_set', '_backward_pre_hooks',
    '_backward_hooks', '_is_full_backward_hook', '_forward_hooks', '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called', '_forward_pre_hooks', '_forward_pre_hooks_with_kwargs', '_state_dict_hooks',
    '_state_dict_pre_hooks', '_load_state_dict_pre_hooks', '_load_state_dict_post_hooks', '_hf_hook', '_diffusers_hook',
    '_compiled_call_impl',
})  # fmt: skip


_PLAIN = frozenset({torch.Tensor, nn.Parameter})

_LIBRARIES = ('bitsandbytes', 'torchao', 'optimum')


class Found(NamedTuple):
    """A tensor, and the way to it from its component."""

    name: str
    kind: Kind
    tensor: torch.Tensor


def is_pipeline(obj: object) -> bool:
    """A pipeline of diffusers or transformers: something that has components, and is none."""
    return any(
        base.__name__ in ('DiffusionPipeline', 'Pipeline')
        and base.__module__.partition('.')[0] in ('diffusers', 'transformers')
        for base in type(obj).__mro__
    )


def components(obj: Any) -> dict[str, nn.Module]:
    """The modules under an object, by name: a module itself, a pipeline's components, what a container or object holds.

    A module that is there under two names counts once, under the first.
    """
    if isinstance(obj, nn.Module):
        return {type(obj).__name__: obj}
    named: Iterable[tuple[Any, Any]]
    if isinstance(getattr(obj, 'components', None), Mapping):
        named = obj.components.items()
    elif isinstance(obj, Mapping):
        named = obj.items()
    elif isinstance(obj, (list, tuple)):
        named = enumerate(obj)
    else:
        named = getattr(obj, '__dict__', {}).items()

    result: dict[str, nn.Module] = {}
    for name, value in named:
        if isinstance(value, nn.Module) and not any(value is other for other in result.values()):
            result[str(name)] = value
    return result


def tensors(module: nn.Module) -> Iterator[Found]:
    """Every tensor that belongs to a module, once; gradients excepted, they belong to training."""
    seen: set[int] = set()
    todo = list(module.named_modules())
    seen.update(id(part) for _, part in todo)
    while todo:
        prefix, part = todo.pop()
        dot = prefix + '.' if prefix else ''
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield from _reach(dot + name, parameter, 'parameter', seen, todo)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                yield from _reach(dot + name, buffer, 'buffer', seen, todo)
        for name, value in part.__dict__.items():
            if name not in _BOOKKEEPING and type(value) not in _ATOMS:
                yield from _reach(dot + name, value, 'state', seen, todo)


def _reach(
    name: str, obj: Any, kind: Kind, seen: set[int], modules: list[tuple[str, nn.Module]]
) -> Iterator[Found]:
    todo = [(name, obj, kind)]
    while todo:
        name, obj, kind = todo.pop()
        if type(obj) in _ATOMS or id(obj) in seen:
            continue
        if isinstance(obj, torch.Tensor):
            seen.add(id(obj))
            if type(obj) not in _PLAIN and is_traceable_wrapper_subclass(obj):
                todo += [(f'{name}.{inner}', getattr(obj, inner), kind) for inner in obj.__tensor_flatten__()[0]]
            else:
                yield Found(name, kind, obj)
            own = getattr(obj, '__dict__', None)
            if own:
                todo += [(f'{name}.{key}', value, 'state') for key, value in own.items() if type(value) not in _ATOMS]
            continue
        if isinstance(obj, _ENDS):
            continue
        seen.add(id(obj))
        if isinstance(obj, nn.Module):
            # One that its owner keeps in a plain list or attribute.
            modules += [(f'{name}.{below}' if below else name, part) for below, part in obj.named_modules()
                        if id(part) not in seen or part is obj]  # fmt: skip
            seen.update(id(part) for part in obj.modules())
        elif isinstance(obj, Mapping):
            todo += [(f'{name}[{key!r}]', value, 'state') for key, value in obj.items()]
        elif isinstance(obj, (list, tuple, set, frozenset)):
            todo += [(f'{name}[{index}]', value, 'state') for index, value in enumerate(obj)]
        elif not is_pipeline(obj):
            todo += [(f'{name}.{key}', value, 'state') for key, value in _attributes(obj) if type(value) not in _ATOMS]


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(obj, '__dict__', {}).items()
    for base in type(obj).__mro__:
        slots = base.__dict__.get('__slots__', ())
        for name in (slots,) if isinstance(slots, str) else slots:
            value = getattr(obj, name, None) if name not in ('__dict__', '__weakref__') else None
            if value is not None:
                yield name, value


def all_tensors() -> list[torch.Tensor]:
    """Every tensor that Python knows of, wherever it is held."""
    return instances(torch.Tensor)


def library_tables() -> dict[int, str]:
    """Tensors that belong to a quantization library and not to a model, by identity, with the library's name.

    On the CPU bitsandbytes hands its own code table out as the state of every weight with double quantization.
    """
    tables: dict[int, str] = {}
    for name, library in list(sys.modules.items()):
        package = name.partition('.')[0]
        if package not in _LIBRARIES:
            continue
        for value in list(getattr(library, '__dict__', {}).values()):
            many = value.values() if isinstance(value, dict) else value
            many = many if isinstance(value, (dict, list, tuple)) else (value,)
            tables.update((id(one), package) for one in many if issubclass(type(one), torch.Tensor))
    return tables


def is_odd_view(tensor: torch.Tensor) -> bool:
    """It reads other values than lie in its memory."""
    return bool(tensor.is_conj() or tensor.is_neg())


def refusal(tensor: torch.Tensor) -> str | None:
    """Why a tensor cannot be laid over other memory; None if it can."""
    if tensor.is_meta:
        return 'meta: it has no memory'
    if tensor.is_nested:
        return 'nested'
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix('torch.').removeprefix('_')
    if tensor.is_quantized:
        return 'quantized by torch itself'
    if type(tensor).__name__ in ('FakeTensor', 'FunctionalTensor') or torch._C._functorch.is_functorch_wrapped_tensor(
        tensor
    ):
        return 'a tracing stand-in'
    if tensor.is_conj():
        return 'conjugate view'
    if tensor.is_neg():
        return 'negative view'
    if tensor.device.type == 'cpu' and tensor.is_shared():
        return 'shared with other processes'
    return None
