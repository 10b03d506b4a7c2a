# SPDX-License-Identifier: Apache-2.0
"""`unstick estimate` as a user meets it: estimate_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import signal
import stat
import time

import case

GIB = 1 << 30
QUANTS = ("none", "8-bit", "4-bit", "4-bit-dq")

# Memory after load, as it was measured once for full-size models (bf16, int8, nf4, nf4 with double quantization).
FULL_SIZE = {
    "flux-dev": {"transformer": (23802816640, 11916757376, 6699009664, 6144182656)},
    "flux-schnell": {"transformer": (23782357120, 11906496896, 6693246464, 6138896184)},
    "both": {"text_encoder_2": (9524621312, 5904281600, 4315304960, 4146320960), "text_encoder": (246120960,) * 4,
             "vae": (167639366,) * 4},
}
PARAMS = {"flux-dev": 11901408320, "flux-schnell": 11891178560, "text_encoder_2": 4762310656,
          "text_encoder": 123060480, "vae": 83819683}


class Case(case.Case):
    def setUp(self):
        super().setUp()
        self.environment["XDG_STATE_HOME"] = self.path("state")
        self.peaks = self.path("state", "unstick", "peaks.json")

    def estimate(self, *arguments):
        return json.loads(self.good("estimate", *arguments, "--json"))

    def folder(self, name, tensors, config=None):
        """A folder whose one file has a hole for the data. tensors: {name: (dtype, shape, element bytes)}"""
        header, at = {}, 0
        for tensor, (dtype, shape, size) in tensors.items():
            for n in shape:
                size *= n
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        path = case.write(self.path(name, "model.safetensors"),
                          case.with_header(json.dumps(header).encode(), b""))
        os.truncate(path, os.path.getsize(path) + at)
        if config is not None:
            case.write(self.path(name, "config.json"), json.dumps(config).encode())
        return self.path(name)

    def assert_close(self, figure, truth, share=0.001):
        self.assertLessEqual(abs(figure - truth), share * truth, (figure, truth))


class FullSize(Case):
    """From sparse directories of full size: the figures that the project builds on."""

    def check(self, model, quant):
        path = self.path(f"{model}-{quant}")
        self.good("synth", path, "--model", model, "--quant", quant, "--sparse")
        found = self.estimate(path)
        truth = {**FULL_SIZE[model], **FULL_SIZE["both"]}
        self.assertEqual({c["name"] for c in found["components"]}, set(truth))
        for component in found["components"]:
            name = component["name"]
            self.assertEqual(component["params"], PARAMS[model if name == "transformer" else name])
            is_stored = quant != "none" and name in ("transformer", "text_encoder_2")
            self.assertEqual(component["stored"], quant if is_stored else "none")
            for q, bytes_ in zip(QUANTS, truth[name]):
                self.assert_close(component["bytes"][q], bytes_)
                if is_stored and q == quant:
                    continue  # exact, from the file: it holds the tables that some builds of bitsandbytes share
                low, high = component["interval"][q]
                self.assertLessEqual(low, bytes_)
                self.assertGreaterEqual(high, bytes_)
        for i, q in enumerate(QUANTS):
            self.assert_close(found["total"]["bytes"][q], sum(figures[i] for figures in truth.values()))
            self.assertGreaterEqual(found["total"]["region_bytes"][q], found["total"]["aligned_bytes"][q])
            self.assertGreater(found["total"]["aligned_bytes"][q], found["total"]["bytes"][q])
        return found

    def test_dev(self):
        found = self.check("flux-dev", "none")
        self.assertEqual({c["name"]: c["class"] for c in found["components"]},
                         {"transformer": "FluxTransformer2DModel", "text_encoder_2": "T5EncoderModel",
                          "text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"})
        self.assertEqual({c["name"]: c["linears"] for c in found["components"]},
                         {"transformer": 504, "text_encoder_2": 144, "text_encoder": 0, "vae": 0})
        self.assertEqual({c["basis"] for c in found["components"]}, {"rules"})
        # Exactly, where bitsandbytes leaves no choice.
        for component in found["components"]:
            truth = {**FULL_SIZE["flux-dev"], **FULL_SIZE["both"]}[component["name"]]
            self.assertEqual(tuple(component["bytes"][q] for q in QUANTS[:3]), truth[:3])

    def test_dev_quantized(self):
        for quant in QUANTS[1:]:
            self.check("flux-dev", quant)

    def test_schnell(self):
        for quant in QUANTS:
            self.check("flux-schnell", quant)

    def test_basis_of_one(self):
        path = self.path("model")
        self.good("synth", path, "--quant", "8-bit", "--sparse")
        basis = {c["name"]: c["basis"] for c in self.estimate(path, "--quant", "int8")["components"]}
        self.assertEqual(basis, {"transformer": "files", "text_encoder_2": "files", "text_encoder": "rules",
                                 "vae": "rules"})

    def test_working_memory(self):
        path = self.path("model")
        self.good("synth", path, "--sparse")
        found = self.estimate(path)
        self.assertEqual(found["working_memory"]["denoise_bytes"], (4096 + 512) * 3072 * 2 * 32)
        self.assertEqual(found["working_memory_bytes"], 3 * GIB)
        self.assertTrue(found["working_memory"]["basis"])
        larger = self.estimate(path, "--resolution", "2048x1024", "--batch", 2)
        self.assertEqual(larger["working_memory_bytes"], 12 * GIB)
        self.assertEqual(larger["total"], found["total"])


class Kinds(Case):
    LINEAR = {"blocks.0.fc.weight": ("F32", [128, 64], 4), "blocks.0.fc.bias": ("F32", [128], 4)}

    def test_transformers_directory(self):
        path = self.folder("llm", {**self.LINEAR, "model.embed_tokens.weight": ("F16", [100, 64], 2),
                                   "lm_head.weight": ("F16", [100, 64], 2)},
                           {"architectures": ["SomeForCausalLM"]})
        (component,) = self.estimate(path)["components"]
        self.assertEqual((component["class"], component["basis"], component["linears"]),
                         ("SomeForCausalLM", "generic", 1))
        self.assertEqual(component["bytes"]["8-bit"], 8192 + 4 * 128 + 2 * (128 + 12800))
        # Tied, the head is the embedding: one tensor, whatever the file holds.
        case.write(os.path.join(path, "config.json"),
                   b'{"architectures": ["SomeForCausalLM"], "tie_word_embeddings": true}')
        (component,) = self.estimate(path)["components"]
        self.assertEqual(component["bytes"]["8-bit"], 8192 + 4 * 128 + 2 * (128 + 6400))

    def test_load_dtype(self):
        """The bytes follow what is loaded, not what the file holds."""
        path = self.folder("fp32", self.LINEAR)
        for dtype, width in {"bf16": 2, "fp16": 2, "fp32": 4}.items():
            found = self.estimate(path, "--dtype", dtype)
            self.assertEqual(found["total"]["bytes"]["none"], width * (8192 + 128))
            self.assertEqual(found["dtype"], dtype)
        self.assertEqual(self.estimate(path, "--quant", "fp32")["total"]["bytes"], {"fp32": 4 * (8192 + 128)})
        self.assertEqual(self.estimate(path, "--quant", "fp8_e4m3fn")["total"]["bytes"], {"fp8": 8192 + 2 * 128})

    def test_single_file(self):
        path = os.path.join(self.folder("one", self.LINEAR, {"architectures": ["NotRead"]}), "model.safetensors")
        (component,) = self.estimate(path)["components"]
        self.assertEqual((component["name"], component["class"]), ("model", None))
        self.assertEqual(component["bytes"]["4-bit"], 4096 + 64 + 4 * 128 + 2 * 128)

    def test_sharded_index(self):
        path = self.folder("sharded", self.LINEAR, {"architectures": ["Some"]})
        whole = self.estimate(path)["total"]
        os.remove(os.path.join(path, "model.safetensors"))
        weight_map = {}
        for i, (name, tensor) in enumerate(self.LINEAR.items(), 1):
            shard = f"model-0000{i}-of-00002.safetensors"
            os.rename(os.path.join(self.folder("shard", {name: tensor}), "model.safetensors"),
                      os.path.join(path, shard))
            weight_map[name] = shard
        index = os.path.join(path, "model.safetensors.index.json")
        case.write(index, json.dumps({"metadata": {}, "weight_map": weight_map}).encode())
        self.assertEqual(self.estimate(path)["total"], whole)
        # A half-written index.
        with open(index, "rb+") as file:
            file.truncate(os.path.getsize(index) // 2)
        self.bad("estimate", path, says="model.safetensors.index.json")

    def test_foreign_quantization(self):
        path = self.folder("gptq", {"a.qweight": ("I32", [64, 64], 4)},
                           {"architectures": ["Some"], "quantization_config": {"quant_method": "gptq"}})
        (component,) = self.estimate(path)["components"]
        self.assertEqual((component["stored"], component["basis"]), ("gptq", "files"))
        self.assertEqual(set(component["bytes"].values()), {4 * 4096})

    def test_interval(self):
        """Shapes as SDXL, SD3 and PixArt have them, in a class that nobody knows."""
        shapes = {
            "conv_in.weight": ("F16", [320, 4, 3, 3], 2), "conv_in.bias": ("F16", [320], 2),
            "time_embedding.linear_1.weight": ("F16", [1280, 320], 2),
            "down.0.resnets.0.conv1.weight": ("F16", [640, 320, 3, 3], 2),
            "down.0.resnets.0.conv_shortcut.weight": ("F16", [640, 320, 1, 1], 2),
            "pos_embed.pos_embed": ("F16", [1, 1024, 1536], 2), "pos_embed.proj.weight": ("F16", [1536, 16, 2, 2], 2),
            "context_embedder.weight": ("F16", [1536, 4096], 2),
            "caption_projection.linear_1.weight": ("F16", [1152, 4096], 2),
            "adaln_single.linear.weight": ("F16", [6912, 1152], 2),
            "scale_shift_table": ("F16", [2, 1152], 2),
            **{f"transformer_blocks.{i}.attn.to_q.weight": ("F16", [1536, 1536], 2) for i in range(12)},
            **{f"transformer_blocks.{i}.norm.weight": ("F16", [1536], 2) for i in range(12)},
        }
        linears = {n: s for n, (_, s, _) in shapes.items() if len(s) == 2 and n.endswith(".weight")}

        def count(shape):
            n = 1
            for x in shape:
                n *= x
            return n

        rest = sum(2 * count(s) for n, (_, s, _) in shapes.items() if n not in linears)
        truth = {"none": rest + sum(2 * count(s) for s in linears.values()),
                 "8-bit": rest + sum(count(s) + 4 * s[0] for s in linears.values()),
                 "4-bit": rest + sum(count(s) // 2 + count(s) // 16 + 64 for s in linears.values()),
                 "4-bit-dq": rest + sum(count(s) // 2 + count(s) // 64 + -(-count(s) // 64 // 256) * 4 + 68 + 1024
                                        for s in linears.values())}
        found = self.estimate(self.folder("new", shapes, {"_class_name": "NewModel2D"}))
        for q, bytes_ in truth.items():
            low, high = found["interval"][q]
            self.assertLessEqual(low, bytes_)
            self.assertGreaterEqual(high, bytes_)
            self.assertLessEqual(high - low, 0.1 * bytes_, q)
            self.assert_close(found["total"]["bytes"][q], bytes_, 0.02)

    def test_table(self):
        path = self.folder("table", self.LINEAR)
        lines = self.good("estimate", path).splitlines()
        self.assertEqual(lines[0].split(), ["component", "class", "params", *QUANTS, "basis"])
        self.assertEqual([line.split()[0] for line in lines[1:3]], ["model", "total"])
        self.assertIn("between", lines[3])
        self.assertEqual(self.good("estimate", path, "--quant", "nf4").splitlines()[0].split()[3], "4-bit")
        # An interval that is one figure as printed is not worth a line.
        self.good("synth", self.path("exact"), "--scale", 256, "--sparse")
        self.assertNotIn("8-bit: between", self.good("estimate", self.path("exact")))


class Bad(Case):
    def test_usage(self):
        path = self.folder("m", Kinds.LINEAR)
        self.bad("estimate", code=2, says=["PATH", "--id"])
        self.bad("estimate", path, path, code=2, says="too many")
        self.bad("estimate", path, "--quant", "5-bit", code=2, says=["5-bit", "4-bit-dq", "all"])
        for resolution in ("0", "x", "1024x", "1024x0", "-1", "99999", "1024x1024x3", " 5", "1e3"):
            self.bad("estimate", path, "--resolution", resolution, code=2, says=resolution)
        for batch in ("0", "-1", "x", "2000"):
            self.bad("estimate", path, "--batch", batch, code=2, says=batch)
        self.bad("estimate", path, "--dtype", "int8", code=2, says="bf16")
        self.bad("estimate", path, "--record", "1GiB", code=2, says="--quant")
        self.bad("estimate", path, "--quant", "8-bit", "--record", "-1", code=2, says="-1")
        self.assertFalse(os.path.exists(self.peaks))

    def test_no_model(self):
        os.mkdir(self.path("empty"))
        self.bad("estimate", self.path("empty"), says=[self.path("empty"), "safetensors"])
        self.bad("estimate", self.path("missing"), says="missing")
        case.write(self.path("text", "model.safetensors"), b"this is no model")
        self.bad("estimate", self.path("text"), says="model.safetensors")
        case.write(self.path("half", "model_index.json"), b'{"transformer": ["diffusers", "Flux')
        self.bad("estimate", self.path("half"), says="model_index.json")
        error = self.bad("estimate", self.path("no\nsuch"), says="no?such")
        self.assertIn("no?such", error["text"])
        path = self.folder("config", Kinds.LINEAR)
        case.write(os.path.join(path, "config.json"), b"{\"architectures\": [")
        self.bad("estimate", path, says="config.json")


class Peaks(Case):
    def test_nothing_known(self):
        """The seed: "4-bit quantization: 8.0GB, 8-bit quantization: 12.0GB, Full precision: 20.0GB"."""
        found = self.estimate("--id", "black-forest-labs/FLUX.1-dev")
        self.assertEqual(found["total"]["bytes"],
                         {"none": 20 * GIB, "8-bit": 12 * GIB, "4-bit": 8 * GIB, "4-bit-dq": 8 * GIB})
        self.assertEqual(found["total"]["basis"], "guess")
        self.assertEqual(found["interval"]["none"], [0, None])
        self.assertEqual((found["components"], found["working_memory_bytes"]), ([], None))
        self.assertIn("guess", self.good("estimate", "--id", "x"))
        self.assertFalse(os.path.exists(self.path("state")))

    def test_learned(self):
        for size in ("16GiB", "17GiB", "15GiB"):
            found = self.estimate("--id", "org/a_b", "--quant", "int8", "--record", size)
        self.assertEqual(found["total"], {"params": None, "bytes": {"8-bit": 17 * GIB}, "basis": "learned",
                                          "aligned_bytes": {"8-bit": 17 * GIB}, "region_bytes": {"8-bit": 17 * GIB}})
        self.assertEqual(found["learned"], {"8-bit": {"bytes": 17 * GIB, "last_bytes": 15 * GIB, "runs": 3}})
        self.assertEqual(stat.S_IMODE(os.stat(self.peaks).st_mode), 0o600)
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.peaks))), ["peaks.json", "peaks.lock"])
        # The other quantizations are another entry, and other models too.
        self.assertEqual(self.estimate("--id", "org/a_b")["total"]["bytes"]["4-bit"], 8 * GIB)
        self.assertEqual(self.estimate("--id", "org/a")["learned"], {})
        self.assertIn("17.0 GiB at most in 3 earlier runs, 15.0 GiB in the last",
                      self.good("estimate", "--id", "org/a_b"))

    def test_files_before_peaks(self):
        path = self.folder("m", Kinds.LINEAR)
        found = self.estimate(path, "--quant", "8-bit", "--record", "3GiB")
        self.assertEqual(found["id"], "m")
        self.assertEqual(found["total"]["bytes"]["8-bit"], 8192 + 4 * 128 + 2 * 128)
        self.assertEqual(found["learned"]["8-bit"]["bytes"], 3 * GIB)

    def test_id_from_cache_folder(self):
        path = self.folder("models--black-forest-labs--FLUX.1-dev/snapshots/0123", Kinds.LINEAR)
        self.assertEqual(self.estimate(path)["id"], "black-forest-labs/FLUX.1-dev")
        self.assertEqual(self.estimate(os.path.join(path, "model.safetensors"), "--quant", "none")["id"],
                         "black-forest-labs/FLUX.1-dev")

    def test_nothing_is_written_where_others_may_write(self):
        folder = os.path.dirname(self.peaks)
        os.makedirs(folder)
        elsewhere = self.path("elsewhere")
        os.symlink(elsewhere, f"{self.peaks}.new")
        for mode in (0o777, 0o770, 0o1777):
            os.chmod(folder, mode)
            self.bad("estimate", "--id", "org/a", "--quant", "int8", "--record", "1GiB", says=(folder, "others may write"))
        self.assertEqual(os.listdir(folder), ["peaks.json.new"])
        os.chmod(folder, 0o755)
        os.symlink(elsewhere, self.path("state", "unstick", "peaks.lock"))
        self.bad("estimate", "--id", "org/a", "--quant", "int8", "--record", "1GiB", says="peaks.lock")
        os.unlink(self.path("state", "unstick", "peaks.lock"))
        self.estimate("--id", "org/a", "--quant", "int8", "--record", "1GiB")
        self.assertEqual(sorted(os.listdir(folder)), ["peaks.json", "peaks.lock"])
        self.assertFalse(os.path.exists(elsewhere))

    def test_state_that_is_no_file(self):
        os.makedirs(os.path.dirname(self.peaks))
        os.mkfifo(self.peaks)
        code, _, err = self.run_unstick("estimate", "--id", "org/a")
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn("not a regular file", err)
        self.assertTrue(stat.S_ISFIFO(os.stat(f"{self.peaks}.damaged-1").st_mode))
        self.assertEqual(self.estimate("--id", "org/a")["learned"], {})

    def test_what_a_killed_writer_left_goes(self):
        os.makedirs(os.path.dirname(self.peaks))
        with open(f"{self.peaks}.new", "w", encoding="utf-8") as file:
            file.write('{"version"')
        self.assertEqual(self.estimate("--id", "org/a")["learned"], {})
        self.estimate("--id", "org/a", "--quant", "int8", "--record", "1GiB")
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.peaks))), ["peaks.json", "peaks.lock"])
        self.assertEqual(self.estimate("--id", "org/a")["learned"]["8-bit"]["bytes"], GIB)

    def test_damaged(self):
        self.good("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")
        with open(self.peaks, "rb") as file:
            whole = file.read()
        for n, contents in enumerate((whole[:-4], b"", b"\0" * 100, whole.replace(b'"runs": 1', b'"runs": "1"')), 1):
            case.write(self.peaks, contents)
            code, out, err = self.run_unstick("estimate", "--id", "a", "--json")
            aside = f"{self.peaks}.damaged-{n}"
            self.assertEqual((code, err.count("\n")), (1, 1))
            self.assertIn(aside, err)
            self.assertEqual(json.loads(out)["error"]["status"], "BAD_FORMAT")
            with open(aside, "rb") as file:
                self.assertEqual(file.read(), contents)
            self.assertEqual(self.estimate("--id", "a")["total"]["basis"], "guess")
        # A writer does not go over it either.
        case.write(self.peaks, b"{")
        code, _, err = self.run_unstick("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")
        self.assertEqual((code, err.count("\n")), (1, 1))
        with open(f"{self.peaks}.damaged-5", "rb") as file:
            self.assertEqual(file.read(), b"{")
        self.good("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")

    def test_no_place(self):
        del self.environment["XDG_STATE_HOME"]
        self.environment.pop("HOME", None)
        self.assertEqual(self.estimate("--id", "a")["total"]["basis"], "guess")
        self.bad("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB", says="XDG_STATE_HOME")
        self.environment["XDG_STATE_HOME"] = "relative"
        self.bad("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB", says="XDG_STATE_HOME")
        self.environment["HOME"] = self.path("home")
        os.mkdir(self.path("home"))
        self.good("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")
        self.assertTrue(os.path.exists(self.path("home", ".local", "state", "unstick", "peaks.json")))
        case.write(self.path("file"), b"")
        self.environment["XDG_STATE_HOME"] = self.path("file")
        self.bad("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB", says=self.path("file"))

    def test_many_writers(self):
        """No measurement is lost, whoever writes beside."""
        writers = [self.start("estimate", "--id", f"m{i % 3}", "--quant", "8-bit", "--record", f"{i + 1}GiB")
                   for i in range(12)]
        for writer in writers:
            out, err = writer.communicate(timeout=60)
            self.assertEqual((writer.returncode, err), (0, ""))
        for i in range(3):
            self.assertEqual(self.estimate("--id", f"m{i}")["learned"]["8-bit"]["runs"], 4)
            self.assertEqual(self.estimate("--id", f"m{i}")["learned"]["8-bit"]["bytes"], (10 + i) * GIB)

    def test_killed_writer(self):
        """What is there is whole, and the lock is free."""
        self.good("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")
        for delay in (0, 0.001, 0.002, 0.005):
            process = self.start("estimate", "--id", "a", "--quant", "8-bit", "--record", "2GiB")
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            self.good("estimate", "--id", "a")
        self.good("estimate", "--id", "a", "--quant", "8-bit", "--record", "1GiB")


if __name__ == "__main__":
    case.main()
