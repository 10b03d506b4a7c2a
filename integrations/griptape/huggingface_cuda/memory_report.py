# SPDX-License-Identifier: Apache-2.0
"""Memory Report: who holds what, on the device and in host memory."""

from __future__ import annotations

import asyncio
from typing import Any

from griptape_nodes.exe_types.node_types import ControlNode

import unstick
from huggingface_cuda.others import other_caches
from huggingface_cuda.parameters import add_constraints, add_output
from unstick.reclaiming import figures
from unstick.report import size


class MemoryReport(ControlNode):
    def __init__(self, name: str, metadata: dict[Any, Any] | None = None) -> None:
        super().__init__(name, metadata)
        add_constraints(self)
        add_output(self, 'report', 'str', 'For reading', ui_options={'multiline': True})
        add_output(self, 'data', 'dict', 'The same as data')

    async def aprocess(self) -> None:
        constraints = self.get_parameter_value('system_constraints') or {}
        text, data = await asyncio.to_thread(report, constraints)
        self.parameter_output_values['report'] = text
        self.parameter_output_values['data'] = data


def report(constraints: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    cache = unstick.shared(constraints)
    reading = unstick.reading(cache.device, figures(cache.device.index))
    system = unstick.system()
    host = cache.device.context.info()
    data = {
        'device': dict(cache.device.info()),
        'reading': reading,
        'models': cache.entries(),
        'host': dict(host),
        'system': system,
        'last_plan': cache.last_plan,
        'other_libraries': other_caches(),
    }
    lines = [
        cache.report(),
        reading['text'],
        f'host memory: {size(host["host_pinned_bytes"])} pinned and {size(host["host_pageable_bytes"])} pageable of '
        f'{size(host["host_limit_bytes"])}; the machine has {size(system["available_bytes"])} of '
        f'{size(system["total_bytes"])} left',
    ]
    lines += [f'process {one["pid"]} ({one["name"]}): {size(one["bytes"])}' for one in reading['processes']]
    lines += [f'{one} keeps models of its own; the Unload node can ask it to let go' for one in data['other_libraries']]
    if plan := cache.last_plan:
        lines.append(f'last plan, for {plan["key"]}: {plan["verdict"]}: {plan["reason"]}')
    return '\n'.join(lines), data
