# SPDX-License-Identifier: Apache-2.0
"""What a tool is, and what all of them do alike."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar


def package_folder(name: str) -> Path | None:
    """Where a package is, without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


class Tool:
    name: ClassVar[str]
    label: ClassVar[str]
    """For people, in tables."""
    how: ClassVar[str]
    """The calls that leave and come back, in one line."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Whose versions belong to the result."""
    allocator: ClassVar[str] = 'expandable_segments:True'
    has_moves: ClassVar[bool] = True
    """It leaves and comes back when told to; else it does both inside of a forward."""
    keeps_references: ClassVar[bool] = True
    """References to the tensors stay valid while the model is away."""
    comes_back: ClassVar[bool] = True
    runs_on_cpu: ClassVar[bool] = False
    """Part of a dry run on a machine without a GPU."""
    is_disk: ClassVar[bool] = False
    has_switches: ClassVar[bool] = True
    """Something decides who leaves for whom; else it does what it is told."""
    backs_up: ClassVar[bool] = False
    """It backs up in the background before it leaves for the first time: backup() begins it."""
    has_backup_before: ClassVar[bool] = False
    """It has, by the time that it is loaded: behind the first use."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.pipes: dict[str, Any] = {}
        self.resident: set[str] = set()
        self.sizes: dict[str, dict[str, int]] = {}
        """Of each model the bytes of its parts, as they were built."""

    @classmethod
    def environment(cls) -> dict[str, str]:
        """What has to be in the environment of its process."""
        return {'PYTORCH_CUDA_ALLOC_CONF': cls.allocator} if cls.allocator else {}

    # --- before anything is on the device ---

    def prepare(self) -> None:
        """Imports, before torch starts CUDA."""

    # --- models ---

    def build(self, name: str) -> None:
        import models

        pipe = self.pipes[name] = models.build(name, self.device, self.options['scale'])
        self.sizes[name] = {type(part).__name__: models.bytes_of(part) for part in models.modules_of(pipe)}
        self.resident.add(name)

    def take(self) -> None:
        """All models are built and have made an image: the tool takes them under its care."""

    @property
    def device(self) -> Any:
        import torch

        return torch.device(self.options['device'])

    def pipe(self, name: str) -> Any:
        return self.pipes[name]

    def image(self, name: str, **how: Any) -> str:
        import models

        return models.image(self.pipe(name), **how)

    # --- moving ---

    def leave(self, name: str) -> None:
        raise NotImplementedError

    def come_back(self, name: str) -> None:
        raise NotImplementedError

    def backup(self, name: str) -> Callable[[], None]:
        """Begins a backup in the background; the call waits for its end."""
        raise NotImplementedError

    def acquire(self, name: str) -> None:
        """A switch: afterwards the model can be used, whatever had to leave for it."""
        for other in sorted(self.resident - {name}):
            self.leave(other)
            self.resident.discard(other)
        if name not in self.resident:
            self.come_back(name)
            self.resident.add(name)

    def release(self, name: str) -> None:
        """The use that acquire() began has ended."""

    def vacate(self) -> None:
        for name in sorted(self.resident):
            self.leave(name)
        self.resident.clear()

    @property
    def is_awake(self) -> bool:
        """The process may call CUDA."""
        return True

    def used_bytes(self) -> int:
        """Where there is no device to ask."""
        import models

        return sum(models.bytes_of(*models.modules_of(pipe)) for pipe in self.pipes.values() if pipe is not None)

    def pids(self) -> list[int]:
        """The processes whose device memory is this tool's."""
        return [os.getpid()]

    def used_by_pids(self) -> int | None:
        """What they use, where this process cannot ask for itself."""
        return None

    def details(self) -> dict[str, Any]:
        return {}

    def walk(self) -> dict[str, Any]:
        """What is known only after looking at everything: too slow to be asked often."""
        return {}

    def close(self) -> None:
        """Before the process ends, in its own way."""


def clean(device: Any) -> None:
    """What torch keeps for later goes back to the driver; alike for all tools, outside of every time."""
    import torch

    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def empty_cache(device: Any) -> None:
    import torch

    if device.type == 'cuda':
        torch.cuda.empty_cache()


def synchronize(device: Any) -> None:
    import torch

    if device.type == 'cuda':
        torch.cuda.synchronize()
