# SPDX-License-Identifier: Apache-2.0
"""One tool in a process of its own: worker.py TOOL RECEIVE SEND OPTIONS, started by run.py.

It imports at once and then does what it is told, a command at a time. Every time that is taken ends when the device
has done what was asked; what torch keeps for later is given back outside of the times, alike for every tool.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import logging
import os
import sys
import threading
import time
import traceback
from typing import Any

from channel import Line
from readings import host, nvml
from tools import TOOLS, Tool, clean, synchronize


class Worker:
    def __init__(self, tool: Tool, options: dict[str, Any]) -> None:
        self.tool = tool
        self.options = options
        self.nvml = nvml() if options['device'] == 'cuda' else None
        self.used_before = 0
        self.held: dict[str, list[Any]] = {}
        """References that a node output, a closure or a second cache would hold."""
        self.bytes: dict[str, int] = {}
        self.host_before: dict[str, int] = {}

    # --- readings ---

    def used(self) -> int:
        if self.nvml is None:
            return self.tool.used_bytes()
        return int(self.nvml.memory().used)

    def settle(self) -> None:
        gc.collect()
        if self.tool.is_awake:
            clean(self.tool.device)

    def synchronize(self) -> None:
        if self.tool.is_awake:
            synchronize(self.tool.device)

    def left(self) -> int:
        """Device memory that is in use beyond what the process used before it had a model."""
        return self.used() - self.used_before

    def how(self) -> dict[str, Any]:
        return {name: self.options[name] for name in ('size', 'steps', 'n_tokens', 'is_latent')}

    def image(self, name: str) -> tuple[str, float]:
        started = time.monotonic()
        digest = self.tool.image(name, **self.how())  # it ends on the CPU, so it has ended
        return digest, time.monotonic() - started

    # --- commands ---

    def ready(self) -> dict[str, Any]:
        return {
            'versions': {name: version(name) for name in (*self.tool.packages, 'torch')},
            'pid': os.getpid(),
        }

    def load(self, times: int = 2) -> dict[str, Any]:
        import models

        device = self.tool.device
        if device.type == 'cuda':
            for name in models.MODELS:  # libraries, kernels and the context belong to nobody's model
                models.image(models.build(name, device, models.NARROW), size=32, steps=1, n_tokens=16)
                self.settle()
        self.used_before = self.used() if self.nvml is not None else 0
        self.host_before = host()
        started = time.monotonic()
        digests: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for name in self.options['models']:
            self.tool.build(name)
        built = time.monotonic()
        for name in self.options['models']:
            for _ in range(times):
                digests[name], seconds[name] = self.image(name)
            self.bytes[name] = sum(self.tool.sizes[name].values())
            if self.tool.pipes[name] is not None and self.tool.keeps_references and self.tool.has_moves:
                self.held[name] = models.tensors_of(*models.modules_of(self.tool.pipes[name]))
        if self.options['phase'] != 'switch':
            # As large a card as its largest part needs, and what an image needs beside it.
            parts = self.tool.sizes[self.options['models'][0]]
            self.options['room_bytes'] = max(parts.values()) + self.options['spare_bytes']
        taking = time.monotonic()
        self.tool.take()
        synchronize(device)
        taken = time.monotonic()
        self.settle()
        return {
            'host_bytes': self.host_taken(),
            'bytes': self.bytes,
            'image': digests,
            'image_s': seconds,
            'build_s': built - started,
            'take_s': taken - taking,
            'used_before_bytes': self.used_before,
            'left_bytes': self.left(),
            'room_bytes': self.options.get('room_bytes', 0),
            'details': self.tool.details(),
        }

    def first_leave(self, model: str, has_backup: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = {}
        self.settle()
        if has_backup and type(self.tool).backup is not Tool.backup:
            result |= self._back_up(model)
        result |= self._leave(model)
        return result | {'host_bytes': self.host_taken()}

    def host_taken(self) -> int:
        """Host memory that the machine has less than when this was asked last."""
        before, self.host_before = self.host_before, host()
        return before['available_bytes'] - self.host_before['available_bytes']

    def _back_up(self, model: str) -> dict[str, Any]:
        """The backup in the background, and what an image beside it costs."""
        alone = [self.image(model)[1] for _ in range(2)]
        started = time.monotonic()
        wait = self.tool.backup(model)
        if wait is None:
            return {}
        ended: list[float] = []
        watcher = threading.Thread(target=lambda: (wait(), ended.append(time.monotonic())))
        watcher.start()
        beside = [self.image(model)[1]]
        while not ended and len(beside) < 20:
            beside.append(self.image(model)[1])
        watcher.join()
        return {'backup_s': ended[0] - started, 'image_alone_s': alone, 'image_beside_s': beside}

    def _leave(self, model: str) -> dict[str, Any]:
        self.synchronize()
        started = time.monotonic()
        self.tool.leave(model)
        seconds = time.monotonic() - started
        self.tool.resident.discard(model)
        self.settle()
        return {'leave_s': seconds, 'left_bytes': self.left(), 'details': self.tool.details()}

    def cycle(self, model: str, check: bool = False) -> dict[str, Any]:
        """Comes back, and leaves again: the process has the device to itself before and after."""
        if not self.tool.has_moves:
            digest, seconds = self.image(model)
            self.tool.vacate()
            self.settle()
            return {'image': digest, 'image_s': seconds, 'left_bytes': self.left()}
        self.settle()
        started = time.monotonic()
        self.tool.come_back(model)
        self.synchronize()
        result: dict[str, Any] = {'back_s': time.monotonic() - started}
        self.tool.resident.add(model)
        if check:
            result['image'], result['image_s'] = self.image(model)
            self.settle()
        return result | self._leave(model)

    def begin_switches(self) -> dict[str, Any]:
        """Everything is on the device once more, and nobody else refers to it: peers need not be hindered."""
        self.held.clear()
        if self.tool.has_moves:
            for name in self.options['models']:
                if name not in self.tool.resident:
                    self.tool.come_back(name)
                    self.tool.resident.add(name)
            self.tool.prepare_switches()
        return {}

    def enter(self, model: str) -> dict[str, Any]:
        """The model that a row of switches begins with, on the device."""
        self.settle()
        self.tool.acquire(model)
        self.tool.release(model)
        return {'image': self.image(model)[0] if not self.tool.has_moves else ''}

    def switch(self, model: str) -> dict[str, Any]:
        self.settle()
        started = time.monotonic()
        self.tool.acquire(model)
        self.synchronize()
        seconds = time.monotonic() - started
        started = time.monotonic()
        digest, _ = self.image(model)
        self.tool.release(model)  # what the end of a use costs belongs to it
        return {'switch_s': seconds, 'image_s': time.monotonic() - started, 'image': digest}

    def larger(self, model: str) -> dict[str, Any]:
        """An image of a pipeline that does not fit."""
        self.settle()
        digest, seconds = self.image(model)
        return {'image': digest, 'image_s': seconds}

    def vacate(self) -> dict[str, Any]:
        self.tool.vacate()
        self.settle()
        return {'left_bytes': self.left()}

    def make(self, model: str, how: dict[str, Any]) -> dict[str, Any]:
        digest = self.tool.image(model, **how)
        self.settle()
        return {'image': digest}

    def host(self) -> dict[str, Any]:
        return host()

    def forget(self) -> dict[str, Any]:
        """Lets go of the references, too."""
        self.held.clear()
        self.settle()
        return {'left_bytes': self.left()}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        module = sys.modules.get(package)
        return str(getattr(module, '__version__', '?'))


COMMANDS = {
    'ready': Worker.ready, 'load': Worker.load, 'first_leave': Worker.first_leave, 'cycle': Worker.cycle,
    'begin_switches': Worker.begin_switches, 'enter': Worker.enter, 'switch': Worker.switch, 'larger': Worker.larger,
    'vacate': Worker.vacate, 'image': Worker.make, 'host': Worker.host, 'forget': Worker.forget,
}  # fmt: skip


def perform(worker: Worker, command: dict[str, Any]) -> dict[str, Any]:
    do = command.pop('do')
    try:
        return COMMANDS[do](worker, **command)
    except Exception as error:
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {'error': f'{type(error).__name__}: {lines[0][:300] if lines else "no message"}'}


def main() -> None:
    tool_name, receive, send, text = sys.argv[1:5]
    options = json.loads(text)
    line = Line(int(receive), int(send))
    tool = TOOLS[tool_name](options)
    worker: Worker | None = None
    failure = ''
    try:
        tool.prepare()
        import torch
        from diffusers import FluxPipeline  # noqa: F401

        import models  # noqa: F401  # and with it torch, diffusers, transformers and bitsandbytes

        torch.set_grad_enabled(False)
        logging.disable(logging.WARNING)  # a line per layer and call would be part of the times
        worker = Worker(tool, options)
    except Exception as error:
        traceback.print_exc()
        failure = f'{type(error).__name__}: {error}'.splitlines()[0]
    for command in line:
        if command['do'] == 'exit':
            if worker is not None:
                tool.close()
            return
        line.answer(perform(worker, command) if worker is not None else {'error': failure})


if __name__ == '__main__':
    main()
