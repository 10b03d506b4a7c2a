# SPDX-License-Identifier: Apache-2.0
"""GPU Configuration: which GPU and how much of it, as the dict of system constraints that the other nodes take.

Looking at GPUs opens none of them: no context, no memory, and the current device stays what it was.
"""

from __future__ import annotations

import asyncio
from typing import Any

from griptape_nodes.exe_types.node_types import DataNode
from griptape_nodes.traits.options import Options
from griptape_nodes.traits.slider import Slider

import unstick
from huggingface_cuda.devices import gpu_names, look_at_gpus
from huggingface_cuda.parameters import add_input, add_output
from unstick.constraints import GIB, device_of, gpu_name

AUTO = 'auto'


class GpuConfiguration(DataNode):
    def __init__(self, name: str, metadata: dict[Any, Any] | None = None) -> None:
        super().__init__(name, metadata)
        add_input(
            self, 'gpu_device', 'str', AUTO,
            '"auto" is the GPU with the most free memory. A GPU is named with its UUID: two equal ones differ, and a '
            'workflow that was saved finds the same one again. Any other name may be typed in, such as cuda:1.',
            traits={Options(choices=[AUTO, *gpu_names()], allow_custom=True)},
        )  # fmt: skip
        add_input(
            self, 'gpu_memory_fraction', 'float', 0.8, 'The most of the GPU that models may hold',
            traits={Slider(min_val=0.1, max_val=0.95)},
        )  # fmt: skip
        add_input(
            self, 'cpu_memory_gb', 'float', 16.0, 'Host memory for models that have left the GPU, in GiB',
            traits={Slider(min_val=8, max_val=32)},
        )  # fmt: skip
        add_input(
            self, 'allow_low_memory', 'bool', False,
            'Load even where memory does not suffice: it may fail on the way, or slow everything down',
        )  # fmt: skip
        add_output(self, 'system_constraints', 'dict', 'For the nodes that load models')
        add_output(self, 'memory', 'str', 'What is free now', ui_options={'multiline': True})

    async def aprocess(self) -> None:
        wanted = self.get_parameter_value('gpu_device') or AUTO
        fraction = float(self.get_parameter_value('gpu_memory_fraction'))
        cpu_gb = float(self.get_parameter_value('cpu_memory_gb'))
        spec, total_bytes, text = await asyncio.to_thread(look, wanted)
        constraints: dict[str, Any] = {
            'gpu_device': spec,
            'gpu_memory_fraction': fraction,
            'cpu_memory_gb': cpu_gb,
            'device_map': 'auto',
            'low_cpu_mem_usage': True,
            'max_memory': {key_of(spec): f'{int(total_bytes * fraction)}B', 'cpu': f'{cpu_gb:g}GiB'},
        }
        if self.get_parameter_value('allow_low_memory'):
            constraints['allow_low_memory'] = True
        self.parameter_output_values['system_constraints'] = constraints
        self.parameter_output_values['memory'] = text


def key_of(spec: str) -> int | str:
    """As accelerate writes a device in max_memory."""
    return int(spec.removeprefix('cuda:')) if spec.startswith('cuda:') else spec


def look(wanted: str) -> tuple[str, int, str]:
    """What the name means here, the device's memory, and what is free on all of them right now."""
    spec = device_of(wanted)
    gpus = look_at_gpus()
    if spec == 'auto' and gpus:
        spec = 'cuda:0'
    lines = [
        f'{gpu_name(gpu)}: {_free(gpu)}' + (' (this one)' if spec == f'cuda:{gpu["index"]}' else '') for gpu in gpus
    ]
    total = next((gpu['total_bytes'] for gpu in gpus if spec == f'cuda:{gpu["index"]}'), 0)
    if not total:  # no GPU: the stand-in, which is memory of this process
        info = unstick.shared({'gpu_device': spec}).device.info()
        total = info['total_bytes']
        free = total - info['used_bytes']
        lines.append(f'{info["name"]}: {free / GIB:.2f} of {total / GIB:.2f} GiB free (this one)')
    return spec, total, '\n'.join(lines)


def _free(gpu: dict[str, Any]) -> str:
    if gpu['free_bytes'] is None:
        return f'{gpu["total_bytes"] / GIB:.1f} GiB'
    return f'{gpu["free_bytes"] / GIB:.1f} of {gpu["total_bytes"] / GIB:.1f} GiB free'
