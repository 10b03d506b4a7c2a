# SPDX-License-Identifier: Apache-2.0
"""A model that is dropped, and loaded again from files."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path
from typing import Any

from .tool import Tool, empty_cache, synchronize


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
