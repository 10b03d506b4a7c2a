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


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Learned peaks of tests are not the user's; nor are the user's settings those of tests."""
    monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
    return tmp_path / 'state'


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
        # From 3.12 on Python warns of a fork beside threads, which some of the scripts try.
        command = [sys.executable, '-W', 'ignore:This process (pid=:DeprecationWarning', '-c', script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
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
