# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared, each as its own documentation uses it.

A tool is a class: how models get under it, how one leaves the device and comes back, and what it needs around its
process. What it does beside that (build, make images, read the device) is the same for all, in worker.py. This module
imports nothing but the standard library at its top: the process that starts the others reads it, too.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
GIB = 1 << 30


def package_folder(name: str) -> Path | None:
    """Where a package is, without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


class Tool:
    name: ClassVar[str]
    label: ClassVar[str]
    """For people, in tables."""
    how: ClassVar[str]
    """The calls that leave and come back, in one line."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Whose versions belong to the result."""
    allocator: ClassVar[str] = 'expandable_segments:True'
    has_moves: ClassVar[bool] = True
    """It leaves and comes back when told to; else it does both inside of a forward."""
    keeps_references: ClassVar[bool] = True
    """References to the tensors stay valid while the model is away."""
    comes_back: ClassVar[bool] = True
    runs_on_cpu: ClassVar[bool] = False
    """Part of a dry run on a machine without a GPU."""
    is_disk: ClassVar[bool] = False
    has_switches: ClassVar[bool] = True
    """Something decides who leaves for whom; else it does what it is told."""
    backs_up: ClassVar[bool] = False
    """It backs up in the background before it leaves for the first time: backup() begins it."""
    has_backup_before: ClassVar[bool] = False
    """It has, by the time that it is loaded: behind the first use."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.pipes: dict[str, Any] = {}
        self.resident: set[str] = set()
        self.sizes: dict[str, dict[str, int]] = {}
        """Of each model the bytes of its parts, as they were built."""

    @classmethod
    def environment(cls) -> dict[str, str]:
        """What has to be in the environment of its process."""
        return {'PYTORCH_CUDA_ALLOC_CONF': cls.allocator} if cls.allocator else {}

    # --- before anything is on the device ---

    def prepare(self) -> None:
        """Imports, before torch starts CUDA."""

    # --- models ---

    def build(self, name: str) -> None:
        import models

        pipe = self.pipes[name] = models.build(name, self.device, self.options['scale'])
        self.sizes[name] = {type(part).__name__: models.bytes_of(part) for part in models.modules_of(pipe)}
        self.resident.add(name)

    def take(self) -> None:
        """All models are built and have made an image: the tool takes them under its care."""

    @property
    def device(self) -> Any:
        import torch

        return torch.device(self.options['device'])

    def pipe(self, name: str) -> Any:
        return self.pipes[name]

    def image(self, name: str, **how: Any) -> str:
        import models

        return models.image(self.pipe(name), **how)

    # --- moving ---

    def leave(self, name: str) -> None:
        raise NotImplementedError

    def come_back(self, name: str) -> None:
        raise NotImplementedError

    def backup(self, name: str) -> Callable[[], None]:
        """Begins a backup in the background; the call waits for its end."""
        raise NotImplementedError

    def acquire(self, name: str) -> None:
        """A switch: afterwards the model can be used, whatever had to leave for it."""
        for other in sorted(self.resident - {name}):
            self.leave(other)
            self.resident.discard(other)
        if name not in self.resident:
            self.come_back(name)
            self.resident.add(name)

    def release(self, name: str) -> None:
        """The use that acquire() began has ended."""

    def vacate(self) -> None:
        for name in sorted(self.resident):
            self.leave(name)
        self.resident.clear()

    @property
    def is_awake(self) -> bool:
        """The process may call CUDA."""
        return True

    def used_bytes(self) -> int:
        """Where there is no device to ask."""
        import models

        return sum(models.bytes_of(*models.modules_of(pipe)) for pipe in self.pipes.values() if pipe is not None)

    def pids(self) -> list[int]:
        """The processes whose device memory is this tool's."""
        return [os.getpid()]

    def used_by_pids(self) -> int | None:
        """What they use, where this process cannot ask for itself."""
        return None

    def details(self) -> dict[str, Any]:
        return {}

    def walk(self) -> dict[str, Any]:
        """What is known only after looking at everything: too slow to be asked often."""
        return {}

    def close(self) -> None:
        """Before the process ends, in its own way."""


def clean(device: Any) -> None:
    """What torch keeps for later goes back to the driver; alike for all tools, outside of every time."""
    import torch

    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


# --- unstick ---


class Unstick(Tool):
    name = 'unstick'
    label = 'unstick, `model.evict()`'
    how = 'model.evict(), model.restore(); what is larger than the card comes and goes by itself'
    packages = ('unstick',)
    allocator = ''  # it sets it up by itself
    runs_on_cpu = True
    has_switches = False  # those are its cache's
    backs_up = True

    def prepare(self) -> None:
        import unstick  # before CUDA starts

        self.unstick = unstick
        self.models: dict[str, Any] = {}

    def take(self) -> None:
        spec = 'cuda:0' if self.options['device'] == 'cuda' else f'host:{self.options["host_device_bytes"] >> 20}MiB'
        granule_bytes = 0 if self.options['device'] == 'cuda' else 1 << 16
        self.unstick_device = self.unstick.Device(self.unstick.Context(), spec, granule_bytes=granule_bytes)
        for name, pipe in self.pipes.items():
            self.models[name] = self.unstick.adopt(pipe, name, device=self.unstick_device)

    def leave(self, name: str) -> None:
        self.models[name].evict()

    def come_back(self, name: str) -> None:
        self.models[name].restore()

    def backup(self, name: str) -> Callable[[], None]:
        tasks = [region.backup() for one in self.models[name].components.values() for region in one.regions]
        waiter = threading.Thread(target=lambda: [task.wait() for task in tasks])
        waiter.start()
        return waiter.join

    def vacate(self) -> None:
        self.resident = set(self.pipes)  # any may have come back by itself
        super().vacate()

    def used_bytes(self) -> int:
        return int(self.unstick_device.info()['resident_bytes']) if self.models else 0

    def details(self) -> dict[str, Any]:
        if not self.models:
            return {}
        device, context = self.unstick_device.info(), self.unstick_device.context.info()
        return {
            'resident_bytes': device['resident_bytes'],
            'sentinel_bytes': device['sentinel_bytes'],
            'spare_bytes': device['spare_bytes'],
            'host_pinned_bytes': context['host_pinned_bytes'],
        }

    def walk(self) -> dict[str, Any]:
        started = time.monotonic()
        for model in self.models.values():
            model.refresh()
        return {
            'refresh_s': time.monotonic() - started,  # of all models: part of evict(), not of the cache's
            'left_outside': {name: model.adoption.left_bytes for name, model in self.models.items()},
            'still_held': {name: model.adoption.still_held_bytes for name, model in self.models.items()},
        }


class UnstickCache(Unstick):
    """The same models under the keys of a cache, which knows when they were used and need not look at them."""

    name = 'unstick_cache'
    label = 'unstick, `cache.evict()`'
    how = 'cache.evict(), cache.preload(); switches by cache.use()'
    has_switches = True
    backs_up = False
    has_backup_before = True

    def take(self) -> None:
        super().take()
        self.cache = self.unstick.Cache(self.unstick_device, working_bytes=self.options['working_bytes'])
        self._use: Any = None
        for name in self.pipes:
            with self._entry(name):
                pass
        for name in self.pipes:  # its cache backs up when it thinks fit: no time is to have that beside it
            self.backup(name)()

    def _entry(self, name: str) -> Any:
        pipe = self.pipes[name]
        return self.cache.use(
            'FLUX.1-dev', name, load=lambda *_, **__: pipe, required_bytes=self.models[name].nbytes
        )

    def leave(self, name: str) -> None:
        self.cache.evict('FLUX.1-dev', name)

    def come_back(self, name: str) -> None:
        self.cache.preload('FLUX.1-dev', name)

    def acquire(self, name: str) -> None:
        self._use = self._entry(name)
        self._use.__enter__()
        self.resident.add(name)

    def release(self, name: str) -> None:
        if self._use is not None:
            self._use.__exit__(None, None, None)
            self._use = None


# --- plain torch ---


class ToCpu(Tool):
    name = 'to_cpu'
    label = 'torch `.to("cpu")`'
    how = 'pipe.to("cpu"), empty_cache(); pipe.to("cuda")'
    packages = ('diffusers',)
    runs_on_cpu = True

    def leave(self, name: str) -> None:
        self.pipes[name].to('cpu')
        empty_cache(self.device)

    def come_back(self, name: str) -> None:
        self.pipes[name].to(self.device)
        synchronize(self.device)


class Del(Tool):
    name = 'del'
    label = 'torch `del`, gc, `empty_cache()`'
    how = 'del pipe, gc.collect(), torch.cuda.empty_cache(), while references to the tensors are held'
    comes_back = False
    runs_on_cpu = True

    def leave(self, name: str) -> None:
        self.pipes[name] = None
        gc.collect()
        empty_cache(self.device)


def empty_cache(device: Any) -> None:
    import torch

    if device.type == 'cuda':
        torch.cuda.empty_cache()


def synchronize(device: Any) -> None:
    import torch

    if device.type == 'cuda':
        torch.cuda.synchronize()


# --- files ---


class Safetensors(Tool):
    """The least that a reload can do: the skeleton is made anew, the tensors are read straight to the device."""

    name = 'safetensors'
    label = 'reload, safetensors to the device'
    how = 'del pipe, gc, empty_cache(); skeleton on meta, safetensors.torch.load_file(device="cuda")'
    packages = ('safetensors', 'bitsandbytes')
    keeps_references = False
    runs_on_cpu = True
    parts = ('transformer', 'text_encoder_2', 'text_encoder', 'vae')

    def folder(self, name: str, part: str) -> Path:
        return Path(self.options['files']) / name / part

    def take(self) -> None:
        """Writes the files: not part of any time."""
        from safetensors.torch import save_file

        threads = []
        for name, pipe in self.pipes.items():
            for part in self.parts:
                module = getattr(pipe, part)
                self.folder(name, part).mkdir(parents=True)
                self.write_config(module, name, self.folder(name, part))
                state = {key: tensor.contiguous() for key, tensor in unshared(module.state_dict()).items()}
                path = self.folder(name, part) / self.file_name(module)
                metadata = {'format': 'pt'}
                threads.append(threading.Thread(target=save_file, args=(state, str(path), metadata)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    @staticmethod
    def file_name(module: Any) -> str:
        is_diffusers = type(module).__module__.startswith('diffusers')
        return 'diffusion_pytorch_model.safetensors' if is_diffusers else 'model.safetensors'

    def write_config(self, module: Any, name: str, folder: Path) -> None:
        pass

    def leave(self, name: str) -> None:
        self.pipes[name] = None
        gc.collect()
        empty_cache(self.device)

    def come_back(self, name: str) -> None:
        import models

        scale, device = self.options['scale'], self.device
        dtype = models.dtype_of(device)
        made = {
            'transformer': models.transformer_quantized(name, scale, dtype),
            'text_encoder_2': models.t5_quantized(name, scale, dtype),
        }
        for part, module in made.items():
            self._fill(module, self.folder(name, part) / self.file_name(module))
        made['text_encoder'], made['vae'] = models.clip(scale).to(dtype), models.vae(scale).to(dtype)
        from safetensors.torch import load_file

        for part in ('text_encoder', 'vae'):
            state = load_file(str(self.folder(name, part) / self.file_name(made[part])), device=str(device))
            made[part].load_state_dict(state, strict=False, assign=True)
            made[part].to(device)
        self.pipes[name] = models.assemble(
            made['transformer'], made['text_encoder_2'], made['text_encoder'], made['vae'], scale
        )
        synchronize(device)

    def _fill(self, module: Any, path: Path) -> None:
        import bitsandbytes as bnb
        from safetensors.torch import load_file
        from torch import nn

        state = load_file(str(path), device=str(self.device))
        shared: dict[int, Any] = {}
        for prefix, part in module.named_modules():
            dot = prefix + '.' if prefix else ''
            for key, parameter in part._parameters.items():
                if parameter is None or not parameter.is_meta:
                    continue
                tensor = state.get(dot + key)
                if tensor is None:  # tied to another one that is in the file
                    part._parameters[key] = shared[id(parameter)]
                    continue
                if key == 'weight' and isinstance(part, bnb.nn.Linear8bitLt):
                    made = bnb.nn.Int8Params(
                        tensor, requires_grad=False, has_fp16_weights=False, CB=tensor, SCB=state[dot + 'SCB']
                    )
                elif key == 'weight' and isinstance(part, bnb.nn.Linear4bit):
                    stats = quant_stats(state, dot + 'weight.')
                    made = bnb.nn.Params4bit.from_prequantized(tensor, stats, device=self.device, module=part)
                else:
                    made = nn.Parameter(tensor, requires_grad=False)
                shared[id(parameter)] = part._parameters[key] = made


def quant_stats(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = ('absmax', 'quant_map', 'nested_absmax', 'nested_quant_map', 'quant_state.bitsandbytes__nf4')
    return {prefix + name: state[prefix + name] for name in names if prefix + name in state}


def unshared(state: dict[str, Any]) -> dict[str, Any]:
    """Without the second name of what is tied: safetensors holds every tensor once."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in state.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor
    return kept


class Reload(Safetensors):
    name = 'reload'
    label = 'reload, `from_pretrained()`'
    how = 'del pipe, gc, empty_cache(); from_pretrained() of each part from files in the page cache'
    packages = ('diffusers', 'transformers', 'accelerate', 'bitsandbytes', 'safetensors')
    runs_on_cpu = False

    def write_config(self, module: Any, name: str, folder: Path) -> None:
        if type(module).__module__.startswith('diffusers'):
            module.save_config(folder)
        else:
            module.config.save_pretrained(folder)
        if not getattr(module, 'is_quantized', False):
            return
        path = folder / 'config.json'
        config = json.loads(path.read_text(encoding='utf-8'))
        bits = 8 if name == '8-bit' else 4
        config['quantization_config'] = {
            'quant_method': 'bitsandbytes',
            'load_in_8bit': bits == 8,
            'load_in_4bit': bits == 4,
            'llm_int8_threshold': 6.0,
            'llm_int8_skip_modules': None if type(module).__module__.startswith('diffusers') else ['wo'],
            'bnb_4bit_quant_type': 'nf4',
            'bnb_4bit_compute_dtype': 'bfloat16',
            'bnb_4bit_use_double_quant': False,
        }
        path.write_text(json.dumps(config), encoding='utf-8')

    def come_back(self, name: str) -> None:
        from diffusers import AutoencoderKL, FluxTransformer2DModel
        from transformers import CLIPTextModel, T5EncoderModel

        import models

        dtype = models.dtype_of(self.device)
        place = {'': 0}
        transformer = FluxTransformer2DModel.from_pretrained(self.folder(name, 'transformer'), torch_dtype=dtype)
        t5 = T5EncoderModel.from_pretrained(self.folder(name, 'text_encoder_2'), dtype=dtype, device_map=place)
        clip = CLIPTextModel.from_pretrained(self.folder(name, 'text_encoder'), dtype=dtype).to(self.device)
        vae = AutoencoderKL.from_pretrained(self.folder(name, 'vae'), torch_dtype=dtype).to(self.device)
        self.pipes[name] = models.assemble(transformer.eval(), t5.eval(), clip, vae, self.options['scale'])
        synchronize(self.device)


# --- diffusers and accelerate ---


class Offload(Tool):
    packages = ('diffusers', 'accelerate')
    has_moves = False

    def enable(self, pipe: Any) -> None:
        raise NotImplementedError

    def build(self, name: str) -> None:
        super().build(name)
        self.enable(self.pipes[name])

    def acquire(self, name: str) -> None:
        pass

    def vacate(self) -> None:
        for pipe in self.pipes.values():
            pipe.maybe_free_model_hooks()


class ModelOffload(Offload):
    name = 'model_offload'
    label = 'diffusers, model CPU offload'
    how = 'pipe.enable_model_cpu_offload()'

    def enable(self, pipe: Any) -> None:
        pipe.enable_model_cpu_offload()


class SequentialOffload(Offload):
    name = 'sequential_offload'
    label = 'diffusers, sequential CPU offload'
    how = 'pipe.enable_sequential_cpu_offload()'

    def enable(self, pipe: Any) -> None:
        pipe.enable_sequential_cpu_offload()


class GroupOffload(Offload):
    name = 'group_offload'
    label = 'diffusers, group offload by leaf'
    how = 'pipe.enable_group_offload(offload_type="leaf_level", use_stream=True)'
    level: ClassVar[dict[str, Any]] = {'offload_type': 'leaf_level'}

    def enable(self, pipe: Any) -> None:
        import torch

        pipe.enable_group_offload(
            onload_device=self.device, offload_device=torch.device('cpu'), use_stream=True, **self.level
        )


class BlockOffload(GroupOffload):
    name = 'block_offload'
    label = 'diffusers, group offload by block'
    how = 'pipe.enable_group_offload(offload_type="block_level", num_blocks_per_group=1, use_stream=True)'
    level: ClassVar[dict[str, Any]] = {'offload_type': 'block_level', 'num_blocks_per_group': 1}


# --- torch_memory_saver ---


class MemorySaver(Tool):
    name = 'tms'
    label = 'torch_memory_saver'
    how = 'region(enable_cpu_backup=True); pause(tag), resume(tag)'
    packages = ('torch_memory_saver',)
    allocator = ''  # it refuses expandable segments
    keeps_backup: ClassVar[bool] = False

    @classmethod
    def environment(cls) -> dict[str, str]:
        """Its hook has to be there before Python is: see its hooks/mode_preload.py."""
        folder = package_folder('torch_memory_saver')
        torch = package_folder('torch')
        if folder is None or torch is None:
            return {}
        text = (torch / 'version.py').read_text(encoding='utf-8')
        major = re.search(r"^cuda.*=\s*'(\d+)", text, re.M)
        found = sorted(folder.parent.glob(f'torch_memory_saver_hook_mode_preload_cu{major[1] if major else ""}*.so'))
        if not found:
            return {}
        environment = {'LD_PRELOAD': str(found[0])}
        # It needs the CUDA runtime of torch, which lies beside it and in no place that the loader looks into.
        runtimes = sorted(torch.parent.glob('nvidia/*/lib/libcudart.so.*'))
        if runtimes:
            before = os.environ.get('LD_LIBRARY_PATH', '')
            environment['LD_LIBRARY_PATH'] = ':'.join(filter(None, (str(runtimes[0].parent), before)))
        return environment

    def prepare(self) -> None:
        from torch_memory_saver import torch_memory_saver

        self.saver = torch_memory_saver
        self.hook_mode = 'preload' if 'torch_memory_saver' in os.environ.get('LD_PRELOAD', '') else 'torch'
        self.saver.hook_mode = self.hook_mode

    def region(self, name: str) -> Any:
        return self.saver.region(tag=name, enable_cpu_backup=True)

    def build(self, name: str) -> None:
        if self.keeps_backup:
            self.saver.retain_cpu_backup = True
        with self.region(name):
            super().build(name)

    def leave(self, name: str) -> None:
        self.saver.pause(name)

    def come_back(self, name: str) -> None:
        self.saver.resume(name)

    def details(self) -> dict[str, Any]:
        return {'hook_mode': self.hook_mode}

    def close(self) -> None:
        # What is paused when the interpreter ends is in nobody's interest: as its own examples end, resumed.
        for name in sorted(set(self.pipes) - self.resident):
            self.saver.resume(name)
            self.resident.add(name)


class MemorySaverRetained(MemorySaver):
    name = 'tms_retained'
    label = 'torch_memory_saver, backup retained'
    how = 'the same with retain_cpu_backup = True'
    keeps_backup = True


class MemorySaverDisk(MemorySaver):
    name = 'tms_disk'
    label = 'torch_memory_saver, disk'
    how = 'region(enable_disk_backup=True); pause(tag), resume(tag)'
    is_disk = True

    def region(self, name: str) -> Any:
        self.saver.set_disk_backup_dir(self.options['disk'])
        return self.saver.region(tag=name, enable_disk_backup=True)


# --- the driver's checkpoint ---


class Checkpoint(Tool):
    """A process per model: the driver checkpoints processes, not models."""

    name = 'checkpoint'
    label = 'driver checkpoint of the process'
    how = 'cuCheckpointProcessLock and Checkpoint; Restore and Unlock; from another process'
    allocator = ''

    def prepare(self) -> None:
        self.agent = subprocess.Popen(
            [sys.executable, str(HERE / 'checkpoint.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()
        self.child: Any = None
        self.second = ''

    def _read(self) -> str:
        assert self.agent.stdout is not None
        line = self.agent.stdout.readline().strip()
        if not line or line.startswith('error'):
            raise RuntimeError(line.removeprefix('error: ') or 'the process that calls the driver ended')
        return line

    def _tell(self, verb: str, name: str) -> None:
        self._ask(f'{verb} {self.child.pid if name == self.second else os.getpid()}')

    def _ask(self, line: str) -> str:
        assert self.agent.stdin is not None
        self.agent.stdin.write(f'{line}\n')
        self.agent.stdin.flush()
        return self._read()

    def build(self, name: str) -> None:
        if not self.pipes:
            super().build(name)
            return
        from channel import Peer  # the second model, in a process of its own

        self.second = name
        self.child = Peer.start('plain', {**self.options, 'models': [name]}, {}, self.options['log'] + '.second')
        self.child.call({'do': 'ready'})
        self.sizes[name] = {'in a process of its own': self.child.call({'do': 'load', 'times': 1})['bytes'][name]}
        self.pipes[name] = None
        self.resident.add(name)

    def pids(self) -> list[int]:
        return [os.getpid(), *([self.child.pid] if self.child is not None else [])]

    def used_by_pids(self) -> int:
        """From the other process: what is checkpointed waits in its next call to the driver."""
        return int(float(self._ask(f'used {" ".join(map(str, self.pids()))}')))

    @property
    def is_awake(self) -> bool:
        """Of this process: every call would wait until it is back."""
        return not self.pipes or any(name in self.resident for name in self.pipes if name != self.second)

    def image(self, name: str, **how: Any) -> str:
        if name != self.second:
            return super().image(name, **how)
        return str(self.child.call({'do': 'image', 'model': name, 'how': how})['image'])

    def leave(self, name: str) -> None:
        self._tell('leave', name)

    def come_back(self, name: str) -> None:
        self._tell('back', name)

    def close(self) -> None:
        for name in sorted(set(self.pipes) - self.resident):
            self.come_back(name)
        if self.child is not None:
            self.child.end()
        self.agent.stdin.close()  # type: ignore[union-attr]
        self.agent.wait(10)


class Plain(Tool):
    """A process that holds a model and does nothing with it: what another tool acts upon."""

    name = 'plain'
    label = 'torch'
    how = ''
    allocator = ''


TOOLS: dict[str, type[Tool]] = {
    tool.name: tool
    for tool in (
        Unstick, UnstickCache, MemorySaverRetained, MemorySaver, MemorySaverDisk, ToCpu, Del, Safetensors, Reload,
        ModelOffload, GroupOffload, BlockOffload, SequentialOffload, Checkpoint, Plain,
    )
}  # fmt: skip

