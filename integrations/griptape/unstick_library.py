# SPDX-License-Identifier: Apache-2.0
"""What the engine calls when it loads and unloads this library.

Importing unstick is what sets up torch's allocator, and has to come before CUDA starts: so it is done here, before any
node is loaded. The models that the nodes load belong to the process, and go when the library does.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from griptape_nodes.node_library.advanced_node_library import AdvancedNodeLibrary

if TYPE_CHECKING:
    from griptape_nodes.node_library.library_registry import Library, LibrarySchema

logger = logging.getLogger('griptape_nodes')

ROOT = Path(__file__).resolve().parents[2]
"""Where the package unstick is built from: this library is a folder of its source tree."""


class UnstickLibrary(AdvancedNodeLibrary):
    def before_library_nodes_loaded(self, library_data: LibrarySchema, library: Library) -> None:
        if importlib.util.find_spec('unstick') is None:
            install_unstick(library_data.name)
        if 'torch' in sys.modules:
            logger.info('torch was imported before %s: that one counts', library_data.name)
        import unstick
        from huggingface_cuda.devices import look_at_gpus

        look_at_gpus()
        logger.info('%s: unstick %s; %s', library_data.name, unstick.__version__, unstick.allocator())

    def before_library_unregistered(self, library_data: LibrarySchema, library: Library) -> None:
        import unstick

        caches = unstick.shared_caches()
        before = sum(cache.device.info()['resident_bytes'] for cache in caches)
        unstick.forget_shared()
        left = sum(cache.device.info()['resident_bytes'] for cache in caches)
        logger.info('%s: %s of models gave back %d bytes; %d are still in use', library_data.name, caches, before, left)

    def get_request_handlers(self) -> list[tuple[Any, Any]]:
        from huggingface_cuda.requests import FreeGpuMemoryRequest, free_gpu_memory

        async def handle(request: Any) -> Any:
            return await asyncio.to_thread(free_gpu_memory, request)

        return [(FreeGpuMemoryRequest, handle)]


def install_unstick(library_name: str) -> None:
    """Builds the package from the tree around this library, into the environment that the engine made for it."""
    python = environment_python(library_name)
    logger.info('%s: building the package unstick from its source', library_name)
    command = [sys.executable, '-m', 'uv', 'pip', 'install', '--quiet', '--python', str(python), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f'the package unstick could not be built from {ROOT}; it needs a C compiler, pkg-config and the headers of '
            f'Python and jansson (Debian: gcc pkg-config python3-dev libjansson-dev): {done.stderr.strip()[-500:]}'
        )
    importlib.invalidate_caches()


def environment_python(library_name: str) -> Path:
    """The interpreter of the library's own environment; in a worker, of the one that it executes in."""
    from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes
    from griptape_nodes.utils.uv_utils import venv_python_path

    manager = GriptapeNodes.LibraryManager()
    info = manager.get_library_info_by_library_name(library_name)
    if info is None or manager.managed_environment.provisioned_by_environment():
        return Path(sys.executable)
    is_isolated = bool(manager.is_worker and info.executes_in_worker)
    folder = Path(manager.environment.get_library_venv_path(library_name, info.library_path, execution=is_isolated))
    return Path(venv_python_path(folder))
