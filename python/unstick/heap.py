# SPDX-License-Identifier: Apache-2.0
"""Who holds an object, and which unreachable cycles hold tensors. The walking is C's; here it gets its words."""

import gc
import sys
from typing import Any, NamedTuple

from . import _unstick

__all__ = ['Chain', 'Cycle', 'Holders', 'Step', 'cycles', 'holders']

# The first torch in which a C++ owner holds exactly one reference to a tensor's Python object.
_COUNTED_CPP = (2, 10)


class Step(NamedTuple):
    """One reference of a chain: what it is called, and the type of what it leads to."""

    label: str
    type: str


class Chain(NamedTuple):
    """A way from a root to the object. ``kind`` is module, frame, thread, exception, context, c, cycle or garbage."""

    kind: str
    root: str
    steps: tuple[Step, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def as_dict(self) -> dict[str, Any]:
        return {
            'kind': self.kind,
            'root': self.root,
            'steps': [step._asdict() for step in self.steps],
            'text': self.text,
        }


class Holders(tuple[Chain, ...]):
    """Chains, shortest first; prints as one line each. Empty: nothing holds the object but the call that asked."""

    __slots__ = ()

    def __str__(self) -> str:
        return '\n'.join(chain.text for chain in self) or 'no holder'

    __repr__ = __str__

    def as_dicts(self) -> list[dict[str, Any]]:
        return [chain.as_dict() for chain in self]


class Cycle(NamedTuple):
    """An unreachable island of objects with a cycle in it."""

    text: str
    """One cycle of it, closed."""
    n_objects: int
    """Objects of the island."""
    n_held: int
    """Tensors in it, or instances of the type that was asked for."""
    held_bytes: int
    """Bytes of their storages, each once; 0 for what is no tensor."""

    def __str__(self) -> str:
        return f'{self.text} ({self.n_objects} objects, {self.n_held} held, {self.held_bytes} bytes)'


class Cycles(list[Cycle]):
    """The cycles, and what a collection gave back: None where none was made or there is no GPU to ask."""

    collected_objects: int | None = None
    driver_bytes: int | None = None

    def __str__(self) -> str:
        return '\n'.join(map(str, self)) or 'no cycle'


def _torch() -> Any:
    return sys.modules.get('torch')


def _tensor_type() -> type | None:
    torch = _torch()
    return getattr(getattr(torch, '_C', None), 'TensorBase', None)


def _storage_of(tensor: Any) -> tuple[int, int] | None:
    """Where a tensor's storage starts and its size; None for a tensor without one (meta, sparse, fake, ...)."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except Exception:
        return None


def _on_the_same_storage(tensor: Any, kind: type) -> list[Any]:
    where = _storage_of(tensor)
    if not where or not where[0]:
        return []
    others = [other for other in gc.get_objects() if issubclass(type(other), kind) and other is not tensor]
    return [other for other in others if _storage_of(other) == where]


def _cpp_text(n: int) -> str:
    torch = _torch()
    try:
        is_counted = tuple(map(int, torch.__version__.split('.')[:2])) >= _COUNTED_CPP
    except Exception:
        is_counted = False
    # From 3.14 on a frame's variables may be borrowed from its caller's: counts say less there.
    if is_counted and n == 1 and sys.version_info < (3, 14):
        return 'C++ owner (autograd graph)'
    return 'possibly a C++ owner (autograd graph)'


def _chain(row: dict[str, Any], is_tensor: bool) -> Chain:
    root, text = row['root'], row['text']
    if row['n_c'] and is_tensor:
        root = _cpp_text(row['n_c'])
        text = root
    if row['target']:
        text += ' (another tensor on the same storage)'
    return Chain(row['kind'], root, tuple(Step(**step) for step in row['steps']), text)


def holders(obj: object, *, limit: int = 10, same_storage: bool = True) -> Holders:
    """The shortest chains from a root to obj, one for each object that refers to it, at most ``limit``.

    For a tensor, also those to the tensors that lie on the same storage, unless ``same_storage`` is false. The caller's
    own variable is a holder like any other. The heap is walked once, with the GIL held; nothing is imported or changed.
    """
    kind = _tensor_type()
    is_tensor = kind is not None and issubclass(type(obj), kind)
    targets = [obj]
    if is_tensor and same_storage and kind is not None:
        targets += _on_the_same_storage(obj, kind)
    return Holders(_chain(row, is_tensor) for row in _unstick.holders(targets, limit))


def _cycle(row: dict[str, Any], is_tensor: bool) -> Cycle:
    sizes: dict[int, int] = {}
    if is_tensor:
        sizes = dict(filter(None, map(_storage_of, row['held'])))
    return Cycle(row['text'], row['n_objects'], len(row['held']), sum(sizes.values()))


def _driver_free_bytes() -> int | None:
    """What the driver says is free on the current GPU; None if this process uses none."""
    torch = _torch()
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.mem_get_info()[0])


def cycles(collect: bool = False, *, of: type | None = None) -> Cycles:
    """Unreachable cycles that hold tensors; without torch, or with ``of``, those that hold such instances.

    With ``collect`` they are collected, torch's cache is emptied, and the driver is asked what it got back.
    """
    tensor = _tensor_type()
    kind = of or tensor or object
    is_tensor = tensor is not None and issubclass(kind, tensor)
    found = Cycles(_cycle(row, is_tensor) for row in _unstick.cycles(kind))
    if collect:
        before = _driver_free_bytes()
        found.collected_objects = gc.collect()
        if before is not None:
            _torch().cuda.empty_cache()
            found.driver_bytes = (_driver_free_bytes() or 0) - before
    return found
