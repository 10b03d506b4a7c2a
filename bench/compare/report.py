# SPDX-License-Identifier: Apache-2.0
"""The tables of a comparison, from its JSON: report.py COMPARE.json [--out COMPARE.md]. Only tools that ran appear."""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIB = 1 << 30
MODELS = ('8-bit', '4-bit')


def values(tool: dict[str, Any], task: str, model: str, field: str) -> list[float]:
    return [entry[field] for entry in tool.get(task, {}).get(model, []) if entry.get(field) is not None]


def seconds(value: float) -> str:
    """With as many digits as a reader can use, and in one unit, so that columns compare."""
    ms = value * 1000
    return f'{ms:.1f}' if ms < 100 else f'{ms:,.0f}'


def median_worst(found: list[float]) -> str:
    if not found:
        return '-'
    return seconds(found[0]) if len(found) == 1 else f'{seconds(statistics.median(found))} ({seconds(max(found))})'


def size(nbytes: float) -> str:
    sign = '-' if nbytes < 0 else ''
    nbytes = abs(nbytes)
    if nbytes >= GIB:
        return f'{sign}{nbytes / GIB:.2f} GiB'
    return f'{sign}{nbytes / (1 << 20):.0f} MiB'


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    kept = [index for index in range(len(head)) if index == 0 or any(row[index] != '-' for row in rows)]
    lines = [[head[index] for index in kept], ['---'] * len(kept), *([row[index] for index in kept] for row in rows)]
    return ['| ' + ' | '.join(cells) + ' |' for cells in lines]


def tools(result: dict[str, Any], *tasks: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, tool) for name, tool in result['tools'].items() if any(tool.get(task) for task in tasks)]


def moves(result: dict[str, Any], model: str) -> list[str]:
    """Leave and come back, references alive."""
    rows = []
    for _, tool in tools(result, 'first_leave', 'cycle'):
        rows += moves_row(tool, model)
    head = ['tool', 'leave, ms (worst)', 'the first time, ms', 'left on the device', 'come back, ms (worst)', 'GB/s',
            'host memory it took', 'runs']  # fmt: skip
    return table(head, rows) if rows else []


def moves_row(tool: dict[str, Any], model: str) -> list[list[str]]:
    n = len(values(tool, 'cycle', model, 'leave_s'))
    left = values(tool, 'cycle', model, 'left_bytes') or values(tool, 'first_leave', model, 'left_bytes')
    if not left:
        return []
    back = values(tool, 'cycle', model, 'back_s')
    nbytes = tool['load']['bytes'].get(model, 0)
    first = values(tool, 'first_leave', model, 'leave_s')
    host = values(tool, 'first_leave', model, 'host_bytes')
    stays = size(statistics.median(left))
    own = [entry['details'] for entry in tool.get('cycle', {}).get(model, []) if entry.get('details')]
    if own and 'resident_bytes' in own[-1]:
        stays += f' ({size(own[-1]["resident_bytes"])} of the model)'
    if 'left_without_references_bytes' in tool:
        stays += f' ({size(tool["left_without_references_bytes"])} once nothing refers to it)'
    return [[
        tool['label'] + ('' if tool['keeps_references'] else ' (references are gone)'),
        median_worst(values(tool, 'cycle', model, 'leave_s')),
        median_worst(first),
        stays,
        median_worst(back),
        f'{nbytes / statistics.median(back) / 1e9:.1f}' if back else '-',
        size(max(host[0], 0)) if host else '-',
        str(n) if n else '-',
    ]]  # fmt: skip


def switches(result: dict[str, Any], room: str) -> list[str]:
    rows = []
    task = f'switch_{room}'
    for _, tool in tools(result, task):
        row = [tool['label']]
        both: list[float] = []
        n = 0
        for model in reversed(MODELS):
            switch, image = values(tool, task, model, 'switch_s'), values(tool, task, model, 'image_s')
            row.append(median_worst(switch) if tool['has_moves'] else 'in the image')
            both += [one + other for one, other in zip(switch, image, strict=True)]
            row.append(median_worst([one + other for one, other in zip(switch, image, strict=True)]))
            n += len(switch)
        rows.append([*row, str(n)])
    head = ['tool', 'to 4-bit, ms (worst)', 'and the first image', 'to 8-bit, ms (worst)', 'and the first image',
            'switches']  # fmt: skip
    return table(head, rows) if rows else []


def larger(result: dict[str, Any], model: str) -> list[str]:
    rows = []
    for _, tool in tools(result, 'larger_first', 'larger_next'):
        first, following = (values(tool, task, model, 'image_s') for task in ('larger_first', 'larger_next'))
        if first:
            rows.append([tool['label'], median_worst(first), median_worst(following), str(len(following))])
    return table(['tool', 'first image, ms (worst)', 'each further one, ms (worst)', 'runs'], rows) if rows else []


def background(result: dict[str, Any]) -> list[str]:
    """What a backup in the background costs, and what the first leave is then."""
    lines = []
    for _, tool in tools(result, 'first_leave'):
        for model in MODELS:
            for entry in tool['first_leave'].get(model, []):
                if 'backup_s' not in entry:
                    continue
                alone, beside = statistics.median(entry['image_alone_s']), entry['image_beside_s']
                lines.append(
                    f'{tool["label"]}, {model}: the backup took {entry["backup_s"]:.2f} s in the background; images '
                    f'beside it took {seconds(statistics.median(beside))} ms (worst {seconds(max(beside))}), alone '
                    f'{seconds(alone)} ms; the first leave after it {seconds(entry["leave_s"])} ms.'
                )
    return lines


def contents(result: dict[str, Any]) -> list[str]:
    """Whether images stayed the same, and what was left when the process had ended."""
    rows = []
    for _, tool in tools(result, 'load', 'load_larger'):
        same = [
            entry['is_same'] for task in tool.values() if isinstance(task, dict) for entries in task.values()
            if isinstance(entries, list) for entry in entries if isinstance(entry, dict) and 'is_same' in entry
        ]  # fmt: skip
        ended = tool.get('exit', {})
        residual = [ended[key] for key in ended if key.startswith('residual_')]
        rows.append([
            tool['label'],
            f'{sum(same)} of {len(same)}' if same else '-',
            size(max(residual)) if residual else '-',
            str(ended['status']) if 'status' in ended else '-',
        ])
    head = ['tool', 'images as before', 'left on the device when its process had ended', 'its exit status']
    return table(head, rows) if rows else []


def versions(result: dict[str, Any]) -> str:
    found: dict[str, set[str]] = {}
    for _, tool in tools(result, 'versions'):
        for package, version in tool['versions'].items():
            found.setdefault(package, set()).add(version)
    return ', '.join(f'{package} {"/".join(sorted(one))}' for package, one in sorted(found.items()))


def markdown(result: dict[str, Any]) -> str:
    machine = result['machine']
    sizes = next((tool['load']['bytes'] for _, tool in tools(result, 'load')), {})
    about = ', '.join(
        str(part) for part in (
            machine.get('gpu'), machine.get('link'), f'driver {machine["driver"]}' if 'driver' in machine else None,
            f'{machine["cores"]} cores', machine['processor'], machine['system'],
        ) if part
    )  # fmt: skip
    scale = result['options']['scale']
    what = 'FLUX.1-dev, T5-XXL, CLIP-L and VAE at full size' if scale == 1 else f'a FLUX of 1/{scale}'
    lines = [
        f'# unstick beside its peers, {result["date"]}',
        '',
        *(['**A dry run on a machine without a GPU: the times mean nothing.**', ''] if result['is_dry_run'] else []),
        f'{about}; {versions(result)}.',
        '',
        f'{what}, random weights'
        + ''.join(f'; {name} (bitsandbytes) {size(nbytes)}' for name, nbytes in sizes.items())
        + f'. An image is {result["options"]["size"]} pixels square, in one step where not said otherwise. Medians, '
        'the worst in brackets. "Left" is the driver\'s account of the process (NVML), beyond what it used before it '
        'had a model, while references to all tensors are held.',
        '',
        f'`{result["command"]}` took {result["seconds"]:.0f} s.',
    ]
    if 'link_bytes_per_s' in machine:
        lines += ['', f'A plain copy from pinned memory to the device: {machine["link_bytes_per_s"] / 1e9:.1f} GB/s.']
    for phase, names in result['interleaved']:
        lines += ['', f'Run by run in turn ({phase}): {"; ".join(result["tools"][name]["label"] for name in names)}.']

    def section(title: str, body: list[str]) -> None:
        if body:
            lines.extend(['', f'## {title}', '', *body])

    for model in MODELS:
        section(f'Leave and come back: {model}, {size(sizes[model])}' if model in sizes else '', moves(result, model))
    section('The backup before the first leave', background(result))
    titles = {'one': 'Switch, with room for one', 'half': 'Switch, with room for one and a half'}
    for room, title in titles.items():
        rooms = [tool['room'][room] for _, tool in tools(result, 'room') if room in tool['room']]
        section(title + (f' ({size(min(rooms))})' if rooms else ''), switches(result, room))
    for model, what in (('4-bit', 'FLUX 4-bit'), ('8-bit', 'FLUX 8-bit'), ('mixed', 'FLUX 4-bit with T5 in 16 bits')):
        rooms = [tool['larger_room_bytes'].get(model, 0) for _, tool in tools(result, 'larger_room_bytes')]
        loads = [tool['load_larger'][model] for _, tool in tools(result, 'load_larger') if model in tool['load_larger']]
        loads.sort(key=lambda load: min(load.get('image_s', {}).values(), default=0.0))  # of who moved nothing
        if loads and any(rooms):
            nbytes, room = loads[0]['bytes'][model], min(filter(None, rooms))
            steps, pixels = result['options']['larger_steps'], result['options']['larger_size']
            body = larger(result, model)
            if 'image_s' in loads[0]:
                whole = seconds(loads[0]['image_s'][model])
                whole = f'With all of it on the device, right after it was loaded, an image took {whole} ms.'
                body += ['', whole] if body else []
            section(f'{what}, {size(nbytes)}, on {size(room)}: {pixels} pixels square, steps: {steps}', body)
    section('Contents, and what is left', contents(result))
    failed = [
        f'* {tool["label"]}: {one["phase"]}, {one["task"]}: {one["message"]}'
        for tool in result['tools'].values() for one in tool['failed']
    ]  # fmt: skip
    section('What failed', failed)
    if 'failure' in result:
        lines += ['', f'**Not all of it went as it should: {result["failure"]}.**']
    section('Not run, or not all of it', [f'* {skipped_name(result, one)}: {one["why"]}' for one in result['skipped']])
    used = [f'* {tool["label"]}: `{tool["how"]}`' for _, tool in tools(result, 'load', 'load_larger')]
    section('How each tool was used', used)
    return '\n'.join(wrapped(line) for line in lines) + '\n'


def wrapped(line: str) -> str:
    """As long as other lines of the repository; a row of a table has to be one line."""
    if line.startswith(('|', '#')):
        return line
    indent = '  ' if line.startswith('* ') else ''
    return textwrap.fill(line, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def skipped_name(result: dict[str, Any], one: dict[str, str]) -> str:
    return f'{result["tools"][one["tool"]]["label"]} ({one["phase"]})'


def command(make: Callable[[dict[str, Any]], str], about: str | None) -> None:
    """Makes a text of a result that lies in a file: the main program of what does so."""
    parser = argparse.ArgumentParser(description=(about or '').split(':')[0])
    parser.add_argument('result', type=Path)
    parser.add_argument('--out', type=Path)
    arguments = parser.parse_args()
    text = make(json.loads(arguments.result.read_text(encoding='utf-8')))
    if arguments.out is None:
        print(text, end='')
    else:
        arguments.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    command(markdown, __doc__)
