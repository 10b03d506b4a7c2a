# SPDX-License-Identifier: Apache-2.0
"""Exceptions that only Python can raise; the others come from the status map of the C library."""

from __future__ import annotations

from ._unstick import InvalidArgumentError, NotResidentError, RevokedError, UnsupportedError


class AdoptError(InvalidArgumentError):
    """The object cannot be adopted. `names` are the tensors or modules that stand in the way, `remedy` what to call."""

    def __init__(self, text: str, *, names: tuple[str, ...] = (), remedy: str = '') -> None:
        super().__init__(f'{text}. {remedy}' if remedy else text)
        self.names = names
        self.remedy = remedy
        self.text = text
        self.status = -1
        self.status_name = 'INVALID_ARGUMENT'
        self.operation = 'adopt'
        self.native = self.required_bytes = self.available_bytes = 0


class EvictedError(NotResidentError):
    """The component is evicted and was adopted with guard="raise"."""

    def __init__(self, text: str, operation: str) -> None:
        super().__init__(text)
        self.text = text
        self.status = -101
        self.status_name = 'NOT_RESIDENT'
        self.operation = operation
        self.native = self.required_bytes = self.available_bytes = 0


def revoked(text: str, operation: str) -> RevokedError:
    error = RevokedError(text)
    error.text = text
    error.status = -102
    error.status_name = 'REVOKED'
    error.operation = operation
    error.native = error.required_bytes = error.available_bytes = 0
    return error


def unsupported(text: str, operation: str) -> UnsupportedError:
    error = UnsupportedError(text)
    error.text = text
    error.status = -3
    error.status_name = 'UNSUPPORTED'
    error.operation = operation
    error.native = error.required_bytes = error.available_bytes = 0
    return error
