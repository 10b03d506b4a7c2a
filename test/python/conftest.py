# SPDX-License-Identifier: Apache-2.0
import os
import sys
from pathlib import Path

import pytest

import unstick

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def device():
    """A host device of its own, with granules small enough that a tiny model has several."""
    return unstick.Device(unstick.Context(), 'host:1GiB', granule_bytes=1 << 20)


@pytest.fixture
def here():
    """The environment of a subprocess that finds what this process found."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}


@pytest.fixture
def flux():
    """The module tiny_flux; what it imports takes a while, so only where a pipeline is needed."""
    pytest.importorskip('bitsandbytes')
    pytest.importorskip('diffusers')
    import tiny_flux

    return tiny_flux
