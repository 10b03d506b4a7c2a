# SPDX-License-Identifier: Apache-2.0
"""unstick: GPU memory that lets go.

Importing it imports neither torch nor anything else that is slow: what needs torch takes it from sys.modules.
"""

from typing import TYPE_CHECKING, Any

from ._unstick import (
    BackupChangedError,
    BadFormatError,
    BusyError,
    CanceledError,
    ContentsChangingError,
    Context,
    Device,
    DeviceLostError,
    DriverError,
    DriverTooOldError,
    Error,
    ForkedError,
    HostBudgetError,
    InvalidArgumentError,
    IoError,
    Lease,
    Memory,
    MismatchError,
    NoContentsError,
    NoDeviceError,
    NoSpaceError,
    NotFoundError,
    NotResidentError,
    OutOfDeviceMemoryError,
    OutOfHostMemoryError,
    PoisonedError,
    Region,
    RevokedError,
    Task,
    TimedOutError,
    UnsupportedError,
)
from ._unstick import version as __version__
from .errors import AdoptError, EvictedError, unsupported

if TYPE_CHECKING:
    from .adoption import adopt
    from .component import Component
    from .dismantling import dismantle
    from .model import Model

_NEEDS_TORCH = {'adopt': 'adoption', 'Model': 'model', 'Component': 'component', 'dismantle': 'dismantling'}


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec('torch') is None:
        raise unsupported(f'unstick.{name} needs torch 2.7 or newer, and torch is not installed', name)
    return getattr(import_module(f'{__name__}.{_NEEDS_TORCH[name]}'), name)


__all__ = [
    'AdoptError',
    'BackupChangedError',
    'BadFormatError',
    'BusyError',
    'CanceledError',
    'Component',
    'ContentsChangingError',
    'Context',
    'Device',
    'DeviceLostError',
    'DriverError',
    'DriverTooOldError',
    'Error',
    'EvictedError',
    'ForkedError',
    'HostBudgetError',
    'InvalidArgumentError',
    'IoError',
    'Lease',
    'Memory',
    'MismatchError',
    'Model',
    'NoContentsError',
    'NoDeviceError',
    'NoSpaceError',
    'NotFoundError',
    'NotResidentError',
    'OutOfDeviceMemoryError',
    'OutOfHostMemoryError',
    'PoisonedError',
    'Region',
    'RevokedError',
    'Task',
    'TimedOutError',
    'UnsupportedError',
    '__version__',
    'adopt',
    'dismantle',
]
