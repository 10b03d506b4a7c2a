# SPDX-License-Identifier: Apache-2.0
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import unstick

sys.path.insert(0, str(Path(__file__).parent))

MIB = 1 << 20


@pytest.fixture
def context() -> unstick.Context:
    return unstick.Context()


@pytest.fixture
def device(context: unstick.Context) -> unstick.Device:
    return unstick.Device(context, 'host:256MiB')


@pytest.fixture
def torch() -> Any:
    """The module, for tests that are marked `torch`."""
    return pytest.importorskip('torch')


@pytest.fixture
def collected() -> Iterator[None]:
    """Starts and ends without garbage."""
    gc.collect()
    yield
    gc.collect()


@pytest.fixture
def run_script() -> Callable[[str], str]:
    """Runs a script in a process of its own, which must end well and say nothing on stderr; what it printed."""

    def run(script: str) -> str:
        done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, '')
        return done.stdout

    return run


@pytest.fixture
def here() -> dict[str, str]:
    """The environment of a subprocess that finds what this process found."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}


@pytest.fixture
def flux() -> Any:
    """The module tiny_flux; what it imports takes a while, so only where a pipeline is needed."""
    pytest.importorskip('bitsandbytes')
    pytest.importorskip('diffusers')
    import tiny_flux

    return tiny_flux
