# SPDX-License-Identifier: Apache-2.0
"""What must be true of the finished site: every link and anchor leads somewhere, and nothing comes from elsewhere."""
from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = ('area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source', 'track', 'wbr')
FETCHED = {('img', 'src'), ('script', 'src'), ('link', 'href'), ('iframe', 'src'), ('object', 'data')}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[tuple[int, str, str, str]] = []
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == 'id' and value is not None:
                self.ids.append(value)
            elif name in ('href', 'src', 'data'):
                self.links.append((self.getpos()[0], tag, name, value or ''))
            if tag == 'img' and 'alt' not in dict(attrs):
                self.faults.append(f'{self.getpos()[0]}: an image without alt')
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.faults.append(f'{self.getpos()[0]}: </{tag}> closes nothing')
        else:
            self.open.pop()


def faults(site: Path) -> list[str]:
    """One line per fault; an empty list for a site without any."""
    readers: dict[Path, Reader] = {}
    for path in sorted(site.rglob('*.html')):
        reader = readers[path.resolve()] = Reader()
        reader.feed(path.read_text(encoding='utf-8'))
    found: list[str] = []
    places: dict[str, list[str]] = {}
    for path, reader in readers.items():
        name = path.relative_to(site.resolve())
        found += [f'{name}:{fault}' for fault in reader.faults]
        found += [f'{name}: <{tag}> is not closed' for tag in reader.open]
        twice = sorted({one for one in reader.ids if reader.ids.count(one) > 1})
        found += [f'{name}: two elements are #{one}' for one in twice]
        for line, tag, attribute, link in reader.links:
            if fault := _fault(path, tag, attribute, link, readers, site.resolve()):
                places.setdefault(fault, []).append(f'{name}:{line}')
    return found + [f'{where[0]}: {fault}' + (f' (and {len(where) - 1} more links)' if len(where) > 1 else '')
                    for fault, where in places.items()]  # fmt: skip


def _fault(path: Path, tag: str, attribute: str, link: str, readers: dict[Path, Reader], site: Path) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        if (tag, attribute) in FETCHED:
            return f'{link} would be fetched from elsewhere'
        return '' if parts.scheme == 'https' else f'{link}: only https leads out'
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(site) or not target.is_file():
        return f'{os.path.relpath(target, site)} is not there'
    if parts.fragment and (target not in readers or unquote(parts.fragment) not in readers[target].ids):
        return f'{target.relative_to(site)} has no #{parts.fragment}'
    return ''
