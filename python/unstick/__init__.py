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
    NotPermittedError,
    NotResidentError,
    OutOfDeviceMemoryError,
    OutOfHostMemoryError,
    PoisonedError,
    Region,
    RevokedError,
    Task,
    TimedOutError,
    UnsupportedError,
    WrongStateError,
    gpus,
    key,
    reading,
    system,
)
from ._unstick import version as __version__
from .allocation import Allocator, allocator, at_import
from .errors import AdoptError, EvictedError, LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .adoption import adopt
    from .cache import Cache
    from .component import Component
    from .dismantling import dismantle
    from .heap import Chain, Cycle, Cycles, Holders, Step, cycles, holders
    from .hibernation import Hibernation, hibernate, hibernate_state, wake
    from .loading import Loaded, stripped
    from .model import Model
    from .sharing import forget_shared, shared, shared_caches
    from .use import Use

# What is imported when it is first asked for, and from where.
_LATER = {
    'Cache': 'cache',
    'Chain': 'heap',
    'Component': 'component',
    'Cycle': 'heap',
    'Cycles': 'heap',
    'Hibernation': 'hibernation',
    'Holders': 'heap',
    'Loaded': 'loading',
    'Model': 'model',
    'Step': 'heap',
    'Use': 'use',
    'adopt': 'adoption',
    'cycles': 'heap',
    'dismantle': 'dismantling',
    'forget_shared': 'sharing',
    'hibernate': 'hibernation',
    'hibernate_state': 'hibernation',
    'holders': 'heap',
    'shared': 'sharing',
    'shared_caches': 'sharing',
    'stripped': 'loading',
    'wake': 'hibernation',
}
_WITHOUT_TORCH = ('cache', 'heap', 'hibernation', 'loading', 'sharing', 'use')

__all__ = [
    'AdoptError',
    'Allocator',
    'BackupChangedError',
    'BadFormatError',
    'BusyError',
    'Cache',
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
    'Hibernation',
    'Holders',
    'HostBudgetError',
    'InvalidArgumentError',
    'IoError',
    'Lease',
    'LoadError',
    'Loaded',
    'Memory',
    'MismatchError',
    'Model',
    'NoContentsError',
    'NoDeviceError',
    'NoSpaceError',
    'NotFoundError',
    'NotPermittedError',
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
    'Use',
    'WrongStateError',
    '__version__',
    'adopt',
    'allocator',
    'cycles',
    'dismantle',
    'forget_shared',
    'gpus',
    'hibernate',
    'hibernate_state',
    'holders',
    'key',
    'reading',
    'shared',
    'shared_caches',
    'stripped',
    'system',
    'wake',
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    from importlib.util import find_spec

    if _LATER[name] not in _WITHOUT_TORCH and find_spec('torch') is None:
        from .errors import unsupported

        raise unsupported(f'unstick.{name} needs torch 2.7 or newer, and torch is not installed', name)
    value = globals()[name] = getattr(import_module(f'.{_LATER[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__


at_import()
del at_import
