# SPDX-License-Identifier: Apache-2.0
"""FLUX Inference: one image. The model comes from the process's cache of the device, which all nodes share.

Nothing here decides about memory: what to evict, whether to wait and when to refuse is the cache's plan, whose reason
the node shows. And nothing here runs on the engine's event loop for longer than a parameter takes to be set: the way to
the model, the steps of inference and the writing of the image are threads' work. A cancel comes through between two
waits, two granules, two components of a load and two steps of inference; then what was taken is given back.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from griptape.artifacts import ImageUrlArtifact
from griptape_nodes.exe_types.node_types import SuccessFailureNode
from griptape_nodes.exe_types.param_components.progress_bar_component import ProgressBarComponent
from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes
from griptape_nodes.traits.options import Options

import unstick
from huggingface_cuda.flux.loader import FluxLoader
from huggingface_cuda.parameters import add_constraints, add_input, add_output
from unstick.use import Use, in_thread

QUANTIZATIONS = ('8-bit', '4-bit', 'none')
BY_CAUSE, BY_THE_CLOCK = 'by cause', 'by the clock'
SHOW_SECONDS = 0.25
_turns: WeakKeyDictionary[Any, Lock] = WeakKeyDictionary()


class Canceled(Exception):
    """Somebody pressed stop."""


class FluxInference(SuccessFailureNode):
    def __init__(self, name: str, metadata: dict[Any, Any] | None = None) -> None:
        super().__init__(name, metadata)
        add_input(self, 'model', 'str', 'black-forest-labs/FLUX.1-dev', 'Its name on Hugging Face, or a folder')
        add_input(
            self, 'quantization', 'str', '8-bit', 'How the transformer and the T5 encoder are kept on the GPU',
            traits={Options(choices=list(QUANTIZATIONS))},
        )  # fmt: skip
        add_input(self, 'prompt', 'str', '', 'What the image shows', ui_options={'multiline': True})
        add_input(self, 'num_inference_steps', 'int', 20, 'Steps of inference')
        add_input(self, 'guidance_scale', 'float', 3.5, 'How closely the prompt is followed')
        add_input(self, 'width', 'int', 1024, 'Of the image')
        add_input(self, 'height', 'int', 1024, 'Of the image')
        add_input(self, 'seed', 'int', 0, 'The same seed gives the same image')
        add_input(self, 'max_sequence_length', 'int', 512, 'Tokens of the prompt that T5 reads')
        add_input(self, 'max_wait', 'float', -1.0, 'Seconds to wait for memory at most; below 0: while others use it')
        add_input(
            self, 'patience', 'str', BY_CAUSE,
            f'"{BY_CAUSE}": waits while something may still give memory back; "{BY_THE_CLOCK}": then for 12 s more, in '
            'case something does that nobody knows of',
            traits={Options(choices=[BY_CAUSE, BY_THE_CLOCK])},
        )  # fmt: skip
        add_constraints(self)
        self.progress = ProgressBarComponent(self)
        self.progress.add_property_parameters()
        add_output(self, 'image', 'ImageUrlArtifact', 'The image')
        add_output(self, 'plan', 'str', 'What was done about memory, and why', ui_options={'multiline': True})
        self._create_status_parameters()
        self._shown = 0.0

    # --- the run ---

    async def aprocess(self) -> None:
        self._clear_execution_status()
        self._shown = 0.0
        failure: Exception | None = None
        try:
            text = await self._generate()
        except Exception as error:
            failure = self._explained(error)
        if failure is not None and self.is_cancellation_requested:  # whatever it ended with, this is why
            self._set_status_results(was_successful=False, result_details='Canceled; what it had taken was given back.')
            raise asyncio.CancelledError
        if failure is not None:  # outside of the handler: it holds the frames of the failure, and what they hold
            self._set_status_results(was_successful=False, result_details=str(failure))
            self._handle_failure_exception(failure)
            return
        self._set_status_results(was_successful=True, result_details=text)

    async def _generate(self) -> str:
        use = await in_thread(self._manage_pipeline_cache)
        async with use as pipe:
            self._check_memory_safety(use)
            async with self._turn(pipe):
                data = await in_thread(self._infer, pipe)
            del pipe
        url = await in_thread(self._save, data)
        self.parameter_output_values['image'] = ImageUrlArtifact(url)
        return str(self.parameter_output_values['plan'])

    def _manage_pipeline_cache(self) -> Use:
        """Asks the process's cache of the device for the model; on the way there the node shows what goes on."""
        constraints = self.get_parameter_value('system_constraints') or {}
        cache = unstick.shared(constraints)
        wait = float(self.get_parameter_value('max_wait'))
        use = cache.use(
            self.get_parameter_value('model'),
            self.get_parameter_value('quantization'),
            load=FluxLoader(cache.device, self._checkpoint),
            max_wait=None if wait < 0 else wait,
            strategy='seed' if self.get_parameter_value('patience') == BY_THE_CLOCK else 'default',
            constraints=constraints,
            holder=id(self),
        )
        use.observe = self._observe
        return use

    def _check_memory_safety(self, use: Use) -> None:
        """Shows what the plan decided. What it refused did not come here: it was raised on the way."""
        result = use.result
        lines = [f'{result["outcome"]}: {result["reason"]}']
        if result['verdict'] == 'forced':
            lines.append('Forced by allow_low_memory.')
        lines += [f'{one["key"]} left: {one["bytes"]} bytes' for one in result['evictions']]
        self.publish_update_to_parameter('plan', '\n'.join(lines))

    @asynccontextmanager
    async def _turn(self, pipe: Any) -> AsyncIterator[None]:
        """One pipeline runs one job at a time: its scheduler has a state. Who waits for it blocks no thread."""
        lock = _turns.setdefault(pipe, Lock())
        while not lock.acquire(blocking=False):
            self._stop_if_canceled()
            await asyncio.sleep(0.02)
        try:
            yield
        finally:
            lock.release()

    def _infer(self, pipe: Any) -> bytes:
        import torch

        steps = int(self.get_parameter_value('num_inference_steps'))
        self.progress.initialize(steps)

        def after(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            self._stop_if_canceled()
            self.progress.increment()
            return kwargs

        self._stop_if_canceled()
        with torch.inference_mode():
            image = pipe(
                self.get_parameter_value('prompt'),
                num_inference_steps=steps,
                guidance_scale=float(self.get_parameter_value('guidance_scale')),
                width=int(self.get_parameter_value('width')),
                height=int(self.get_parameter_value('height')),
                max_sequence_length=int(self.get_parameter_value('max_sequence_length')),
                generator=torch.Generator('cpu').manual_seed(int(self.get_parameter_value('seed'))),
                callback_on_step_end=after,
            ).images[0]
        data = io.BytesIO()
        image.save(data, 'PNG')
        return data.getvalue()

    def _save(self, data: bytes) -> str:
        name = ''.join(c if c.isalnum() else '_' for c in self.name)
        return str(GriptapeNodes.StaticFilesManager().save_static_file(data, f'{name}.png'))

    # --- on the way ---

    def _stop_if_canceled(self) -> None:
        if self.is_cancellation_requested:
            raise Canceled

    def _checkpoint(self, text: str) -> None:
        self._stop_if_canceled()
        self._show(text)

    def _observe(self, use: Use) -> None:
        self._stop_if_canceled()
        now = time.monotonic()
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            progress = use.progress()
            moved = f'{progress["bytes"]} of {progress["total_bytes"]} bytes' if progress.get('total_bytes') else ''
            self._show(' '.join(filter(None, (progress.get('reason', ''), moved))))

    def _show(self, text: str) -> None:
        if text:
            self.publish_update_to_parameter('plan', text)

    def _explained(self, error: Exception) -> Exception:
        """The failure in full, with what could be done about it, and with frames that hold nothing."""
        cause = unstick.stripped(error)
        lines = [str(cause) or type(cause).__name__]
        lines += [f'- {one}' for one in getattr(cause, 'suggestions', ()) if str(one) not in lines[0]]
        return RuntimeError('\n'.join(lines))
