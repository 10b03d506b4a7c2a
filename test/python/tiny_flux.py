# SPDX-License-Identifier: Apache-2.0
"""A real FluxPipeline with random weights, small enough for any machine, its Linears in real bitsandbytes layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import bitsandbytes as bnb
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

QUANTIZATIONS = ("plain", "8-bit", "4-bit", "4-bit-double")
LIBRARIES = ("torchao", "quanto")
"""Quantized by their wrapper subclasses: int8 weights."""
VOCABULARY = 128


class TinyTokenizer:
    """Bytes as tokens: what FluxPipeline asks of a tokenizer, without a vocabulary file."""

    model_max_length = 16
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def __call__(self, prompts: str | list[str], max_length: int = 16, **_: Any) -> SimpleNamespace:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        rows = [[b % VOCABULARY for b in p.encode()][:max_length] for p in prompts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    def tokenize(self, prompt: str) -> list[str]:
        return list(prompt)

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return ["" for _ in ids]


def quantized(linear: nn.Linear, quantization: str) -> nn.Module:
    """The bitsandbytes layer that holds what `linear` holds; moving it to the CPU is what quantizes it."""
    layer: nn.Module
    if quantization == "8-bit":
        layer = bnb.nn.Linear8bitLt(
            linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False
        )
        layer.weight = bnb.nn.Int8Params(linear.weight.data, has_fp16_weights=False, requires_grad=False)
    else:
        layer = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            compute_dtype=torch.float32,
            compress_statistics=quantization == "4-bit-double",
            quant_type="nf4",
        )
        # The CPU's own packing of 4-bit weights depends on the processor; a test of its own simulates it.
        layer.support_avx512bf16_for_cpu = False
        layer.weight = bnb.nn.Params4bit(
            linear.weight.data,
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=quantization == "4-bit-double",
            module=layer,
        )
    if linear.bias is not None:
        layer.bias = linear.bias
    return layer.to("cpu")


def quantize(module: nn.Module, quantization: str) -> nn.Module:
    if quantization == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(module, Int8WeightOnlyConfig())
        return module
    if quantization == "quanto":
        from optimum import quanto

        quanto.quantize(module, weights=quanto.qint8)
        quanto.freeze(module)
        return module
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.out_features % 32 == 0 and child.in_features % 64 == 0:
                setattr(parent, name, quantized(child, quantization))
    return module


def tiny_t5(scale: int = 1, seed: int = 2) -> T5EncoderModel:
    torch.manual_seed(seed)
    config = T5Config(vocab_size=VOCABULARY, d_model=64 * scale, d_kv=64, d_ff=128 * scale, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


def tiny_flux(
    quantization: str = "8-bit", scale: int = 1, seed: int = 0, text_encoder_2: nn.Module | None = None
) -> FluxPipeline:
    """A pipeline of about 1.5 MB * scale**2; at scale 14 more than 256 MiB when 8-bit."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2 * scale,
        joint_attention_dim=64 * scale,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),  # their sum is the head's dimension
    ).eval()
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=1,
            eos_token_id=0,
        )
    ).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=16,
        layers_per_block=1,
        sample_size=32,
        scaling_factor=0.36,
        shift_factor=0.11,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    t5 = text_encoder_2 if text_encoder_2 is not None else tiny_t5(scale)
    if quantization != "plain":
        quantize(transformer, quantization)
        if text_encoder_2 is None:
            quantize(t5, quantization)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=clip,
        tokenizer=TinyTokenizer(),
        text_encoder_2=t5,
        tokenizer_2=TinyTokenizer(),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, prompt: str = "a lighthouse", steps: int = 2, size: int = 32) -> torch.Tensor:
    """The image as a tensor; the same for the same weights, bit by bit."""
    generator = torch.Generator("cpu").manual_seed(7)
    images = pipe(
        prompt,
        height=size,
        width=size,
        num_inference_steps=steps,
        max_sequence_length=16,
        generator=generator,
        output_type="pt",
    ).images
    return images.clone()
