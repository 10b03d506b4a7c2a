# SPDX-License-Identifier: Apache-2.0
"""The real engine in this process, with homes of its own. Imported before anything of the engine is."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARY = HERE.parent / 'griptape_nodes_library.json'
NAME = 'Unstick'
KIB, MIB = 1 << 10, 1 << 20
SMALL = {'prompt': 'a lighthouse', 'num_inference_steps': 2, 'width': 32, 'height': 32, 'max_sequence_length': 16}

_home = tempfile.TemporaryDirectory(prefix='unstick-griptape-')
for _name in ('XDG_CONFIG_HOME', 'XDG_DATA_HOME', 'XDG_STATE_HOME', 'XDG_CACHE_HOME', 'HF_HOME'):
    os.environ[_name] = f'{_home.name}/{_name}'
os.environ |= {
    'GTN_CONFIG_WORKSPACE_DIRECTORY': f'{_home.name}/workspace',
    'GTN_CONFIG_LIBRARY__PROVISIONED_BY': 'environment',
    'GTN_CONFIG_WORKFLOW_EXECUTION_MODE': 'parallel',
    'GTN_LIBRARY_PATHS': str(LIBRARY),
    'HF_HUB_OFFLINE': '1',
    'TRANSFORMERS_VERBOSITY': 'error',
}

class Engine:
    """Requests to the engine, and a loop for them to run on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes

        self.loop = loop
        self.api = GriptapeNodes
        self.flow = ''
        self.run(self._start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def _start(self) -> None:
        self.api.EventManager().initialize_queue()

    async def ask(self, name: str, **fields: Any) -> Any:
        """A request by the name of its class; any answer."""
        from griptape_nodes.retained_mode.events.payload_registry import PayloadRegistry

        return await self.api.ahandle_request(PayloadRegistry.get_type(name)(**fields))

    async def done(self, name: str, **fields: Any) -> Any:
        """The same, and it has to succeed."""
        result = await self.ask(name, **fields)
        assert result.succeeded(), f'{name}: {result.result_details}'
        return result

    def register(self) -> Any:
        result = self.run(self.done('RegisterLibraryFromFileRequest', file_path=str(LIBRARY)))
        assert result.library_name == NAME
        return self.api.LibraryManager().get_library_info_by_library_name(NAME)

    async def new_flow(self) -> None:
        await self.done('ClearAllObjectStateRequest', i_know_what_im_doing=True)
        self.api.ContextManager().push_workflow(workflow_name='test')
        self.flow = (await self.done('CreateFlowRequest', parent_flow_name=None)).flow_name

    async def add(self, kind: str, name: str, **values: Any) -> Any:
        await self.done(
            'CreateNodeRequest', node_type=kind, specific_library_name=NAME, node_name=name,
            override_parent_flow_name=self.flow, create_error_proxy_on_failure=False,
        )  # fmt: skip
        for parameter, value in values.items():
            await self.done('SetParameterValueRequest', node_name=name, parameter_name=parameter, value=value)
        return self.api.NodeManager().get_node_by_name(name)

    async def connect(self, source: str, target: str, *names: str) -> None:
        """By the parameter of this name on both, or the first name on the source and the second on the target."""
        await self.done(
            'CreateConnectionRequest', source_node_name=source, source_parameter_name=names[0],
            target_node_name=target, target_parameter_name=names[-1],
        )  # fmt: skip

    async def flux(self, name: str, **values: Any) -> Any:
        """A flow of one FLUX node; it, and what the flow ended with."""
        await self.new_flow()
        node = await self.add('FluxInference', name, **{**SMALL, 'model': 'nobody/nothing', **values})
        return node, await self.start()

    async def start(self) -> Any:
        return await self.ask('StartFlowRequest', flow_name=self.flow)

    async def play(self) -> None:
        result = await self.start()
        assert result.succeeded(), result.result_details


def pixels(node: Any) -> bytes:
    from PIL import Image

    return Image.open(path_of(node)).tobytes()


def path_of(node: Any) -> Path:
    url = node.parameter_output_values['image'].value
    return Path(os.environ['GTN_CONFIG_WORKSPACE_DIRECTORY'], 'staticfiles', url.split('?')[0].split('/')[-1])
