# SPDX-License-Identifier: Apache-2.0
"""Models that are nothing but memory: what a plan is about, without the seconds that a real one takes on a CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from PIL import Image

import unstick


class FakePipeline:
    """Checks at each step that its weights are there."""

    def __init__(self, region: unstick.Region, mark: bytes) -> None:
        self.region = region
        self.mark = mark
        self.step_seconds = 0.0
        self.n_running = 0

    def __call__(self, prompt: str, *, num_inference_steps: int, width: int, height: int, generator: Any,
                 callback_on_step_end: Callable[..., Any], **_: Any) -> SimpleNamespace:  # fmt: skip
        self.n_running += 1
        assert self.n_running == 1, 'two jobs at once on one pipeline'
        try:
            for step in range(num_inference_steps):
                assert self.region.state == 'resident' and self.region.read(0, len(self.mark)) == self.mark
                time.sleep(self.step_seconds)
                callback_on_step_end(self, step, 0, {})
        finally:
            self.n_running -= 1
        seed = generator.initial_seed() % 256
        return SimpleNamespace(images=[Image.new('RGB', (width, height), (self.mark[0], self.mark[-1], seed))])


class FakeLoader:
    """Stands in for FluxLoader: what is loaded, how large it is, and how long it takes."""

    sizes: ClassVar[dict[str, int]] = {}
    seconds = 0.0
    fails: ClassVar[list[Exception]] = []
    calls: ClassVar[list[str]] = []
    lock = threading.Lock()
    step_seconds = 0.0

    def __init__(self, device: unstick.Device, checkpoint: Callable[[str], None]) -> None:
        self.device = device
        self.checkpoint = checkpoint

    @classmethod
    def reset(cls) -> None:
        cls.sizes, cls.fails, cls.calls, cls.seconds, cls.step_seconds = {}, [], [], 0.0, 0.0

    def __call__(self, model_id: str, quantization: str, **settings: Any) -> unstick.Loaded:
        with self.lock:
            self.calls.append(f'{model_id}_{quantization}')
        for name in ('text_encoder', 'text_encoder_2', 'transformer', 'vae'):
            self.checkpoint(f'loading {name}')
            time.sleep(self.seconds / 4)
        if self.fails:
            raise self.fails.pop()
        nbytes = self.sizes[quantization]
        region = unstick.Region(self.device, 'weights', nbytes)
        region.restore().wait()
        mark = f'{model_id} {quantization}'.encode()
        region.write(0, mark)
        pipeline = FakePipeline(region, mark)
        pipeline.step_seconds = self.step_seconds
        return unstick.Loaded(pipeline, {'weights': region})
