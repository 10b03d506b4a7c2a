# SPDX-License-Identifier: Apache-2.0
"""The reference of the C library: one page per header, made of its comments."""
from __future__ import annotations

import html
import re
from pathlib import Path

import headers
from markup import Heading, Markup, coloured
from page import Page

KINDS = {'struct': 'struct', 'enum': 'enum', 'typedef': 'type', 'macro': 'macro'}


def pages(root: Path) -> list[Page]:
    found = headers.read_all(root)
    return [_index(found), *(_page(header) for header in found)]


def url_of(header: headers.Header) -> str:
    return f'reference/{header.name.removesuffix(".h")}.html'


def symbols(root: Path) -> dict[str, str]:
    """Where each public name is described. Statuses have a page of their own."""
    where: dict[str, str] = {}
    for header in headers.read_all(root):
        for one in header.declarations:
            if one.kind == 'section':
                continue
            url = f'{url_of(header)}#{_anchor(one)}'
            if one.kind == 'opaque':  # declared in many headers, or described as a struct
                where.setdefault(one.name, url)
            elif one.kind in ('struct', 'enum'):
                where[f'{one.kind} {one.name}'] = url
                where.setdefault(one.name, url)
            else:
                where[one.name] = url
            for member in one.members if one.kind == 'enum' else ():
                where[member.name] = url
    for status in headers.statuses(root):
        where[f'UNSTICK_{status.name}'] = f'errors.html#{status.name.lower()}'
    return where


def _anchor(one: headers.Declaration) -> str:
    """A struct may have the name of a function."""
    return f'{one.kind}-{one.name}' if one.kind in ('struct', 'enum') else one.name


def _text(text: str) -> str:
    return Markup(str, is_trusted=False).render(text)


def _index(found: list[headers.Header]) -> Page:
    rows = ''.join(
        f'<tr><td><a href="{header.name.removesuffix(".h")}.html"><code>unstick/{header.name}</code></a></td>'
        f'<td>{_first(header.doc)}</td></tr>\n'
        for header in found
    )
    names = sorted(
        (one.name, header.name.removesuffix('.h'))
        for header in found
        for one in header.declarations
        if one.kind == 'function'
    )
    listed = ''.join(f'<li><a href="{where}.html#{name}">{name}</a></li>\n' for name, where in names)
    body = f"""<h1 id="c-reference">C reference</h1>
<p>Made from the comments of the public headers. <code>#include &lt;unstick/unstick.h&gt;</code> brings all of them;
each compiles alone, as C11 and as C++17.</p>
<div class="wide"><table><thead><tr><th>header</th><th>what</th></tr></thead><tbody>
{rows}</tbody></table></div>
<h2 id="functions">Functions</h2>
<ul class="names">
{listed}</ul>
"""
    return Page('', 'reference/index.html', 'C reference', body, [(2, 'functions', 'Functions')])


def _first(doc: str) -> str:
    """The first sentence."""
    sentence = re.split(r'(?<=[.])\s', doc.replace('\n', ' '), maxsplit=1)[0].removesuffix('.')
    return html.escape(sentence)


def _page(header: headers.Header) -> Page:
    parts = [f'<h1 id="header">unstick/{header.name}</h1>\n', _text(header.doc)]
    toc: list[Heading] = []
    opaque = {one.name for one in header.declarations if one.kind == 'opaque'}
    described = {one.name for one in header.declarations if one.kind in ('struct', 'enum')}
    for one in header.declarations:
        if one.kind == 'section':
            anchor = f'section-{one.name.replace(" ", "-")}'
            title = one.name.capitalize()
            parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>\n')
            toc.append((2, anchor, title))
            continue
        if one.kind == 'opaque':
            continue
        toc.append((3, _anchor(one), one.name))
        parts.append(_declaration(one))
    if opaque - described:
        names = ', '.join(f'<code id="{name}">struct {name}</code>' for name in sorted(opaque - described))
        parts.insert(2, f'<p>Opaque: {names}.</p>\n')
    return Page(f'include/unstick/{header.name}', url_of(header), f'unstick/{header.name}', ''.join(parts), toc)


def _declaration(one: headers.Declaration) -> str:
    kind = KINDS.get(one.kind, '')
    label = f' <span class="kind">{kind}</span>' if kind else ''
    title = f'{one.name}()' if one.kind == 'function' else one.name
    text, tags = _split(one.doc)
    parts = [f'<h3 id="{_anchor(one)}"><code>{title}</code>{label}</h3>\n']
    if one.kind in ('function', 'typedef', 'macro'):
        parts.append(coloured(_folded(one.code), 'c'))
    parts.append(_text(text) if text else '')
    if tags:
        rows = ''.join(f'<dt>{head}</dt><dd>{_text(body)}</dd>\n' for head, body in tags)
        parts.append(f'<dl class="tags">\n{rows}</dl>\n')
    if one.members:
        rows = ''.join(
            f'<tr><td><code>{html.escape(member.code)}</code></td><td>{_inline(member.doc)}</td></tr>\n'
            for member in one.members
        )
        parts.append(f'<div class="wide"><table class="members"><tbody>\n{rows}</tbody></table></div>\n')
    return ''.join(parts)


def _inline(text: str) -> str:
    return re.sub(r'^<p>|</p>\n?$', '', _text(text))


def _split(doc: str) -> tuple[str, list[tuple[str, str]]]:
    """The text, and what its @param and @return say."""
    pieces = re.split(r'(?:^|\s)@(param\s+\w+|return)\s', doc)
    tags = []
    for head, body in zip(pieces[1::2], pieces[2::2], strict=True):
        name = head.removeprefix('param').strip()
        tags.append(('returns' if head == 'return' else f'<code>{name}</code>', body.strip()))
    return pieces[0].strip(), tags


def _folded(code: str) -> str:
    """One argument per line where a declaration is long."""
    if len(code) <= 100 or '(' not in code:
        return code
    head, _, rest = code.partition('(')
    return head + '(\n    ' + ',\n    '.join(one.strip() for one in rest.split(','))
