# SPDX-License-Identifier: Apache-2.0
"""Calls that are under way: of a component as a whole, or of one of its blocks."""

from __future__ import annotations

import threading
from types import FrameType

from torch import nn


class Call:
    """A call that is under way, of the thread that made this."""

    __slots__ = ('module', 'thread')

    def __init__(self, module: nn.Module | None) -> None:
        self.thread = threading.get_ident()
        self.module = module
        """Whose call it is; None: a use that no frame tells of."""

    @property
    def is_mine(self) -> bool:
        return self.thread == threading.get_ident()

    def is_running(self, frames: dict[int, FrameType]) -> bool:
        if self.module is None:
            return True
        frame: FrameType | None = frames.get(self.thread)
        while frame is not None:
            if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get('self') is self.module:
                return True
            frame = frame.f_back
        return False


def my_last(calls: list[Call], module: nn.Module | None) -> Call | None:
    """The call of a module that this thread has begun last."""
    return next((one for one in reversed(calls) if one.is_mine and one.module is module), None)
