# SPDX-License-Identifier: Apache-2.0
"""System constraints: a dict of a user's limits, as an editor of workflows hands it on, read by value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ._unstick import Context, Device, gpus
from .errors import invalid

GIB = 1 << 30
FALSE = ('', '0', 'false', 'no', 'off', 'none')
MEANINGLESS = ('device_map', 'low_cpu_mem_usage')


class Constraints:
    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._given = dict(constraints)
        self._context: Context | None = None
        self.device = _device(self._given.pop('gpu_device', None))
        self.allow_low_memory = _truth(self._given.pop('allow_low_memory', False))
        self.host_bytes = self._gib('cpu_memory_gb')
        limits = [self._gib('gpu_memory_gb'), self._fraction()]
        for where, amount in (self._given.pop('max_memory', None) or {}).items():
            if where == 'cpu':
                self.host_bytes = self.host_bytes or _amount(amount, 'max_memory')
            else:
                limits.append(_amount(amount, 'max_memory'))
        self.limit_bytes = min((one for one in limits if one), default=0)
        self.sizes = {
            name.removesuffix('_memory_gb'): self._gib(name)
            for name in list(self._given)
            if name in ('4-bit_memory_gb', '8-bit_memory_gb', 'none_memory_gb') and self._given[name] is not None
        }
        for name in MEANINGLESS:
            self._given.pop(name, None)
        self.ignored = tuple(name for name in self._given if not name.endswith('_memory_gb'))

    def options(self) -> dict[str, Any]:
        """Of a Cache."""
        return {
            'device': self.device,
            'limit_bytes': self.limit_bytes,
            'host_bytes': self.host_bytes,
            'allow_low_memory': self.allow_low_memory,
            'sizes': self.sizes,
        }

    def _gib(self, name: str) -> int:
        value = self._given.pop(name, None)
        return 0 if value is None else int(_number(value, name) * GIB)

    def _fraction(self) -> int:
        value = self._given.pop('gpu_memory_fraction', None)
        if value is None:
            return 0
        fraction = _number(value, 'gpu_memory_fraction')
        if not 0 < fraction <= 1:
            raise invalid(f'gpu_memory_fraction is {value!r}: it lies between 0 and 1', 'from_constraints')
        return int(Device(Context(), self.device).info()['total_bytes'] * fraction)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1 << 20:
        raise invalid(f'{name} is {value!r}: it is a number, not below 0', 'from_constraints')
    return number


def _amount(value: Any, name: str) -> int:
    """Bytes, or a string such as "20GiB" or "20GB"."""
    if isinstance(value, int):
        return value
    match = re.fullmatch(r'\s*([0-9.]+)\s*(Ki|Mi|Gi|K|M|G|)B?\s*', str(value), re.IGNORECASE)
    if not match:
        raise invalid(f'{name} has {value!r}: it is bytes, or a string such as "20GiB"', 'from_constraints')
    unit = match[2].lower()
    factor = 1024 if unit.endswith('i') else 1000
    return int(float(match[1]) * factor ** ' kmg'.index(unit[0] if unit else ' '))


def _truth(value: Any) -> bool:
    """By its value: the string "false" is false, and so is a key that is merely there."""
    return value.strip().lower() not in FALSE if isinstance(value, str) else bool(value)


def _device(value: Any) -> str:
    if value is None or value == '':
        return 'auto'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'cuda:{value}'
    text = str(value).strip()
    if text.isdigit():
        return f'cuda:{text}'
    if text == 'cuda':
        return 'cuda:0'
    if text == 'cpu':
        return 'host'
    if re.fullmatch(r'auto|host|host:.*|cuda:\d+', text):
        return text
    return _by_name(text)


def _by_name(text: str) -> str:
    """A name as a list of GPUs shows it, such as "NVIDIA L4 (22 GB)"; the driver is asked, torch need not be there."""
    wanted = re.sub(r'\s*\(.*\)$', '', text)
    names = {gpu['spec']: gpu['name'] for gpu in gpus()}
    found = [spec for spec, name in names.items() if wanted in (name, spec)]
    if len(found) == 1:
        return found[0]
    what = f'fits several GPUs: {", ".join(found)}' if found else f'is none of {", ".join(names.values()) or "no GPU"}'
    raise invalid(f'gpu_device {text!r} {what}; name it as "cuda:0"', 'from_constraints')
