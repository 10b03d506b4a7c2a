# SPDX-License-Identifier: Apache-2.0
"""Settings of torch's allocator: at import, never over the user's, never once CUDA has started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_HIP_ALLOC_CONF', 'PYTORCH_ALLOC_CONF')

# Packages named torch that have a version, and as much of an allocator as is looked at.
TORCH = """
__version__ = {version!r}
class cuda:
    started, settings = {started}, {{}}
    is_initialized = staticmethod(lambda: cuda.started)
    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    class memory:
        _snapshot = staticmethod(lambda: {{'allocator_settings': cuda.settings}})
    @staticmethod
    def get_device_properties(index):
        class properties:
            total_memory = 12 << 30
        return properties
class _C:
    @staticmethod
    def _accelerator_setAllocatorSettings(text):
        if 'nothing' not in __version__:
            cuda.settings.update(PYTORCH_CUDA_ALLOC_CONF=text, expandable_segments='expandable_segments:True' in text)
"""
SHOW = "import os; print(*(os.environ.get(n) for n in " + repr(NAMES) + "), sep='|'); a = unstick.allocator(); "


@pytest.fixture
def shell(tmp_path: Path, here: dict[str, str]):
    """Runs a script with a torch of a version (None: none at all), in an environment without allocator settings."""

    def run(script: str, version: str | None = '2.11.0', started: bool = False, **environment: str) -> list[str]:
        env = {name: value for name, value in here.items() if name not in NAMES}
        if version is None:
            script = 'import importlib.machinery as m; f = m.PathFinder.find_spec; ' \
                "m.PathFinder.find_spec = lambda n, *a: None if n == 'torch' else f(n, *a)\n" + script  # fmt: skip
        else:
            package = tmp_path / 'fake' / 'torch'
            package.mkdir(parents=True, exist_ok=True)
            (package / '__init__.py').write_text(TORCH.format(version=version, started=started))
            (package / 'version.py').write_text(f"__all__ = []\n__version__ = '{version}'\n")
            env['PYTHONPATH'] = os.pathsep.join([str(tmp_path / 'fake'), env['PYTHONPATH']])
        done = subprocess.run(
            [sys.executable, '-c', script], capture_output=True, text=True, env={**env, **environment}, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return (done.stdout + done.stderr).splitlines()

    return run


def test_recommended_is_set_before_torch_is_imported(shell) -> None:
    lines = shell(f'import sys, unstick; assert "torch" not in sys.modules; {SHOW} print(a.outcome, a.reason)')
    assert lines[0] == 'expandable_segments:True|None|expandable_segments:True'
    assert lines[1] == 'pending profile recommended, set at import'


def test_older_torch_reads_one_variable(shell) -> None:
    assert shell(f'import unstick; {SHOW}', '2.9.1+cu128')[0] == 'expandable_segments:True|None|None'


@pytest.mark.parametrize('name', NAMES)
def test_what_the_user_has_set_stays(shell, name: str) -> None:
    lines = shell(f'import unstick; {SHOW} print(a.reason, a.settings)', **{name: 'max_split_size_mb:64'})
    assert lines[0].split('|').count('max_split_size_mb:64') == 1 and 'expandable' not in lines[0]
    assert lines[1] == f"{name} was set by the user {{'max_split_size_mb': '64'}}"


def test_a_variable_that_torch_does_not_read_is_no_users_choice(shell) -> None:
    lines = shell(f'import unstick; {SHOW}', '2.9.0', PYTORCH_ALLOC_CONF='max_split_size_mb:64')
    assert lines[0] == 'expandable_segments:True|None|max_split_size_mb:64'


def test_what_the_user_has_wrong_is_said(shell) -> None:
    lines = shell('import unstick; print(unstick.allocator())', PYTORCH_CUDA_ALLOC_CONF='expandable_segment:True')
    assert any('warning: ' in line and 'expandable_segment' in line for line in lines)


def test_switch(shell) -> None:
    assert shell(f'import unstick; {SHOW} print(a.reason)', UNSTICK_ALLOCATOR='off') == [
        'None|None|None', 'UNSTICK_ALLOCATOR=off'
    ]  # fmt: skip
    assert 'max_split_size_mb:64' in shell(f'import unstick; {SHOW}', UNSTICK_ALLOCATOR='memory-constrained')[0]
    lines = shell(f'import unstick; {SHOW} print(a.reason)', UNSTICK_ALLOCATOR='fast')
    assert lines[0] == 'None|None|None' and 'fast is no profile' in lines[1]


def test_without_torch(shell) -> None:
    lines = shell(f'import unstick; {SHOW} print(a.outcome, a.reason)', None)
    assert lines == ['None|None|None', 'none torch is not installed']
    lines = shell(
        'import unstick\ntry:\n    unstick.allocator(apply="seed")\n'
        'except unstick.UnsupportedError as e:\n    print(e.operation, e)',
        None,
    )
    assert lines == ['allocator torch is not installed: there is no allocator to set']


def test_once_cuda_has_started_nothing_is_set(shell) -> None:
    lines = shell(f'import torch, unstick; {SHOW} print(a.reason)', started=True)
    assert lines[0] == 'None|None|None'
    assert lines[1].startswith('CUDA had started before unstick was imported')


def test_applied_at_run_time_and_read_back(shell) -> None:
    script = (
        'import torch, unstick; a = unstick.allocator(apply="max_split_size_mb:64"); print(a.outcome, a.reason); '
        'print(torch.cuda.settings["PYTORCH_CUDA_ALLOC_CONF"])'
    )
    assert shell(script, started=True) == [
        'in force a string of settings, applied while CUDA was running', 'max_split_size_mb:64'
    ]  # fmt: skip
    assert shell(script.replace('max_split_size_mb:64', 'recommended'), started=True)[1] == 'expandable_segments:True'


def test_applied_and_not_taken(shell) -> None:
    lines = shell(
        'import torch, unstick; a = unstick.allocator(apply="seed"); print(a.outcome)', '2.11.0+nothing', started=True
    )
    assert lines == ['not read']


def test_applied_before_cuda(shell) -> None:
    lines = shell(f'import unstick; unstick.allocator(apply="auto"); {SHOW} print(a.outcome, a.profile)')
    assert lines[0] == 'expandable_segments:True|None|expandable_segments:True'
    lines = shell(
        'import unstick; unstick.allocator(apply="seed"); import os; print(os.environ["PYTORCH_ALLOC_CONF"])',
        PYTORCH_ALLOC_CONF='max_split_size_mb:64',
    )
    assert 'garbage_collection_threshold:0.8' in lines[0]


def test_what_torch_would_refuse_is_not_applied(shell) -> None:
    lines = shell(
        'import torch, unstick\ntry:\n    unstick.allocator(apply="max_split_size_mb:1")\n'
        'except unstick.InvalidArgumentError as e:\n    print(e)\nprint(torch.cuda.settings)',
        started=True,
    )
    assert 'would refuse' in lines[0] and lines[1] == '{}'


def test_no_caching_is_warned_about(shell) -> None:
    lines = shell('import unstick', PYTORCH_NO_CUDA_MEMORY_CACHING='1')
    assert any('RuntimeWarning: PYTORCH_NO_CUDA_MEMORY_CACHING is set' in line for line in lines)


def test_import_is_quick_and_imports_no_torch(here: dict[str, str]) -> None:
    script = (
        'import sys, time; t = time.perf_counter(); import unstick; '
        'assert "torch" not in sys.modules; print(time.perf_counter() - t)'
    )
    times = []
    for _ in range(5):
        done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env=here, check=True)
        times.append(float(done.stdout))
    assert min(times) < 0.05
