# SPDX-License-Identifier: Apache-2.0
"""The package as it was installed: quick to import, typed, and with the command in it."""

import ast
import pathlib
import re
import subprocess
import sysconfig

import pytest

import unstick
from unstick import _unstick

ROOT = pathlib.Path(__file__).parents[2]
STUB = pathlib.Path(_unstick.__file__).parent / '_unstick.pyi'


def test_import_is_quick_and_brings_no_torch(run_script):
    script = (
        # Of the process, not of the clock: others may use the machine, too.
        'import time; start = time.process_time(); import unstick; took = time.process_time() - start\n'
        'import sys; print(took, "torch" in sys.modules, "numpy" in sys.modules)'
    )
    runs = [run_script(script).split() for _ in range(5)]
    assert all(run[1:] == ['False', 'False'] for run in runs)
    assert min(float(run[0]) for run in runs) < 0.050


def test_the_command_is_installed():
    command = pathlib.Path(sysconfig.get_path('scripts')) / 'unstick'
    said = subprocess.run([command, 'version'], check=True, capture_output=True, text=True).stdout
    assert said.strip() == f'unstick {unstick.__version__}'


def test_the_extension_exports_nothing_but_itself():
    command = ['nm', '-D', '--defined-only', _unstick.__file__]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ['PyInit__unstick']


def test_there_is_one_exception_per_failure():
    header = (ROOT / 'include/unstick/status.h').read_text()
    failures = re.findall(r'X\((\w+), (-\d+), "([^"]*)"\)', header)
    assert failures
    for name, _, text in failures:
        kind = getattr(unstick, ''.join(word.capitalize() for word in name.split('_')) + 'Error')
        assert issubclass(kind, unstick.Error)
        assert kind.__doc__ == text


def members(node):
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            yield item.name
        elif isinstance(item, ast.AnnAssign):
            yield item.target.id


def test_the_stub_says_what_there_is():
    tree = ast.parse(STUB.read_text())
    classes = {node.name: set(members(node)) for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    real = {name: value for name, value in vars(_unstick).items() if not name.startswith('_')}
    assert {name for name, value in real.items() if callable(value) and not isinstance(value, type)} == functions
    for name, value in real.items():
        if isinstance(value, type) and not issubclass(value, Exception):
            public = {member for member in vars(value) if not member.startswith('_')}
            assert public == {member for member in classes[name] if not member.startswith('_')}
    assert {name for name, value in real.items() if isinstance(value, type)} <= set(classes)


@pytest.mark.parametrize(
    ('stub', 'make'),
    [
        ('ContextInfo', lambda region: region.device.context.info()),
        ('DeviceInfo', lambda region: region.device.info()),
        ('RegionInfo', lambda region: region.info()),
        ('TaskResult', lambda region: region.restore().wait()),
    ],
)
def test_the_dicts_have_the_fields_of_the_stub(device, stub, make):
    tree = ast.parse(STUB.read_text())
    (node,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == stub)
    assert set(make(unstick.Region(device, 'r', 4096))) == set(members(node))


def test_all_is_what_there_is():
    assert dir(unstick) == sorted(unstick.__all__)
    for name in unstick.__all__:
        assert getattr(unstick, name) is not None
    with pytest.raises(AttributeError, match='no attribute'):
        _ = unstick.nothing
