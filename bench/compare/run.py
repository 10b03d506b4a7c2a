#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""unstick beside its peers: one run, one machine, the same models, each tool in a process of its own.

    python bench/compare/run.py --out DIR [--quick] [--tools unstick,tms_retained] [--add EARLIER.json]

Writes DIR/compare.json, and from it DIR/compare.md and DIR/compare.svg; what the tools printed is in DIR/logs. All
workers are started first and import side by side; nothing is measured before they are through. From then on only one
of them does anything at a time. Tools that are compared most closely take turns run by run. A smaller card is made by
a process that takes the rest of the memory: the same for every tool. On a machine without a GPU it is a dry run with
the tools that can do without, for the machinery alone: its times mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from channel import Peer, PeerError
from readings import Nvml, host, nvml, shared_files
from tools import TOOLS

HERE = Path(__file__).parent

GIB = 1 << 30

SWITCH, LEAVE, LARGER_4, LARGER_8, MIXED = 'switch', 'leave', 'larger-4-bit', 'larger-8-bit', 'larger-mixed'

# In the order in which they run: when time runs out, what is missing is what was least important. Those of one line
# load side by side, and then take turns.
WAVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (SWITCH, ('unstick', 'unstick_cache', 'tms_retained')),
    (LARGER_4, ('unstick', 'model_offload', 'group_offload', 'block_offload')),
    (LARGER_8, ('unstick', 'model_offload', 'group_offload')),
    (LEAVE, ('to_cpu', 'del', 'tms', 'safetensors', 'checkpoint')),
)

# Only if named by --tools or --phase: each takes minutes.
MORE: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((SWITCH, (tool,)) for tool in ('to_cpu', 'tms', 'safetensors', 'checkpoint', 'model_offload', 'reload')),
    (LEAVE, ('reload',)),
    (MIXED, ('unstick', 'model_offload', 'group_offload', 'block_offload')),
    (MIXED, ('sequential_offload',)),
    (SWITCH, ('tms_disk',)),
)

A, B = '8-bit', '4-bit'
MODELS = {SWITCH: [A, B], LEAVE: [A], LARGER_4: [B], LARGER_8: [A], MIXED: ['mixed']}
CARD_BYTES = {LARGER_4: 8 * GIB, LARGER_8: 12 * GIB, MIXED: 12 * GIB}
"""Cards as there are some, which are too small for the model at full size."""

CUT_OFF = 'the run was ended before it was through'

LOAD_BYTES = {SWITCH: 40 * GIB}
"""What a worker may take while it loads; of one model 25 GiB."""


class Ballast:
    """Device memory that nobody is to have."""

    def __init__(self, is_wanted: bool) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # workers that fail while they load side by side
        if is_wanted:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / 'ballast.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._read()

    def _read(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.isdigit():
            raise PeerError(f'ballast: {line or "its process ended"}')
        return int(line)

    def link(self, nbytes: int) -> int:
        """Bytes per second that a plain copy from pinned memory to the device has; 0 where there is no device."""
        return 0 if self._process is None else self._ask(f'link {nbytes}')

    def leave(self, nbytes: int) -> int:
        """Takes memory until so much is free (0: gives all back); what is free then."""
        return nbytes if self._process is None else self._ask(str(nbytes))

    def _ask(self, line: str) -> int:
        assert self._process is not None and self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f'{line}\n')
            self._process.stdin.flush()
            return self._read()

    def end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(10)


class Worker:
    """A tool's process, and what is known of it."""

    def __init__(self, run: Run, tool: str, phase: str) -> None:
        self.run = run
        self.tool = tool
        self.phase = phase
        self.kind = TOOLS[tool]
        self.failure: dict[str, str] | None = None
        self.is_over = False
        self.loaded: dict[str, Any] = {}
        self.context_bytes = 0
        self.left_bytes = 0
        self.result: dict[str, Any] = run.results.setdefault(
            tool,
            {'label': self.kind.label, 'how': self.kind.how, 'keeps_references': self.kind.keeps_references,
             'has_moves': self.kind.has_moves, 'comes_back': self.kind.comes_back, 'failed': []},
        )  # fmt: skip
        self.models = MODELS[phase]
        self.is_larger = phase in CARD_BYTES
        options = {
            **run.options, 'phase': phase, 'models': self.models, 'files': str(run.files / f'{tool}-{phase}'),
            'disk': str(run.disk / f'{tool}-{phase}'), 'is_latent': False,
            'card_bytes': CARD_BYTES.get(phase, 0) if run.arguments.scale == 1 else 0,
        }  # fmt: skip
        if self.is_larger:
            options |= {'steps': run.arguments.steps, 'size': run.options['larger_size']}
        self.peer = Peer.start(tool, options, self.kind.environment(), str(run.logs / f'{tool}-{phase}.txt'))

    def call(self, do: str, timeout: float = 120.0, **arguments: Any) -> dict[str, Any] | None:
        """None once the tool has failed: the rest of its tasks is left out, and the reason recorded."""
        if self.failure is not None:
            return None
        try:
            return self.peer.call({'do': do, **arguments}, timeout)
        except PeerError as error:
            model = f' {arguments["model"]}' if 'model' in arguments else ''
            self.fail(do + model, str(error))
            return None

    def vacate(self) -> None:
        self.run.ballast.leave(0)  # it is nobody's memory but its own
        answer = self.call('vacate')
        if answer is not None:
            self.left_bytes = max(answer['left_bytes'], 0)

    def make_room(self, nbytes: int) -> int:
        """A card with so much for this worker; what it still holds while its models are away is part of that."""
        free = nbytes - self.left_bytes
        if free < nbytes // 16:
            self.fail('room', f'{self.left_bytes / GIB:.2f} GiB stay on the device while it is away; there is room for '
                              f'{nbytes / GIB:.2f} GiB')  # fmt: skip
            return nbytes
        return self.run.ballast.leave(free) + self.left_bytes

    def fail(self, task: str, message: str) -> None:
        self.failure = {'phase': self.phase, 'task': task, 'message': message}
        self.result['failed'].append(self.failure)
        print(f'  {self.tool}: {task} failed: {message}', flush=True)
        self.peer.kill()
        self.run.ballast.leave(0)

    def add(self, task: str, model: str, entry: dict[str, Any] | None) -> None:
        if entry is not None:
            if entry.get('image'):
                entry['is_same'] = entry.pop('image') == self.loaded['image'][model]
            self.result.setdefault(task, {}).setdefault(model, []).append(entry)


class Run:
    def __init__(self, arguments: argparse.Namespace, out: Path, scratch: Path) -> None:
        self.arguments = arguments
        self.started = time.monotonic()
        self.nvml: Nvml | None = nvml()
        self.is_dry = self.nvml is None
        self.logs = out / 'logs'
        self.logs.mkdir(parents=True, exist_ok=True)
        shared = Path('/dev/shm')
        can_share = shared.is_dir() and shutil.disk_usage(shared).free > 40 * GIB
        self.files = Path(tempfile.mkdtemp(prefix='unstick-compare-', dir=shared if can_share else scratch))
        self.disk = scratch
        self.results: dict[str, dict[str, Any]] = {}
        self.skipped: list[dict[str, str]] = []
        self.failure = ''
        self.path = out / 'compare.json'
        self.ballast = Ballast(not self.is_dry)
        self.link: list[int] = []
        self.options = {
            'device': 'cpu' if self.is_dry else 'cuda',
            'scale': arguments.scale,
            'size': 32 if arguments.scale >= 32 else arguments.size,
            'steps': 1,
            'larger_size': 32 if arguments.scale >= 32 else 2 * arguments.size,
            'larger_steps': arguments.steps,
            'n_tokens': 16 if arguments.scale >= 32 else 128,
            # Less than all of it: a region ends with a whole granule, and what a tool has on the device counts, too.
            'working_bytes': int((arguments.working - 0.8) * GIB) if not self.is_dry else 0,
            'spare_bytes': int(0.9 * GIB) if not self.is_dry else 1 << 20,
            'host_device_bytes': 64 << 20,
        }

    # --- the whole ---

    def waves(self) -> list[tuple[str, list[str]]]:
        wanted = self.arguments.tools.split(',') if self.arguments.tools else None
        waves: list[tuple[str, list[str]]] = []
        for phase, tools in (*WAVES, *(MORE if wanted or self.arguments.phase != 'all' else ())):
            known = [tool for before, tools_before in waves for tool in tools_before if before == phase]
            chosen = [
                tool for tool in tools
                if (wanted is None or tool in wanted) and tool not in known
                and (not self.is_dry or (TOOLS[tool].runs_on_cpu and (phase not in CARD_BYTES or tool == 'unstick')))
                and self.arguments.phase in ('all', phase)
            ]  # fmt: skip
            if chosen:
                waves.append((phase, chosen))
        return waves

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def perform(self) -> None:
        waves = [(phase, [Worker(self, tool, phase) for tool in tools]) for phase, tools in self.waves()]
        try:
            for _, workers in waves:
                for worker in workers:
                    answer = worker.call('ready', timeout=180)
                    worker.result.setdefault('versions', {}).update(answer['versions'] if answer else {})
            print(f'{self.elapsed:6.1f} s: all workers are ready', flush=True)
            self.measure_link()
            for phase, workers in waves:
                if self.elapsed > self.arguments.budget:
                    for worker in workers:
                        self.skipped.append({'tool': worker.tool, 'phase': phase, 'why': 'out of time'})
                        worker.peer.kill()
                        worker.is_over = True
                    continue
                names = ', '.join(worker.tool for worker in workers)
                print(f'{self.elapsed:6.1f} s: {phase}: {names}', flush=True)
                try:
                    self.wave(phase, workers)
                except Exception as error:  # the next wave has workers of its own
                    traceback.print_exc()
                    self.failure = f'{phase}: {type(error).__name__}: {error}'
                    for worker in workers:
                        worker.is_over = True
                        worker.peer.kill()
                    self.ballast.leave(0)
                finally:
                    self.write()
        except PeerError as error:
            self.failure = str(error)
        finally:
            for phase, workers in waves:
                for worker in workers:
                    if not worker.is_over:
                        self.skipped.append({'tool': worker.tool, 'phase': phase, 'why': CUT_OFF})
                        worker.peer.kill()
            self.ballast.end()

    def wave(self, phase: str, workers: list[Worker]) -> None:
        before = self.used()
        files = shared_files()
        room = self.nvml.memory().total if self.nvml is not None else 0
        if len(workers) * LOAD_BYTES.get(phase, 25 * GIB) <= room:
            with ThreadPoolExecutor(len(workers)) as pool:
                list(pool.map(self.load, workers))
            for worker in workers:
                self.first(worker)
        else:
            for worker in workers:
                self.load(worker)
                self.first(worker)
        if phase in CARD_BYTES:
            self.larger(workers)
        else:
            print(f'{self.elapsed:6.1f} s: all have left once', flush=True)
            self.cycles(workers)
            print(f'{self.elapsed:6.1f} s: all have come back and left', flush=True)
            if phase == SWITCH:
                self.switches(workers)
                self.measure_link()
        self.end(workers, before, files)

    def measure_link(self) -> None:
        if link := self.ballast.link(2 * GIB):
            self.link.append(link)

    def used(self) -> int:
        return int(self.nvml.memory().used) if self.nvml is not None else 0

    # --- tasks ---

    def load(self, worker: Worker) -> None:
        """Models under the tool, and an image of each."""
        started, used = self.elapsed, self.used()
        loaded = worker.call('load', timeout=240, times=1 if worker.is_larger and not worker.kind.has_moves else 2)
        if loaded is None:
            return
        worker.loaded = loaded
        worker.context_bytes = loaded['used_before_bytes']
        if not loaded['is_own_reading']:
            worker.context_bytes = max(worker.context_bytes - used, 0)
        if not worker.is_larger:
            worker.result['load'] = loaded
        else:
            worker.result.setdefault('load_larger', {})[worker.models[0]] = loaded
        print(f'    {worker.tool}: loaded in {self.elapsed - started:.1f} s', flush=True)

    def first(self, worker: Worker) -> None:
        """The first time that each model leaves."""
        if worker.is_larger or not worker.kind.has_moves:
            worker.vacate()
            return
        for model in worker.models:
            worker.add('first_leave', model, worker.call('first_leave', model=model))
        if worker.kind.comes_back:
            return
        forgotten = worker.call('forget')
        if forgotten is not None:
            worker.result['left_without_references_bytes'] = forgotten['left_bytes']

    def rows(self, workers: list[Worker], n: int, task: Any) -> None:
        """Up to n rows in which every worker has its turn; who has had his time, or failed, stands aside."""
        spent = dict.fromkeys(range(len(workers)), 0.0)
        for row in range(n):
            order = list(range(len(workers)))
            for index in order if row % 2 == 0 else reversed(order):
                worker = workers[index]
                if worker.failure is not None or (row and spent[index] > self.arguments.task_seconds):
                    continue
                if row and self.elapsed > self.arguments.budget:
                    continue
                started = time.monotonic()
                task(worker, row)
                spent[index] += time.monotonic() - started

    def cycles(self, workers: list[Worker]) -> None:
        workers = [worker for worker in workers if worker.kind.comes_back and worker.kind.has_moves]
        for model in (A, B):
            those = [worker for worker in workers if model in worker.models]

            def cycle(worker: Worker, row: int, model: str = model) -> None:
                link = self.ballast.link(GIB // 2)
                entry = worker.call('cycle', model=model, check=row == 0)
                if entry is not None and link:
                    entry['link_bytes_per_s'] = link  # as it was just before: what it gives varies
                worker.add('cycle', model, entry)

            self.rows(those, self.arguments.runs, cycle)

    def rooms(self, worker: Worker) -> dict[str, int]:
        sizes = worker.loaded['bytes']
        largest, least = max(sizes.values()), min(sizes.values())
        working = int(self.arguments.working * GIB)
        return {'one': largest + working, 'half': largest + least // 2 + working}

    def switches(self, workers: list[Worker]) -> None:
        workers = [worker for worker in workers if worker.kind.comes_back and worker.kind.has_switches]
        for worker in workers:
            worker.call('begin_switches')
            worker.vacate()
        for room in ('one', 'half'):

            def turns(worker: Worker, row: int, room: str = room) -> None:
                nbytes = self.rooms(worker)[room]
                # A process that was checkpointed takes its context along, and comes back with it.
                extra = worker.context_bytes if worker.tool == 'checkpoint' else 0
                worker.result.setdefault('room', {})[room] = worker.make_room(nbytes + extra)
                if worker.call('enter', model=A) is not None:
                    for model in (B, A) if worker.kind.is_disk else (B, A, B, A):
                        entry = worker.call('switch', model=model)
                        worker.add(f'switch_{room}', model, entry)
                        if entry is None:
                            break
                worker.vacate()

            if room == 'half' and all(worker.kind.is_disk for worker in workers):
                continue
            self.rows(workers, self.arguments.rows, turns)

    def larger(self, workers: list[Worker]) -> None:
        def images(worker: Worker, row: int) -> None:
            model = worker.models[0]
            room = worker.make_room(worker.loaded['room_bytes'])
            worker.result.setdefault('larger_room_bytes', {})[model] = room
            for place in ('larger_first', 'larger_next'):
                worker.add(place, model, worker.call('larger', model=model))
            worker.vacate()

        self.rows(workers, self.arguments.rows + 1, images)

    def end(self, workers: list[Worker], used_before: int, files_before: list[str]) -> None:
        for worker in workers:
            worker.is_over = True
            if worker.failure is None:
                own = worker.call('host')
                if own is not None:
                    worker.result.setdefault('exit', {})['own_host_bytes'] = own['own_bytes']
                status = worker.peer.end()
                worker.result.setdefault('exit', {})['status'] = status
            shutil.rmtree(self.files / f'{worker.tool}-{worker.phase}', ignore_errors=True)
            shutil.rmtree(self.disk / f'{worker.tool}-{worker.phase}', ignore_errors=True)
        if not self.is_dry:
            time.sleep(0.5)  # the driver takes a dead process apart in the background
        residual = self.used() - used_before
        left = [name for name in shared_files() if name not in files_before]
        for worker in workers:
            worker.result.setdefault('exit', {})[f'residual_{worker.phase}_bytes'] = residual
            if left:
                worker.result['exit']['files_left'] = left

    # --- the result ---

    def write(self) -> dict[str, Any]:
        """After every wave: a run that is cut off has what it had."""
        result = self.summary()
        if self.arguments.add is not None:
            result = merged(json.loads(self.arguments.add.read_text(encoding='utf-8')), result)
        self.path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
        return result

    def summary(self) -> dict[str, Any]:
        machine: dict[str, Any] = {
            'processor': processor(), 'cores': os.cpu_count(), 'host_bytes': host()['total_bytes'],
            'system': f'{platform.system()} {platform.release()}', 'python': platform.python_version(),
        }  # fmt: skip
        if self.nvml is not None:
            machine |= {
                'gpu': self.nvml.name, 'driver': self.nvml.driver, 'link': self.nvml.link(),
                'device_bytes': int(self.nvml.memory().total),
            }  # fmt: skip
        if self.link:
            machine['link_bytes_per_s'] = max(self.link)
        return {
            'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
            # Folders are this machine's; their names do.
            'command': shlex.join(['bench/compare/run.py', *(Path(word).name or word for word in sys.argv[1:])]),
            'is_dry_run': self.is_dry,
            'seconds': round(self.elapsed, 1),
            'machine': machine,
            'options': {**self.options, 'runs': self.arguments.runs, 'rows': self.arguments.rows},
            'interleaved': [[phase, list(tools)] for phase, tools in self.waves() if len(tools) > 1],
            'tools': self.results,
            'skipped': self.skipped,
            **({'failure': self.failure} if self.failure else {}),
        }


def processor() -> str:
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
        return next(line.partition(':')[2].strip() for line in text.splitlines() if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.machine()


def merged(earlier: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Tools of an earlier run on the same machine that this one did not have."""
    if earlier['machine'].get('gpu') != result['machine'].get('gpu'):
        raise SystemExit(f'--add: that run was on {earlier["machine"].get("gpu")}')
    for name, tool in earlier['tools'].items():
        if name not in result['tools']:
            result['tools'][name] = {**tool, 'from_run': earlier['date'], 'from_command': earlier['command']}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('--out', type=Path, required=True, help='where the results go')
    parser.add_argument('--quick', action='store_true', help='small models and few runs: does everything work?')
    parser.add_argument('--scale', type=int, default=0, help='1: full size; N: N times fewer layers; from 32: tiny')
    names = ', '.join(name for name in TOOLS if name != 'plain')
    parser.add_argument('--tools', default='', help=f'these only, with commas between: {names}')
    parser.add_argument('--phase', choices=('all', *MODELS), default='all')
    parser.add_argument('--add', type=Path, help='the compare.json of an earlier run: its other tools are taken over')
    parser.add_argument('--runs', type=int, default=0, help='how often each model comes back and leaves')
    parser.add_argument('--rows', type=int, default=0, help='how often A, B, A, B')
    parser.add_argument('--size', type=int, default=512, help='of an image, in pixels; twice that on too small a card')
    parser.add_argument('--steps', type=int, default=0, help='of images of a pipeline that is too large')
    parser.add_argument('--working', type=float, default=3.0, help='GiB beside the weights in every room')
    parser.add_argument('--task-seconds', type=float, default=6.0, help='then a tool is done with a task')
    parser.add_argument('--budget', type=float, default=310.0, help='seconds after which no other tool begins')
    parser.add_argument('--scratch', type=Path, help='a real disk, for what goes to files; by default beside --out')
    arguments = parser.parse_args()
    is_gpu = nvml() is not None
    quick = arguments.quick
    arguments.scale = arguments.scale or (64 if not is_gpu else 6 if quick else 1)
    arguments.runs = arguments.runs or (2 if quick else 7)
    arguments.rows = arguments.rows or (1 if quick else 2)
    arguments.steps = arguments.steps or (1 if quick else 2)
    unknown = [name for name in arguments.tools.split(',') if name and name not in TOOLS]
    if unknown:
        parser.error(f'--tools: there is no {unknown[0]}')
    arguments.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix='unstick-compare-', dir=arguments.scratch or arguments.out))
    run = Run(arguments, arguments.out, scratch)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run.perform()
    finally:
        shutil.rmtree(run.files, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        result = run.write()
    import chart
    import report

    (arguments.out / 'compare.md').write_text(report.markdown(result), encoding='utf-8')
    (arguments.out / 'compare.svg').write_text(chart.svg(result), encoding='utf-8')
    print(report.markdown(result))
    if run.failure:
        print(run.failure, file=sys.stderr)
        return 1
    failed = [name for name, tool in run.results.items() if tool['failed']]
    return 1 if any(name.startswith('unstick') for name in failed) else 0


if __name__ == '__main__':
    sys.exit(main())
