# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared, each as its own documentation uses it.

A tool is a class: how models get under it, how one leaves the device and comes back, and what it needs around its
process. What it does beside that (build, make images, read the device) is the same for all, in worker.py. These modules
import nothing but the standard library at their tops: the process that starts the others reads them, too.
"""

from __future__ import annotations

from .checkpoint import Checkpoint
from .memory_saver import MemorySaver, MemorySaverDisk, MemorySaverRetained
from .offload import BlockOffload, GroupOffload, ModelOffload, SequentialOffload
from .plain_torch import Del, Plain, ToCpu
from .reload import Reload, Safetensors
from .tool import Tool, clean, synchronize
from .with_unstick import Unstick, UnstickCache

__all__ = ['TOOLS', 'Tool', 'clean', 'synchronize']

TOOLS: dict[str, type[Tool]] = {
    tool.name: tool
    for tool in (
        Unstick, UnstickCache, MemorySaverRetained, MemorySaver, MemorySaverDisk, ToCpu, Del, Safetensors, Reload,
        ModelOffload, GroupOffload, BlockOffload, SequentialOffload, Checkpoint, Plain,
    )
}  # fmt: skip
