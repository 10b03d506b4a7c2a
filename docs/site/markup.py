# SPDX-License-Identifier: Apache-2.0
"""Markdown to HTML: headings get the anchors that GitHub gives them, links go where the page's targets went."""
from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import TextLexer, get_lexer_by_name
from pygments.util import ClassNotFound

Heading = tuple[int, str, str]

LEXERS = {'sh': 'bash', 'text': 'text', '': 'text'}


@cache
def _lexer(language: str) -> Lexer:
    try:
        found: Lexer = get_lexer_by_name(LEXERS.get(language, language), stripnl=False)
    except ClassNotFound:
        found = TextLexer(stripnl=False)
    return found


def coloured(code: str, language: str) -> str:
    inner = highlight(code.rstrip('\n') + '\n', _lexer(language), HtmlFormatter(nowrap=True))
    return f'<pre class="code language-{html.escape(language or "text")}"><code>{inner}</code></pre>\n'


def slug(text: str) -> str:
    return re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-')


def rules() -> str:
    """The colours of code, by day and by night."""
    day = HtmlFormatter(style='friendly').get_style_defs('pre.code')
    night = HtmlFormatter(style='github-dark').get_style_defs('pre.code')
    return f'{day}\n@media (prefers-color-scheme: dark) {{\n{night}\n}}\n'


def _code(_renderer: object, tokens: list[Token], i: int, _options: object, _env: object) -> str:
    return coloured(tokens[i].content, tokens[i].info.strip())


def _without_marks(_renderer: object, tokens: list[Token], i: int, _options: object, _env: object) -> str:
    return re.sub(r'<!--.*?-->\n?', '', tokens[i].content, flags=re.S)


@cache
def _parser(is_trusted: bool) -> MarkdownIt:
    parser = MarkdownIt('commonmark', {'html': is_trusted}).enable('table')
    parser.add_render_rule('fence', _code)
    parser.add_render_rule('code_block', _code)
    parser.add_render_rule('html_block', _without_marks)
    return parser


class Markup:
    """One page's text. `resolve` turns a link as it is written into one between pages of the site."""

    def __init__(self, resolve: Callable[[str], str], is_trusted: bool = True) -> None:
        self.resolve = resolve
        self.parser = _parser(is_trusted)
        self.headings: list[Heading] = []

    def render(self, text: str) -> str:
        tokens = self.parser.parse(text)
        used: dict[str, int] = {}
        for i, token in enumerate(tokens):
            if token.type == 'heading_open':
                inside = tokens[i + 1].children or []
                title = ''.join(child.content for child in inside if child.type in ('text', 'code_inline'))
                anchor = slug(title)
                n = used.get(anchor, 0)
                used[anchor] = n + 1
                anchor = f'{anchor}-{n}' if n else anchor
                token.attrSet('id', anchor)
                self.headings.append((int(token.tag[1]), anchor, title))
            for child in token.children or []:
                name = {'link_open': 'href', 'image': 'src'}.get(child.type)
                if name:
                    child.attrSet(name, self.resolve(str(child.attrGet(name))))
        text = str(self.parser.renderer.render(tokens, self.parser.options, {}))
        # A wide table scrolls by itself, not the page.
        return text.replace('<table>', '<div class="wide"><table>').replace('</table>', '</table></div>')


def linked(text: str, symbols: dict[str, str], here: str, link: Callable[[str, str], str]) -> str:
    """The same HTML with every known name in it leading to where it is described."""
    parts = re.split(r'(<[^>]*>)', text)
    depth = 0
    for i, part in enumerate(parts):
        if part.startswith('<'):
            if re.match(r'<(a|h[1-6]|title)\b', part):
                depth += 1
            elif re.match(r'</(a|h[1-6]|title)>', part):
                depth -= 1
        elif depth == 0 and 'nstick' in part.lower():
            parts[i] = NAME.sub(lambda match: _link(match[0], symbols, here, link), part)
    return ''.join(parts)


NAME = re.compile(r'\b(?:(?:(?:struct|enum) )?unstick_\w+|UNSTICK_\w+|unstick\.[A-Za-z]\w*(?:\.[a-z]\w*)?)')


def _link(name: str, symbols: dict[str, str], here: str, link: Callable[[str, str], str]) -> str:
    url = symbols.get(name)
    if url is None and ' ' in name:
        url = symbols.get(name.partition(' ')[2])
    if url is None and name.startswith('unstick.') and name.count('.') == 2:
        head, _, tail = name.rpartition('.')
        url = symbols.get(head)
        return f'<a class="symbol" href="{link(here, url)}">{head}</a>.{tail}' if url else name
    if url is None:
        return name
    return f'<a class="symbol" href="{link(here, url)}">{name}</a>'
