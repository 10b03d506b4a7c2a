# SPDX-License-Identifier: Apache-2.0
"""Threads, coroutines and engines at one cache, with loaders that fail now and then: whatever is in use is whole."""

import asyncio
import contextlib
import faulthandler
import gc
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import unstick

MIB = 1 << 20
MODEL = 24 * MIB


class Work:
    """One thread's sequence of requests."""

    def __init__(self, cache: unstick.Cache, seed: int) -> None:
        self.cache = cache
        self.random = random.Random(seed)
        self.counts: dict[str, int] = {}
        self.failures: list[BaseException] = []

    def load(self, model_id: str, quantization: str, version: int) -> unstick.Loaded:
        region = unstick.Region(self.cache.device, 'weights', MODEL)
        region.restore().wait()
        luck = self.random.random()
        if luck < 0.15:
            raise ValueError('broken file') if luck < 0.1 else MemoryError('no room')
        text = f'{model_id} {version}'.encode()
        region.write(MODEL - len(text), text)
        return unstick.Loaded((region, text), {'weights': region})

    @staticmethod
    def check(model: tuple[unstick.Region, bytes]) -> None:
        region, text = model
        assert region.state == 'resident'
        assert region.read(MODEL - len(text), len(text)) == text

    def options(self) -> dict[str, Any]:
        version = int(self.random.random() < 0.1)
        return {'load': self.load, 'required_bytes': MODEL, 'version': version}

    def use(self, key: str) -> None:
        with self.cache.use(key, '8-bit', **self.options()) as model:
            self.check(model)

    def nest(self, key: str) -> None:
        with self.cache.use(key, '8-bit', **self.options()) as model:
            self.use(self.random.choice('abcd'))
            self.check(model)

    def steps(self, key: str) -> None:
        steps = self.cache.steps(key, '8-bit', **self.options())
        try:
            step = next(steps)
            for _ in range(self.random.choice([1, 2, 1 << 30])):
                step()
                step = steps.send(None)
            steps.close()
        except StopIteration as stop:
            with stop.value as model:
                self.check(model)

    def ause(self, key: str) -> None:
        async def use() -> None:
            async with self.cache.ause(key, '8-bit', **self.options()) as model:
                self.check(model)

        async def main() -> None:
            task = asyncio.ensure_future(use())
            if self.random.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(main())

    def bring(self, key: str) -> None:
        bring = self.random.choice([self.cache.preload, self.cache.prefetch])
        bring(key, '8-bit', **self.options())

    def evict(self, key: str) -> None:
        self.cache.evict(key, '8-bit')

    def drop(self, key: str) -> None:
        self.cache.drop(key, '8-bit')

    def pin(self, key: str) -> None:
        self.cache.pin(key, '8-bit', self.random.random() < 0.2)

    def run(self) -> None:
        verbs = [self.use] * 6 + [self.nest, self.steps, self.ause, self.bring, self.evict, self.drop, self.pin]
        for _ in range(60):
            verb = self.random.choice(verbs)
            try:
                verb(self.random.choice('abcd'))
                self.counts[verb.__name__] = self.counts.get(verb.__name__, 0) + 1
            except (unstick.LoadError, unstick.BusyError, unstick.NotFoundError, unstick.OutOfDeviceMemoryError):
                pass
            except BaseException as error:
                self.failures.append(error)


@pytest.fixture
def watched() -> Iterator[None]:
    """What hangs says where."""
    faulthandler.dump_traceback_later(100, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def test_eight_threads(watched: None) -> None:
    cache = unstick.Cache('host:64MiB', granule_bytes=MIB, idle=0.05)
    works = [Work(cache, seed) for seed in range(8)]
    threads = [threading.Thread(target=work.run) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [failure for work in works for failure in work.failures] == []
    assert sum(work.counts.get('use', 0) for work in works) > 100
    assert all(entry['n_leases'] == 0 for entry in cache.entries())

    for key in 'abcd':
        with contextlib.suppress(unstick.NotFoundError):
            cache.pin(key, '8-bit', False)
    while cache.native.step() >= 0 and any(entry['resident_bytes'] for entry in cache.entries()):
        pass
    cache.clear()
    gc.collect()
    cache.native.step()
    info = cache.device.context.info()
    assert (cache.entries(), cache.device.info()['resident_bytes']) == ([], 0)
    assert info['host_pinned_bytes'] + info['host_pageable_bytes'] == 0
