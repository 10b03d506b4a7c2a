# SPDX-License-Identifier: Apache-2.0
"""The other side of bench/hibernate.sh: starts targets, hibernates and wakes them with the command, and looks.

Its own reading of the device comes from a CUDA context of its own (cuMemGetInfo), which exists before the first target
does: what is in use then and what is in use while the target is hibernated should be the same.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MIB = 1 << 20
LOADING_S = 300


class Device:
    """The first device, as this process sees it."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL('libcuda.so.1')
        context = ctypes.c_void_p()
        for name, arguments in (('cuInit', (0,)), ('cuDevicePrimaryCtxRetain', (ctypes.byref(context), 0)),
                                ('cuCtxPushCurrent_v2', (context,))):
            result = getattr(self.cuda, name)(*arguments)
            if result:
                raise RuntimeError(f'{name}: {result}')

    def used_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        result = self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        if result:
            raise RuntimeError(f'cuMemGetInfo: {result}')
        return total.value - free.value

    def fill(self, leave_bytes: int) -> int:
        """Takes all memory but so much; the address, to be freed."""
        free, total, address = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
        self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        size = max(free.value - leave_bytes, 2 * MIB) // (2 * MIB) * 2 * MIB
        result = self.cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        if result:
            raise RuntimeError(f'cuMemAlloc of {size}: {result}')
        return address.value

    def free(self, address: int) -> None:
        self.cuda.cuMemFree_v2(ctypes.c_uint64(address))

    def driver_state(self, pid: int) -> dict[str, int]:
        """What the driver itself says of a number: its result, and the state."""
        state = ctypes.c_int(-1)
        result = self.cuda.cuCheckpointProcessGetState(pid, ctypes.byref(state))
        return {'result': result, 'state': state.value}


class Target:
    def __init__(self, kind: str, gib: float, **variables: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(HERE / 'target.py'), kind, str(gib)], text=True,
                                        bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={**os.environ, **variables})
        self.pid = self.process.pid
        self.about = self.hear(LOADING_S)

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + '\n')

    def is_silent(self, seconds: float) -> bool:
        return not select.select([self.process.stdout], [], [], seconds)[0]

    def hear(self, seconds: float = 120) -> dict[str, Any]:
        assert self.process.stdout
        if self.is_silent(seconds):
            raise RuntimeError(f'the target said nothing for {seconds} s')
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'the target ended: {self.process.wait()}')
        heard: dict[str, Any] = json.loads(line)
        if 'error' in heard:
            raise RuntimeError(f'the target says: {heard["error"]}')
        return heard

    def ask(self, line: str) -> dict[str, Any]:
        self.tell(line)
        return self.hear()

    def host_bytes(self) -> int:
        """Its memory that is no page of a file."""
        status = Path(f'/proc/{self.pid}/status').read_text()
        kib = (int(line.split()[1]) for line in status.splitlines() if line.startswith(('RssAnon', 'RssShmem')))
        return sum(kib) << 10

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def nvidia_smi(pid: int) -> dict[str, Any]:
    """The same figures from nvidia-smi, where there is one."""
    found: dict[str, Any] = {}
    for name, query in (('used_mib', '--query-gpu=memory.used'), ('processes', '--query-compute-apps=pid,used_memory')):
        try:
            done = subprocess.run(['nvidia-smi', query, '--format=csv,noheader,nounits'], capture_output=True,
                                  text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return found
        found[name] = done.stdout.split('\n')[:-1]
    found['lists_the_process'] = any(line.split(',')[0].strip() == str(pid) for line in found['processes'])
    return found


def machine() -> list[str]:
    try:
        return subprocess.run(['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'],
                              capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.unstick = arguments.unstick
        self.kind = arguments.kind
        self.gib = arguments.gib
        self.n_cycles = arguments.cycles
        self.device = Device()
        self.record: dict[str, Any] = {'unstick': self.command('version')['version'],
                                       'when': time.strftime('%Y-%m-%d'), 'machine': machine()}

    def command(self, *arguments: Any) -> dict[str, Any]:
        done = subprocess.run([self.unstick, *map(str, arguments), '--json'], capture_output=True, text=True,
                              check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return {**answer, 'exit_code': done.returncode}

    def state(self, pid: int) -> str:
        return str(self.command('hibernate', pid, '--state').get('state', 'unknown'))

    def cycle(self, target: Target, expected: dict[str, str], used_empty: int) -> dict[str, Any]:
        """There and back once; what was seen on the way."""
        seen: dict[str, Any] = {'used_before_bytes': self.device.used_bytes() - used_empty,
                                'host_before_bytes': target.host_bytes(), 'smi_before': nvidia_smi(target.pid)}
        seen['hibernate'] = self.command('hibernate', target.pid)
        seen['state'] = self.state(target.pid)
        seen['used_hibernated_bytes'] = self.device.used_bytes() - used_empty
        seen['host_hibernated_bytes'] = target.host_bytes()
        seen['smi_hibernated'] = nvidia_smi(target.pid)
        target.tell('run')
        seen['is_blocked'] = target.is_silent(0.5)
        seen['wake'] = self.command('wake', target.pid)
        output = target.hear()
        seen['first_output_s'] = output['seconds']
        seen['used_woken_bytes'] = self.device.used_bytes() - used_empty
        seen['is_identical'] = output['sha256'] == expected['run']
        seen['graph_is_identical'] = target.ask('graph')['sha256'] == expected['graph']
        seen['is_good'] = (seen['state'] == 'hibernated' and seen['is_identical'] and seen['graph_is_identical']
                           and seen['is_blocked'] and seen['wake']['exit_code'] == 0)
        return seen

    def main(self) -> None:
        used_empty = self.device.used_bytes()
        target = Target(self.kind, self.gib)
        try:
            outputs = [target.ask('run') for _ in range(3)]
            expected = {'run': outputs[0]['sha256'], 'graph': target.ask('graph')['sha256']}
            self.record['target'] = target.about
            self.record['is_deterministic'] = len({output['sha256'] for output in outputs}) == 1
            self.record['output_s'] = outputs[-1]['seconds']
            self.record['cycles'] = cycles = [self.cycle(target, expected, used_empty) for _ in range(self.n_cycles)]
        finally:
            target.end()

        def figures(verb: str, name: str) -> list[float]:
            return [cycle[verb].get(name) or 0.0 for cycle in cycles]

        self.record['summary'] = {
            'hibernate_ms': statistics.median(figures('hibernate', 'total_ms')),
            'hibernate_worst_ms': max(figures('hibernate', 'total_ms')),
            'wake_ms': statistics.median(figures('wake', 'total_ms')),
            'wake_worst_ms': max(figures('wake', 'total_ms')),
            'used_before_bytes': cycles[0]['used_before_bytes'],
            'used_hibernated_bytes': max(cycle['used_hibernated_bytes'] for cycle in cycles),
            'process_before_bytes': cycles[0]['hibernate'].get('process_before_bytes'),
            'process_hibernated_bytes': cycles[0]['hibernate'].get('process_after_bytes'),
            'is_identical': all(cycle['is_identical'] and cycle['graph_is_identical'] for cycle in cycles),
            'is_good': all(cycle['is_good'] for cycle in cycles),
        }

    # --- what goes wrong ---

    def told(self, *arguments: Any) -> dict[str, Any]:
        """A command's failure, in short."""
        answer = self.command(*arguments)
        error = answer.get('error', {})
        return {'exit_code': answer['exit_code'], 'status': error.get('status'), 'native': error.get('native'),
                'operation': error.get('operation'), 'text': error.get('text'), 'state': answer.get('state')}

    def probe_numbers(self) -> dict[str, Any]:
        """Numbers that are no CUDA process, with what the driver itself says of them."""
        found: dict[str, Any] = {}
        idle = subprocess.Popen(['sleep', '1000'])
        found['not_cuda'] = {**self.told('hibernate', idle.pid), 'driver': self.device.driver_state(idle.pid)}
        idle.kill()
        idle.wait()
        found['dead'] = {**self.told('hibernate', idle.pid), 'driver': self.device.driver_state(idle.pid)}
        found['itself'] = {'driver': self.device.driver_state(os.getpid())}
        if os.geteuid() == 0:
            other = subprocess.Popen(['sleep', '1000'], user=65534)
            found['another_user'] = self.told('hibernate', other.pid)
            other.kill()
            other.wait()
        return found

    def probe_time_out(self, target: Target, expected: str) -> dict[str, Any]:
        target.ask('work 4')
        told = self.told('hibernate', target.pid, '--timeout', 300)
        state = self.state(target.pid)
        return {**told, 'state_after': state, 'is_identical': target.ask('run')['sha256'] == expected}

    def probe_wrong_state(self, target: Target) -> dict[str, Any]:
        found = {'wake_running': self.told('wake', target.pid)}
        self.command('hibernate', target.pid)
        found['hibernate_hibernated'] = self.told('hibernate', target.pid)
        self.command('wake', target.pid)
        return found

    def probe_no_room(self, target: Target, expected: str) -> dict[str, Any]:
        self.command('hibernate', target.pid)
        address = self.device.fill(64 * MIB)
        found: dict[str, Any] = self.told('wake', target.pid)
        found['state_after'] = self.state(target.pid)
        self.device.free(address)
        found['wake_with_room'] = self.told('wake', target.pid)
        if found['wake_with_room']['exit_code'] == 0:
            found['is_identical'] = target.ask('run')['sha256'] == expected
        return found

    def probe_thread(self, target: Target) -> dict[str, Any]:
        threads = [int(name) for name in os.listdir(f'/proc/{target.pid}/task') if int(name) != target.pid]
        return self.told('hibernate', threads[0]) if threads else {}

    def probe_killed(self, gib: float, delay_s: float) -> dict[str, Any]:
        """The target is killed so long after the command began."""
        target = Target(self.kind, gib)
        command = subprocess.Popen([self.unstick, 'hibernate', str(target.pid), '--json'], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        time.sleep(delay_s)
        killed = time.perf_counter()
        os.kill(target.pid, signal.SIGKILL)
        out, _ = command.communicate(timeout=120)
        took = time.perf_counter() - killed
        target.end()
        error = json.loads(out).get('error', {})
        return {'delay_s': delay_s, 'exit_code': command.returncode, 'status': error.get('status'),
                'native': error.get('native'), 'text': error.get('text'), 'answered_after_s': took}

    def probe_command_killed(self, delay_s: float) -> dict[str, Any]:
        """The command is killed so long after it began; is there a way back?"""
        target = Target(self.kind, min(self.gib, 4))
        try:
            expected = target.ask('run')['sha256']
            command = subprocess.Popen([self.unstick, 'hibernate', str(target.pid), '--json'],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay_s)
            command.kill()
            command.wait()
            found: dict[str, Any] = {'delay_s': delay_s, 'state_at_once': self.state(target.pid)}
            time.sleep(5)
            found['state_after_5_s'] = self.state(target.pid)
            found['wake'] = self.told('wake', target.pid)
            if found['wake']['exit_code'] == 0:
                found['is_identical'] = target.ask('run')['sha256'] == expected
            return found
        finally:
            target.end()

    def probe_allocator(self, settings: str) -> dict[str, Any]:
        """There and back under other settings of torch's allocator, which change what kind of memory it asks for."""
        target = Target(self.kind, min(self.gib, 1), PYTORCH_CUDA_ALLOC_CONF=settings)
        try:
            expected = target.ask('run')['sha256']
            found: dict[str, Any] = self.told('hibernate', target.pid)
            found['state_after'] = self.state(target.pid)
            found['wake'] = self.told('wake', target.pid)
            if found['wake']['exit_code'] == 0:
                found['is_identical'] = target.ask('run')['sha256'] == expected
            return found
        finally:
            target.end()

    def probe_managed(self) -> dict[str, Any]:
        target = Target(self.kind, 0.1)
        try:
            target.ask(f'managed {16 * MIB}')
            told = self.told('hibernate', target.pid)
            return {**told, 'state_after': self.state(target.pid)}
        finally:
            target.end()

    def probes(self) -> None:
        found = self.record['probes'] = self.probe_numbers()
        target = Target(self.kind, min(self.gib, 1))
        steps: list[tuple[str, Any]] = [
            ('thread', lambda: self.probe_thread(target)),
            ('wrong_state', lambda: self.probe_wrong_state(target)),
            ('time_out', lambda: self.probe_time_out(target, expected)),
            ('no_room', lambda: self.probe_no_room(target, expected)),
            ('killed_early', lambda: self.probe_killed(min(self.gib, 4), 0.05)),
            ('killed', lambda: self.probe_killed(min(self.gib, 4), 0.3)),
            ('killed_late', lambda: self.probe_killed(min(self.gib, 4), 0.8)),
            ('managed', self.probe_managed),
            ('command_killed_early', lambda: self.probe_command_killed(0.2)),
            ('command_killed', lambda: self.probe_command_killed(0.8)),
            ('expandable_segments', lambda: self.probe_allocator('expandable_segments:True')),
            ('async_allocator', lambda: self.probe_allocator('backend:cudaMallocAsync')),
        ]
        expected = target.ask('run')['sha256']
        for name, step in steps:
            try:
                found[name] = step()
            except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                found[name] = {'raised': f'{type(error).__name__}: {error}'}
            print(f'probe {name}: {json.dumps(found[name])[:300]}', file=sys.stderr)
        target.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('unstick')
    parser.add_argument('out')
    parser.add_argument('--gib', type=float, default=6.3, help='of weights, but for flux; its transformer has 6.3')
    parser.add_argument('--cycles', type=int, default=3)
    parser.add_argument('--kind', choices=('flux', 'torch', 'plain'), default='torch')
    parser.add_argument('--no-probes', action='store_true')
    arguments = parser.parse_args()
    bench = Bench(arguments)
    try:
        bench.main()
        if not arguments.no_probes:
            bench.probes()
    finally:
        Path(arguments.out).write_text(json.dumps(bench.record, indent=2) + '\n')
    summary = bench.record['summary']
    print(json.dumps(summary, indent=2))
    return 0 if summary['is_good'] else 1


if __name__ == '__main__':
    sys.exit(main())
