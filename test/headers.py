# SPDX-License-Identifier: Apache-2.0
"""Every public header compiles alone, without a warning: `headers.py ROOT BUILT_HEADERS c11|c++17 [COMPILER...]`.

Without a compiler given, the C++ compilers of this machine are tried; if there is none, the test is skipped (77).
"""
import pathlib
import shutil
import subprocess
import sys

root, built, standard, *compiler = sys.argv[1:]
names = sorted(path.name for path in pathlib.Path(root, 'include/unstick').glob('*.h')) + ['version.h']
language = 'c++' if '++' in standard else 'c'
candidates = [compiler] if compiler else [['g++'], ['clang++']]
found = [candidate for candidate in candidates if shutil.which(candidate[0])]
failed = False

for command in found:
    for name in names:
        run = subprocess.run(
            [*command, f'-std={standard}', '-pedantic-errors', '-Wall', '-Wextra', '-Werror', '-fsyntax-only',
             '-I', f'{root}/include', '-I', built, '-x', language, '-'],
            input=f'#include <unstick/{name}>\nextern int not_empty;\n', capture_output=True, text=True, check=False)
        if run.returncode:
            failed = True
            print(f'{name} does not compile alone as {standard} with {command[0]}:\n{run.stderr}')
    print(f'{len(names)} headers as {standard} with {" ".join(command)}')
if not found:
    print(f'no compiler for {standard}')
    sys.exit(77)
sys.exit(failed)
