# SPDX-License-Identifier: Apache-2.0
"""What a process does at its edges: it forks, it ends with models in every state, and it says nothing about it."""

import pytest

SETUP = """
import unstick
device = unstick.Device(unstick.Context(), 'host:256MiB')
def region(name='r', size=32 << 20):
    made = unstick.Region(device, name, size)
    made.restore().wait()
    return made
"""

ENDS = {
    'resident': 'r = region(); m = r.tensor(0, 100); v = memoryview(m)',
    'evicted': 'r = region(); v = memoryview(r.tensor(0, 100)); r.evict().wait()',
    'revoked': 'r = region(); v = memoryview(r.tensor(0, 100)); r.revoke().wait()',
    'leased': 'r = region(); l = r.lease(); t = r.evict()',
    'task on its way': 'r = region(size=128 << 20); r.evict().wait(); t = r.restore()',
    'in a cycle': 'r = region(); c = [r, r.tensor(0, 1)]; c.append(c); del r',
    'with an exit function that runs later': (
        'import atexit; r = region(); atexit.register(lambda: print(r.state))'
    ),
    'in a thread': (
        'import threading\n'
        'def work():\n'
        '    global r\n'
        '    r = region(); r.evict().wait()\n'
        'threading.Thread(target=work).start()'
    ),
    'in a daemon thread that computes': (
        'import threading\n'
        'r = region(); v = memoryview(r.tensor(0, 32 << 20)); started = threading.Event()\n'
        'def work():\n'
        '    while True:\n'
        '        bytes(v); started.set()\n'
        'threading.Thread(target=work, daemon=True).start(); started.wait()'
    ),
    'in a daemon thread that waits': (
        'import threading\n'
        'r = region(); l = r.lease(); t = r.evict(); started = threading.Event()\n'
        'def work():\n'
        '    started.set(); t.wait()\n'
        'threading.Thread(target=work, daemon=True).start(); started.wait()'
    ),
    'after a failed load': (
        'try:\n'
        '    r = region(); unstick.Region(device, "big", 1 << 30).restore().wait()\n'
        'except unstick.OutOfDeviceMemoryError as e:\n'
        '    kept = e\n'
    ),
    'after an interrupt in the middle of a restore': (
        'import signal\n'
        'def stop(*_): raise KeyboardInterrupt\n'
        'signal.signal(signal.SIGALRM, stop)\n'
        'r = region(size=128 << 20); r.evict().wait()\n'
        'try:\n'
        '    signal.setitimer(signal.ITIMER_REAL, 0.002)\n'
        '    while True:\n'
        '        r.restore().wait(); r.evict().wait()\n'
        'except KeyboardInterrupt:\n'
        '    pass\n'
    ),
    'through sys.exit in a with': 'import sys\nr = region()\nwith r.lease():\n    sys.exit(0)',
}


@pytest.mark.parametrize('end', ENDS)
def test_exit_is_silent(run_script, end):
    run_script(SETUP + ENDS[end])


def test_a_forked_child_is_told(run_script):
    printed = run_script(
        SETUP
        + """
import os, sys, warnings
warnings.simplefilter('ignore')
r = region(); view = memoryview(r.tensor(0, 4)); view[:] = b'abcd'; lease = r.lease()
task = r.backup()
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    calls = [
        device.info, device.context.info, r.info, r.evict, r.restore, r.lease, lease.end, task.wait, task.result,
        lambda: r.state, lambda: r.read(0, 1), lambda: r.write(0, b'x'), lambda: r.alloc(1), lambda: r.tensor(0, 1),
        lambda: unstick.Region(device, 'n', 1), device.close, lambda: unstick.Device(device.context, 'host:1MiB'),
    ]
    told = 0
    for call in calls:
        try:
            call()
        except unstick.ForkedError:
            told += 1
    repr(r), repr(device), repr(task), repr(device.context)
    again = unstick.Region(unstick.Device(unstick.Context(), 'host:16MiB'), 'own', 100)
    again.restore().wait()
    print(told == len(calls), again.state)
    del r, lease, task, view
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
task.wait(); lease.end(); r.evict().wait(); r.restore().wait()
print(bytes(view))
"""
    )
    assert printed == "True resident\nb'abcd'\n"


def test_contexts_come_and_go(run_script):
    printed = run_script(
        """
import unstick, threading
for _ in range(20):
    region = unstick.Region(unstick.Device(unstick.Context(), 'host:8MiB'), 'r', 1 << 20)
    region.restore().wait()
del region
import os
print(len(os.listdir('/proc/self/task')))
"""
    )
    assert printed == '1\n', 'every thread of the library ended with its context'
