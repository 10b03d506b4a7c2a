# SPDX-License-Identifier: Apache-2.0
"""What adoption took and what it left, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field


def size(nbytes: int) -> str:
    """Bytes for people, in the units that memory has."""
    for unit, factor in (('GiB', 1 << 30), ('MiB', 1 << 20), ('KiB', 1 << 10)):
        if nbytes >= factor:
            return f'{nbytes / factor:.2f} {unit}'
    return f'{nbytes} B'


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes that lie in a region now: one storage, or several that overlap."""

    component: str
    name: str
    names: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Left:
    """A tensor under the object that stayed where it was, and why."""

    component: str
    name: str
    nbytes: int
    reason: str


@dataclass(slots=True)
class Adoption:
    """What one call of adopt() or refresh() did. Adopted and left are all tensors under the object."""

    taken: list[Taken] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    borrowed: dict[str, str] = field(default_factory=dict)
    """Components that another model brought along already, and the key of that model."""
    still_held_bytes: int = 0
    """Old memory that did not go, because something outside Python (autograd, a graph) still refers to it."""

    @property
    def taken_bytes(self) -> int:
        return sum(one.nbytes for one in self.taken)

    @property
    def left_bytes(self) -> int:
        return sum(one.nbytes for one in self.left)

    def __str__(self) -> str:
        lines = [f'adopted {size(self.taken_bytes)} in {len(self.taken)} pieces']
        by_component: dict[str, int] = {}
        for one in self.taken:
            by_component[one.component] = by_component.get(one.component, 0) + one.nbytes
        lines += [f'  {name}: {size(nbytes)}' for name, nbytes in by_component.items()]
        lines += [f'  {name}: shared with {key}' for name, key in self.borrowed.items()]
        if self.left:
            lines.append(f'left {size(self.left_bytes)}')
            lines += [f'  {one.component}.{one.name}: {size(one.nbytes)}, {one.reason}' for one in self.left]
        if self.still_held_bytes:
            lines.append(f'old memory that something outside Python still holds: {size(self.still_held_bytes)}')
        return '\n'.join(lines)


@dataclass(frozen=True, slots=True)
class Moved:
    """What an eviction or a restoration did."""

    nbytes: int
    """Device memory that was given back, or taken again."""
    copied_bytes: int
    """Of an eviction: what had to be copied, because it had changed or had no backup."""
    seconds: float
    kept: tuple[str, ...] = ()
    """Components that stayed, because another model that is not evicted uses them too."""

    def __str__(self) -> str:
        kept = f', kept {", ".join(self.kept)}' if self.kept else ''
        return f'{size(self.nbytes)} in {self.seconds * 1000:.1f} ms, {size(self.copied_bytes)} copied{kept}'
