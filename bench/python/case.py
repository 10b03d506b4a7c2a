# SPDX-License-Identifier: Apache-2.0
"""What every case of gpu.py starts from: a pipeline's image, readings of the device and of torch, times."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from typing import Any

import full_flux as full
import torch


class Case:
    """What every case starts from, and what it has found."""

    def __init__(self, scale: int, side: int, steps: int) -> None:
        self.scale, self.side, self.steps = scale, side, steps
        self.has_gpu = torch.cuda.is_available()
        self.device = torch.device('cuda', 0) if self.has_gpu else torch.device('cpu')
        self.found: dict[str, Any] = {}

    def used(self) -> int:
        """Device memory in use by all; on the host device, what regions hold."""
        if self.has_gpu:
            free, total = torch.cuda.mem_get_info()
            return int(total - free)
        from unstick.room import _default_rooms

        return sum(
            component.resident_bytes for room in _default_rooms.values() for component in room.components
        )

    def sync(self) -> None:
        if self.has_gpu:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        self.sync()
        started = time.monotonic()
        yield
        self.sync()
        self.found[f'{name}_ms'] = round((time.monotonic() - started) * 1000, 2)

    @contextlib.contextmanager
    def profiled(self, name: str) -> Iterator[None]:
        """Where the time of a call goes, if UNSTICK_PROFILE is set; the call is slower for it."""
        if not os.environ.get('UNSTICK_PROFILE'):
            yield
            return
        import cProfile
        import io
        import pstats

        profile, text = cProfile.Profile(), io.StringIO()
        with profile:
            yield
        pstats.Stats(profile, stream=text).sort_stats('tottime').print_stats(25)
        self.found[f'{name}_profile'] = [line for line in text.getvalue().splitlines() if line.strip()][3:]

    def empty(self) -> None:
        gc.collect()
        if self.has_gpu:
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()

    def baseline(self) -> None:
        """What the context and the libraries take: an image of a model of one layer of each kind, freed."""
        for quantization in ('8-bit', '4-bit'):
            pipe = full.pipeline(
                transformer=full.transformer(quantization, self.device, self.scale, n_layers=1),
                text_encoder=full.clip(self.device),
                text_encoder_2=full.t5(quantization, self.device, self.scale, n_layers=1),
                vae=full.vae(self.device),
            )
            self.image(pipe)
            del pipe
        self.empty()
        self.found['baseline_used_bytes'] = self.used()

    def memory(self, name: str) -> None:
        if self.has_gpu:
            self.found[f'{name}_allocated_bytes'] = torch.cuda.memory_allocated()
            self.found[f'{name}_reserved_bytes'] = torch.cuda.memory_reserved()
        self.found[f'{name}_used_bytes'] = self.used()

    def image(self, pipe: Any) -> str:
        return full.digest(full.image(pipe, self.steps, self.side))
