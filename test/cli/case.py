# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: the command, its environment, small models and workloads."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

UNSTICK = ""
MIB = 1 << 20
BENCH_CASES = ["link-up", "link-down", "pin", "hash", "load-pinned", "load-file", "load-cold", "restore-file",
               "evict-unchanged", "evict-first", "evict-dirty", "restore-pinned", "restore-at-once", "switch",
               "take-apart", "take-group", "take-half", "take-unpinning", "beside-backup", "beside-evict"]


def safetensors(tensors, metadata=None):
    """A file's bytes from {name: (dtype, shape, bytes)}."""
    header, offset, data = {}, 0, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, contents) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(contents)]}
        offset += len(contents)
        data += contents
    return with_header(json.dumps(header).encode(), data)


def with_header(header, data):
    return struct.pack("<Q", len(header)) + header + data


def write(path, contents):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(contents)
    return path


class Case(unittest.TestCase):
    """Every test has a folder, and an empty TMPDIR that has to be empty again at its end."""

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="unstick-test-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.tmp = os.path.join(self.root, "tmp")
        os.mkdir(self.tmp)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTORCH_", "CUDA_"))}
        self.environment["TMPDIR"] = self.tmp

    def tearDown(self):
        self.assertEqual(os.listdir(self.tmp), [], "files were left behind")

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def start(self, *arguments, **options):
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.Popen([UNSTICK, *map(str, arguments)], stderr=subprocess.PIPE, text=True,
                                env=self.environment, stdin=subprocess.DEVNULL, **options)

    def run_unstick(self, *arguments, **options):
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def good(self, *arguments):
        code, out, err = self.run_unstick(*arguments)
        self.assertEqual(code, 0, err)
        self.assertEqual(err, "")
        return out

    def bad(self, *arguments, code=1, says=(), **options):
        """Fails with one line on stderr that says each of `says`; --json says the same."""
        actual, out, err = self.run_unstick(*arguments, **options)
        self.assertEqual(actual, code, err)
        self.assertRegex(err, r"\Aunstick[^\n]*: [^\n]+\n\Z")
        for text in (says,) if isinstance(says, str) else says:
            self.assertIn(text, err)
        if "stdout" not in options:
            actual, out, _ = self.run_unstick(*arguments, "--json", **options)
            self.assertEqual(actual, code, out)
            error = json.loads(out)["error"]
            self.assertTrue(error["text"] and error["status"])
            return error
        return None

    def model(self, name, n_bytes, seed=0):
        """A diffusers folder of about that size, with two components."""
        noise = random.Random(name + str(seed))
        first = n_bytes * 2 // 3
        write(self.path(name, "model_index.json"), json.dumps({
            "_class_name": "FluxPipeline",
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
        }).encode())
        write(self.path(name, "transformer", "config.json"), b"{}")
        write(self.path(name, "transformer", "diffusion_pytorch_model.safetensors"), safetensors({
            "a.weight": ("I8", [first // 64, 64], noise.randbytes(first // 64 * 64)),
            "a.SCB": ("F32", [7], noise.randbytes(28)),
            "a.weight_format": ("U8", [], b"\0"),
            "b.weight": ("BF16", [3, 5], noise.randbytes(30)),
        }))
        write(self.path(name, "text_encoder_2", "config.json"), b"{}")
        write(self.path(name, "text_encoder_2", "model.safetensors"), safetensors({
            "c.weight": ("F16", [(n_bytes - first) // 2], noise.randbytes((n_bytes - first) // 2 * 2)),
        }))
        return self.path(name)

    def workload(self, models, requests, name="workload.json"):
        """models: {(id, quantization): path}"""
        return write(self.path(name), json.dumps({
            "models": [{"id": i, "quantization": q, "path": path} for (i, q), path in models.items()],
            "requests": requests,
        }).encode())

    def two_models(self, n_bytes=24 * MIB, requests=None):
        models = {("flux", "8-bit"): self.model("eight", n_bytes), ("flux", "4-bit"): self.model("four", n_bytes // 2)}
        return self.workload(models, requests or ["flux_8-bit", "flux_4-bit", "flux_8-bit", "flux_8-bit",
                                                  "flux_4-bit", "flux_8-bit"])

    def check_clean(self):
        """After whatever happened before, the next run works and leaves nothing."""
        out = json.loads(self.good("replay", self.two_models(MIB), "--device", "host:64MiB", "--verify", "--json"))
        self.assertEqual(out["summary"]["residual_bytes"], 0)
        self.assertTrue(out["summary"]["verified"])


def main():
    """The whole of a test: NAME_test.py PATH-TO-UNSTICK [unittest arguments]"""
    global UNSTICK
    UNSTICK = os.path.abspath(sys.argv.pop(1))
    unittest.main()
