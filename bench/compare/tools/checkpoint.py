# SPDX-License-Identifier: Apache-2.0
"""The driver's checkpoint of a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .tool import Tool

HERE = Path(__file__).parent.parent


class Checkpoint(Tool):
    """A process per model: the driver checkpoints processes, not models."""

    name = 'checkpoint'
    label = 'driver checkpoint of the process'
    how = 'cuCheckpointProcessLock and Checkpoint; Restore and Unlock; from another process'
    allocator = ''

    def prepare(self) -> None:
        self.agent = subprocess.Popen(
            [sys.executable, str(HERE / 'checkpoint.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()
        self.child: Any = None
        self.second = ''

    def _read(self) -> str:
        assert self.agent.stdout is not None
        line = self.agent.stdout.readline().strip()
        if not line or line.startswith('error'):
            raise RuntimeError(line.removeprefix('error: ') or 'the process that calls the driver ended')
        return line

    def _tell(self, verb: str, name: str) -> None:
        self._ask(f'{verb} {self.child.pid if name == self.second else os.getpid()}')

    def _ask(self, line: str) -> str:
        assert self.agent.stdin is not None
        self.agent.stdin.write(f'{line}\n')
        self.agent.stdin.flush()
        return self._read()

    def build(self, name: str) -> None:
        if not self.pipes:
            super().build(name)
            return
        from channel import Peer  # the second model, in a process of its own

        self.second = name
        self.child = Peer.start('plain', {**self.options, 'models': [name]}, {}, self.options['log'] + '.second')
        self.child.call({'do': 'ready'})
        self.sizes[name] = {'in a process of its own': self.child.call({'do': 'load', 'times': 1})['bytes'][name]}
        self.pipes[name] = None
        self.resident.add(name)

    def pids(self) -> list[int]:
        return [os.getpid(), *([self.child.pid] if self.child is not None else [])]

    def used_by_pids(self) -> int:
        """From the other process: what is checkpointed waits in its next call to the driver."""
        return int(float(self._ask(f'used {" ".join(map(str, self.pids()))}')))

    @property
    def is_awake(self) -> bool:
        """Of this process: every call would wait until it is back."""
        return not self.pipes or any(name in self.resident for name in self.pipes if name != self.second)

    def image(self, name: str, **how: Any) -> str:
        if name != self.second:
            return super().image(name, **how)
        return str(self.child.call({'do': 'image', 'model': name, 'how': how})['image'])

    def leave(self, name: str) -> None:
        self._tell('leave', name)

    def come_back(self, name: str) -> None:
        self._tell('back', name)

    def close(self) -> None:
        for name in sorted(set(self.pipes) - self.resident):
            self.come_back(name)
        if self.child is not None:
            self.child.end()
        self.agent.stdin.close()  # type: ignore[union-attr]
        self.agent.wait(10)
