# SPDX-License-Identifier: Apache-2.0
"""The settings of torch's CUDA allocator: put into the environment at import, while torch has not read it yet.

Never over what the user has set, never once CUDA has started; then allocator() says so, and allocator(apply=...)
changes them at run time, which is a whole string each time: torch resets what it does not repeat. Imported with the
package, so nothing that is slow may be imported here.
"""

from __future__ import annotations

import os
import sys

from ._unstick import (
    allocconf_choose,
    allocconf_compare,
    allocconf_parse,
    allocconf_profiles,
    allocconf_variables,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CUDA, HIP, GENERIC = 'PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_HIP_ALLOC_CONF', 'PYTORCH_ALLOC_CONF'
NO_CACHING = 'PYTORCH_NO_CUDA_MEMORY_CACHING'
SWITCH = 'UNSTICK_ALLOCATOR'


class Allocator:
    """What torch's allocator works with, and why."""

    __slots__ = ('outcome', 'profile', 'reason', 'settings', 'torch', 'variable', 'wanted', 'warnings')

    def __init__(self) -> None:
        self.torch = ''
        """torch's version; empty: there is none."""
        self.profile = ''
        """The profile that was set at import or applied; empty: none."""
        self.wanted = ''
        """The settings that should hold."""
        self.variable = ''
        """The environment variable that counts."""
        self.settings: dict[str, str] = {}
        """The same, key by key."""
        self.outcome = 'none'
        """none, pending (CUDA has not started), in force, not read, different or inert."""
        self.reason = ''
        self.warnings: list[str] = []

    def __repr__(self) -> str:
        return f'<unstick.Allocator {self.wanted!r}: {self.outcome}>'

    def __str__(self) -> str:
        first = f'allocator of torch {self.torch or "(none)"}: {self.wanted or "defaults"}: {self.outcome}'
        return '\n'.join([first, f'  {self.reason}', *(f'  warning: {one}' for one in self.warnings)])


_profile = ''
_reason = 'not looked at yet'
_wanted = ''


def at_import() -> None:
    """Called once, by the package."""
    global _profile, _reason, _wanted
    wanted = os.environ.get(SWITCH) or 'recommended'
    version = torch_version()
    if _is_caching_disabled():
        import warnings

        warnings.warn(
            f'{NO_CACHING} is set: torch asks the driver for every tensor, and no setting of its allocator counts',
            RuntimeWarning,
            stacklevel=4,
        )
    if not version:
        _reason = 'torch is not installed'
    elif wanted == 'off':
        _reason = f'{SWITCH}=off'
    elif wanted not in allocconf_profiles():
        _reason = f'{SWITCH}={wanted} is no profile; there are off, {", ".join(allocconf_profiles())}'
    elif _is_started():
        _reason = 'CUDA had started before unstick was imported: import unstick first, or allocator(apply=...)'
    else:
        try:
            names, found, value = _variables(version)
        except Exception as error:  # a torch older than any rule that is known
            _reason = str(error)
            return
        if found:
            _reason = f'{found} was set by the user'
            _wanted = value or ''
            return
        _profile, _wanted = wanted, allocconf_profiles()[wanted]
        for name in names:
            os.environ.setdefault(name, _wanted)
        _reason = f'profile {wanted}, set at import'


def allocator(*, apply: str | None = None) -> Allocator:
    """What is in force, and why. `apply`: a profile, "auto" (by the card's size), or a whole string of settings.

    Before CUDA has started `apply` goes into the environment; afterwards into the running allocator, which drops every
    setting that is not repeated. What torch says afterwards is compared with what was wanted.
    """
    if apply is not None:
        _apply(apply)
    result = Allocator()
    result.torch = torch_version()
    result.profile, result.reason = _profile, _reason
    if not result.torch:
        return result
    _, found, value = _variables(result.torch)
    result.variable = found or ''
    result.wanted = _wanted or value or ''
    parsed = allocconf_parse(result.wanted, result.torch, _is_caching_disabled())
    result.settings = parsed['settings']
    result.warnings = parsed['errors'] + parsed['warnings']
    if not _is_started():
        result.outcome = 'pending' if result.wanted else 'none'
    elif result.wanted and not parsed['errors']:
        result.outcome, text = _compare(result.wanted, result.torch)
        if result.outcome != 'in force':
            result.reason += f'; {text}'
    return result


def torch_version() -> str:
    """torch's version, without importing it; empty if there is none."""
    torch = sys.modules.get('torch')
    if torch is not None:
        return str(getattr(torch, '__version__', ''))
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec('torch')
    if spec is None or not spec.origin:
        return ''
    # Two milliseconds; importlib.metadata takes a hundred.
    try:
        with open(os.path.join(os.path.dirname(spec.origin), 'version.py'), encoding='utf-8') as file:
            for line in file:
                if line.startswith('__version__'):
                    return line.partition('=')[2].strip().strip('\'"')
    except OSError:
        pass
    return ''


def _variables(version: str) -> tuple[list[str], str | None, str | None]:
    get = os.environ.get
    return allocconf_variables(version, get(CUDA), get(HIP), get(GENERIC))


def _is_caching_disabled() -> bool:
    return os.environ.get(NO_CACHING, '') not in ('', '0')


def _torch() -> Any:
    return sys.modules.get('torch')


def _is_started() -> bool:
    torch = _torch()
    return torch is not None and hasattr(torch, 'cuda') and bool(torch.cuda.is_initialized())


def _apply(wanted: str) -> None:
    global _profile, _reason, _wanted
    from .errors import invalid, unsupported

    version = torch_version()
    if not version:
        raise unsupported('torch is not installed: there is no allocator to set', 'allocator')
    profiles = allocconf_profiles()
    profile, reason = (wanted, f'profile {wanted}') if wanted in profiles else ('', 'a string of settings')
    text = profiles.get(wanted, wanted)
    if wanted == 'auto':
        choice = allocconf_choose(_card_bytes(), version)
        profile, text, reason = choice['profile'], choice['text'], choice['reason']
    parsed = allocconf_parse(text, version, _is_caching_disabled())
    if parsed['errors']:
        raise invalid(f'torch {version} would refuse {text!r}: {parsed["errors"][0]}', 'allocator')
    if _is_started():
        torch = _torch()
        setter = getattr(torch._C, '_accelerator_setAllocatorSettings', None) or getattr(
            torch._C, '_cuda_cudaCachingAllocator_set_allocator_settings', None
        )
        if setter is None:
            raise unsupported(f'torch {version} cannot change settings at run time', 'allocator')
        setter(text)
        reason += ', applied while CUDA was running'
    else:
        names, found, _ = _variables(version)
        for name in {*names, found} if found else names:
            os.environ[str(name)] = text
        reason += ', applied before CUDA started'
    _profile, _wanted, _reason = profile, text, reason


def _card_bytes() -> int:
    torch = _torch()
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _compare(wanted: str, version: str) -> tuple[str, str]:
    settings = _torch().cuda.memory._snapshot().get('allocator_settings') or {}
    expandable = settings.get('expandable_segments')
    return allocconf_compare(
        wanted,
        settings.get(CUDA),
        version,
        _is_caching_disabled(),
        0 if 'expandable_segments' not in wanted or expandable is None else 1 if expandable else -1,
    )
