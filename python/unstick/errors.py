# SPDX-License-Identifier: Apache-2.0
"""Exceptions that only Python raises, with the same fields as those that come from the status map of the C library."""

from __future__ import annotations

from typing import TypeVar

from ._unstick import BusyError, Error, InvalidArgumentError, NotResidentError, RevokedError, UnsupportedError

_E = TypeVar('_E', bound=Error)


def _filled(error: _E, status: int, status_name: str, operation: str) -> _E:
    error.status = status
    error.status_name = status_name
    error.operation = operation
    error.text = str(error)
    error.native = error.required_bytes = error.available_bytes = 0
    return error


class AdoptError(InvalidArgumentError):
    """The object cannot be adopted. `names` are the tensors or modules that stand in the way, `remedy` what to call."""

    def __init__(self, text: str, *, names: tuple[str, ...] = (), remedy: str = '') -> None:
        super().__init__(f'{text}. {remedy}' if remedy else text)
        self.names = names
        self.remedy = remedy
        _filled(self, -1, 'INVALID_ARGUMENT', 'adopt')


class EvictedError(NotResidentError):
    """The component is evicted and was adopted with guard="raise"."""


def evicted(text: str, operation: str) -> EvictedError:
    return _filled(EvictedError(text), -101, 'NOT_RESIDENT', operation)


def revoked(text: str, operation: str) -> RevokedError:
    return _filled(RevokedError(text), -102, 'REVOKED', operation)


def unsupported(text: str, operation: str) -> UnsupportedError:
    return _filled(UnsupportedError(text), -3, 'UNSUPPORTED', operation)


def busy(text: str, operation: str) -> BusyError:
    return _filled(BusyError(text), -4, 'BUSY', operation)
