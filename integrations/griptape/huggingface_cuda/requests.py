# SPDX-License-Identifier: Apache-2.0
"""FreeGpuMemoryRequest: what other libraries and scripts send when they need the GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from griptape_nodes.retained_mode.events.base_events import (
    RequestPayload,
    ResultPayloadFailure,
    ResultPayloadSuccess,
)
from griptape_nodes.retained_mode.events.payload_registry import PayloadRegistry


@dataclass
@PayloadRegistry.register
class FreeGpuMemoryRequest(RequestPayload):
    """Has models leave the GPU.

    Args:
        key: one model, as "{model_id}_{quantization}"; None: all.
        waits: for nodes that use them; otherwise what is in use stays.
        forgets: their contents go, too, and the next use loads them anew.

    Results: FreeGpuMemoryResultSuccess | FreeGpuMemoryResultFailure
    """

    key: str | None = None
    waits: bool = False
    forgets: bool = False


@dataclass
@PayloadRegistry.register
class FreeGpuMemoryResultSuccess(ResultPayloadSuccess):
    """The driver has the memory back.

    Args:
        freed_bytes: by how much the driver's own figure fell.
        keys: what is no longer on the device.
        busy: what is in use, and stayed.
    """

    freed_bytes: int = 0
    keys: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


@dataclass
@PayloadRegistry.register
class FreeGpuMemoryResultFailure(ResultPayloadFailure):
    """It was not done; result_details says why."""


def free_gpu_memory(request: FreeGpuMemoryRequest) -> Any:
    """Blocks until the driver confirms: for a thread."""
    import unstick

    freed, keys, busy = 0, [], []
    try:
        for cache in unstick.shared_caches():
            done = cache.unload(
                None if request.key is None else [request.key], waits=request.waits, forgets=request.forgets
            )
            freed += done.freed_bytes
            keys += done.keys
            busy += done.busy
    except unstick.Error as error:
        return FreeGpuMemoryResultFailure(result_details=str(error))
    return FreeGpuMemoryResultSuccess(
        freed_bytes=freed, keys=keys, busy=busy, result_details=f'{freed} bytes came back'
    )
