# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md has an entry for every status of the header, in its order, with a cause and a cure, and no other."""
from __future__ import annotations

import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
sys.path.insert(0, str(root / 'docs/site'))
import headers  # noqa: E402

text = (root / 'docs/errors.md').read_text(encoding='utf-8')
entries = re.findall(r'^### (\w+)\n(.*?)(?=^##|\Z)', text, re.M | re.S)
known = headers.statuses(root)
described = [name for name, _ in entries]
faults = [f'{one.name} is missing' for one in known if one.name not in described]
faults += [f'{name} is no status' for name in described if name not in {one.name for one in known}]
if not faults and described != [one.name for one in known]:
    faults.append("the entries do not come in the header's order")
for status in known:
    body = dict(entries).get(status.name, '')
    if status.value < 0:
        faults += [f'{status.name}: no {what}' for what in ('Cause', 'Cure') if f'**{what}.**' not in body]
print('\n'.join(faults) or f'{len(known)} statuses, each with its cause and cure')
sys.exit(bool(faults) or not known)
