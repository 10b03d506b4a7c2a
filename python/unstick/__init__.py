# SPDX-License-Identifier: Apache-2.0
"""unstick: GPU memory that lets go.

Importing it imports neither torch nor anything else that is slow: what needs torch takes it from sys.modules.
"""

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .heap import Chain, Cycle, Cycles, Holders, Step, cycles, holders

# What is imported when it is first asked for, and from where.
_LATER = {
    'Chain': 'heap',
    'Cycle': 'heap',
    'Cycles': 'heap',
    'Holders': 'heap',
    'Step': 'heap',
    'cycles': 'heap',
    'holders': 'heap',
}

__all__ = [
    'BackupChangedError',
    'BadFormatError',
    'BusyError',
    'CanceledError',
    'Chain',
    'ContentsChangingError',
    'Context',
    'Cycle',
    'Cycles',
    'Device',
    'DeviceLostError',
    'DriverError',
    'DriverTooOldError',
    'Error',
    'ForkedError',
    'Holders',
    'HostBudgetError',
    'InvalidArgumentError',
    'IoError',
    'Lease',
    'Memory',
    'MismatchError',
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
    'Step',
    'Task',
    'TimedOutError',
    'UnsupportedError',
    '__version__',
    'cycles',
    'holders',
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f'.{_LATER[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
