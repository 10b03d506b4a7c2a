# SPDX-License-Identifier: Apache-2.0
"""The Python face on a GPU, at full size: bench/python/gpu.py OUT [--scale N] [--side PIXELS] [CASE...]

Every case runs in a process of its own and leaves OUT/CASE.json; what failed is in there as its last lines. Without a
GPU the cases that make sense on the host device run there, which is how the script itself is tried (--scale 16).

Cases: leave-8-bit, leave-4-bit, leave-4-bit-dq (adopt, evict, restore, with every reference alive, beside the same
process's baseline); tight-8-bit (adopt with `tight=True`); rows-8-bit, rows-4-bit (what plain torch does with the same
model, and unstick in its place); denoise (a loop beside a backup and beside a restore); graphs (a raw CUDA graph and
reduce-overhead); card-8-bit, card-4-bit (a pipeline larger than the card, which a ballast makes small, as another
user), whole-8-bit, whole-4-bit (the same without the ballast), model-offload-8-bit, group-offload-8-bit and so on (the
same card with what diffusers has); switch (a cache with room for one of two).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peak import COARSE_SECONDS, Peak

import unstick

if TYPE_CHECKING:
    from case import Case

GIB = 1 << 30
MIB = 1 << 20
CARD_BYTES = {'8-bit': 12 * GIB, '4-bit': 8 * GIB, 'switch': 20 * GIB}
NOBODY = 65534


def leave(case: Case, quantization: str) -> None:
    case.baseline()
    with case.timed('build'):
        pipe = full.flux(quantization, case.device, case.scale)
    case.memory('loaded')
    before = case.image(pipe)
    with case.timed('image'):
        case.image(pipe)
    case.empty()
    case.memory('ran')
    # Whoever holds a model against its owner's will, all at once.
    held = [tensor for component in pipe.components.values() if isinstance(component, torch.nn.Module)
            for tensor in (*component.parameters(), *component.buffers())]  # fmt: skip

    def closure(holds: Any = pipe) -> int:
        return len(str(holds.transformer))

    with case.timed('open'):  # the first time in a user's life, too, the driver compiles the hash
        unstick.adopt(torch.nn.Linear(16, 16, device=case.device), 'first').release()
    peak = Peak(case.has_gpu, COARSE_SECONDS)
    start = peak.reset()
    with case.timed('adopt'), case.profiled('adopt'):
        model = unstick.adopt(pipe, quantization)
    case.found['adopt_peak_above_model_bytes'] = peak.read() - start
    case.found['model_bytes'] = model.nbytes
    case.found['left'] = [str(left) for left in model.adoption.left]
    case.found['still_held_bytes'] = model.adoption.still_held_bytes
    case.memory('adopted')
    first = case.image(pipe)
    case.empty()
    with case.timed('evict_first'):
        moved = model.evict()
    case.found['evict_first_copied_bytes'] = moved.copied_bytes
    case.memory('evicted')
    with case.timed('restore_first'):
        model.restore()
    second = case.image(pipe)
    times: dict[str, list[float]] = {'evict': [], 'restore': []}
    for _ in range(20):
        case.sync()
        started = time.monotonic()
        copied = model.evict().copied_bytes
        times['evict'].append((time.monotonic() - started) * 1000)
        case.found['evict_copied_bytes'] = max(case.found.get('evict_copied_bytes', 0), copied)
        case.found.setdefault('evicted_again_used_bytes', case.used())
        started = time.monotonic()
        model.restore()
        times['restore'].append((time.monotonic() - started) * 1000)
    for name, values in times.items():
        values.sort()
        case.found[f'{name}_median_ms'], case.found[f'{name}_worst_ms'] = values[len(values) // 2], values[-1]
    case.found['restore_median_gb_per_s'] = model.nbytes / case.found['restore_median_ms'] / 1e6
    with case.profiled('evict'):
        model.evict()
    with case.timed('image_after_evict'):  # without a word from the user
        third = case.image(pipe)
    case.found['equal'] = [digest == before for digest in (first, second, third)]
    case.empty()
    with case.timed('evict_last'):
        model.evict()
    case.memory('evicted_last')
    case.found['above_baseline_bytes'] = case.used() - case.found['baseline_used_bytes']
    case.found['n_held'] = len(held) + bool(closure())
    del held, closure
    with case.timed('dismantle'):
        case.found['dismantled'] = str(unstick.dismantle(pipe))
    del pipe, model
    case.empty()
    case.memory('dismantled')


def tight(case: Case, quantization: str) -> None:
    case.baseline()
    pipe = full.flux(quantization, case.device, case.scale)
    before = case.image(pipe)
    case.empty()
    peak = Peak(case.has_gpu)
    start = peak.reset()
    with case.timed('adopt'):
        model = unstick.adopt(pipe, quantization, tight=True)
    case.found['adopt_peak_above_model_bytes'] = peak.read() - start
    case.found['sentinel_bytes'] = model.room.device.info()['sentinel_bytes']  # of the device, opened by adopt()
    case.found['model_bytes'] = model.nbytes
    case.memory('adopted')
    case.found['equal'] = case.image(pipe) == before


def rows(case: Case, quantization: str) -> None:
    """The rows of plain torch, then unstick with the same model."""
    case.baseline()
    pipe = full.flux(quantization, case.device, case.scale)
    case.image(pipe)
    case.memory('plain_loaded')
    try:
        with case.timed('plain_to_cpu'):
            pipe.transformer.to('cpu')
        case.memory('plain_to_cpu')
        pipe.transformer.to(case.device)
        case.memory('plain_back')
    except Exception as error:
        case.found['plain_to_cpu'] = f'{type(error).__name__}: {error}'
    del pipe
    case.memory('plain_del')
    with case.timed('plain_collect'):
        gc.collect()
    case.memory('plain_collected')
    if case.has_gpu:
        torch.cuda.empty_cache()
    case.memory('plain_emptied')
    case.empty()
    case.memory('plain_workspaces_cleared')
    pipe = full.flux(quantization, case.device, case.scale)
    case.image(pipe)
    held = list(pipe.transformer.parameters())
    del pipe
    with case.timed('plain_held_7_rounds'):
        for _ in range(7):
            gc.collect()
            if case.has_gpu:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.cuda.ipc_collect()
    case.memory('plain_held_7_rounds')
    del held
    case.empty()
    case.memory('plain_let_go')

    pipe = full.flux(quantization, case.device, case.scale)
    before = case.image(pipe)
    model = unstick.adopt(pipe, quantization)
    held = list(pipe.transformer.parameters())
    case.memory('unstick_loaded')
    with case.timed('unstick_evict'):
        model.evict()
    case.empty()
    case.memory('unstick_evicted')
    with case.timed('unstick_restore'):
        model.restore()
    case.memory('unstick_restored')
    case.found['equal'] = case.image(pipe) == before
    with case.timed('unstick_dismantle'):
        done = unstick.dismantle(pipe)
    case.found['unstick_dismantled'] = str(done)
    del pipe
    case.memory('unstick_dismantled_held')
    with case.timed('unstick_revoke'):
        model.revoke()
    case.empty()
    case.memory('unstick_revoked_held')
    case.found['n_held'] = len(held)


def wait_for(tasks: list[unstick.Task], ended: list[float]) -> None:
    for task in tasks:
        task.wait()
    ended.append(time.monotonic())


def denoise(case: Case) -> None:
    """Steps of a 4-bit transformer while an 8-bit model's contents go to the host, and while they come back."""
    pipe = full.flux('4-bit', case.device, case.scale)
    other_pipe = full.flux('8-bit', case.device, case.scale, seed=10)
    model, other = unstick.adopt(pipe, '4-bit'), unstick.adopt(other_pipe, '8-bit')
    tokens, text = (case.side // 16) ** 2, 512
    width = pipe.transformer.config.joint_attention_dim
    inputs: dict[str, Any] = {
        'hidden_states': torch.randn(1, tokens, 64, device=case.device, dtype=torch.bfloat16),
        'encoder_hidden_states': torch.randn(1, text, width, device=case.device, dtype=torch.bfloat16),
        'pooled_projections': torch.randn(1, 768, device=case.device, dtype=torch.bfloat16),
        'timestep': torch.ones(1, device=case.device, dtype=torch.bfloat16),
        'guidance': torch.ones(1, device=case.device, dtype=torch.bfloat16),
        'img_ids': torch.zeros(tokens, 3, device=case.device),
        'txt_ids': torch.zeros(text, 3, device=case.device),
    }

    def loop(n: int) -> float:
        case.sync()
        started = time.monotonic()
        with torch.no_grad():
            for _ in range(n):
                pipe.transformer(**inputs)
        case.sync()
        return (time.monotonic() - started) * 1000

    loop(3)
    n = max(1, int(1500 / max(loop(2) / 2, 1)))  # about 1.5 s
    regions = [region for component in other.components.values() for region in component.regions]
    results: dict[str, list[float]] = {'quiet': [], 'backup': [], 'restore': []}
    spans: dict[str, list[float]] = {'backup': [], 'restore': []}
    for _ in range(5):
        results['quiet'].append(loop(n))

        started = time.monotonic()
        tasks = [region.backup() for region in regions]
        ended: list[float] = []
        waiter = threading.Thread(target=wait_for, args=(tasks, ended))
        waiter.start()
        results['backup'].append(loop(n))
        waiter.join()
        spans['backup'].append((ended[0] - started) * 1000)
        with torch.no_grad():  # every byte has changed
            for tensor in other_pipe.transformer.parameters():
                if tensor.dtype == torch.int8:
                    tensor.data.bitwise_xor_(1)
        other.evict()
        started = time.monotonic()
        tasks = [region.restore() for region in regions]
        ended = []
        waiter = threading.Thread(target=wait_for, args=(tasks, ended))
        waiter.start()
        results['restore'].append(loop(n))
        waiter.join()
        spans['restore'].append((ended[0] - started) * 1000)
        with torch.no_grad():
            for tensor in other_pipe.transformer.parameters():
                if tensor.dtype == torch.int8:
                    tensor.data.bitwise_xor_(1)
    quiet = sorted(results['quiet'])[2]
    case.found |= {'n_steps': n, 'loop_quiet_ms': quiet, 'loops_ms': results, 'spans_ms': spans}
    for name in ('backup', 'restore'):
        case.found[f'slower_beside_{name}'] = sorted(results[name])[2] / quiet - 1
    case.found['model_bytes'] = [model.nbytes, other.nbytes]


def graphs(case: Case) -> None:
    if not case.has_gpu:
        raise SystemExit(77)
    model_torch = full.transformer('none', case.device, 8)
    width = model_torch.config.joint_attention_dim
    inputs: dict[str, Any] = {
        'hidden_states': torch.randn(1, 256, 64, device=case.device, dtype=torch.bfloat16),
        'encoder_hidden_states': torch.randn(1, 64, width, device=case.device, dtype=torch.bfloat16),
        'pooled_projections': torch.randn(1, 768, device=case.device, dtype=torch.bfloat16),
        'timestep': torch.ones(1, device=case.device, dtype=torch.bfloat16),
        'guidance': torch.ones(1, device=case.device, dtype=torch.bfloat16),
        'img_ids': torch.zeros(256, 3, device=case.device),
        'txt_ids': torch.zeros(64, 3, device=case.device),
    }
    model = unstick.adopt({'transformer': model_torch}, 'graphs')
    side = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(side):
            for _ in range(3):
                model_torch(**inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model_torch(**inputs, return_dict=False)[0]
        graph.replay()
        case.sync()
        before = full.digest(output.cpu())
        output.zero_()
        model.evict()
        case.found['evicted_used_bytes'] = case.used()
        model.restore()
        with model.lease():
            graph.replay()
            case.sync()
        case.found['raw_equal'] = full.digest(output.cpu()) == before
        del graph, output

        compiled = torch.compile(model_torch, mode='reduce-overhead')
        with case.timed('compile'):
            for _ in range(3):
                torch.compiler.cudagraph_mark_step_begin()
                result = compiled(**inputs, return_dict=False)[0].clone()
        before = full.digest(result.cpu())
        model.refresh()
        case.found['compiled_equal'] = []
        from torch._dynamo.utils import counters

        counters.clear()
        for _ in range(3):
            model.evict()
            model.restore()
            torch.compiler.cudagraph_mark_step_begin()
            result = compiled(**inputs, return_dict=False)[0].clone()
            case.found['compiled_equal'].append(full.digest(result.cpu()) == before)
        model.evict()
        torch.compiler.cudagraph_mark_step_begin()  # comes back by itself
        result = compiled(**inputs, return_dict=False)[0].clone()
        case.found['compiled_equal'].append(full.digest(result.cpu()) == before)
        case.found['recompiles'] = sum(counters['recompiles'].values())
        case.found['cudagraph_skips'] = counters['inductor'].get('cudagraph_skips', 0)


def switch(case: Case) -> None:
    """The cache with room for one model and 3 GiB: how long the image after each switch takes, and the next one."""
    cache = unstick.Cache(working_bytes=2 * GIB)

    def load(_: str, quantization: str) -> Any:
        return full.flux(quantization, case.device, case.scale)

    rounds = []
    for number in range(4):
        for quantization, nbytes in (('8-bit', 18234850304), ('4-bit', 11428416000)):
            started = time.monotonic()
            with cache.use('flux', quantization, load=load, required_bytes=nbytes // case.scale) as pipe:
                case.sync()
                times = {'enter': time.monotonic() - started}
                for image in ('first', 'second'):
                    started = time.monotonic()
                    with case.profiled(f'{quantization}_{number}_{image}'):
                        times['digest'] = case.image(pipe)
                    times[image] = time.monotonic() - started
                case.memory(f'{quantization}_{number}')
                started = time.monotonic()
            times['leave'] = time.monotonic() - started
            rounds.append({'quantization': quantization, **times})
    case.found['rounds'] = rounds


def card(case: Case, quantization: str) -> None:
    """Component by component onto a card that cannot hold them all, then images as if it could."""
    peak = Peak(case.has_gpu)
    start = peak.reset()
    with case.timed('load'):
        models = []
        parts: dict[str, Any] = {}
        for name, make in (
            ('transformer', lambda: full.transformer(quantization, case.device, case.scale)),
            ('text_encoder_2', lambda: full.t5(quantization, case.device, case.scale)),
            ('text_encoder', lambda: full.clip(case.device)),
            ('vae', lambda: full.vae(case.device)),
        ):
            parts[name] = make()
            models.append(unstick.adopt({name: parts[name]}, name))
            models[-1].evict()
        pipe = full.pipeline(**parts)
    case.found['load_peak_bytes'] = peak.reset() - start
    run_card(case, pipe, peak, start)
    case.found['state'] = [model.report() for model in models]


def whole(case: Case, quantization: str) -> None:
    peak = Peak(case.has_gpu)
    start = peak.reset()
    with case.timed('load'):
        pipe = full.flux(quantization, case.device, case.scale)
    run_card(case, pipe, peak, start)


def offload(case: Case, quantization: str, how: str) -> None:
    peak = Peak(case.has_gpu)
    start = peak.reset()
    with case.timed('load'):
        # On the device, component by component, then to the host, as their own loaders have it.
        parts = {}
        for name, make in (
            ('transformer', lambda: full.transformer(quantization, case.device, case.scale)),
            ('text_encoder_2', lambda: full.t5(quantization, case.device, case.scale)),
        ):
            parts[name] = to_host(make())
            case.empty()
        pipe = full.pipeline(**parts, text_encoder=full.clip(torch.device('cpu')), vae=full.vae(torch.device('cpu')))
    if how == 'model':
        pipe.enable_model_cpu_offload(device=case.device)
    else:
        pipe.enable_group_offload(
            onload_device=case.device, offload_device=torch.device('cpu'), offload_type='leaf_level', use_stream=True
        )
    run_card(case, pipe, peak, start)


def to_host(module: Any) -> Any:
    """As a checkpoint on the host: bitsandbytes moves the copy of an 8-bit weight only before the first call."""
    import bitsandbytes as bnb

    for part in module.modules():
        if isinstance(part, bnb.nn.Linear8bitLt):
            codes, scales = part.weight.data.cpu(), part.weight.SCB.cpu()
            part.weight = bnb.nn.Int8Params(
                codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales
            )
    return module.to('cpu')


def run_card(case: Case, pipe: Any, peak: Peak, start: int) -> None:
    digests, times = [], []
    for _ in range(4):
        case.sync()
        started = time.monotonic()
        digests.append(case.image(pipe))
        times.append(time.monotonic() - started)
    case.found |= {
        'digests': digests,
        'seconds': times,
        'seconds_best': min(times[1:]),
        'peak_bytes': peak.read() - start,
        'uid': os.getuid(),
    }


def ballast(card_bytes: int) -> None:
    """A process of its own: takes what a smaller card would not have, until its input ends."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    hold = torch.empty(free - card_bytes, dtype=torch.uint8, device='cuda')
    free, _ = torch.cuda.mem_get_info()
    print(free, flush=True)
    sys.stdin.read()
    del hold


@contextlib.contextmanager
def small_card(case_name: str) -> Iterator[int]:
    model = case_name.partition('-')[2] if case_name.startswith('card') else case_name.partition('offload-')[2]
    process = subprocess.Popen(
        [sys.executable, __file__, '--ballast', str(CARD_BYTES[model or case_name])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


CASES: dict[str, Callable[[Case], None]] = {
    'leave-8-bit': lambda case: leave(case, '8-bit'),
    'leave-4-bit': lambda case: leave(case, '4-bit'),
    'leave-4-bit-dq': lambda case: leave(case, '4-bit-dq'),
    'tight-8-bit': lambda case: tight(case, '8-bit'),
    'rows-8-bit': lambda case: rows(case, '8-bit'),
    'rows-4-bit': lambda case: rows(case, '4-bit'),
    'denoise': denoise,
    'graphs': graphs,
    'switch': switch,
    'whole-8-bit': lambda case: whole(case, '8-bit'),
    'card-8-bit': lambda case: card(case, '8-bit'),
    'model-offload-8-bit': lambda case: offload(case, '8-bit', 'model'),
    'group-offload-8-bit': lambda case: offload(case, '8-bit', 'group'),
    'whole-4-bit': lambda case: whole(case, '4-bit'),
    'card-4-bit': lambda case: card(case, '4-bit'),
    'model-offload-4-bit': lambda case: offload(case, '4-bit', 'model'),
    'group-offload-4-bit': lambda case: offload(case, '4-bit', 'group'),
}


def run_one(name: str, arguments: argparse.Namespace) -> None:
    from case import Case

    case = Case(arguments.scale, arguments.side, arguments.steps)
    status = 0
    try:
        CASES[name](case)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException as error:
        case.found['failed'] = f'{type(error).__name__}: {error}'
        case.found['traceback'] = traceback.format_exc().splitlines()[-12:]
        status = 1
    print(json.dumps(case.found, default=str))
    sys.stdout.flush()
    sys.exit(status)


def run_all(arguments: argparse.Namespace) -> int:
    import torch

    arguments.out.mkdir(parents=True, exist_ok=True)
    has_gpu, failed = torch.cuda.is_available(), 0
    about = {
        'date': time.strftime('%Y-%m-%d'),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'gpu': torch.cuda.get_device_name() if has_gpu else 'none',
        'unstick': unstick.__version__,
        'allocator': str(unstick.allocator()),
    }
    for package in ('bitsandbytes', 'diffusers', 'transformers', 'accelerate'):
        from importlib.metadata import version

        about[package] = version(package)
    (arguments.out / 'about.json').write_text(json.dumps(about, indent=1) + '\n')
    for name in arguments.cases or CASES:
        is_small = has_gpu and (name.startswith('card') or 'offload' in name or name == 'switch')
        with small_card(name) if is_small else contextlib.nullcontext() as card_bytes:
            started = time.monotonic()
            command = [sys.executable, __file__, '--one', name, str(arguments.out)]
            command += ['--scale', str(arguments.scale), '--side', str(arguments.side), '--steps', str(arguments.steps)]
            other_user: dict[str, Any] = {'user': NOBODY, 'group': NOBODY} if is_small and os.getuid() == 0 else {}
            home = tempfile.mkdtemp(prefix='unstick-bench-')
            if other_user:
                os.chown(home, NOBODY, NOBODY)
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=arguments.timeout, **other_user,
                    env={**os.environ, 'HOME': home, 'TRITON_CACHE_DIR': f'{home}/triton',
                         'TORCHINDUCTOR_CACHE_DIR': f'{home}/inductor'},
                )  # fmt: skip
                status, output, errors = done.returncode, done.stdout, done.stderr
            except subprocess.TimeoutExpired as late:
                status, output = 124, ''
                errors = (late.stderr or b'').decode() if isinstance(late.stderr, bytes) else str(late.stderr)
            shutil.rmtree(home, ignore_errors=True)
        lines = output.strip().splitlines()
        found = json.loads(lines[-1]) if lines and lines[-1].startswith('{') else {'failed': f'exit {status}'}
        found |= {'case': name, 'status': status, 'seconds_in_all': round(time.monotonic() - started, 1)}
        if card_bytes:
            found['card_bytes'] = card_bytes
        if (status and status != 77) or errors:
            found['stderr'] = errors.strip().splitlines()[-8:]
        (arguments.out / f'{name}.json').write_text(json.dumps(found, indent=1) + '\n')
        failed += status not in (0, 77)
        print(f'{name}: {"ok" if not status else "skipped" if status == 77 else found.get("failed")},', flush=True,
              end=f' {found["seconds_in_all"]} s\n')  # fmt: skip
    return int(failed > 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('--ballast', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--one', help=argparse.SUPPRESS)
    parser.add_argument('--scale', type=int, default=1)
    parser.add_argument('--side', type=int, default=1024)
    parser.add_argument('--steps', type=int, default=2)
    parser.add_argument('--timeout', type=float, default=240)
    parser.add_argument('out', type=Path, nargs='?')
    parser.add_argument('cases', nargs='*', metavar='CASE')
    given = parser.parse_intermixed_args()
    if given.ballast:
        ballast(given.ballast)
    elif given.one:
        import full_flux as full
        import torch

        run_one(given.one, given)
    else:
        sys.exit(run_all(given))
