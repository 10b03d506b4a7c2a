# SPDX-License-Identifier: Apache-2.0
"""Unload: device memory comes back now, and the node ends when the driver confirms it."""

from __future__ import annotations

import asyncio
from typing import Any

from griptape_nodes.exe_types.node_types import ControlNode
from griptape_nodes.traits.options import Options

import unstick
from huggingface_cuda.others import clear_other_caches
from huggingface_cuda.parameters import add_constraints, add_input, add_output
from unstick.report import size
from unstick.use import in_thread

ONE, IDLE, ALL = 'one model', 'all idle', 'all'


class UnloadModels(ControlNode):
    def __init__(self, name: str, metadata: dict[Any, Any] | None = None) -> None:
        super().__init__(name, metadata)
        add_input(
            self, 'what', 'str', IDLE, f'"{ALL}" waits for the nodes that use models; "{IDLE}" leaves those alone',
            traits={Options(choices=[IDLE, ALL, ONE])},
        )  # fmt: skip
        add_input(self, 'model', 'str', '', f'For "{ONE}"')
        add_input(self, 'quantization', 'str', '8-bit', f'For "{ONE}"')
        add_input(
            self, 'keep_in_host_memory', 'bool', True,
            'What leaves comes back in a fraction of the time of a load; otherwise it is loaded anew',
        )  # fmt: skip
        add_input(self, 'other_libraries', 'bool', False, 'Ask other libraries to clear their caches of models, too')
        add_constraints(self)
        add_output(self, 'freed_bytes', 'int', 'By how much the driver has more')
        add_output(self, 'result', 'str', 'The same in words')

    async def aprocess(self) -> None:
        freed, text = await in_thread(self._unload)
        self.parameter_output_values['freed_bytes'] = freed
        self.parameter_output_values['result'] = text

    def _unload(self) -> tuple[int, str]:
        what = self.get_parameter_value('what')
        cache = unstick.shared(self.get_parameter_value('system_constraints') or {})
        asked = clear_other_caches() if self.get_parameter_value('other_libraries') else []
        keys = None
        if what == ONE:
            key = unstick.key(self.get_parameter_value('model'), self.get_parameter_value('quantization'))[0]
            known = [entry['key'] for entry in cache.entries()]
            if key not in known:
                raise ValueError(f'{key} is not in the cache, which has {", ".join(known) or "nothing"}')
            keys = [key]
        done = cache.unload(
            keys, waits=what != IDLE, forgets=not self.get_parameter_value('keep_in_host_memory'), check=self._check
        )
        lines = [f'{size(done.freed_bytes)} came back: {", ".join(done.keys) or "nothing left"}']
        if done.busy:
            lines.append(f'in use, and still there: {", ".join(done.busy)}')
        if asked:
            lines.append(f'asked to let go: {", ".join(asked)}')
        return done.freed_bytes, '\n'.join(lines)

    def _check(self) -> None:
        if self.is_cancellation_requested:
            raise asyncio.CancelledError
