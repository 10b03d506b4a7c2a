# SPDX-License-Identifier: Apache-2.0
"""What the process and the device hold, by the kernel's own word, in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('bitsandbytes')
pytest.importorskip('diffusers')

pytestmark = pytest.mark.torch

COMMON = """
    import gc, sys
    import torch, unstick
    from tiny_flux import run, tiny_flux

    torch.set_num_threads(1)

    def status(key):
        with open('/proc/self/status') as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ':'))

    def accounts(device):
        info = device.info()
        return info['resident_bytes'] + info['spare_bytes'] + info['poisoned_bytes']
"""

LARGE = """
    device = unstick.Device(unstick.Context(), 'host:2GiB', granule_bytes=16 << 20)
    pipe = tiny_flux('8-bit', scale=30)
    expected = run(pipe, steps=1)
    keep = [dict(pipe.components), list(pipe.transformer.parameters())]
    model = unstick.adopt(pipe, device=device)
    size = accounts(device)
    assert size >= 256 << 20, size
    before = status('RssShmem')
    assert before >= size
    model.evict()
    assert accounts(device) == 0
    gone = before - status('RssShmem')
    assert abs(gone - size) <= 16 << 20, (gone, size)  # the sentinel's granule has come
    assert torch.equal(run(pipe, steps=1), expected)
    assert accounts(device) == size
    model.release()
    assert accounts(device) == 0
    print('size', size)
"""

SWITCHES = """
    device = unstick.Device(unstick.Context(), 'host:1GiB', granule_bytes=1 << 20)
    pipes = [tiny_flux('8-bit', scale=2), tiny_flux('4-bit', scale=2)]
    expected = [run(pipe, steps=1) for pipe in pipes]
    keep = [[dict(pipe.components), list(pipe.transformer.parameters())] for pipe in pipes]
    models = [unstick.adopt(pipe, device=device) for pipe in pipes]
    for model in models:
        model.evict()
    rss = []
    for turn in range(25):
        mine = turn % 2
        assert torch.equal(run(pipes[mine], steps=1), expected[mine])
        models[mine].evict()
        assert accounts(device) == 0, turn
        gc.collect()
        rss.append(status('VmRSS'))
    settled = rss[5:]
    n = len(settled)
    middle = (n - 1) / 2
    mean = sum(settled) / n
    slope = sum((i - middle) * (y - mean) for i, y in enumerate(settled)) / sum((i - middle) ** 2 for i in range(n))
    assert slope < 64 << 10, (slope, rss)
    for model in models:
        model.release()
    del models, model, pipes, keep
    gc.collect()
    assert accounts(device) == 0
    device.close()
    print('slope', int(slope))
"""


@pytest.mark.parametrize('what', ['LARGE', 'SWITCHES'])
def test_memory(what, here):
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(COMMON + globals()[what])],
        capture_output=True, text=True, env=here, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
