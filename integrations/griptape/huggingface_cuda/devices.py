# SPDX-License-Identifier: Apache-2.0
"""The GPUs that a node offers. Asking the driver takes too long for the engine's event loop, so it is asked in threads:
when the library is loaded, and whenever a GPU Configuration runs."""

from __future__ import annotations

from typing import Any

import unstick
from unstick.constraints import gpu_name

_names: list[str] = []


def look_at_gpus() -> list[dict[str, Any]]:
    """For a thread."""
    gpus = unstick.gpus()
    _names[:] = [gpu_name(gpu) for gpu in gpus]
    return gpus


def gpu_names() -> list[str]:
    """Those of the last look."""
    return list(_names)
