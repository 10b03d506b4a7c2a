# SPDX-License-Identifier: Apache-2.0
"""FLUX.1-dev with T5-XXL at full size from its configuration: random weights, real bitsandbytes layers, no download.

Weights are made and quantized on the device, layer by layer, so that nothing of 24 GB has to be read or moved; the same
seed makes the same weights. `scale` divides the number of blocks and, from 8 on, the width, for machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import bitsandbytes as bnb
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel


class ByteTokenizer:
    """Bytes as tokens: what FluxPipeline asks of a tokenizer, without a vocabulary file."""

    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def __init__(self, model_max_length: int) -> None:
        self.model_max_length = model_max_length

    def __call__(self, prompts: str | list[str], max_length: int = 77, **_: Any) -> SimpleNamespace:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        rows = [list(prompt.encode())[:max_length] for prompt in prompts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    def tokenize(self, prompt: str) -> list[str]:
        return list(prompt)

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return ['' for _ in ids]


def quantize(module: nn.Module, quantization: str, device: torch.device, generator: torch.Generator) -> None:
    """Gives every parameter random contents on the device, Linears in bitsandbytes layers where they are quantized."""
    done: dict[int, nn.Parameter] = {}
    for name, part in module.named_modules():
        if type(part) is nn.Linear and quantization != 'none' and not name.endswith('.wo'):
            parent = module.get_submodule(name.rpartition('.')[0])
            setattr(parent, name.rpartition('.')[2], _layer(part, quantization, device, generator))
    for part in module.modules():
        for key, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.is_meta:
                continue
            if id(parameter) not in done:
                fresh = _random(parameter.shape, device, generator)
                done[id(parameter)] = nn.Parameter(fresh, requires_grad=False)
            setattr(part, key, done[id(parameter)])


def _random(shape: Any, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)


def _layer(linear: nn.Linear, quantization: str, device: torch.device, generator: torch.Generator) -> nn.Module:
    weight = _random((linear.out_features, linear.in_features), device, generator)
    shape = linear.in_features, linear.out_features, linear.bias is not None
    layer: nn.Module
    with torch.device('meta'):
        if quantization == '8-bit':
            layer = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
        else:
            layer = bnb.nn.Linear4bit(
                *shape, compute_dtype=torch.bfloat16, compress_statistics=quantization == '4-bit-dq', quant_type='nf4'
            )
    if quantization == '8-bit':
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
        layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    else:
        layer.support_avx512bf16_for_cpu = False
        packed, state = bnb.functional.quantize_4bit(
            weight, compress_statistics=quantization == '4-bit-dq', quant_type='nf4'
        )
        layer.weight = bnb.nn.Params4bit(
            packed, requires_grad=False, quant_state=state, quant_type='nf4', bnb_quantized=True, module=layer,
            compress_statistics=quantization == '4-bit-dq',
        )  # fmt: skip
        layer.quant_state = state
    return layer.eval()


@contextmanager
def _on_meta() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device('meta'):
            yield
    finally:
        torch.set_default_dtype(before)


def transformer(
    quantization: str, device: torch.device, scale: int = 1, seed: int = 0, n_layers: int = 57
) -> nn.Module:
    small = scale >= 8
    with _on_meta():
        model = FluxTransformer2DModel(
            num_layers=max(1, min(19 // scale, n_layers)),
            num_single_layers=max(1, min(38 // scale, n_layers)),
            attention_head_dim=128,
            num_attention_heads=2 if small else 24,
            joint_attention_dim=256 if small else 4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        ).eval()
    quantize(model, quantization, device, torch.Generator(device).manual_seed(seed))
    return model


def t5(quantization: str, device: torch.device, scale: int = 1, seed: int = 1, n_layers: int = 24) -> nn.Module:
    width = 256 if scale >= 8 else 4096
    with _on_meta():
        model = T5EncoderModel(
            T5Config(
                vocab_size=32128, d_model=width, d_kv=64, d_ff=width * 5 // 2, num_heads=width // 64,
                num_layers=max(1, min(24 // scale, n_layers)), feed_forward_proj='gated-gelu',
                dense_act_fn='gelu_new', is_encoder_decoder=False,
            )
        ).eval()  # fmt: skip
    quantize(model, quantization, device, torch.Generator(device).manual_seed(seed))
    return model


def clip(device: torch.device) -> nn.Module:
    torch.manual_seed(2)
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, bos_token_id=0,
        eos_token_id=2, projection_dim=768,
    )  # fmt: skip
    return CLIPTextModel(config).to(device, torch.bfloat16).eval()


def vae(device: torch.device) -> nn.Module:
    torch.manual_seed(3)
    model = AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return model.to(device, torch.bfloat16).eval()


def pipeline(**components: Any) -> FluxPipeline:
    """The pipeline of components that were made before: transformer, text_encoder, text_encoder_2, vae."""
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        tokenizer=ByteTokenizer(77),
        tokenizer_2=ByteTokenizer(512),
        **components,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(quantization: str, device: torch.device, scale: int = 1, seed: int = 0) -> FluxPipeline:
    return pipeline(
        transformer=transformer(quantization, device, scale, seed),
        text_encoder=clip(device),
        text_encoder_2=t5(quantization, device, scale, seed + 1),
        vae=vae(device),
    )


def image(pipe: Any, steps: int, side: int) -> torch.Tensor:
    """One image, on the CPU; the same for the same weights, bit by bit."""
    with torch.no_grad():
        result = pipe(
            'a lighthouse', height=side, width=side, num_inference_steps=steps, output_type='pt',
            generator=torch.Generator('cpu').manual_seed(7),
        )  # fmt: skip
    return result.images.cpu()


def digest(tensor: torch.Tensor) -> str:
    import hashlib

    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
