# SPDX-License-Identifier: Apache-2.0
"""What a cache asks its host to do to get memory back, with torch's own operations where torch and CUDA are there."""

from __future__ import annotations

import gc
import sys
from typing import Any

UNSUPPORTED = -3

_STATS = ((1, 'reset_accumulated_memory_stats'), (2, 'reset_peak_memory_stats'))


def cuda() -> Any:
    """torch, if it is imported and works with CUDA; else None."""
    torch = sys.modules.get('torch')
    return torch if torch is not None and hasattr(torch, 'cuda') and torch.cuda.is_initialized() else None


def figures(index: int) -> tuple[int, int, int, int] | None:
    """allocated, reserved, active and inactive split bytes of torch's allocator on a device."""
    torch = cuda()
    if torch is None or torch.cuda.memory.get_allocator_backend() != 'native':
        return None
    try:
        stats = torch.cuda.memory_stats(index)
    except RuntimeError:  # a pluggable allocator keeps none
        return None
    names = ('allocated_bytes', 'reserved_bytes', 'active_bytes', 'inactive_split_bytes')
    allocated, reserved, active, split = (int(stats.get(f'{name}.all.current', 0)) for name in names)
    return allocated, reserved, active, split


def perform(action: str, stats: int, index: int) -> tuple[int, int]:
    """Performs one action; its status, and how many objects a collection found."""
    if action == 'collect':
        return 0, gc.collect()
    torch = cuda()
    if torch is None:
        return UNSUPPORTED, 0
    with torch.cuda.device(index):
        if action == 'empty_cache':
            torch.cuda.empty_cache()
        elif action == 'synchronize':
            torch.cuda.synchronize()
        elif action == 'ipc_collect':
            torch.cuda.ipc_collect()
        elif action == 'clear_workspaces' and hasattr(torch._C, '_cuda_clearCublasWorkspaces'):
            torch._C._cuda_clearCublasWorkspaces()
        elif action == 'reset_stats':
            for bit, name in _STATS:
                if stats & bit:
                    getattr(torch.cuda, name)()
        else:
            return UNSUPPORTED, 0
    return 0, 0
