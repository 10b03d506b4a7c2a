# SPDX-License-Identifier: Apache-2.0
"""Page: what the site is made of."""
from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from markup import Heading


@dataclass
class Page:
    source: str
    """The file in the repository, or empty."""
    url: str
    title: str
    body: str = ''
    toc: list[Heading] = field(default_factory=list)


def link(here: str, there: str) -> str:
    """From one page to another; both relative to the root of the site, `there` with an anchor or without."""
    path, mark, anchor = there.partition('#')
    if path == here:
        return mark + anchor
    return posixpath.relpath(path, posixpath.dirname(here) or '.') + mark + anchor
