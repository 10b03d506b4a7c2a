# SPDX-License-Identifier: Apache-2.0
"""The driver's own checkpoint of a process, called from another process: that is how it is meant to be used.

On stdin "leave PID" or "back PID" per line; on stdout the seconds that it took, or an error. Needs driver 570.
"""

from __future__ import annotations

import ctypes
import sys
import time

LOCK_TIMEOUT_MS = 20000


class Checkpoint:
    def __init__(self) -> None:
        self._library = ctypes.CDLL('libcuda.so.1')
        self._call('cuInit', 0)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise OSError(f'the driver has no {name}: it is older than 570')
        status = function(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            raise OSError(f'{name} answered {status} ({(text.value or b"?").decode()})')

    def leave(self, pid: int) -> None:
        arguments = (ctypes.c_uint64 * 8)()
        arguments[0] = LOCK_TIMEOUT_MS  # struct CUcheckpointLockArgs begins with timeoutMs and 32 reserved bits
        self._call('cuCheckpointProcessLock', pid, arguments)
        self._call('cuCheckpointProcessCheckpoint', pid, None)

    def back(self, pid: int) -> None:
        self._call('cuCheckpointProcessRestore', pid, None)
        self._call('cuCheckpointProcessUnlock', pid, None)


def main() -> None:
    checkpoint = Checkpoint()
    print('ready', flush=True)
    for line in sys.stdin:
        verb, pid = line.split()
        started = time.monotonic()
        try:
            getattr(checkpoint, verb)(int(pid))
            print(time.monotonic() - started, flush=True)
        except OSError as error:
            print(f'error: {error}', flush=True)


if __name__ == '__main__':
    main()
