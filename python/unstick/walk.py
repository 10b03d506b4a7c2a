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
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ._unstick import Guard, instances, survey

Kind = Literal['parameter', 'buffer', 'state', 'alias']

_ATOMS = frozenset({
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type, range, slice,
})  # fmt: skip

_ENDS = (
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.FrameType,
    types.GeneratorType, types.CoroutineType, types.CodeType, types.TracebackType, weakref.ReferenceType,
    threading.Thread, logging.Logger, type, torch.Generator, torch.UntypedStorage, functools.partial,
    Guard,
)  # fmt: skip

# What nn.Module and its hooks keep beside tensors.
_BOOKKEEPING = frozenset({
    'training', '_parameters', '_buffers', '_modules', '_non_persistent_buffers_set', '_backward_pre_hooks',
    '_backward_hooks', '_is_full_backward_hook', '_forward_hooks', '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called', '_forward_pre_hooks', '_forward_pre_hooks_with_kwargs', '_state_dict_hooks',
    '_state_dict_pre_hooks', '_load_state_dict_pre_hooks', '_load_state_dict_post_hooks', '_hf_hook', '_diffusers_hook',
    '_compiled_call_impl',
})  # fmt: skip

_LIBRARIES = ('bitsandbytes', 'torchao', 'optimum')


class Found(NamedTuple):
    """A tensor, and the way to it from its component."""

    name: str
    kind: Kind
    tensor: torch.Tensor


def is_pipeline_type(kind: type) -> bool:
    """A pipeline of diffusers or transformers: something that has components, and is none."""
    return any(
        base.__name__ in ('DiffusionPipeline', 'Pipeline')
        and base.__module__.partition('.')[0] in ('diffusers', 'transformers')
        for base in kind.__mro__
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


def tensors(module: nn.Module) -> list[Found]:
    """Every tensor that belongs to a module, once; gradients excepted, they belong to training."""
    return tensors_outside(module, [])[0]


def tensors_outside(module: nn.Module, spans: list[tuple[int, int]]) -> tuple[list[Found], list[int]]:
    """The tensors of a module that lie in none of the spans of addresses, and the spans in which others lie.

    What reads other values than lie in its memory (a conjugate or negative view) counts as outside.
    """
    return survey(module, _class_of, _inner_tensors, _slots, _BOOKKEEPING, Found, spans)


def _class_of(kind: type) -> str:
    """What the walk does with objects of a type: the words are those of the extension's survey.c."""
    if issubclass(kind, torch.Tensor):
        is_wrapper = hasattr(kind, '__tensor_flatten__') and hasattr(kind, '__tensor_unflatten__')
        return 'wrapper' if is_wrapper else 'tensor'
    if kind in _ATOMS or issubclass(kind, _ENDS) or is_pipeline_type(kind):
        return 'end'
    if issubclass(kind, nn.Module):
        return 'module'
    if issubclass(kind, Mapping):
        return 'mapping'
    if issubclass(kind, (list, tuple, set, frozenset)):
        return 'sequence'
    return 'slotted' if any(_slots_of(base) for base in kind.__mro__) else 'object'


def _inner_tensors(tensor: Any) -> list[tuple[str, Any]]:
    """What a wrapper subclass is made of."""
    return [(name, getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0]]


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get('__slots__', ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ('__dict__', '__weakref__'))


def _slots(obj: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(obj, name, None)) for base in type(obj).__mro__ for name in _slots_of(base)]


def all_tensors() -> list[torch.Tensor]:
    """Every tensor that Python knows of, wherever it is held."""
    return instances(torch.Tensor)[0]


def wrapper_type() -> type[nn.Module] | None:
    """What torch.compile() puts around a module; None where nothing was compiled."""
    dynamo = sys.modules.get('torch._dynamo.eval_frame')
    return dynamo.OptimizedModule if dynamo is not None else None


def all_tensors_and_wrappers() -> tuple[list[torch.Tensor], list[nn.Module]]:
    """Every tensor, and every wrapper of a compiled module, in one walk."""
    wrapper = wrapper_type()
    tensors, *wrappers = instances(torch.Tensor, wrapper) if wrapper is not None else instances(torch.Tensor)
    return tensors, wrappers[0] if wrappers else []


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
            kind = type(value)
            if issubclass(kind, torch.Tensor):
                tables[id(value)] = package
            elif issubclass(kind, (dict, list, tuple)):
                many = value.values() if isinstance(value, dict) else value
                tables.update((id(one), package) for one in many if issubclass(type(one), torch.Tensor))
    return tables


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
