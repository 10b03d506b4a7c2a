# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake import FakeLoader
from harness import KIB, MIB, NAME, Engine


@pytest.fixture(scope='session')
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())


@pytest.fixture(scope='session')
def engine(loop: asyncio.AbstractEventLoop) -> Engine:
    engine = Engine(loop)
    info = engine.register()
    assert (info.fitness.name, info.problems) == ('GOOD', [])
    return engine


@pytest.fixture(scope='session')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny FLUX: 12 MiB in 8-bit, 10 MiB in 4-bit, as its files say."""
    import tiny

    return str(tiny.write_tiny_flux(tmp_path_factory.mktemp('model') / 'tiny'))


@pytest.fixture
def device() -> Iterator[str]:
    """With room for one fake model, not for two, and a cache that nobody has used."""
    yield from _device(16 * MIB)


@pytest.fixture
def tight() -> Iterator[str]:
    """The same for the tiny FLUX."""
    yield from _device(13 * MIB)


def _device(nbytes: int) -> Iterator[str]:
    import unstick

    spec = f'host:{nbytes}'
    unstick.shared({'gpu_device': spec}, granule_bytes=64 * KIB)
    yield spec
    unstick.forget_shared()


@pytest.fixture
def flow(engine: Engine) -> Engine:
    engine.run(engine.new_flow())
    return engine


@pytest.fixture
def fakes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> type[FakeLoader]:
    """FLUX nodes load models that are memory and nothing else: 10, 8 and 14 MiB."""
    from griptape_nodes.node_library.library_registry import LibraryRegistry

    kind = LibraryRegistry.get_library(NAME).get_node_class('FluxInference')
    monkeypatch.setattr(sys.modules[kind.__module__], 'FluxLoader', FakeLoader)
    FakeLoader.reset()
    FakeLoader.sizes = {'8-bit': 10 * MIB, '4-bit': 8 * MIB, 'none': 14 * MIB}
    return FakeLoader


@pytest.fixture
def limits(device: str) -> dict[str, object]:
    """System constraints that name the device, and say how large the fake models are."""
    sizes = {'8-bit': 10, '4-bit': 8, 'none': 14}
    return {'gpu_device': device, **{f'{name}_memory_gb': mib / 1024 for name, mib in sizes.items()}}
