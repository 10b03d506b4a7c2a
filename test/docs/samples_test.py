# SPDX-License-Identifier: Apache-2.0
"""Runs every shell, C, JSON and diff sample of the documentation; test/python/test_samples.py runs those in Python.

    samples_test.py ROOT UNSTICK BUILD COMPILER...

The samples of a page run in order, in an empty directory of their own, with `unstick` in PATH and the library where
pkg-config finds it. A C sample without main() is the body of one; every call of the library in it that can fail has
to succeed. A diff has to fit the tree as it is, once, and what it and the samples that are files of the tree make of
it has to compile. `./dev` there is a stand-in that knows the verbs of the real one, which would run this test.
"""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import samples
from samples import Sample

root, unstick, build = (Path(one).resolve() for one in sys.argv[1:4])
compiler = sys.argv[4:]

DEV = """#!/bin/sh
set -eu
[ "${{1:-help}}" = help ] || '{root}/dev' help | grep -q "^  $1 " || {{ echo "dev has no verb $1" >&2; exit 1; }}
"""
BODY = """\
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unstick/unstick.h>

static inline int sample_checked(int status, const char *what)
{
    if (status < 0) {
        fprintf(stderr, "%s: %s\\n", what, unstick_status_name(status));
        exit(1);
    }
    return status;
}

int main(void)
{
#line 1 "sample"
@sample@
    return 0;
}
"""
TREE = ('src/', 'cli/', 'test/')
FLAGS = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-Wno-unused-but-set-variable']


def may_fail() -> set[str]:
    """Functions of the library that return a status."""
    text = '\n'.join(path.read_text(encoding='utf-8') for path in (root / 'include/unstick').glob('*.h'))
    return set(re.findall(r'UNSTICK_EXPORT int (unstick_\w+)\(', text)) - {
        'unstick_context_fd', 'unstick_context_timeout_ms', 'unstick_cache_timeout_ms'
    }  # fmt: skip


def checked(code: str) -> str:
    """Statements that drop a status check it."""
    names = '|'.join(sorted(may_fail()))
    return re.sub(rf'^(\s*)((?:{names})\((?:[^;"]|"[^"]*")*\));', r'\1sample_checked(\2, "sample");', code, flags=re.M)


class Page:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: dict[str, Path] = {}
        """Files of the tree that were changed, in a copy."""
        self.environment = {
            **os.environ,
            'PATH': f'{unstick.parent}{os.pathsep}{os.environ["PATH"]}',
            'LD_LIBRARY_PATH': str(build / 'src'),
            'PKG_CONFIG_PATH': str(build / 'meson-uninstalled'),  # it knows the library, but no headers
            'C_INCLUDE_PATH': f'{root}/include:{build}/include',
            'HOME': str(folder),
            'XDG_STATE_HOME': str(folder / 'state'),
            'TMPDIR': str(folder),
            'CC': ' '.join(compiler),
        }
        for name in ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF', 'PYTORCH_NO_CUDA_MEMORY_CACHING'):
            self.environment.pop(name, None)
        dev = folder / 'dev'
        dev.write_text(DEV.format(root=root), encoding='utf-8')
        dev.chmod(0o755)

    def run(self, sample: Sample) -> str:
        """What went wrong, or nothing."""
        if sample.language == 'diff':
            return self._diff(sample.code)
        if sample.file.startswith(TREE):
            return self._new(sample)
        if sample.file:
            (self.folder / sample.file).write_text(sample.code, encoding='utf-8')
        if sample.language == 'json':
            return self._json(sample)
        if sample.language == 'sh':
            return self._command(['bash', '-euo', 'pipefail', '-c', sample.code], 1 if sample.mark == 'fails' else 0)
        if sample.language == 'c':
            return self._c(sample)
        return ''

    def _new(self, sample: Sample) -> str:
        if (root / sample.file).exists():
            return f'{sample.file} is there already'
        path = self.folder / 'tree' / sample.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sample.code, encoding='utf-8')
        self.touched[sample.file] = path
        return ''

    def _diff(self, text: str) -> str:
        """Applies hunks without line numbers: what they remove and keep is in the file exactly once."""
        for name, hunks in re.findall(r'^--- a/\S+\n\+\+\+ b/(\S+)\n(.*?)(?=^--- a/|\Z)', text, re.M | re.S):
            path = self.folder / 'tree' / name
            if name not in self.touched:
                if not (root / name).is_file():
                    return f'there is no {name}'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text((root / name).read_text(encoding='utf-8'), encoding='utf-8')
                self.touched[name] = path
            for hunk in re.split(r'^@@\n', hunks, flags=re.M)[1:]:
                lines = hunk.splitlines()
                before = ''.join(f'{line[1:]}\n' for line in lines if not line.startswith('+'))
                after = ''.join(f'{line[1:]}\n' for line in lines if not line.startswith('-'))
                was = path.read_text(encoding='utf-8')
                if was.count(before) != 1:
                    return f'a hunk fits {name} {was.count(before)} times:\n{hunk}'
                path.write_text(was.replace(before, after), encoding='utf-8')
        return '' if '--- a/' in text else 'a diff without a file'

    def end(self) -> str:
        """What was made of the tree compiles."""
        faults = ''
        tree = self.folder / 'tree'
        folders = ('include', 'src', 'cli', 'test/conformance')
        include = [f'-I{base}/{name}' for base in (tree, root) for name in folders if (base / name).is_dir()]
        for name, path in self.touched.items():
            if name.endswith('.c'):
                flags = [*FLAGS, '-D_GNU_SOURCE', '-fsyntax-only', f'-I{build}/include', *include]
                faults += self._command([*compiler, *flags, str(path)], 0)
            elif name.endswith('.py'):
                compile(path.read_text(encoding='utf-8'), name, 'exec')
        return faults

    def _json(self, sample: Sample) -> str:
        try:
            json.loads(sample.code)
        except ValueError as error:
            return str(error)
        return ''

    def _c(self, sample: Sample) -> str:
        is_program = re.search(r'^int main\(', sample.code, re.M)
        source = self.folder / (sample.file or 'sample.c')
        code = sample.code if is_program else BODY.replace('@sample@', checked(sample.code))
        source.write_text(code, encoding='utf-8')
        include = [f'-I{root}/include', f'-I{build}/include']
        library = [f'-L{build}/src', '-l:libunstick.so.0']
        program = self.folder / 'sample'
        fault = self._command([*compiler, *FLAGS, *include, str(source), *library, '-o', str(program)], 0)
        return fault or self._command([str(program)], 0)

    def _command(self, command: list[str], status: int) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace', timeout=60, check=False,
        )  # fmt: skip
        return '' if done.returncode == status else f'exit {done.returncode} instead of {status}\n{done.stdout}'


def main() -> int:
    found, faults = samples.read(root)
    n_run = 0
    for name in dict.fromkeys(one.page for one in found):
        with tempfile.TemporaryDirectory(prefix='unstick-samples-') as folder:
            page = Page(Path(folder))
            for sample in (one for one in found if one.page == name and one.is_run and one.language != 'python'):
                n_run += 1
                if fault := page.run(sample):
                    faults.append(f'{sample.where}: {fault}\n{sample.code}')
            if fault := page.end():
                faults.append(f'{name}: {fault}')
    idle = [one for one in found if one.language != 'text' and not one.is_run]
    print('\n'.join(faults) or f'{n_run} samples in shell, C, JSON and diffs ran')
    for one in idle:
        print(f'{one.where}: not run: {one.mark.partition(": ")[2]}')
    return 1 if faults or not n_run else 0


sys.exit(main())
