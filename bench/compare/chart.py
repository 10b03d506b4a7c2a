# SPDX-License-Identifier: Apache-2.0
"""The chart of a comparison, from its JSON: chart.py COMPARE.json [--out COMPARE.svg].

Bars by tool, all to one scale per panel, none cut off. What leaves something behind says how much, and its bar is only
an outline: it did not do what the others did. Colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

import statistics
from html import escape
from typing import Any, NamedTuple

from report import command, seconds, size, values

WIDTH, LABEL, ROW, GAP, HEAD = 900, 280, 22, 26, 34
BARS = WIDTH - LABEL - 215
LEFT_BEHIND = 1 << 29

STYLE = """
 text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
 .title { font-weight: 600; font-size: 15px; }
 .note { fill: #59636e; font-size: 12px; }
 .ours { fill: #1a7f37; }
 .theirs { fill: #8c959f; }
 .partly { fill: none; stroke: #8c959f; stroke-width: 1.5; }
 .axis { stroke: #d1d9e0; }
 @media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .note { fill: #9198a1; }
  .ours { fill: #3fb950; }
  .theirs { fill: #6e7681; }
  .partly { stroke: #6e7681; }
  .axis { stroke: #3d444d; }
 }
"""


class Bar(NamedTuple):
    name: str
    label: str
    median_s: float
    left_bytes: float
    failure: str = ''


def bars(result: dict[str, Any], task: str, field: str, model: str = '8-bit') -> list[Bar]:
    """The fastest first; what failed at a pipeline that is too large says so, after what it did."""
    found = []
    for name, tool in result['tools'].items():
        times = values(tool, task, model, field)
        if field == 'both_s':
            switches, images = (values(tool, task, model, one) for one in ('switch_s', 'image_s'))
            times = [sum(pair) for pair in zip(switches, images, strict=True)]
        has_failed = task == 'larger_next' and any(one['phase'] == f'larger-{model}' for one in tool['failed'])
        if has_failed and not times:
            found.append(Bar(name, tool['label'].replace('`', ''), 0.0, 0, 'fails'))
        if not times or (field == 'switch_s' and not tool['has_moves']):
            continue
        if field == 'leave_s' and not tool['keeps_references']:
            continue  # it drops the model: that is no leaving
        left = values(tool, task, model, 'left_bytes') if field == 'leave_s' else []
        failure = f'fails after {2 * len(times)} images' if has_failed else ''
        if task == 'larger_next' and not all(entry.get('is_same', True) for entry in tool[task][model]):
            failure = 'another image'
        label = tool['label'].replace('`', '')
        found.append(Bar(name, label, statistics.median(times), max(left, default=0), failure))
    return sorted(found, key=lambda bar: (not bar.median_s, bar.median_s))


def panels(result: dict[str, Any]) -> list[tuple[str, str, list[Bar]]]:
    sizes = next((tool['load']['bytes'] for tool in result['tools'].values() if 'load' in tool), {})
    what = size(sizes['8-bit']) if '8-bit' in sizes else ''
    made = [
        (f'Leave the GPU: FLUX 8-bit, {what}', 'ms, all references alive; an outline: part of it stays',
         bars(result, 'cycle', 'leave_s')),
        ('Come back', 'ms', bars(result, 'cycle', 'back_s')),
        ('Switch from 4-bit to 8-bit, room for one and a half', 'ms', bars(result, 'switch_half', 'switch_s')),
        ('The same switch, and the first image after it', 'ms', bars(result, 'switch_half', 'both_s')),
    ]  # fmt: skip
    for model, name in (('4-bit', 'FLUX 4-bit'), ('8-bit', 'FLUX 8-bit'), ('mixed', 'FLUX 4-bit with T5 in 16 bits')):
        loads = [tool['load_larger'] for tool in result['tools'].values() if model in tool.get('load_larger', {})]
        rooms = [tool.get('larger_room_bytes', {}).get(model) for tool in result['tools'].values()]
        if loads and any(rooms):
            what = f'{name}, {size(loads[0][model]["bytes"][model])}, on a card with {size(min(filter(None, rooms)))}'
            note = f'ms for an image, steps: {result["options"]["larger_steps"]}'
            made.append((what, note, bars(result, 'larger_next', 'image_s', model)))
    return [panel for panel in made if panel[2]]


def svg(result: dict[str, Any]) -> str:
    lines: list[str] = []
    y = GAP
    machine = result['machine']
    for title, note, rows in panels(result):
        lines.append(f'<text class="title" x="8" y="{y}">{escape(title)}</text>')
        lines.append(f'<text class="note" x="{WIDTH - 8}" y="{y}" text-anchor="end">{escape(note)}</text>')
        y += HEAD - ROW
        top, most = y, max(row.median_s for row in rows) or 1.0
        for name, label, value, left, failure in rows:
            is_partly = left > LEFT_BEHIND
            kind = 'ours' if name.startswith('unstick') else 'partly' if is_partly else 'theirs'
            length = max(value / most * BARS, 1.5)
            text = ', '.join(filter(None, (
                seconds(value) if value else '', f'{size(left)} stays' if is_partly else '', failure
            )))  # fmt: skip
            lines.append(f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
            lines.append(f'<rect class="{kind}" x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{ROW - 6}"/>')
            lines.append(f'<text x="{LABEL + length + 6:.1f}" y="{y + 15}">{escape(text)}</text>')
            y += ROW
        lines.append(f'<line class="axis" x1="{LABEL}" y1="{top}" x2="{LABEL}" y2="{y}"/>')
        y += GAP
    where = ', '.join(filter(None, (machine.get('gpu', machine['processor']), machine.get('link'))))
    dry = 'A dry run: these times mean nothing. ' if result['is_dry_run'] else ''
    lines.append(f'<text class="note" x="8" y="{y - 4}">{escape(dry)}Medians; {escape(where)}, {result["date"]}</text>')
    y += 8
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">',
        '<title>unstick beside its peers</title>',
        f'<style>{STYLE}</style>',
        *lines,
        '</svg>\n',
    ])  # fmt: skip


if __name__ == '__main__':
    command(svg, __doc__)
