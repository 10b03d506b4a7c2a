# SPDX-License-Identifier: Apache-2.0
"""Everything public is documented where it is declared.

A `/** ... */` stands before every function, type, struct, enum and value macro, and before or behind (`/**<`) every
field. Enumerators may lean on the comment of their enum. Opaque structs, include guards and the export macro need none.
"""
import pathlib
import re
import sys

DECLARATION = re.compile(r'^(UNSTICK_EXPORT\b|typedef\b|struct \w+ \{|enum \w+ \{|#define UNSTICK_\w+)')
NEEDS_NONE = re.compile(r'^#define (UNSTICK_\w+_H|UNSTICK_EXPORT|UNSTICK_STATUS_ENUM)\b')

root = pathlib.Path(sys.argv[1])
headers = sorted((root / 'include/unstick').glob('*.h')) + [root / 'include/unstick/version.h.in']
faults = []
n_documented = 0

for path in headers:
    is_documented = in_comment = in_struct = in_statement = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if in_comment:
            in_comment = '*/' not in text
            continue
        if text.startswith('/*'):
            in_comment = '*/' not in text
            is_documented = text.startswith('/**')
            continue
        if not text:
            is_documented = False
            continue
        is_field = in_struct and not in_statement and not text.startswith('}')
        if (DECLARATION.match(line) and not NEEDS_NONE.match(line)) or is_field:
            if is_documented or (is_field and '/**<' in text):
                n_documented += 1
            else:
                faults.append(f'{path.relative_to(root)}:{number}: not documented: {text}')
        code = re.sub(r'/\*.*', '', text).rstrip()
        in_comment = '/*' in text and '*/' not in text
        if re.match(r'(typedef )?(struct|union)\b.*\{$', code):
            in_struct = True
        elif code.startswith('}'):
            in_struct = False
        else:
            in_statement = in_struct and not code.endswith(';')
        is_documented = False

print('\n'.join(faults) or f'{n_documented} public names are documented')
sys.exit(bool(faults) or not n_documented)
