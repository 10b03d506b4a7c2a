# SPDX-License-Identifier: Apache-2.0
"""Builds the documentation: python docs/site/build.py ROOT OUT

The pages are the Markdown files of the repository, as they also read on a code host; the references are made from
headers, stubs and the manual page. Nothing is fetched, neither now nor when a page is looked at. What would leave a
reader standing (a link that leads nowhere, a page that no menu names, a status without a cure) fails the build.
"""
from __future__ import annotations

import html
import json
import posixpath
import re
import shutil
import sys
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

import check
import headers
import markup
import reference_c
import reference_py
from manual import Manual
from nav import SECTIONS
from page import Page, link

HERE = Path(__file__).parent
ERRORS = 'docs/errors.md'


class Site:
    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        self.pages: list[Page] = []
        self.urls = {source: url for _, entries in SECTIONS for source, url, _ in entries if source}
        self.sources: dict[str, str] = {}
        """Files of the repository that a page leads to: they are shown as they are."""
        self.images: dict[str, str] = {}
        self.faults: list[str] = []
        self.symbols = {**reference_c.symbols(root), **reference_py.symbols(root)}

    def build(self) -> list[str]:
        self._read()
        if self.out.exists():
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        for page in self.pages:
            self._write(page, page.toc)
        for source, url in sorted(self.sources.items()):
            self._write(Page(source, url, source, self._source(source)), [])
        for source, url in self.images.items():
            (self.out / url).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / source, self.out / url)
        for name in ('style.css', 'search.js'):
            text = (HERE / name).read_text(encoding='utf-8')
            (self.out / name).write_text(text + (markup.rules() if name == 'style.css' else ''), encoding='utf-8')
        index = [[page.title, page.url, *((title, anchor) for _, anchor, title in page.toc)] for page in self.pages]
        (self.out / 'index.js').write_text(f'const INDEX = {json.dumps(index)};\n', encoding='utf-8')
        return self.faults + check.faults(self.out)

    # --- reading ---

    def _read(self) -> None:
        for source, url in self.urls.items():
            if not (self.root / source).is_file():
                self.faults.append(f'nav.py: there is no {source}')
                continue
            self._markdown(source, url)
        unlisted = {str(path.relative_to(self.root)) for path in (self.root / 'docs').rglob('*.md')} - set(self.urls)
        self.faults += [f'{source}: no menu leads to it' for source in sorted(unlisted)]
        manual = Manual((self.root / 'docs/man/unstick.1').read_text(encoding='utf-8'))
        body = '<h1 id="command-line">The command line</h1>\n' + manual.render()
        self.pages.append(Page('docs/man/unstick.1', 'reference/command.html', 'Command line', body, manual.headings))
        self.pages.append(reference_py.page(self.root))
        self.pages += reference_c.pages(self.root)

    def _markdown(self, source: str, url: str) -> None:
        text = (self.root / source).read_text(encoding='utf-8')
        if source == ERRORS:
            text = self._with_statuses(text)
        marked = markup.Markup(lambda target: self._resolve(source, url, target))
        body = marked.render(text)
        unknown = set(re.findall(r'\bunstick_\w+(?=\()', text)) - set(self.symbols)
        self.faults += [f'{source}: there is no {name}()' for name in sorted(unknown)]
        titles = [title for level, _, title in marked.headings if level == 1]
        if len(titles) != 1:
            self.faults.append(f'{source}: has {len(titles)} titles, where a page has one')
        toc = [one for one in marked.headings if one[0] in (2, 3)]
        self.pages.append(Page(source, url, titles[0] if titles else source, body, toc))

    def _with_statuses(self, text: str) -> str:
        """The catalogue of errors, each with what the header and the package know about it."""
        known = {status.name: status for status in headers.statuses(self.root)}
        described = re.findall(r'^### (\w+)$', text, re.M)
        self.faults += [f'{ERRORS}: {name} is missing' for name in known if name not in described]
        self.faults += [f'{ERRORS}: {name} is no status' for name in described if name not in known]
        self.faults += [f'{ERRORS}: {name} comes twice' for name in set(described) if described.count(name) > 1]

        def fact(match: re.Match[str]) -> str:
            status = known.get(match[1])
            if status is None:
                return match[0]
            raised = f'; in Python `unstick.{reference_py.error_name(status.name)}`' if status.value < 0 else ''
            return f'{match[0]}\n\n`{status.value}`, “{status.text}”{raised}.\n'

        return re.sub(r'^### (\w+)$', fact, text, flags=re.M)

    def _resolve(self, source: str, url: str, target: str) -> str:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or not parts.path:
            return target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), parts.path))
        if path == 'include/unstick':
            there = 'reference/index.html'
        elif path in self.urls:
            there = self.urls[path]
        elif not (self.root / path).is_file():
            self.faults.append(f'{source}: {target} leads nowhere')
            return target
        elif path.endswith('.svg'):
            there = self.images.setdefault(path, path.removeprefix('docs/'))
        elif (self.root / path).stat().st_size > 1 << 20:
            self.faults.append(f'{source}: {target} is too large to show')
            return target
        else:
            there = self.sources.setdefault(path, f'source/{path}.html')
        return link(url, there) + (f'#{parts.fragment}' if parts.fragment else '')

    # --- writing ---

    def _source(self, source: str) -> str:
        text = (self.root / source).read_text(encoding='utf-8')
        try:
            language = get_lexer_for_filename(source).aliases[0]
        except ClassNotFound:
            language = TextLexer.aliases[0]
        return f'<h1 id="file"><code>{html.escape(source)}</code></h1>\n{markup.coloured(text, language)}'

    def _write(self, page: Page, toc: list[markup.Heading]) -> None:
        template = Template((HERE / 'page.html').read_text(encoding='utf-8'))
        is_long = len(toc) > 2
        text = template.substitute(
            title=html.escape(page.title if page.title == 'unstick' else f'{page.title} · unstick'),
            base=link(page.url, 'index.html').removesuffix('index.html'),
            menu=self._menu(page.url),
            toc=self._toc(toc) if is_long else '',
            body=markup.linked(page.body, self.symbols, page.url, link),
            source=f'<footer>From <code>{html.escape(page.source)}</code>.</footer>' if page.source else '',
        )
        path = self.out / page.url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')

    def _menu(self, here: str) -> str:
        parts = []
        for title, entries in SECTIONS:
            items = ''
            for _, url, name in entries:
                mark = ' class="here"' if url == here else ''
                items += f'<li><a href="{link(here, url) or "#"}"{mark}>{html.escape(name)}</a></li>\n'
            parts.append(f'<h2>{html.escape(title)}</h2>\n<ul>\n{items}</ul>\n')
        return ''.join(parts)

    def _toc(self, toc: list[markup.Heading]) -> str:
        items = ''.join(
            f'<li class="level{level}"><a href="#{anchor}">{html.escape(title)}</a></li>\n'
            for level, anchor, title in toc
        )
        return f'<nav class="toc">\n<h2>On this page</h2>\n<ul>\n{items}</ul>\n</nav>'


def main(root: str, out: str) -> int:
    site = Site(Path(root).resolve(), Path(out).resolve())
    faults = site.build()
    print('\n'.join(faults) or f'{len(site.pages) + len(site.sources)} pages, every link leads somewhere')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
