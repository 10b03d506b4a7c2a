# SPDX-License-Identifier: Apache-2.0
"""torch alone."""

from __future__ import annotations

import gc

from .tool import Tool, empty_cache, synchronize


class ToCpu(Tool):
    name = 'to_cpu'
    label = 'torch `.to("cpu")`'
    how = 'pipe.to("cpu"), empty_cache(); pipe.to("cuda")'
    packages = ('diffusers',)
    runs_on_cpu = True

    def leave(self, name: str) -> None:
        self.pipes[name].to('cpu')
        empty_cache(self.device)

    def come_back(self, name: str) -> None:
        self.pipes[name].to(self.device)
        synchronize(self.device)


class Del(Tool):
    name = 'del'
    label = 'torch `del`, gc, `empty_cache()`'
    how = 'del pipe, gc.collect(), torch.cuda.empty_cache(), while references to the tensors are held'
    comes_back = False
    runs_on_cpu = True

    def leave(self, name: str) -> None:
        self.pipes[name] = None
        gc.collect()
        empty_cache(self.device)


class Plain(Tool):
    """A process that holds a model and does nothing with it: what another tool acts upon."""

    name = 'plain'
    label = 'torch'
    how = ''
    allocator = ''
