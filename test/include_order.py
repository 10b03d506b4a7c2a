# SPDX-License-Identifier: Apache-2.0
"""The folders of src/ are the architecture: an include points only down the list of src/meson.build.

A file of src/A may include "B/..." if B stands at or before A in that list; back ends beside each other
(device/cuda, device/host, ...) know only the contract above them. cli/, test/ and fuzz/ stand above all of src/ and may
include any of it, and files of their own folder by their plain name. Public headers, examples and the Python extension
use <unstick/...> only; but the extension's fault.c, which is for tests.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
order = re.findall(r"^subdir\('(\w+)'\)", (root / 'src/meson.build').read_text(), re.M)
faults = []

tops = ('src', 'include', 'cli', 'python', 'examples', 'test', 'fuzz')
for path in sorted(p for top in tops for p in (root / top).rglob('*.[ch]')):
    here = path.relative_to(root).parts
    for number, line in enumerate(path.read_text().splitlines(), 1):
        quoted = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not quoted:
            continue
        there = quoted[1].split('/')
        is_public = here[0] in ('include', 'examples', 'python') and here[-1] != 'fault.c'
        if is_public and (here[0] != 'python' or len(there) > 1):
            fault = 'only <unstick/...> and the system here'
        elif len(there) == 1:
            fault = None if here[0] != 'src' else 'write the folder: "folder/file.h"'
        elif there[0] not in order:
            fault = f'no such folder in src/meson.build: {there[0]}'
        elif here[0] != 'src':
            fault = None
        elif order.index(there[0]) > order.index(here[1]):
            fault = f'{here[1]} is below {there[0]}'
        elif len(there) > 2 and len(here) > 3 and there[:2] != list(here[1:3]) and not here[-1].endswith('_test.c'):
            fault = f'{here[2]} and {there[1]} lie beside each other'
        else:
            fault = None
        if fault:
            faults.append(f'{path.relative_to(root)}:{number}: "{quoted[1]}": {fault}')

print('\n'.join(faults) or f'include order holds: {" < ".join(order)}')
sys.exit(bool(faults))
