# SPDX-License-Identifier: Apache-2.0
"""install_test.py MESON ROOT BUILD VERSION COMPILER...: what `meson install` lays down, used as a stranger would."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

MESON, ROOT, BUILD, VERSION, *COMPILER = sys.argv[1:]
del sys.argv[1:]


def run(*command, **environment):
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, f'{words}: {result.stdout}{result.stderr}'
    return result.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dest = tempfile.mkdtemp(prefix='unstick-install-')
        cls.addClassCleanup(shutil.rmtree, cls.dest)
        run(MESON, 'install', '--no-rebuild', '--quiet', '-C', BUILD, DESTDIR=cls.dest)
        paths = sorted(path for path in pathlib.Path(cls.dest).rglob('*') if not path.is_dir())
        # The prefix is what the command lies in.
        cls.prefix = next(path for path in paths if path.match('bin/unstick')).parents[1]
        cls.files = [str(path.relative_to(cls.prefix)) for path in paths]

    def flags(self, *arguments):
        """What pkg-config says of what was installed, as if it lay where it was configured for."""
        where = next(self.prefix.rglob('unstick.pc')).parent
        known = ':'.join(filter(None, (str(where), os.environ.get('PKG_CONFIG_PATH'))))
        return run('pkg-config', f'--define-variable=prefix={self.prefix}', *arguments, 'unstick',
                   PKG_CONFIG_PATH=known).split()

    def test_everything_is_there_and_nothing_else(self):
        headers = {f'include/unstick/{path.name}' for path in pathlib.Path(ROOT, 'include/unstick').glob('*.h')}
        expected = headers | {
            'include/unstick/version.h', 'bin/unstick', 'share/man/man1/unstick.1',
            'share/bash-completion/completions/unstick',
            *(f'LIB/{name}' for name in ('libunstick.so', 'libunstick.so.0', f'libunstick.so.{VERSION}')),
            'LIB/pkgconfig/unstick.pc',
        }
        # Where libraries go is the system's word; the package of Python is tested by itself.
        found = {re.sub(r'^lib(64|/[^/]*-linux-gnu)?/(?=libunstick|pkgconfig)', 'LIB/', name) for name in self.files}
        found = {name for name in found if not re.search(r'/(site|dist)-packages/', name)}
        self.assertEqual(sorted(found), sorted(expected))

    def test_a_program_is_compiled_and_runs(self):
        self.assertEqual(self.flags('--modversion'), [VERSION])
        program = pathlib.Path(self.dest, 'program')
        run(*COMPILER, pathlib.Path(ROOT, 'examples/blocking.c'), '-o', program, *self.flags('--cflags', '--libs'))
        where = self.flags('--variable=libdir')[0]
        self.assertIn('MiB of ours', run(program, LD_LIBRARY_PATH=where))
        needed = run('ldd', program, LD_LIBRARY_PATH=where)
        self.assertIn(f'{where}/libunstick.so.0', needed)

    def test_the_command_runs(self):
        self.assertEqual(run(self.prefix / 'bin/unstick', 'version'), f'unstick {VERSION}\n')

    @unittest.skipUnless(shutil.which('bash'), 'no bash')
    def test_completion_loads_by_name(self):
        script = self.prefix / 'share/bash-completion/completions/unstick'
        self.assertIn('unstick', run('bash', '-c', f'source {script} && complete -p unstick'))


unittest.main()
