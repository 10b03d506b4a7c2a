# SPDX-License-Identifier: Apache-2.0
"""FLUX.1-dev with T5-XXL, CLIP-L and VAE at full size, from the configuration alone: the weights are random.

The quantized layers are bitsandbytes' own, and what they hold is made where it will lie: nothing is downloaded,
nothing is quantized, and a pipeline of 17 GiB is there in seconds. What a pipeline says of itself (loaded in 8-bit by
bitsandbytes) is what from_pretrained() would have it say, since offloading asks for it.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any, ClassVar

import bitsandbytes as bnb
import torch
from torch import nn

MODELS = ('8-bit', '4-bit')
"""The two that take turns: A and B."""

MIXED = 'mixed'
"""The transformer in 4-bit, the text encoder as it is: what all offloads know how to move."""

NARROW = 32
"""From this scale on the layers are narrow, too: for machines without a GPU."""


class Tokens:
    """Bytes as tokens: what FluxPipeline asks of a tokenizer, without a vocabulary file."""

    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def __init__(self, n_words: int, max_length: int) -> None:
        self.n_words = n_words
        self.model_max_length = max_length

    def __call__(self, prompts: str | list[str], max_length: int = 0, **_: Any) -> SimpleNamespace:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        length = max_length or self.model_max_length
        rows = [[byte % self.n_words for byte in prompt.encode()][:length] for prompt in prompts]
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    def tokenize(self, prompt: str) -> list[str]:
        return list(prompt)

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return ['' for _ in ids]


def transformer_config(scale: int) -> dict[str, Any]:
    narrow = scale >= NARROW
    return {
        'num_layers': max(1, round(19 / scale)),
        'num_single_layers': max(1, round(38 / scale)),
        'attention_head_dim': 32 if narrow else 128,
        'num_attention_heads': 4 if narrow else 24,
        'joint_attention_dim': 128 if narrow else 4096,
        'pooled_projection_dim': 64 if narrow else 768,
        'guidance_embeds': True,
        'axes_dims_rope': (8, 12, 12) if narrow else (16, 56, 56),
    }


def t5_config(scale: int) -> dict[str, Any]:
    narrow = scale >= NARROW
    return {
        'vocab_size': 128 if narrow else 32128,
        'd_model': 128 if narrow else 4096,
        'd_kv': 64,
        'd_ff': 256 if narrow else 10240,
        'num_layers': max(1, round(24 / scale)),
        'num_heads': 2 if narrow else 64,
        'feed_forward_proj': 'gated-gelu',
        'tie_word_embeddings': False,
        'is_encoder_decoder': False,
    }


def transformer_skeleton(scale: int) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    with torch.device('meta'):
        return FluxTransformer2DModel(**transformer_config(scale)).eval()


def t5_skeleton(scale: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    with torch.device('meta'):
        return T5EncoderModel(T5Config(**t5_config(scale))).eval()


def quantized_linears(module: nn.Module, bits: int, dtype: torch.dtype, keep: tuple[str, ...]) -> nn.Module:
    """Puts bitsandbytes' layers, still on the meta device, in the place of each Linear that is not kept."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or name in keep:
                continue
            inputs, outputs, has_bias = child.in_features, child.out_features, child.bias is not None
            layer: nn.Module
            with torch.device('meta'):
                if bits == 8:
                    layer = bnb.nn.Linear8bitLt(inputs, outputs, has_bias, has_fp16_weights=False, threshold=6.0)
                else:
                    layer = bnb.nn.Linear4bit(
                        inputs, outputs, has_bias, compute_dtype=dtype, compress_statistics=False, quant_type='nf4'
                    )
                    layer.support_avx512bf16_for_cpu = False  # it would make other storages at the first forward
            layer.requires_grad_(False)
            setattr(parent, name, layer.eval())
    return module


def int8_weight(layer: nn.Module, device: torch.device) -> None:
    """The state of a Linear8bitLt after it was quantized; weights as wide as a trained layer's."""
    weight = torch.randint(-127, 128, (layer.out_features, layer.in_features), dtype=torch.int8, device=device)
    scales = torch.full((layer.out_features,), 0.03, dtype=torch.float32, device=device)
    layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scales)


def nf4_weight(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """The state of a Linear4bit after it was quantized, a scale per 64 weights."""
    n_weights = layer.out_features * layer.in_features
    packed = torch.randint(0, 256, (n_weights // 2, 1), dtype=torch.uint8, device=device)
    state = bnb.functional.QuantState(
        absmax=torch.full((n_weights // 64,), 0.04, dtype=torch.float32, device=device),
        shape=torch.Size((layer.out_features, layer.in_features)),
        code=bnb.functional.get_4bit_type('nf4', device=device).clone(),
        blocksize=64,
        quant_type='nf4',
        dtype=dtype,
    )
    layer.weight = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=64, compress_statistics=False, quant_type='nf4',
        module=layer, bnb_quantized=True,
    )  # fmt: skip
    layer.quant_state = state


def materialize(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Gives every tensor of a skeleton memory and random contents."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        if isinstance(part, bnb.nn.Linear8bitLt):
            int8_weight(part, device)
        elif isinstance(part, bnb.nn.Linear4bit):
            nf4_weight(part, device, dtype)
        for name, parameter in part._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in made:
                data = torch.empty(parameter.shape, dtype=dtype, device=device)
                if parameter.dim() > 1:
                    data.normal_(std=0.02)
                else:
                    data.fill_(1.0 if name == 'weight' else 0.0)
                made[id(parameter)] = nn.Parameter(data, requires_grad=False)
            part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                raise RuntimeError(f'{type(part).__name__}.{name}: a buffer whose contents the skeleton does not know')
    return module


def as_loaded(module: nn.Module, bits: int) -> nn.Module:
    """What from_pretrained() notes on a module that bitsandbytes has quantized."""
    if type(module).__module__.startswith('diffusers'):
        from diffusers.quantizers.quantization_config import QuantizationMethod
    else:
        from transformers.utils.quantization_config import QuantizationMethod
    module.is_quantized = True
    module.quantization_method = QuantizationMethod.BITS_AND_BYTES
    module.is_loaded_in_8bit = bits == 8
    module.is_loaded_in_4bit = bits == 4
    return module


def dtype_of(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == 'cuda' else torch.float32


def bits_of(name: str) -> int:
    return 8 if name == '8-bit' else 4


def transformer_quantized(name: str, scale: int, dtype: torch.dtype) -> nn.Module:
    return quantized_linears(transformer_skeleton(scale), bits_of(name), dtype, ())


def t5_quantized(name: str, scale: int, dtype: torch.dtype) -> nn.Module:
    if name == MIXED:
        return t5_skeleton(scale)
    # What transformers keeps in 16 bits in a T5 that it quantizes.
    return quantized_linears(t5_skeleton(scale), bits_of(name), dtype, ('wo',))


def clip(scale: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    narrow = scale >= NARROW
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408 if not narrow else 300,
            hidden_size=64 if narrow else 768,
            intermediate_size=128 if narrow else 3072,
            num_hidden_layers=1 if narrow else 12,
            num_attention_heads=2 if narrow else 12,
            max_position_embeddings=77,
            bos_token_id=1,
            eos_token_id=0,
        )
    ).eval()


def vae(scale: int) -> nn.Module:
    from diffusers import AutoencoderKL

    channels = (32, 32, 32, 32) if scale >= NARROW else (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=channels,
        latent_channels=16,
        layers_per_block=1 if scale >= NARROW else 2,
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def assemble(transformer: nn.Module, t5: nn.Module, clip_model: nn.Module, vae_model: nn.Module, scale: int) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    n_words = 128 if scale >= NARROW else 256
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae_model,
        text_encoder=clip_model,
        tokenizer=Tokens(n_words, 77),
        text_encoder_2=t5,
        tokenizer_2=Tokens(n_words, 512),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build(name: str, device: torch.device, scale: int = 1, seed: int = 0) -> Any:
    """A FluxPipeline on the device, quantized as `name` says; the same weights for the same seed on the same device."""
    torch.manual_seed(seed)
    dtype, bits = dtype_of(device), bits_of(name)
    transformer = as_loaded(materialize(transformer_quantized(name, scale, dtype), device, dtype), bits)
    t5 = materialize(t5_quantized(name, scale, dtype), device, dtype)
    if name != MIXED:
        as_loaded(t5, bits)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # not by .to(): that would leave holes where the wider ones were
    try:
        with torch.device(device):
            clip_model, vae_model = clip(scale), vae(scale)
    finally:
        torch.set_default_dtype(before)
    for part in (clip_model, vae_model):
        part.requires_grad_(False)
    return assemble(transformer, t5, clip_model, vae_model, scale)


def tensors_of(*modules: nn.Module) -> list[torch.Tensor]:
    """Every tensor of modules, quantization state included: what a node output or a closure may hold."""
    found: dict[int, torch.Tensor] = {}

    def add(tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            found[id(tensor)] = tensor

    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            add(tensor)
        for part in module.modules():
            weight = getattr(part, 'weight', None)
            for holder in (getattr(part, 'state', None), weight):
                add(getattr(holder, 'CB', None))
                add(getattr(holder, 'SCB', None))
            state = getattr(weight, 'quant_state', None)
            add(getattr(state, 'absmax', None))
            add(getattr(state, 'code', None))
    return list(found.values())


def modules_of(pipe: Any) -> list[nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def bytes_of(*modules: nn.Module) -> int:
    storages = {}
    for tensor in tensors_of(*modules):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def image(pipe: Any, *, size: int, steps: int, n_tokens: int, is_latent: bool = False) -> str:
    """Makes an image and waits for it; a digest of it, equal for equal weights."""
    made = pipe(
        'a lighthouse at dawn, the sea calm',
        height=size,
        width=size,
        num_inference_steps=steps,
        max_sequence_length=n_tokens,
        generator=torch.Generator('cpu').manual_seed(7),
        output_type='latent' if is_latent else 'pt',
    ).images
    made = made.detach().float().cpu()
    if not bool(torch.isfinite(made).all()):
        raise RuntimeError('the image is not finite')
    return hashlib.sha256(made.numpy().tobytes()).hexdigest()[:16]
