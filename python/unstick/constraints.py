# SPDX-License-Identifier: Apache-2.0
"""System constraints: a dict of a user's limits, as an editor of workflows hands it on, read by value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import _unstick
from ._unstick import Context, Device
from .errors import invalid

GIB = 1 << 30
FALSE = ('', '0', 'false', 'no', 'off', 'none')
MEANINGLESS = ('device_map', 'low_cpu_mem_usage')


class Constraints:
    def __init__(self, constraints: Mapping[str, Any], device: str | None = None) -> None:
        """`device`: the one that it is about, whatever the constraints name."""
        self._given = dict(constraints)
        named = self._given.pop('gpu_device', None)
        self.device = device_of(named) if device is None else device
        force = self._given.pop('allow_low_memory', None)
        self.allow_low_memory = None if force is None else _truth(force)
        """None: not said."""
        self.host_bytes = self._gib('cpu_memory_gb')
        self._limits = [self._gib('gpu_memory_gb')]
        self._fraction = self._read_fraction()
        for where, amount in (self._given.pop('max_memory', None) or {}).items():
            if where == 'cpu':
                self.host_bytes = self.host_bytes or _amount(amount, 'max_memory')
            elif self._is_ours(where):
                self._limits.append(_amount(amount, 'max_memory'))
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
            'limit_bytes': self.limit_bytes(_total_bytes(self.device) if self._fraction else 0),
            'host_bytes': self.host_bytes,
            'allow_low_memory': bool(self.allow_low_memory),
            'sizes': self.sizes,
        }

    def limits(self, total_bytes: int) -> dict[str, int]:
        """Of one use of a cache that others share, on a device of so many bytes."""
        return {'limit_bytes': self.limit_bytes(total_bytes), 'host_limit_bytes': self.host_bytes}

    def limit_bytes(self, total_bytes: int) -> int:
        """The tightest of all limits; 0: none."""
        limits = [*self._limits, int(total_bytes * self._fraction)]
        return min((one for one in limits if one), default=0)

    def _is_ours(self, where: Any) -> bool:
        """A limit of another GPU is none of this one."""
        spec = f'cuda:{where}' if str(where).isdigit() else str(where)
        return not self.device.startswith('cuda:') or not spec.startswith('cuda:') or spec == self.device

    def _gib(self, name: str) -> int:
        value = self._given.pop(name, None)
        return 0 if value is None else int(_number(value, name) * GIB)

    def _read_fraction(self) -> float:
        value = self._given.pop('gpu_memory_fraction', None)
        if value is None:
            return 0
        fraction = _number(value, 'gpu_memory_fraction')
        if not 0 < fraction <= 1:
            raise invalid(f'gpu_memory_fraction is {value!r}: it lies between 0 and 1', 'from_constraints')
        return fraction


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


def device_of(value: Any) -> str:
    """What a Device is opened as: an index, a name, a UUID, or a name with a UUID as devices are listed."""
    if value is None or value == '':
        return most_free()
    if isinstance(value, int) and not isinstance(value, bool):
        return f'cuda:{value}'
    text = str(value).strip()
    if text == 'auto':
        return most_free()
    if text.isdigit():
        return f'cuda:{text}'
    if text == 'cuda':
        return 'cuda:0'
    if text == 'cpu':
        return 'host'
    if re.fullmatch(r'host|host:.*|cuda:\d+', text):
        return text
    uuid = re.search(r'(GPU|MIG)-[0-9a-f-]{32,36}', text, re.IGNORECASE)
    return _by_uuid(uuid[0]) if uuid else _by_name(text)


def most_free() -> str:
    """The GPU with the most free memory; "auto" where there is no choice."""
    gpus = [gpu for gpu in _unstick.gpus() if gpu['free_bytes'] is not None]
    if len(gpus) < 2:
        return 'auto'
    return f'cuda:{max(gpus, key=lambda gpu: int(gpu["free_bytes"]))["index"]}'


def gpu_name(gpu: Mapping[str, Any]) -> str:
    """As a list shows it: two equal GPUs differ, and the name means the same one tomorrow."""
    return f'{gpu["name"]} ({round(gpu["total_bytes"] / GIB)} GB) {gpu["uuid"]}'


def _by_uuid(uuid: str) -> str:
    gpus = _unstick.gpus()
    for gpu in gpus:
        if gpu['uuid'].lower() == uuid.lower():
            return f'cuda:{gpu["index"]}'
    raise invalid(f'there is no GPU {uuid} here: {_listed(gpus)}', 'from_constraints')


def _by_name(text: str) -> str:
    """A name without a UUID, such as "NVIDIA L4 (22 GB)"."""
    gpus = _unstick.gpus()
    wanted = re.sub(r'\s*\(.*\)$', '', text)
    found = [gpu for gpu in gpus if gpu['name'] == wanted]
    if len(found) == 1:
        return f'cuda:{found[0]["index"]}'
    what = f'fits several GPUs: {_listed(found)}' if found else f'is none of these: {_listed(gpus)}'
    raise invalid(f'gpu_device {text!r} {what}; name it as "cuda:0" or by its UUID', 'from_constraints')


def _listed(gpus: list[dict[str, Any]]) -> str:
    return ', '.join(f'cuda:{gpu["index"]} is {gpu_name(gpu)}' for gpu in gpus) or 'no GPU'


def _total_bytes(spec: str) -> int:
    for gpu in _unstick.gpus():
        if spec in (f'cuda:{gpu["index"]}', 'auto'):
            return int(gpu['total_bytes'])
    return Device(Context(), spec).info()['total_bytes']
