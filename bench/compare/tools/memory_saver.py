# SPDX-License-Identifier: Apache-2.0
"""torch_memory_saver: default, with the backup retained, and with it on disk."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

from .tool import Tool, package_folder


class MemorySaver(Tool):
    name = 'tms'
    label = 'torch_memory_saver'
    how = 'region(enable_cpu_backup=True); pause(tag), resume(tag)'
    packages = ('torch_memory_saver',)
    allocator = ''  # it refuses expandable segments
    keeps_backup: ClassVar[bool] = False

    @classmethod
    def environment(cls) -> dict[str, str]:
        """Its hook has to be there before Python is: see its hooks/mode_preload.py."""
        folder = package_folder('torch_memory_saver')
        torch = package_folder('torch')
        if folder is None or torch is None:
            return {}
        text = (torch / 'version.py').read_text(encoding='utf-8')
        major = re.search(r"^cuda.*=\s*'(\d+)", text, re.M)
        found = sorted(folder.parent.glob(f'torch_memory_saver_hook_mode_preload_cu{major[1] if major else ""}*.so'))
        if not found:
            return {}
        environment = {'LD_PRELOAD': str(found[0])}
        # It needs the CUDA runtime of torch, which lies beside it and in no place that the loader looks into.
        runtimes = sorted(torch.parent.glob('nvidia/*/lib/libcudart.so.*'))
        if runtimes:
            before = os.environ.get('LD_LIBRARY_PATH', '')
            environment['LD_LIBRARY_PATH'] = ':'.join(filter(None, (str(runtimes[0].parent), before)))
        return environment

    def prepare(self) -> None:
        from torch_memory_saver import torch_memory_saver

        self.saver = torch_memory_saver
        self.hook_mode = 'preload' if 'torch_memory_saver' in os.environ.get('LD_PRELOAD', '') else 'torch'
        self.saver.hook_mode = self.hook_mode

    def region(self, name: str) -> Any:
        return self.saver.region(tag=name, enable_cpu_backup=True)

    def build(self, name: str) -> None:
        if self.keeps_backup:
            self.saver.retain_cpu_backup = True
        with self.region(name):
            super().build(name)

    def leave(self, name: str) -> None:
        self.saver.pause(name)

    def come_back(self, name: str) -> None:
        self.saver.resume(name)

    def details(self) -> dict[str, Any]:
        return {'hook_mode': self.hook_mode}

    def close(self) -> None:
        # What is paused when the interpreter ends is in nobody's interest: as its own examples end, resumed.
        for name in sorted(set(self.pipes) - self.resident):
            self.saver.resume(name)
            self.resident.add(name)


class MemorySaverRetained(MemorySaver):
    name = 'tms_retained'
    label = 'torch_memory_saver, backup retained'
    how = 'the same with retain_cpu_backup = True'
    keeps_backup = True


class MemorySaverDisk(MemorySaver):
    name = 'tms_disk'
    label = 'torch_memory_saver, disk'
    how = 'region(enable_disk_backup=True); pause(tag), resume(tag)'
    is_disk = True

    def region(self, name: str) -> Any:
        self.saver.set_disk_backup_dir(self.options['disk'])
        return self.saver.region(tag=name, enable_disk_backup=True)
