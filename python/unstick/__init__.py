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
from .errors import AdoptError, EvictedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .adoption import adopt
    from .component import Component
    from .dismantling import dismantle
    from .heap import Chain, Cycle, Cycles, Holders, Step, cycles, holders
    from .model import Model

# What is imported when it is first asked for, and from where.
_LATER = {
    'Chain': 'heap',
    'Component': 'component',
    'Cycle': 'heap',
    'Cycles': 'heap',
    'Holders': 'heap',
    'Model': 'model',
    'Step': 'heap',
    'adopt': 'adoption',
    'cycles': 'heap',
    'dismantle': 'dismantling',
    'holders': 'heap',
}

__all__ = [
    'AdoptError',
    'BackupChangedError',
    'BadFormatError',
    'BusyError',
    'CanceledError',
    'Chain',
    'Component',
    'ContentsChangingError',
    'Context',
    'Cycle',
    'Cycles',
    'Device',
    'DeviceLostError',
    'DriverError',
    'DriverTooOldError',
    'Error',
    'EvictedError',
    'ForkedError',
    'Holders',
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
    'Step',
    'Task',
    'TimedOutError',
    'UnsupportedError',
    '__version__',
    'adopt',
    'cycles',
    'dismantle',
    'holders',
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    from importlib.util import find_spec

    if _LATER[name] != 'heap' and find_spec('torch') is None:
        from .errors import unsupported

        raise unsupported(f'unstick.{name} needs torch 2.7 or newer, and torch is not installed', name)
    value = globals()[name] = getattr(import_module(f'.{_LATER[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
