# SPDX-License-Identifier: Apache-2.0
"""The most that is used of a device, by the device's own word, watched by a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

FINE_SECONDS = 0.0005
COARSE_SECONDS = 0.005
"""Between two readings. Each takes a lock of the driver's that the calls of an adoption want, too."""


def watch(pause_s: float) -> None:
    """A process of its own: prints the most that was used, every time it is asked."""
    sys.path.append(str(Path(__file__).parents[1] / 'compare'))
    from readings import Nvml

    nvml, most, asked = Nvml(), 0, threading.Event()

    def listen() -> None:
        nonlocal most
        for line in sys.stdin:
            if line.startswith('reset'):
                most = nvml.memory().used
            print(most, flush=True)
        asked.set()

    threading.Thread(target=listen, daemon=True).start()
    while not asked.is_set():
        most = max(most, nvml.memory().used)
        time.sleep(pause_s)


class Peak:
    """Without a GPU it has seen nothing."""

    def __init__(self, has_gpu: bool, pause_s: float = FINE_SECONDS) -> None:
        self.process = None
        if has_gpu:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(pause_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

    def ask(self, word: str) -> int:
        if self.process is None:
            return 0
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f'{word}\n')
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def reset(self) -> int:
        return self.ask('reset')

    def read(self) -> int:
        return self.ask('read')


if __name__ == '__main__':
    watch(float(sys.argv[1]))
