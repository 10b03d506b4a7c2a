# SPDX-License-Identifier: Apache-2.0
"""The manual page as HTML: the mdoc macros that docs/man uses, and a clear failure for any other."""
from __future__ import annotations

import html
import shlex
from collections.abc import Iterator

from markup import Heading, slug

STYLES = {'Cm': 'b', 'Nm': 'b', 'Fl': 'b', 'Ar': 'i', 'Ev': 'code', 'Pa': 'code', 'Li': 'code', 'Sy': 'b', 'Em': 'i'}
CLOSING = ('.', ',', ';', ':', ')', '?', '!')
OPENING = ('(',)


class Manual:
    def __init__(self, text: str) -> None:
        self.lines: Iterator[str] = iter(text.splitlines())
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self.section = ''

    def render(self) -> str:
        in_item = in_text = False
        for line in self.lines:
            if line.startswith(('.\\"', '.Dd', '.Dt', '.Os')):
                continue
            macro, _, rest = line[1:].partition(' ') if line.startswith('.') else ('', '', line)
            if macro in ('Sh', 'Ss', 'Pp', 'Bl', 'It', 'El', 'Bd') and in_text:
                self.parts.append('</p>\n')
                in_text = False
            if macro in ('Sh', 'Ss'):
                self._heading(2 if macro == 'Sh' else 3, rest)
            elif macro == 'Pp':
                continue
            elif macro == 'Bl':
                self.parts.append('<dl>\n')
                in_item = False
            elif macro == 'It':
                self.parts.append(('</dd>\n' if in_item else '') + f'<dt>{inline(rest)}</dt>\n<dd>')
                in_item = True
            elif macro == 'El':
                self.parts.append('</dd>\n</dl>\n')
                in_item = False
            elif macro == 'Bd':
                self.parts.append(self._literal())
            else:
                if not in_text:
                    self.parts.append('<p>')
                    in_text = True
                if macro == 'Nd':
                    self.parts.append('&ndash; ')
                    macro = ''
                if macro == 'Nm' and self.section == 'SYNOPSIS' and not self.parts[-1].endswith('<p>'):
                    self.parts.append('<br>')
                self.parts.append((inline(f'{macro} {rest}') if macro else html.escape(line_text(rest))) + '\n')
        return ''.join([*self.parts, '</p>\n' if in_text else ''])

    def _heading(self, level: int, text: str) -> None:
        title = text.capitalize() if text.isupper() else text
        self.section = text if level == 2 else self.section
        anchor = slug(title)
        self.headings.append((level, anchor, title))
        self.parts.append(f'<h{level} id="{anchor}">{html.escape(title)}</h{level}>\n')

    def _literal(self) -> str:
        lines = []
        for line in self.lines:
            if line.startswith('.Ed'):
                break
            lines.append(html.escape(line))
        return '<pre class="code"><code>' + '\n'.join(lines) + '\n</code></pre>\n'


def line_text(text: str) -> str:
    return text.replace('\\-', '-').replace('\\&', '')


def inline(text: str) -> str:
    """One line of macros. Words behind a macro take its style until the next; punctuation takes none."""
    out: list[str] = []
    style = ''
    closers: list[str] = []
    glue = True
    words = shlex.split(text)
    tail = ''
    while len(words) > 1 and words[-1] in CLOSING and words[-2] != ':':
        tail = words.pop() + tail  # outside of what an enclosing macro closes
    for i, word in enumerate(words):
        if word == 'Ns':
            glue, style = True, ''
        elif word in ('Op', 'Pq', 'Dq'):
            opener, closer = {'Op': '[]', 'Pq': '()', 'Dq': '“”'}[word]
            out.append(('' if glue else ' ') + opener)
            closers.append(closer)
            glue, style = True, ''
        elif word == 'Oo':
            out.append(('' if glue else ' ') + '[')
            glue, style = True, ''
        elif word == 'Oc':
            out.append(']')
            style = ''
        elif word in STYLES:
            style = word
            if word == 'Nm' and (i + 1 == len(words) or words[i + 1] in CLOSING):
                out.append(('' if glue else ' ') + '<b>unstick</b>')
                glue = False
            elif word == 'Fl':
                is_long = words[i + 1 : i + 2] == ['Fl']
                if i and words[i - 1] == 'Fl':
                    continue
                name = words[i + 2] if is_long else words[i + 1]
                out.append(('' if glue else ' ') + f'<b>{"--" if is_long else "-"}{html.escape(name)}</b>')
                glue = False
        elif i and words[i - 1] == 'Fl':
            style = ''
        elif word in CLOSING and not (i and words[i - 1] == ':'):
            out.append(word)
            glue = word == ':' and words[i + 1 : i + 2] == ['Ns']
        elif word in OPENING:
            out.append(('' if glue else ' ') + word)
            glue = True
        elif len(word) == 2 and word[0].isupper() and word[1].islower() and word not in ('No', 'An'):
            raise ValueError(f'the manual uses a macro that is not known here: {word}: {text}')
        else:
            tag = STYLES.get(style, '')
            body = html.escape(line_text(word))
            out.append(('' if glue else ' ') + (f'<{tag}>{body}</{tag}>' if tag else body))
            glue = False
    return ''.join([*out, *reversed(closers), tail])
