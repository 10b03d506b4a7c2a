# SPDX-License-Identifier: Apache-2.0
"""A process that takes device memory until so much is free as it is told: a smaller card, the same for every tool.

It is a process of its own, so that nothing a tool does to its own memory touches it. On stdin a number of bytes per
line that are to stay free (0: give everything back); on stdout the number of bytes that are free then, or an error.
"""

from __future__ import annotations

import ctypes
import sys

PIECES = tuple(1 << shift for shift in (30, 28, 26, 24, 21))


class Driver:
    def __init__(self) -> None:
        self._library = ctypes.CDLL('libcuda.so.1')
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call('cuInit', 0)
        self._call('cuDeviceGet', ctypes.byref(device), 0)
        self._call('cuDevicePrimaryCtxRetain', ctypes.byref(context), device)
        self._call('cuCtxSetCurrent', context)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise OSError(f'{name} answered {status}')

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call('cuMemGetInfo_v2', ctypes.byref(free), ctypes.byref(total))
        return free.value

    def take(self, nbytes: int) -> int:
        address = ctypes.c_uint64()
        self._call('cuMemAlloc_v2', ctypes.byref(address), ctypes.c_size_t(nbytes))
        return address.value

    def give(self, address: int) -> None:
        self._call('cuMemFree_v2', ctypes.c_uint64(address))


def main() -> None:
    driver = Driver()
    held: list[int] = []
    print(driver.free_bytes(), flush=True)
    for line in sys.stdin:
        while held:
            driver.give(held.pop())
        wanted = int(line)
        try:
            for piece in PIECES if wanted else ():
                while driver.free_bytes() >= wanted + piece:
                    held.append(driver.take(piece))
            print(driver.free_bytes(), flush=True)
        except OSError as error:
            print(f'error: {error}', flush=True)


if __name__ == '__main__':
    main()
