# SPDX-License-Identifier: Apache-2.0
"""What the build promises of its binaries, read from them: hardened.py fortified|plain ARCHIVE BINARY...

No stack that can be executed and no memory that is written and executed; addresses of functions fixed at the start and
then read-only; programs that can lie anywhere; guards on stacks; on x86 the mark that indirect branches end where they
may, on each object (a binary loses it to what the system links in); and, where the build optimizes, calls of libc that
check the size of what they write to.
"""
import re
import subprocess
import sys

is_fortified = sys.argv[1] == 'fortified'
faults = []


def readelf(*arguments):
    return subprocess.run(['readelf', '-W', *arguments], check=True, capture_output=True, text=True).stdout


for path in sys.argv[3:]:
    def require(is_true, fault, path=path):
        if not is_true:
            faults.append(f'{path}: {fault}')

    header, segments = readelf('-h', path), readelf('-l', path)
    dynamic, symbols = readelf('-d', path), readelf('--dyn-syms', path)
    stack = re.search(r'GNU_STACK.*?\s([RW][RWE ]{2})\s+0x', segments)
    require(re.search(r'Type:\s+DYN', header), 'lies at a fixed address')
    require(stack and 'E' not in stack[1], 'its stack can be executed')
    require(not re.search(r'LOAD\s.*RWE', segments), 'has memory that is written and executed')
    require('GNU_RELRO' in segments, 'its tables stay writable')
    require(re.search(r'BIND_NOW|\bNOW\b', dynamic), 'binds its functions late')
    require('TEXTREL' not in dynamic, 'its code is written to when it is loaded')
    require('__stack_chk_fail' in symbols, 'has no guards on its stacks')
    if is_fortified:
        require(re.search(r'__\w+_chk\b', symbols.replace('__stack_chk_fail', '')), 'calls nothing that checks sizes')

if 'X86-64' in readelf('-h', sys.argv[2]):
    objects = readelf('-n', sys.argv[2]).split('File: ')[1:]
    faults += [f'{text.split()[0]}: is not marked for checked branches' for text in objects if 'IBT' not in text]
    if not objects:
        faults.append(f'{sys.argv[2]}: readelf shows no objects')

print('\n'.join(faults) or f'{len(sys.argv) - 3} binaries are as they should be')
sys.exit(bool(faults))
