# SPDX-License-Identifier: Apache-2.0
"""The offloads of diffusers and accelerate, which come and go inside of a forward."""

from __future__ import annotations

from typing import Any, ClassVar

from .tool import Tool


class Offload(Tool):
    packages = ('diffusers', 'accelerate')
    has_moves = False

    def enable(self, pipe: Any) -> None:
        raise NotImplementedError

    def build(self, name: str) -> None:
        super().build(name)
        self.enable(self.pipes[name])

    def acquire(self, name: str) -> None:
        pass

    def vacate(self) -> None:
        for pipe in self.pipes.values():
            pipe.maybe_free_model_hooks()


class ModelOffload(Offload):
    name = 'model_offload'
    label = 'diffusers, model CPU offload'
    how = 'pipe.enable_model_cpu_offload()'

    def enable(self, pipe: Any) -> None:
        pipe.enable_model_cpu_offload()


class SequentialOffload(Offload):
    name = 'sequential_offload'
    label = 'diffusers, sequential CPU offload'
    how = 'pipe.enable_sequential_cpu_offload()'

    def enable(self, pipe: Any) -> None:
        pipe.enable_sequential_cpu_offload()


class GroupOffload(Offload):
    name = 'group_offload'
    label = 'diffusers, group offload by leaf'
    how = 'pipe.enable_group_offload(offload_type="leaf_level", use_stream=True)'
    level: ClassVar[dict[str, Any]] = {'offload_type': 'leaf_level'}

    def enable(self, pipe: Any) -> None:
        import torch

        pipe.enable_group_offload(
            onload_device=self.device, offload_device=torch.device('cpu'), use_stream=True, **self.level
        )


class BlockOffload(GroupOffload):
    name = 'block_offload'
    label = 'diffusers, group offload by block'
    how = 'pipe.enable_group_offload(offload_type="block_level", num_blocks_per_group=1, use_stream=True)'
    level: ClassVar[dict[str, Any]] = {'offload_type': 'block_level', 'num_blocks_per_group': 1}
