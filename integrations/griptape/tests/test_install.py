# SPDX-License-Identifier: Apache-2.0
"""The way that a user goes: the tree somewhere, the library added by path, everything else done by the engine.

In a process of its own, and with the environment that the engine makes beside the library. What is pinned for the other
tests is pinned here, too, so that a package that is in uv's cache is not fetched again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import HERE

ROOT = HERE.parents[2]
SCRIPT = """
import asyncio, json, sys
from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes
from griptape_nodes.retained_mode.events.library_events import RegisterLibraryFromFileRequest

async def main():
    GriptapeNodes.EventManager().initialize_queue()
    result = await GriptapeNodes.ahandle_request(RegisterLibraryFromFileRequest(file_path=sys.argv[1]))
    assert result.succeeded(), result.result_details
    info = GriptapeNodes.LibraryManager().get_library_info_by_library_name('Unstick')
    import unstick
    print(json.dumps({
        'fitness': info.fitness.name, 'problems': [str(one) for one in info.problems], 'unstick': unstick.__file__,
        'allocator': str(unstick.allocator()), 'details': str(result.result_details),
    }))

asyncio.run(main())
"""


def test_the_engine_installs_it(tmp_path: Path) -> None:
    tree = tmp_path / 'tree'
    ignored = shutil.ignore_patterns('build*', '.git', '.venv*', '__pycache__', '.*_cache')
    shutil.copytree(ROOT, tree, ignore=ignored)
    library = tree / 'integrations' / 'griptape'
    env = {name: value for name, value in os.environ.items() if not name.startswith(('GTN_', 'XDG_'))}
    for name in ('XDG_CONFIG_HOME', 'XDG_DATA_HOME', 'XDG_STATE_HOME'):
        env[name] = str(tmp_path / name)
    env |= {
        'GTN_CONFIG_WORKSPACE_DIRECTORY': str(tmp_path / 'workspace'),
        'PATH': f'{sys.base_prefix}/bin{os.pathsep}{os.environ["PATH"]}',
        'UV_PYTHON_DOWNLOADS': 'never',
        'UV_CONSTRAINT': str(HERE / 'requirements.txt'),
        # The package must come out of the tree, and not out of the environment that the tests run in.
        'PYTHONPATH': str(without_unstick(tmp_path)),
    }
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(library / 'griptape_nodes_library.json')],
        env=env, capture_output=True, text=True, timeout=540, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said['fitness'], said['problems']) == ('GOOD', []), said
    assert Path(said['unstick']).is_relative_to(library / '.venv'), said
    assert 'expandable_segments:True' in said['allocator']
    assert list(library.glob('.venv/lib/python3*/site-packages/torch')), 'torch is not in the environment'


def without_unstick(tmp_path: Path) -> Path:
    """A sitecustomize that hides the package where this test's own interpreter has it."""
    folder = tmp_path / 'site'
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(
        'import importlib.machinery, sys\n'
        'own = {p for p in sys.path if p.endswith("site-packages")}\n'
        'find = importlib.machinery.PathFinder.find_spec\n'
        'def hidden(name, path=None, target=None):\n'
        '    if name != "unstick":\n'
        '        return find(name, path, target)\n'
        '    return find(name, [p for p in sys.path if p not in own], target)\n'
        'importlib.machinery.PathFinder.find_spec = staticmethod(hidden)\n'
    )
    return folder
