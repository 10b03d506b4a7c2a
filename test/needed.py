# SPDX-License-Identifier: Apache-2.0
"""The command line and the library need libc and jansson, and nothing else."""
import re
import subprocess
import sys

ALLOWED = {'libc.so.6', 'libjansson.so.4'}

faults = []
for path in sys.argv[2:]:
    text = subprocess.run(['readelf', '-W', '-d', path], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r'\(NEEDED\)[^\[]*\[([^\]]+)\]', text))
    # Its own library beside the program and the loader of the system are not needs.
    faults += [f'{path} needs {name}' for name in sorted(needed - ALLOWED)
               if not name.startswith(('ld-', 'libunstick'))]
    if 'libc.so.6' not in needed:
        faults.append(f'{path}: readelf says nothing of what it needs')

print('\n'.join(faults) or 'libc and jansson are all that is needed')
sys.exit(bool(faults))
