# SPDX-License-Identifier: Apache-2.0
"""Two quantizations of FLUX take turns on one device, through a cache.

    python examples/flux_switch.py [MODEL] [SWITCHES]

Where the weights of MODEL (FLUX.1-dev) are on this machine and CUDA works, it is the real thing; elsewhere a tiny FLUX
with random weights, on a stand-in device with room for one of the two. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import unstick  # before CUDA starts: it sets up torch's allocator

MIB = 1 << 20


def load_flux(model_id: str, quantization: str) -> Any:
    import torch
    from diffusers import FluxPipeline, PipelineQuantizationConfig

    bits = {'8-bit': 8, '4-bit': 4}[quantization]
    four = {'bnb_4bit_quant_type': 'nf4', 'bnb_4bit_compute_dtype': torch.bfloat16} if bits == 4 else {}
    config = PipelineQuantizationConfig(
        quant_backend=f'bitsandbytes_{bits}bit',
        quant_kwargs={f'load_in_{bits}bit': True, **four},
        components_to_quantize=['transformer', 'text_encoder_2'],
    )
    return FluxPipeline.from_pretrained(
        model_id, quantization_config=config, torch_dtype=torch.bfloat16, local_files_only=True
    ).to('cuda')


def load_tiny(model_id: str, quantization: str) -> Any:
    """What the tests use, from the same tree."""
    sys.path.insert(0, str(Path(__file__).parent.parent / 'test' / 'python'))
    import tiny_flux

    return tiny_flux.tiny_flux(quantization, scale=4)


def main(model_id: str = 'black-forest-labs/FLUX.1-dev', switches: str = '6') -> None:
    import torch

    from unstick.sizes import model_path

    is_real = model_path(model_id) is not None and torch.cuda.is_available()
    size = 1024 if is_real else 32
    given: dict[str, Any] = {'load': load_flux}
    cache = unstick.Cache()
    if not is_real:
        cache = unstick.Cache('host:8MiB', granule_bytes=64 << 10)
        given = {'load': load_tiny, 'required_bytes': 7 * MIB}
    print(f'{"FLUX" if is_real else "a tiny FLUX"} on {cache.device.info()["name"]}')

    images: dict[str, Any] = {}
    for turn in range(int(switches)):
        quantization = ('8-bit', '4-bit')[turn % 2]
        use = cache.use(model_id, quantization, **given)
        started = time.monotonic()
        with use as pipe:
            ready = time.monotonic()
            image = pipe(
                'a lighthouse', height=size, width=size, num_inference_steps=20 if is_real else 2,
                max_sequence_length=512 if is_real else 16, generator=torch.Generator('cpu').manual_seed(7),
                output_type='pt',
            ).images.cpu()  # fmt: skip
        same = 'the same image' if torch.equal(images.setdefault(quantization, image), image) else 'ANOTHER image'
        print(f'{quantization}: {use.result["outcome"]} in {ready - started:.3f} s, {same}')
    print(cache.report())


if __name__ == '__main__':
    main(*sys.argv[1:])
