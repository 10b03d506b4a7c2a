# SPDX-License-Identifier: Apache-2.0
"""wheel_test.py WHEEL PYTHON: a wheel in an empty environment, without torch or anything else.

Prints one line, with the time that an import takes; the time itself is no test.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

IMPORT = """
import sys, time
start = time.perf_counter()
import unstick
print((time.perf_counter() - start) * 1000)
assert 'torch' not in sys.modules
"""
LOOK = """
import unstick
maps = open('/proc/self/maps').read().split()
print(unstick.__version__, unstick.__path__[0], *{name for name in maps if 'libjansson' in name})
"""
# Others may be running: the best of a few is what an import takes.
N_IMPORTS = 5


def run(*command: object) -> str:
    # No variable of the machine has a say, and the repository is not where things are looked for.
    environment = {'PATH': os.defpath, 'TMPDIR': root}
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, cwd=root, env=environment)
    if result.returncode:
        sys.exit(f'{wheel.name}: {command} failed ({result.returncode})\n{result.stdout}{result.stderr}')
    return result.stdout


def expect(is_so: object, what: str) -> None:
    if not is_so:
        sys.exit(f'{wheel.name}: {what}')


wheel = pathlib.Path(sys.argv[1]).resolve()
python = sys.argv[2]
# The one place where it is said.
version = re.search(r"^    version: '(.+)'", pathlib.Path('meson.build').read_text(), re.M)[1]
with tempfile.TemporaryDirectory(prefix='unstick-wheel-') as root:
    expect(
        re.fullmatch(rf'unstick-{re.escape(version)}-(cp3\d+)-\1-manylinux_2_\d+_x86_64\.whl', wheel.name),
        f'not the name of a wheel of {version} for one Python and any newer Linux',
    )
    venv = pathlib.Path(root, 'venv')
    run(python, '-m', 'venv', '--without-pip', venv)
    run(sys.executable, '-m', 'pip', '--python', venv / 'bin/python', '--disable-pip-version-check', 'install',
        '--quiet', '--no-index', wheel)  # fmt: skip

    found, package, *jansson = run(venv / 'bin/python', '-I', '-c', LOOK).split()
    expect(found == version, f'unstick.__version__ is {found}')
    expect(package.startswith(root), f'the package that was imported is {package}')
    expect(jansson and all(name.startswith(root) for name in jansson), f'jansson is not its own: {jansson}')
    for name in ('py.typed', '_unstick.pyi'):
        expect(pathlib.Path(package, name).is_file(), f'{name} is missing')
    licenses = next(pathlib.Path(package).parent.glob('unstick-*.dist-info/licenses'))
    expect({path.name for path in licenses.iterdir()} == {'LICENSE', 'jansson'}, 'not the licences of what is inside')

    said = run(venv / 'bin/unstick', 'version')
    expect(said == f'unstick {version}\n', f'`unstick version` prints {said!r}')
    said = run(venv / 'bin/unstick', 'demo', '--device', 'host:64MiB')
    expect('verified: every tensor' in said, f'`unstick demo` prints\n{said}')
    times = [float(run(venv / 'bin/python', '-I', '-c', IMPORT)) for _ in range(N_IMPORTS)]
print(f'{wheel.name}: installed, runs alone; import unstick: {min(times):.1f} ms')
