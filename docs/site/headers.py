# SPDX-License-Identifier: Apache-2.0
"""Reads the public C headers: what is declared, and the comment that stands before or behind it.

Not a parser of C, but of these headers as `test/public_docs.py` keeps them: one declaration behind each comment.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

COMMENT = re.compile(r'/\*.*?\*/', re.S)
SECTION = re.compile(r'/\* --- (.+) --- \*/')
STATUS = re.compile(r'X\((\w+), (-?\d+), "([^"]*)"\)')


@dataclass
class Member:
    code: str
    doc: str = ''

    @property
    def name(self) -> str:
        """Of an enumerator; of a field, the last of its declarators."""
        return re.split(r'[=\[]', self.code)[0].split()[-1].lstrip('*')


@dataclass
class Declaration:
    kind: str
    """function, struct, enum, typedef, macro, or section, which only has a name."""
    name: str
    code: str = ''
    doc: str = ''
    members: list[Member] = field(default_factory=list)


@dataclass
class Header:
    name: str
    doc: str
    declarations: list[Declaration]


@dataclass
class Status:
    name: str
    value: int
    text: str


def plain(comment: str) -> str:
    """The text of a comment without its stars."""
    text = re.sub(r'^/\*\*?<?|\*/$', '', comment.strip()).strip('\n')
    return '\n'.join(re.sub(r'^\s*\* ?', '', line) for line in text.splitlines()).strip()


def statuses(root: Path) -> list[Status]:
    text = (root / 'include/unstick/status.h').read_text(encoding='utf-8')
    return [Status(name, int(value), text) for name, value, text in STATUS.findall(text)]


def read(path: Path) -> Header:
    text = path.read_text(encoding='utf-8')
    declarations: list[Declaration] = []
    header_doc = doc = ''
    at = 0
    while at < len(text):
        rest = text[at:]
        if comment := COMMENT.match(rest):
            at += comment.end()
            if section := SECTION.fullmatch(comment[0]):
                declarations.append(Declaration('section', section[1]))
            elif comment[0].startswith('/**'):
                doc = plain(comment[0])
                header_doc = header_doc or doc
        elif rest.startswith('#'):
            line = re.match(r'(?:[^\n]*\\\n)*[^\n]*', rest)
            at += line.end() if line else 1
            macro = re.match(r'#define (UNSTICK_\w+)', rest)
            if macro and line and doc and not macro[1].endswith('_H'):
                code = re.sub(r'\s*\\\n\s*', ' ', line[0])
                if macro[1] == 'UNSTICK_STATUS_MAP':
                    code = '#define UNSTICK_STATUS_MAP(X)'
                declarations.append(Declaration('macro', macro[1], code, doc))
            elif not rest.startswith('#define'):
                continue  # a guard stands between a comment and what it is about only in the header's own
            doc = ''
        elif statement := re.match(r'(UNSTICK_EXPORT|typedef|struct \w+;)', rest):
            end = rest.index(';') + 1
            code = re.sub(r'\s+', ' ', rest[:end]).removeprefix('UNSTICK_EXPORT ')
            at += end
            if statement[0] == 'UNSTICK_EXPORT':
                declarations.append(Declaration('function', re.findall(r'(\w+)\(', code)[0], code, doc))
            elif statement[0] == 'typedef':
                name = re.findall(r'\(\*(\w+)\)|(\w+);$', code)[0]
                declarations.append(Declaration('typedef', name[0] or name[1], code, doc))
            else:
                declarations.append(Declaration('opaque', code.removeprefix('struct ').rstrip(';'), code, doc))
            doc = ''
        elif opened := re.match(r'(struct|enum) (\w+) \{\n', rest):
            end = rest.index('\n};') + 3
            body = rest[opened.end() : end - 2]
            declarations.append(
                Declaration(opened[1], opened[2], f'{opened[1]} {opened[2]}', doc, members(body, opened[1]))
            )
            at += end
            doc = ''
        else:
            at += 1
    return Header(path.name.removesuffix('.in'), header_doc, declarations)


def members(body: str, kind: str) -> list[Member]:
    found: list[Member] = []
    doc = ''
    while body := body.lstrip():
        if comment := COMMENT.match(body):
            if comment[0].startswith('/**<') and found:
                found[-1].doc = re.sub(r'\s+', ' ', plain(comment[0]))
            else:
                doc = re.sub(r'\s+', ' ', plain(comment[0]))
            body = body[comment.end() :]
        elif body.startswith('#'):
            body = body.partition('\n')[2]
        else:
            end = body.find(';' if kind == 'struct' else ',')
            if end < 0:
                break
            code = re.sub(r'\s+', ' ', body[:end])
            if not code.startswith('UNSTICK_STATUS_MAP'):
                found.append(Member(code, doc))
            doc = ''
            body = body[end + 1 :]
    return found


def read_all(root: Path) -> list[Header]:
    folder = root / 'include/unstick'
    paths = [*folder.glob('*.h'), folder / 'version.h.in']
    return [read(path) for path in sorted(paths) if path.name not in ('unstick.h', 'export.h')]
