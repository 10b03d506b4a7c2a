# SPDX-License-Identifier: Apache-2.0
"""Hibernation from Python. What is hibernated runs on the fake driver of the C tests, where that was built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unstick

BUILD = Path(__file__).parents[2] / 'build' / 'test'
FAKES = [BUILD / 'fakecuda', BUILD / 'monitor']
TARGET = BUILD / 'fakecuda' / 'fakecuda-target'

needs_fakes = pytest.mark.skipif(not TARGET.exists(), reason='test/fakecuda is not built: ./dev test')

THERE_AND_BACK = """
import subprocess, sys, unstick
target = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
try:
    assert target.stdout.readline() == 'ready\\n'
    assert unstick.hibernate_state(target.pid) == 'running'
    there = unstick.hibernate(target.pid)
    assert (there.pid, there.state, there.process_after_bytes) == (target.pid, 'hibernated', 0), there
    assert there.moved_bytes == there.process_before_bytes == 8 << 20, there
    assert there.device_before_bytes - there.device_after_bytes == 8 << 20, there
    assert 0 < there.lock_s + there.copy_s <= there.total_s, there
    try:
        unstick.hibernate(target.pid)
        raise AssertionError('twice')
    except unstick.WrongStateError as error:
        assert error.status_name == 'WRONG_STATE' and 'already' in error.text
    target.stdin.write('check\\n')
    back = unstick.wake(target.pid, timeout=None)
    assert (back.state, back.moved_bytes) == ('running', 8 << 20), back
    assert target.stdout.readline() == 'good\\n'
    target.stdin.write('hold\\n')
    assert target.stdout.readline() == 'held\\n'
    try:
        unstick.hibernate(target.pid, timeout=0.02)
        raise AssertionError('no time-out')
    except TimeoutError as error:
        assert isinstance(error, unstick.TimedOutError)
    assert unstick.hibernate_state(target.pid) == 'running'
finally:
    target.kill()
    target.wait()
print('good')
"""

WITHOUT_NVML = """
import subprocess, sys, unstick
target = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
try:
    assert target.stdout.readline() == 'ready\\n'
    there = unstick.hibernate(target.pid)
    assert there.moved_bytes is there.device_before_bytes is there.process_after_bytes is None, there
finally:
    target.kill()
    target.wait()
print('good')
"""


def run_on_fakes(script, folder, libraries):
    environment = {**os.environ, 'LD_LIBRARY_PATH': os.pathsep.join(map(str, libraries))}
    environment['FAKECUDA_PROCESSES'] = str(folder)
    command = [sys.executable, '-c', script, TARGET]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, 'good\n'), done.stderr


@pytest.fixture
def folder(tmp_path):
    if len(str(tmp_path)) > 63:
        pytest.skip('the address of a socket is short, and the folder for temporary files is deep')
    return tmp_path


@needs_fakes
@pytest.mark.parametrize('n', [1, 2])
def test_there_and_back(folder, n):
    run_on_fakes(THERE_AND_BACK if n == 1 else WITHOUT_NVML, folder, FAKES if n == 1 else FAKES[:1])


@pytest.mark.parametrize('call', [unstick.hibernate, unstick.wake, unstick.hibernate_state])
def test_who(call):
    with pytest.raises(unstick.InvalidArgumentError, match='itself'):
        call(os.getpid())
    with pytest.raises(unstick.InvalidArgumentError, match='no number'):
        call(-1)
    with pytest.raises(unstick.NotFoundError, match='no process 2147483647'):
        call(2147483647)
    with pytest.raises(TypeError):
        call('1')


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start a process of another user')
def test_another_user():
    other = subprocess.Popen(['sleep', '1000'], user=65534)
    try:
        with pytest.raises(PermissionError) as raised:
            unstick.hibernate(other.pid)
        assert isinstance(raised.value, unstick.NotPermittedError)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize('timeout', [0, -1, float('nan'), float('inf'), 1e10])
def test_bad_timeouts(timeout):
    for call in (unstick.hibernate, unstick.wake):
        with pytest.raises(ValueError, match='timeout'):
            call(2147483647, timeout=timeout)
