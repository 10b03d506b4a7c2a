# SPDX-License-Identifier: Apache-2.0
"""A process that ends with models in any state ends well and says nothing."""

import pytest

pytest.importorskip('torch')

pytestmark = pytest.mark.torch

COMMON = """
import threading, time
import torch, unstick
from torch import nn

device = unstick.Device(unstick.Context(), 'host:256MiB', granule_bytes=1 << 20)
module = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
expected = module[0].weight.detach().clone()
"""

ENDS = {
    'resident': 'model = unstick.adopt(module, device=device)',
    'evicted': 'model = unstick.adopt(module, device=device); model.evict()',
    'revoked': 'model = unstick.adopt(module, device=device); model.revoke()',
    'released': 'model = unstick.adopt(module, device=device); model.release(); del module',
    'in use': 'model = unstick.adopt(module, device=device); output = module(torch.rand(1, 1024))',
    'in a thread': """
model = unstick.adopt(module, device=device)
threading.Thread(target=lambda: (model.evict(), module(torch.rand(1, 1024)))).start()
""",
    # A shell starts what goes on in the background with SIGINT ignored: then there are no interrupts.
    'interrupted': """
import _thread, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
model = unstick.adopt(module, device=device)
for delay in range(20):
    model.evict()
    timer = threading.Timer(delay / 10000, _thread.interrupt_main)
    try:
        timer.start()
        model.restore()
        while True:
            time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    timer.join()
model.restore()
assert torch.equal(module[0].weight, expected)
""",
}


@pytest.mark.parametrize('how', ENDS)
def test_the_end(how, run_script):
    run_script(COMMON + ENDS[how])
