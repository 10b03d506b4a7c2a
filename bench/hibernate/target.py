# SPDX-License-Identifier: Apache-2.0
"""The process that is hibernated: target.py flux|torch|plain GIB.

`flux` is a whole pipeline, FLUX.1-dev with T5-XXL, CLIP-L and VAE in bitsandbytes' 4-bit, and its output is an image:
that of ../compare, at full size whatever GIB says. `torch` holds a transformer whose Linears are 4-bit (packed codes
and scales per block of 64, unpacked when they are used), GIB of it, and a CUDA graph of a part of it. `plain` holds GIB
of known bytes and needs nothing but the driver. Obeys lines on its input and answers each with one line of JSON; an
answer to "run" has the hash of the output.
"""

import ctypes
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

GIB = 1 << 30
WIDTH = 3072  # of FLUX
TOKENS = 512
BLOCK = 64
PIXELS, STEPS = 512, 1  # of an image


answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # what a library prints is no answer


def answer(**fields: Any) -> None:
    print(json.dumps(fields), file=answers, flush=True)


class Plain:
    """Memory of the driver alone."""

    def __init__(self, gib: float) -> None:
        self.cuda = ctypes.CDLL('libcuda.so.1')
        self.bytes = int(gib * GIB) // 4 * 4
        self.memory = ctypes.c_uint64()
        context = ctypes.c_void_p()
        self.must('cuInit', 0)
        self.must('cuDevicePrimaryCtxRetain', ctypes.byref(context), 0)
        self.must('cuCtxPushCurrent_v2', context)
        self.must('cuMemAlloc_v2', ctypes.byref(self.memory), ctypes.c_size_t(self.bytes))
        # 16 stripes of different words, so that nothing can be in another's place.
        stripe = self.bytes // 64 * 4
        for i in range(16):
            self.must('cuMemsetD32Async', ctypes.c_uint64(self.memory.value + i * stripe), 0x9E3779B9 * (i + 1) % 2**32,
                      ctypes.c_size_t(stripe // 4), None)
        self.must('cuStreamSynchronize', None)

    def must(self, name: str, *arguments: Any) -> None:
        result = getattr(self.cuda, name)(*arguments)
        if result:
            raise RuntimeError(f'{name}: {result}')

    def about(self) -> dict[str, Any]:
        return {'kind': 'plain', 'model_bytes': self.bytes}

    def run(self) -> str:
        piece = 64 << 20
        host = ctypes.create_string_buffer(min(piece, self.bytes))
        digest = hashlib.sha256()
        for offset in range(0, self.bytes // 64 * 64, piece):
            size = min(piece, self.bytes // 64 * 64 - offset)
            self.must('cuMemcpyDtoHAsync_v2', host, ctypes.c_uint64(self.memory.value + offset),
                      ctypes.c_size_t(size), None)
            self.must('cuStreamSynchronize', None)
            digest.update(memoryview(host)[:size])
        return digest.hexdigest()

    def graph(self) -> str:
        return self.run()

    def work(self, seconds: float) -> None:
        raise RuntimeError(f'plain has no kernels to keep the device busy with for {seconds} s')

    def managed(self, size: int) -> None:
        address = ctypes.c_uint64()
        self.must('cuMemAllocManaged', ctypes.byref(address), ctypes.c_size_t(size), 1)


class WithTorch:
    """A process that uses torch; `bytes` are its weights'."""

    bytes = 0

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def settings(self) -> dict[str, Any]:
        torch = self.torch
        return {'model_bytes': self.bytes, 'torch': torch.__version__, 'cuda': torch.version.cuda,
                'device': torch.cuda.get_device_name(), 'allocated_bytes': torch.cuda.memory_allocated(),
                'reserved_bytes': torch.cuda.memory_reserved(),
                'allocator': os.environ.get('PYTORCH_CUDA_ALLOC_CONF', '')}

    def work(self, seconds: float) -> None:
        """Submits work for about so long, and does not wait for it."""
        self.torch.cuda._sleep(int(seconds * 1.7e9))

    def managed(self, size: int) -> None:
        address = ctypes.c_uint64()
        result = ctypes.CDLL('libcuda.so.1').cuMemAllocManaged(ctypes.byref(address), ctypes.c_size_t(size), 1)
        if result:
            raise RuntimeError(f'cuMemAllocManaged: {result}')


class Torch(WithTorch):
    """A 4-bit transformer of random weights, made on the device."""

    def __init__(self, gib: float) -> None:
        super().__init__()
        torch = self.torch
        torch.manual_seed(1)
        self.code = torch.linspace(-1, 1, 16, device='cuda', dtype=torch.bfloat16)
        block_bytes = sum(self.linear_bytes(*shape) for shape in self.shapes())
        n_blocks = max(1, int(gib * GIB / block_bytes))
        self.blocks = [[self.linear(*shape) for shape in self.shapes()] for _ in range(n_blocks)]
        self.bytes = len(self.blocks) * block_bytes
        self.input = torch.randn(1, TOKENS, WIDTH, device='cuda', dtype=torch.bfloat16)
        self.output = self.forward(self.blocks)
        # A graph is memory that torch's allocator does not know: the driver holds the nodes.
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            self.forward(self.blocks[:4])
            stream.synchronize()
            self.captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.captured, stream=stream):
                self.graph_output = self.forward(self.blocks[:4])
        torch.cuda.synchronize()

    @staticmethod
    def shapes() -> list[tuple[int, int]]:
        return [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]

    @staticmethod
    def linear_bytes(n_out: int, n_in: int) -> int:
        return n_out * n_in // 2 + n_out * n_in // BLOCK * 4

    def linear(self, n_out: int, n_in: int) -> tuple[Any, Any, tuple[int, int]]:
        torch = self.torch
        packed = torch.randint(0, 256, (n_out * n_in // 2,), device='cuda', dtype=torch.uint8)
        scale = torch.rand(n_out * n_in // BLOCK, 1, device='cuda') * 0.02
        return packed, scale, (n_out, n_in)

    def apply(self, linear: tuple[Any, Any, tuple[int, int]], x: Any) -> Any:
        torch = self.torch
        packed, scale, shape = linear
        codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1, BLOCK)
        weight = (self.code[codes.long()] * scale.to(torch.bfloat16)).reshape(shape)
        return torch.nn.functional.linear(x, weight)

    def forward(self, blocks: list[Any]) -> Any:
        functional = self.torch.nn.functional
        with self.torch.no_grad():
            x = self.input
            for qkv, out, up, down in blocks:
                y = functional.layer_norm(x, (WIDTH,))
                q, k, v = (part.reshape(1, TOKENS, 24, 128).transpose(1, 2)
                           for part in self.apply(qkv, y).chunk(3, dim=-1))
                y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, TOKENS, WIDTH)
                x = x + self.apply(out, y)
                x = x + self.apply(down, functional.gelu(self.apply(up, functional.layer_norm(x, (WIDTH,)))))
            return x

    def hash(self, tensor: Any) -> str:
        host = tensor.cpu().contiguous()
        return hashlib.sha256(ctypes.string_at(host.data_ptr(), host.nbytes)).hexdigest()

    def about(self) -> dict[str, Any]:
        return {**self.settings(), 'kind': 'torch', 'n_blocks': len(self.blocks),
                'is_finite': bool(self.output.isfinite().all())}

    def run(self) -> str:
        return self.hash(self.forward(self.blocks))

    def graph(self) -> str:
        self.captured.replay()
        self.torch.cuda.synchronize()
        return self.hash(self.graph_output)


class Flux(WithTorch):
    """A pipeline as bitsandbytes and diffusers make it, of random weights, made on the device."""

    def __init__(self) -> None:
        super().__init__()
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'compare'))
        import models

        self.models = models
        self.pipe = models.build('4-bit', self.torch.device('cuda'))
        self.bytes = models.bytes_of(*models.modules_of(self.pipe))
        self.run()

    def about(self) -> dict[str, Any]:
        import bitsandbytes
        import diffusers

        return {**self.settings(), 'kind': 'flux', 'bitsandbytes': bitsandbytes.__version__,
                'diffusers': diffusers.__version__, 'image_pixels': PIXELS, 'image_steps': STEPS}

    def run(self) -> str:
        return str(self.models.image(self.pipe, size=PIXELS, steps=STEPS, n_tokens=TOKENS))

    def graph(self) -> str:
        """It has none: one more image."""
        return self.run()


def main() -> None:
    kind, gib = sys.argv[1], float(sys.argv[2])
    target = Flux() if kind == 'flux' else Torch(gib) if kind == 'torch' else Plain(gib)
    answer(**target.about())
    for line in sys.stdin:
        word, _, argument = line.strip().partition(' ')
        started = time.perf_counter()
        try:
            if word in ('run', 'graph'):
                digest = target.run() if word == 'run' else target.graph()
                answer(sha256=digest, seconds=time.perf_counter() - started)
            elif word == 'work':
                target.work(float(argument))
                answer(submitted_s=float(argument))
            elif word == 'managed':
                target.managed(int(argument))
                answer(managed_bytes=int(argument))
        except (AttributeError, RuntimeError) as error:
            answer(error=f'{type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
