# SPDX-License-Identifier: Apache-2.0
"""A FLUX repository on disk with random weights, small enough for any machine: what from_pretrained() finds."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = ['<pad>', '</s>', '<unk>', *(chr(c) for c in range(33, 127))]


def write_tiny_flux(folder: Path, scale: int = 4) -> Path:
    """About 0.7 MiB * scale**2 in 8-bit."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2 * scale,
        joint_attention_dim=64 * scale, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2,
        block_out_channels=(32, 32), latent_channels=16, layers_per_block=1, sample_size=32, scaling_factor=0.36,
        shift_factor=0.11, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    t5 = T5EncoderModel(
        T5Config(vocab_size=128, d_model=64 * scale, d_kv=64, d_ff=128 * scale, num_layers=2, num_heads=2)
    )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=clip, tokenizer=clip_tokenizer(16),
        text_encoder_2=t5, tokenizer_2=t5_tokenizer(16), transformer=transformer,
    ).to(torch.bfloat16).save_pretrained(folder)  # fmt: skip
    return folder


def clip_tokenizer(max_length: int) -> CLIPTokenizer:
    letters = [chr(c) for c in range(33, 127)]
    vocab = {w: i for i, w in enumerate(['<|startoftext|>', '<|endoftext|>', *letters, *(w + '</w>' for w in letters)])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=max_length)


def t5_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token='<unk>'))
    raw.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token='<pad>', eos_token='</s>', unk_token='<unk>', model_max_length=max_length
    )
