# SPDX-License-Identifier: Apache-2.0
"""The command line and the library need libc and jansson, and no libc newer than the oldest system they are for."""
import re
import subprocess
import sys

ALLOWED = {'libc.so.6', 'libjansson.so.4'}
OLDEST_GLIBC = (2, 36)  # Debian 12; Ubuntu 24.04 has 2.39

faults = []
for path in sys.argv[2:]:
    text = subprocess.run(['readelf', '-W', '-d', '-V', path], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r'\(NEEDED\)[^\[]*\[([^\]]+)\]', text))
    # Its own library beside the program and the loader of the system are not needs.
    faults += [f'{path} needs {name}' for name in sorted(needed - ALLOWED)
               if not name.startswith(('ld-', 'libunstick'))]
    if 'libc.so.6' not in needed:
        faults.append(f'{path}: readelf says nothing of what it needs')
    for version in sorted(set(re.findall(r'Name: GLIBC_([0-9.]+)', text))):
        if tuple(map(int, version.split('.'))) > OLDEST_GLIBC:
            faults.append(f'{path} needs glibc {version}')

print('\n'.join(faults) or 'libc and jansson are all that is needed')
sys.exit(bool(faults))
