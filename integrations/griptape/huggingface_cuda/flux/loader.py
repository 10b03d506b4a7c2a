# SPDX-License-Identifier: Apache-2.0
"""Loads a FLUX pipeline component by component, so that a cancel comes through between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import unstick

QUANTIZED = ('transformer', 'text_encoder_2')


class FluxLoader:
    """What unstick calls when the model is not there. `checkpoint(text)` is called before each component."""

    def __init__(self, device: unstick.Device, checkpoint: Callable[[str], None]) -> None:
        self.device = f'cuda:{device.index}' if device.kind == 'cuda' else 'cpu'
        self.checkpoint = checkpoint

    def __call__(self, model_id: str, quantization: str) -> Any:
        import torch
        from diffusers import FluxPipeline

        self.checkpoint('looking at the files')
        config = FluxPipeline.load_config(model_id)
        given: dict[str, Any] = {}
        for name, entry in config.items():
            if name.startswith('_') or not isinstance(entry, (list, tuple)) or entry[0] is None:
                continue
            self.checkpoint(f'loading {name}')
            given[name] = self._component(model_id, name, entry, quantization, torch.bfloat16)
        self.checkpoint('putting it together')
        pipe = FluxPipeline(**given)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _component(self, model_id: str, name: str, entry: Any, quantization: str, dtype: Any) -> Any:
        import importlib

        kind = getattr(importlib.import_module(entry[0]), entry[1])
        if 'tokenizer' in name or name == 'scheduler':
            return kind.from_pretrained(model_id, subfolder=name)
        is_quantized = quantization != 'none' and name in QUANTIZED
        options: dict[str, Any] = {'torch_dtype': dtype}
        if is_quantized and self.device.startswith('cuda'):
            options |= {
                'quantization_config': bnb_config(entry[0], quantization, dtype),
                'device_map': {'': self.device},  # what is quantized cannot be moved afterwards
            }
            return kind.from_pretrained(model_id, subfolder=name, **options)
        module = kind.from_pretrained(model_id, subfolder=name, **options).eval()
        if is_quantized:
            quantize(module, quantization, dtype)
        return module.to(self.device)


def bnb_config(library: str, quantization: str, dtype: Any) -> Any:
    import importlib

    kind = importlib.import_module(library).BitsAndBytesConfig
    if quantization == '8-bit':
        return kind(load_in_8bit=True)
    return kind(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=dtype)


def quantize(module: Any, quantization: str, dtype: Any) -> None:
    """Without a GPU, where diffusers refuses to: bitsandbytes itself works on the CPU, layer by layer."""
    import bitsandbytes as bnb
    from torch import nn

    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child.out_features % 32 or child.in_features % 64:
                continue
            shape = child.in_features, child.out_features, child.bias is not None
            if quantization == '8-bit':
                layer = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
                layer.weight = bnb.nn.Int8Params(child.weight.data, has_fp16_weights=False, requires_grad=False)
            else:
                layer = bnb.nn.Linear4bit(*shape, compute_dtype=dtype, quant_type='nf4')
                # The CPU's own packing makes new storages in the middle of a forward pass.
                layer.support_avx512bf16_for_cpu = False
                layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type='nf4', module=layer)
            layer.bias = child.bias
            setattr(parent, name, layer.to('cpu'))
