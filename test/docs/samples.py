# SPDX-License-Identifier: Apache-2.0
"""The code samples of README.md, CONTRIBUTING.md and docs/: where they stand, and what is said about running them.

A sample is a fenced block with a language: sh, c, python, json, diff; `text` is for what is no code. A comment before
it, which no reader sees, may say more:

    <!-- sample: no-run: REASON -->     it cannot be run anywhere; why
    <!-- sample: fails -->              it is to show a failure (sh: exit 1 of its last command)
    <!-- sample: file=NAME -->          it is this file for the samples of the page that follow; src/x/y.c, cli/x.c:
                                        it is a new file of the tree
    <!-- sample: torch -->              it needs torch, though it does not import it
    <!-- sample: real-models -->        it loads real weights: the loader it defines is replaced after it
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ('sh', 'c', 'python', 'json', 'diff', 'text')
FENCE = re.compile(r'^( *)```(.*)$')
MARK = re.compile(r'^ *<!-- sample: (.+) -->$')
MOST_WITHOUT_RUN = 12
"""Samples that are not run are few; raise this for a good reason only."""


@dataclass
class Sample:
    page: str
    line: int
    language: str
    code: str
    mark: str = ''

    @property
    def where(self) -> str:
        return f'{self.page}:{self.line}'

    @property
    def is_run(self) -> bool:
        return self.language != 'text' and not self.mark.startswith('no-run')

    @property
    def file(self) -> str:
        return self.mark.removeprefix('file=') if self.mark.startswith('file=') else ''

    @property
    def needs_torch(self) -> bool:
        return self.mark in ('torch', 'real-models') or bool(re.search(r'\b(import torch|load_flux)\b', self.code))


def pages(root: Path) -> list[Path]:
    return [root / 'README.md', root / 'CONTRIBUTING.md', *sorted((root / 'docs').rglob('*.md'))]


def read(root: Path) -> tuple[list[Sample], list[str]]:
    """All samples, and what is wrong with how they are written."""
    samples: list[Sample] = []
    faults: list[str] = []
    for path in pages(root):
        _read_page(path, str(path.relative_to(root)), samples, faults)
    idle = [one for one in samples if one.language != 'text' and not one.is_run]
    without_reason = [one for one in idle if not one.mark.removeprefix('no-run').strip(': ')]
    faults += [f'{one.where}: says no reason why it is not run' for one in without_reason]
    if len(idle) > MOST_WITHOUT_RUN:
        faults.append(f'{len(idle)} samples are not run, at most {MOST_WITHOUT_RUN} may be')
    return samples, faults


def _read_page(path: Path, name: str, samples: list[Sample], faults: list[str]) -> None:
    is_open = False
    indent = mark = ''
    in_list = False
    before = ''
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        fence = FENCE.match(line)
        if is_open:
            if line.strip() == '```':
                is_open = False
            else:
                samples[-1].code += line.removeprefix(indent) + '\n'
        elif fence:
            indent, is_open = fence[1], True
            samples.append(Sample(name, number, fence[2].strip(), '', mark))
            mark = ''
            if samples[-1].language not in LANGUAGES:
                faults.append(f'{name}:{number}: "{fence[2]}" is not one of the languages {", ".join(LANGUAGES)}')
        elif found := MARK.match(line):
            mark = found[1]
        elif line.strip():
            if re.match(r'( *)([*-]|\d+\.) ', line):
                in_list = True
            elif not line.startswith(' '):
                in_list = False
            if line.startswith('    ') and not before.strip() and not in_list:
                faults.append(f'{name}:{number}: an indented block: fence it and name its language')
            if mark:
                faults.append(f'{name}:{number}: a mark with no sample behind it')
                mark = ''
        before = line
    if is_open:
        faults.append(f'{name}: the last fence is not closed')
