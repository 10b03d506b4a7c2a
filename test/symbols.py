# SPDX-License-Identifier: Apache-2.0
"""Three lists are one: what the public headers declare, what the symbol map names, what the shared library exports."""
import pathlib
import re
import subprocess
import sys

root, library = pathlib.Path(sys.argv[1]), sys.argv[2]
headers = sorted((root / 'include/unstick').glob('*.h')) + [root / 'include/unstick/version.h.in']

declared = {name for path in headers
            for name in re.findall(r'^UNSTICK_EXPORT\b[^;(]*?\b(unstick_\w+)\(', path.read_text(), re.M)}
mapped = re.findall(r'^\s*(unstick_\w+);', (root / 'src/libunstick.map').read_text(), re.M)
listed = subprocess.run(['nm', '-D', '--defined-only', library], check=True, capture_output=True, text=True).stdout
exported = {line.split()[2].split('@')[0] for line in listed.splitlines() if line.split()[1] != 'A'}

faults = [f'{name}: declared, not in src/libunstick.map' for name in sorted(declared - set(mapped))]
faults += [f'{name}: in src/libunstick.map, declared nowhere' for name in sorted(set(mapped) - declared)]
faults += [f'{name}: declared, but not exported: it is not implemented' for name in sorted(declared - exported)]
faults += [f'{name}: exported, but not declared' for name in sorted(exported - declared)]
if len(mapped) != len(set(mapped)):
    faults.append('src/libunstick.map: a name stands there twice')

print('\n'.join(faults) or f'{len(declared)} public functions: headers, map and library agree')
sys.exit(bool(faults) or not declared)
