# SPDX-License-Identifier: Apache-2.0
"""bench/compare: a dry run of the real thing, and what is made of a result."""

import copy
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / 'bench' / 'compare'

GIB = 1 << 30


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its modules, which know one another by bare names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import channel
    import chart
    import readings
    import report
    import run

    return {'channel': channel, 'chart': chart, 'readings': readings, 'report': report, 'run': run}


def moves(leave: float, left: int, back: float) -> dict[str, Any]:
    return {'8-bit': [{'leave_s': leave * n, 'left_bytes': left, 'back_s': back * n} for n in (1, 2, 3)]}


@pytest.fixture
def result() -> dict[str, Any]:
    """What run.py writes, shortened: one that did all, one that leaves half behind, one that failed, one not run."""
    tool = {'how': 'calls', 'keeps_references': True, 'has_moves': True, 'comes_back': True, 'failed': [],
            'versions': {'torch': '2.0'}}  # fmt: skip
    switch = {'8-bit': [{'switch_s': 0.2, 'image_s': 0.5, 'is_same': True}],
              '4-bit': [{'switch_s': 0.1, 'image_s': 0.5, 'is_same': False}]}  # fmt: skip
    load = {'bytes': {'8-bit': 17 * GIB, '4-bit': 10 * GIB}}
    backup = {'leave_s': 0.03, 'left_bytes': 0, 'host_bytes': 17 * GIB, 'backup_s': 1.5, 'image_alone_s': [0.5],
              'image_beside_s': [0.55, 0.6]}  # fmt: skip
    cached = moves(0.01, 66 << 20, 0.29)
    cached['8-bit'][-1]['details'] = {'resident_bytes': 0}
    return {
        'date': '2026-01-02',
        'command': 'bench/compare/run.py --out results',
        'is_dry_run': False,
        'seconds': 300.0,
        'machine': {'gpu': 'A GPU', 'driver': '580', 'link': 'PCIe Gen5 x16', 'processor': 'A CPU', 'cores': 16,
                    'system': 'Linux'},
        'options': {'scale': 1, 'size': 512, 'larger_steps': 4, 'larger_size': 1024},
        'interleaved': [['switch', ['unstick', 'tms_retained']]],
        'skipped': [{'tool': 'late', 'phase': 'switch', 'why': 'out of time'}],
        'tools': {
            'tms_retained': {**tool, 'label': 'saver', 'load': load, 'cycle': moves(0.4, 0, 0.5),
                             'exit': {'status': 1, 'residual_switch_bytes': 0}},
            'unstick': {**tool, 'label': 'unstick', 'load': load, 'cycle': moves(0.02, 0, 0.3),
                        'first_leave': {'8-bit': [backup]}, 'switch_half': switch, 'room': {'half': 24 * GIB},
                        'load_larger': {'mixed': {'bytes': {'mixed': 15 * GIB}}},
                        'larger_room_bytes': {'mixed': 10 * GIB},
                        'larger_first': {'mixed': [{'image_s': 3.0, 'is_same': True}]},
                        'larger_next': {'mixed': [{'image_s': 1.0, 'is_same': True}]},
                        'exit': {'status': 0, 'residual_switch_bytes': 0}},
            'unstick_cache': {**tool, 'label': 'unstick, its cache', 'load': load, 'cycle': cached},
            'to_cpu': {**tool, 'label': 'torch `.to("cpu")`', 'load': load, 'cycle': moves(1.2, 15 * GIB, 2.0),
                       'failed': [{'phase': 'switch', 'task': 'enter 8-bit', 'message': 'OutOfMemory: <no room>'}]},
            'broken': {**tool, 'label': 'broken', 'versions': {},
                       'failed': [{'phase': 'switch', 'task': 'ready', 'message': 'No module named broken'}]},
            'late': {**tool, 'label': 'late'},
        },
    }  # fmt: skip


def test_tables(compare: Any, result: dict[str, Any]) -> None:
    text = compare['report'].markdown(result)
    assert '| unstick | 40.0 (60.0) | 30.0 | 0 MiB | 600 (900) | 30.4 | 17.00 GiB | 3 |' in text
    assert '| unstick, its cache | 20.0 (30.0) | - | 66 MiB (0 MiB of the model) | 580 (870) | 31.5 | - | 3 |' in text
    assert '| saver | 800 (1,200) | - | 0 MiB | 1,000 (1,500) | 18.3 | - | 3 |' in text
    assert '15.00 GiB' in text
    assert '* broken: switch, ready: No module named broken' in text
    assert '* torch `.to("cpu")`: switch, enter 8-bit: OutOfMemory: <no room>' in text
    assert '* late (switch): out of time' in text
    assert 'room for one and a half (24.00 GiB)' in text
    assert '| unstick | 100 | 600 | 200 | 700 | 2 |' in text
    assert '| unstick | 3 of 4 | 0 MiB | 0 |' in text
    assert '15.00 GiB, on 10.00 GiB: 1024 pixels square, steps: 4' in text
    assert '| unstick | 3,000 | 1,000 | 1 |' in text
    assert '| saver | - | 0 MiB | 1 |' in text
    assert 'the backup took 1.50 s in the background; images beside it took 575 ms (worst 600), alone 500 ms' in text
    assert 'dry run' not in text


def test_only_what_ran_is_in_the_tables(compare: Any, result: dict[str, Any]) -> None:
    text = compare['report'].markdown(result)
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert not any('broken' in row or 'late' in row for row in rows)
    del result['tools']['unstick']['switch_half'], result['tools']['unstick']['room']
    assert 'one and a half' not in compare['report'].markdown(result)


def test_chart(compare: Any, result: dict[str, Any]) -> None:
    text = compare['chart'].svg(result)
    root = ET.fromstring(text)
    bars = [rect.attrib for rect in root.iter('{http://www.w3.org/2000/svg}rect')]
    leave = ['ours', 'ours', 'theirs', 'partly']
    back = ['ours', 'ours', 'theirs', 'theirs']
    assert [bar['class'] for bar in bars] == [*leave, *back, 'ours', 'ours', 'ours']
    lengths = [float(bar['width']) for bar in bars]
    assert lengths[1] / lengths[3] == pytest.approx(0.04 / 2.4, abs=0.003)
    assert 'prefers-color-scheme: dark' in text
    assert '15.00 GiB stays' in text
    assert 'broken' not in text
    right = max(float(bar['x']) + float(bar['width']) for bar in bars)
    assert right < float(root.attrib['width'])


def test_chart_shows_what_failed(compare: Any, result: dict[str, Any]) -> None:
    failure = {'phase': 'larger-mixed', 'task': 'larger mixed', 'message': 'OutOfMemory'}
    result['tools']['broken']['failed'] = [failure]
    result['tools']['unstick']['failed'] = [failure]
    text = compare['chart'].svg(result)
    assert '>1,000, fails after 2 images<' in text
    assert '>fails<' in text


def test_a_result_without_gpu_says_so(compare: Any, result: dict[str, Any]) -> None:
    result['is_dry_run'] = True
    assert 'times mean nothing' in compare['report'].markdown(result)
    assert 'times mean nothing' in compare['chart'].svg(result)


def test_scripts_read_the_file(compare: Any, result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / 'compare.json').write_text(json.dumps(result))
    for script, name in (('report.py', 'a.md'), ('chart.py', 'a.svg')):
        command = [sys.executable, FOLDER / script, tmp_path / 'compare.json']
        subprocess.run([*command, '--out', tmp_path / name], check=True)
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert printed == (tmp_path / name).read_text()


def test_earlier_tools_are_taken_over(compare: Any, result: dict[str, Any]) -> None:
    earlier = copy.deepcopy(result)
    for name in ('unstick', 'tms_retained'):
        del result['tools'][name]['cycle']
    del result['tools']['to_cpu']
    merged = compare['run'].merged(earlier, result)
    assert merged['tools']['to_cpu']['from_run'] == '2026-01-02'
    assert 'cycle' not in merged['tools']['unstick']  # this run's own word stands
    earlier['machine']['gpu'] = 'Another GPU'
    with pytest.raises(SystemExit, match='Another GPU'):
        compare['run'].merged(earlier, result)


def test_host_memory(compare: Any) -> None:
    found = compare['readings'].host()
    assert 0 < found['own_bytes'] < found['total_bytes'] and 0 < found['available_bytes'] <= found['total_bytes']


@pytest.mark.torch
def test_worker_that_fails_says_why(compare: Any, torch: Any, tmp_path: Path) -> None:
    Peer, PeerError = compare['channel'].Peer, compare['channel'].PeerError
    log = tmp_path / 'log.txt'
    peer = Peer.start('tms', {'device': 'cpu', 'scale': 64}, {}, str(log))
    with pytest.raises(PeerError, match=r'torch_memory_saver|CUDA'):
        peer.call({'do': 'ready'})
        peer.call({'do': 'load'})
    assert peer.end() == 0
    dead = Peer.start('no such tool', {'device': 'cpu'}, {}, str(log))
    with pytest.raises(PeerError, match=r'the process ended \(1\): KeyError'):
        dead.call({'do': 'ready'})
    dead.end()


@pytest.mark.torch
def test_dry_run(torch: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip('there is a GPU: the real run is the test')
    out = tmp_path / 'out'
    done = subprocess.run(
        [sys.executable, FOLDER / 'run.py', '--out', out, '--tools', 'unstick,unstick_cache,del', '--runs', '1',
         '--rows', '1', '--steps', '1', '--budget', '850'],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / 'compare.json').read_text())
    assert result['is_dry_run']
    assert not result['skipped']
    unstick, cache = (result['tools'][name] for name in ('unstick', 'unstick_cache'))
    for tool in (unstick, cache):
        assert tool['failed'] == []
        assert tool['exit']['status'] == 0
        for model in ('8-bit', '4-bit'):
            assert [entry['left_bytes'] for entry in tool['cycle'][model]] == [0]
            assert all(entry['is_same'] for entry in tool['cycle'][model])
    for model in ('8-bit', '4-bit'):
        assert all(entry['is_same'] for entry in cache['switch_half'][model])
        assert len(cache['switch_one'][model]) == 2
        assert all(entry['is_same'] for entry in unstick['larger_next'][model])
    assert result['tools']['del']['first_leave']['8-bit'][0]['leave_s'] > 0
    assert 'cycle' not in result['tools']['del']
    assert '| unstick, `cache.evict()` |' in (out / 'compare.md').read_text()
    ET.parse(out / 'compare.svg')
    left = [path.name for path in out.iterdir()]
    assert sorted(left) == ['compare.json', 'compare.md', 'compare.svg', 'logs']
