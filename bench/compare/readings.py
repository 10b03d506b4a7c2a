# SPDX-License-Identifier: Apache-2.0
"""What is in use on the device and on the machine, by somebody who is not among those that are measured.

The device's own word comes from NVML: no context, nothing that a tool could hide, and it answers while a process is
checkpointed. Without NVML (a machine without a GPU) there is no reading, and everything still runs.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

UNKNOWN = (1 << 64) - 1


class _Memory(ctypes.Structure):
    _fields_ = (('total', ctypes.c_ulonglong), ('free', ctypes.c_ulonglong), ('used', ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of the third version of its calls; a 64-bit number that is not known has all bits set."""

    _fields_ = (
        ('pid', ctypes.c_uint), ('used', ctypes.c_ulonglong), ('instance', ctypes.c_uint), ('compute', ctypes.c_uint)
    )  # fmt: skip


class Nvml:
    def __init__(self, index: int = 0) -> None:
        self._library = ctypes.CDLL('libnvidia-ml.so.1')
        self._check(self._library.nvmlInit_v2())
        self._device = ctypes.c_void_p()
        self._check(self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self._device)))

    def _check(self, status: int) -> None:
        if status:
            raise OSError(f'NVML answered {status}')

    def _text(self, function: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._check(getattr(self._library, function)(*arguments, buffer, 96))
        return buffer.value.decode()

    def memory(self) -> _Memory:
        memory = _Memory()
        self._check(self._library.nvmlDeviceGetMemoryInfo(self._device, ctypes.byref(memory)))
        return memory

    def used_by(self, pids: list[int]) -> int | None:
        """What processes use on the device, their contexts included; None where the driver does not tell.

        A process that is not among those with a context, like one that is checkpointed, uses nothing.
        """
        found = (_Process * 256)()
        n = ctypes.c_uint(len(found))
        try:
            self._check(self._library.nvmlDeviceGetComputeRunningProcesses_v3(self._device, ctypes.byref(n), found))
        except (OSError, AttributeError):
            return None
        own = [one.used for one in found[: n.value] if one.pid in pids]
        return None if UNKNOWN in own else sum(own)

    @property
    def name(self) -> str:
        return self._text('nvmlDeviceGetName', self._device)

    @property
    def driver(self) -> str:
        return self._text('nvmlSystemGetDriverVersion')

    def link(self) -> str:
        generation, width = ctypes.c_uint(), ctypes.c_uint()
        self._check(self._library.nvmlDeviceGetMaxPcieLinkGeneration(self._device, ctypes.byref(generation)))
        self._check(self._library.nvmlDeviceGetMaxPcieLinkWidth(self._device, ctypes.byref(width)))
        return f'PCIe Gen{generation.value} x{width.value}'


def nvml() -> Nvml | None:
    try:
        return Nvml()
    except (OSError, AttributeError):
        return None


def _fields(path: str) -> dict[str, int]:
    found = {}
    for line in Path(path).read_text(encoding='utf-8').splitlines():
        name, _, rest = line.partition(':')
        words = rest.split()
        if len(words) == 2 and words[1] == 'kB':
            found[name] = int(words[0]) * 1024
    return found


def host() -> dict[str, int]:
    """Host memory: what the machine could still give, and what this process has to itself."""
    memory, own = _fields('/proc/meminfo'), _fields('/proc/self/status')
    return {
        'available_bytes': memory['MemAvailable'],
        'total_bytes': memory['MemTotal'],
        'own_bytes': own.get('RssAnon', 0) + own.get('RssShmem', 0),
    }


def shared_files() -> list[str]:
    """What lies in shared memory: a tool that leaves something there outlives its process."""
    try:
        return sorted(os.listdir('/dev/shm'))
    except OSError:
        return []
