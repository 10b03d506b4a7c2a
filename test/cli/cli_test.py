# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: cli_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

UNSTICK = ""
MIB = 1 << 20
VERBS = ["allocconf", "bench", "demo", "doctor", "estimate", "hibernate", "plan", "replay", "version", "wake"]


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


class Usage(Case):
    def test_help(self):
        out = self.good("--help")
        self.assertEqual(self.good("help"), out)
        for verb in VERBS:
            self.assertIn(f"\n  {verb} ", out)
            text = self.good(verb, "--help")
            self.assertTrue(text.startswith(f"Usage: unstick {verb} [options]"), text)
            self.assertIn("--json", text)
            self.assertTrue(all(len(line) <= 110 for line in text.splitlines()), text)
            self.assertEqual(self.good("help", verb), text)

    def test_version(self):
        out = self.good("version")
        self.assertRegex(out, r"\Aunstick \d+\.\d+\.\d+\n\Z")
        self.assertEqual(self.good("--version"), out)
        self.assertEqual("unstick " + json.loads(self.good("version", "--json"))["version"] + "\n", out)

    def test_wrong_usage(self):
        workload = self.path("workload.json")
        code, out, err = self.run_unstick()
        self.assertEqual((code, out), (2, ""))
        self.assertIn("Usage:", err)
        self.bad("fly", code=2, says="'fly'")
        self.bad("--fly", code=2, says="'--fly'")
        self.bad("help", "fly", code=2, says="'fly'")
        self.bad("version", "now", code=2, says="'now'")
        self.bad("replay", code=2, says="WORKLOAD.json")
        self.bad("replay", workload, workload, code=2, says=workload)
        self.bad("replay", workload, "--fly", code=2, says="--fly")
        self.bad("replay", workload, "--verify=yes", code=2, says="--verify=yes")
        self.bad("replay", workload, "--device", "", code=2, says="--device")
        self.bad("replay", workload, "--device-memory", "lots", code=2, says=("--device-memory", "lots"))
        self.bad("replay", workload, "--device-memory", "-1", code=2, says="-1")
        self.bad("replay", workload, "--device-memory", "0", code=2, says="--device-memory")
        self.bad("replay", workload, "--host-memory", "99999999999TiB", code=2, says="--host-memory")
        self.bad("replay", workload, "--backup", "cloud", code=2, says=("cloud", "pinned", "pageable", "file"))
        code, _, err = self.run_unstick("replay", workload, "--device")
        self.assertEqual((code, err.count("\n")), (2, 1))

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            for arguments in (["version"], ["doctor", "--json"], ["help"]):
                self.bad(*arguments, stdout=full, says="No space left")
        reader, writer = os.pipe()
        os.close(reader)
        self.bad("version", stdout=writer, says="Broken pipe")
        os.close(writer)


class Doctor(Case):
    def test_checks(self):
        out = json.loads(self.good("doctor", "--json"))
        checks = {check["check"]: check for check in out["checks"]}
        for name in ("system", "processors", "memory", "cgroup", "huge pages", "memlock", "torch settings"):
            self.assertIn(checks[name]["level"], ("ok", "warn"), checks[name])
            self.assertTrue(checks[name]["text"])
        self.assertEqual(len(self.good("doctor").splitlines()),
                         sum(1 + bool(check["advice"]) for check in out["checks"]))

    def test_torch_settings(self):
        def level(settings):
            self.environment.update(settings)
            for check in json.loads(self.good("doctor", "--json"))["checks"]:
                if check["check"] == "torch settings":
                    for name in settings:
                        del self.environment[name]
                    return check["level"]

        self.assertEqual(level({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}), "ok")
        self.assertEqual(level({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}), "warn")
        self.assertEqual(level({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128"}), "warn")
        self.assertEqual(level({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}), "warn")


class Workload(Case):
    def refuse(self, contents, *says):
        path = write(self.path("workload.json"), contents if isinstance(contents, bytes) else
                     json.dumps(contents).encode())
        error = self.bad("replay", path, "--device", "host:16MiB", says=(path, *says))
        self.assertEqual(error["status"], "BAD_FORMAT")

    def test_refused(self):
        model = {"id": "a", "quantization": "none", "path": "m.safetensors"}
        good = {"models": [model], "requests": ["a_none"]}
        self.refuse(b"", "line 1")
        self.refuse(b'{"models": [],\n "requests": [}', "line 2, column 15")
        self.refuse(b'{"models": [], "requests": []} x', "line 1")
        self.refuse(b'{"models": [], "models": [], "requests": []}', "line 1", "models")
        self.refuse(b"[" * 100000, "line 1")
        self.refuse(b'{"models": [{"id": "\xff"}]}', "line 1")
        self.refuse([], "object")
        self.refuse({}, "models")
        self.refuse({"models": []}, "requests")
        self.refuse({"models": {}, "requests": []}, "models")
        self.refuse({**good, "limit": 3}, "limit")
        self.refuse({**good, "models": [[]]}, "models[0]")
        self.refuse({**good, "models": [{**model, "paht": "x"}]}, "models[0]", "paht")
        for member in model:
            self.refuse({**good, "models": [{k: v for k, v in model.items() if k != member}]}, "models[0]", member)
            self.refuse({**good, "models": [{**model, member: 3}]}, "models[0]", member)
            self.refuse({**good, "models": [{**model, member: ""}]}, "models[0]", member)
            self.refuse({**good, "models": [{**model, member: "x\ny"}]}, "models[0]", member)
        self.refuse({**good, "models": [model, model]}, "a_none", "twice")
        self.refuse({**good, "requests": ["a_none", "b_none"]}, "request 2", "b_none", "a_none")
        self.refuse({**good, "requests": [3]}, "requests[0]")

    def test_unreadable(self):
        self.bad("replay", self.path("none.json"), says=("none.json", "No such file"))
        self.bad("replay", self.root, says=(self.root, "directory"))


class Replay(Case):
    def check_request(self, request, verified):
        self.assertEqual(list(request), ["key", "action", "evicted", "bytes", "load_ms", "restore_ms", "evict_ms",
                                         "total_ms", "gb_per_s", "used_after_bytes", "device_used_after_bytes",
                                         "verified"])
        self.assertEqual(request["verified"], verified)
        self.assertEqual(request["gb_per_s"] is None, request["action"] == "hit")
        self.assertEqual(request["bytes"] == 0, request["action"] == "hit")
        self.assertEqual(request["load_ms"] > 0, request["action"] == "load")
        self.assertEqual(request["restore_ms"] > 0, request["action"] == "restore")
        self.assertEqual(request["evict_ms"] > 0, bool(request["evicted"]))
        self.assertGreaterEqual(request["total_ms"], max(request["load_ms"], request["restore_ms"]))
        for eviction in request["evicted"]:
            self.assertEqual(list(eviction), ["key", "bytes", "ms", "copied_bytes"])
            self.assertNotEqual(eviction["key"], request["key"])
            self.assertEqual(eviction["copied_bytes"], 0)

    def replay(self, *arguments):
        return json.loads(self.good("replay", *arguments, "--json"))

    def check_whole(self, tier, *arguments):
        limit = 33 * MIB
        out = self.replay(self.two_models(), "--device", "host:64MiB", "--device-memory", limit, "--granule", "1MiB",
                          "--verify", *arguments)
        self.assertEqual(list(out), ["device", "requests", "summary"])
        self.assertEqual(list(out["device"]), ["name", "kind", "total_bytes", "limit_bytes", "used_at_start_bytes"])
        self.assertEqual(out["device"]["kind"], "host")
        self.assertEqual(out["device"]["total_bytes"], 64 * MIB)
        self.assertEqual(out["device"]["limit_bytes"], limit)
        self.assertEqual([r["action"] for r in out["requests"]],
                         ["load", "load", "restore", "hit", "restore", "restore"])
        for request in out["requests"]:
            self.check_request(request, True)
            self.assertLessEqual(request["used_after_bytes"], limit)
            self.assertLessEqual(request["device_used_after_bytes"], limit)
        # 24 + 12 MiB in 33 less a sentinel of little more than 1: about 4 have to go each time, no more.
        for request in out["requests"][1:3] + out["requests"][4:]:
            self.assertEqual(len(request["evicted"]), 1)
            self.assertLessEqual(request["evicted"][0]["bytes"], 6 * MIB)
        summary = out["summary"]
        self.assertEqual(list(summary), ["loads", "restores", "hits", "evictions", "residual_bytes",
                                         "device_delta_bytes", "sentinel_bytes", "backup_tier", "verified",
                                         "reload_over_restore"])
        self.assertEqual([summary[k] for k in ("loads", "restores", "hits", "evictions")], [2, 3, 1, 4])
        self.assertEqual((summary["residual_bytes"], summary["device_delta_bytes"]), (0, 0))
        self.assertEqual(summary["sentinel_bytes"], out["device"]["used_at_start_bytes"])
        self.assertEqual((summary["backup_tier"], summary["verified"]), (tier, True))
        self.assertGreater(summary["reload_over_restore"], 0)

    def test_pinned(self):
        self.check_whole("pinned", "--backup", "pinned")

    def test_pageable(self):
        self.check_whole("pageable", "--backup", "pageable")

    def test_file(self):
        self.check_whole("file", "--backup", "file", "--host-memory", "12MiB")

    def test_table(self):
        lines = self.good("replay", self.two_models(), "--device", "host:64MiB", "--device-memory", "33MiB",
                          "--verify").splitlines()
        self.assertEqual(lines[0].split(), ["request", "action", "moved", "time", "GB/s", "evicted", "copied",
                                            "verified"])
        self.assertEqual([line.split()[1] for line in lines[1:7]],
                         ["load", "load", "restore", "hit", "restore", "restore"])
        self.assertEqual([line.split()[-1] for line in lines[1:7]], ["yes"] * 6)
        self.assertEqual(lines[-1], "residual: 0 B")

    def test_without_verify(self):
        out = self.replay(self.two_models(MIB), "--device", "host:64MiB")
        for request in out["requests"]:
            self.check_request(request, None)
        self.assertIsNone(out["summary"]["verified"])
        # Both fit, so nothing ever left.
        self.assertEqual(out["summary"]["evictions"], 0)
        self.assertIsNone(out["summary"]["reload_over_restore"])

    def test_no_requests(self):
        out = self.replay(self.workload({}, []), "--device", "host:64MiB")
        self.assertEqual((out["requests"], out["summary"]["backup_tier"]), ([], "none"))

    def test_relative_path(self):
        self.model("near", MIB)
        out = self.replay(self.workload({("a", "none"): "near"}, ["a_none"]), "--device", "host:64MiB", "--verify")
        self.assertTrue(out["summary"]["verified"])

    def has_plain_memory(self):
        """False where a sanitizer keeps books of its own in the process."""
        with open(UNSTICK, "rb") as file:
            program = file.read()
        return b"__tsan_init" not in program and b"__asan_init" not in program

    def test_memory(self):
        """With the files as backup the process has no memory of its own to speak of."""
        def peak(tier):
            """Of what is neither the device's (shared) nor the page cache's."""
            process = self.start("replay", workload, "--device", "host:256MiB", "--device-memory", "72MiB",
                                 "--backup", tier, "--json", stdout=subprocess.DEVNULL)
            most = 0
            while process.poll() is None:
                with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                    for line in file:
                        if line.startswith("RssAnon:"):
                            most = max(most, int(line.split()[1]) * 1024)
                time.sleep(0.002)
            self.assertEqual((process.returncode, process.communicate()[1]), (0, ""))
            return most

        models = {("m", str(i)): self.model(f"model{i}", 60 * MIB) for i in range(3)}
        workload = self.workload(models, ["m_0", "m_1", "m_2", "m_0", "m_1", "m_2"])
        if not self.has_plain_memory():
            self.skipTest("a sanitizer's memory would be counted")
        self.assertLess(peak("file"), 48 * MIB)
        self.assertGreater(peak("pinned"), 150 * MIB)

    def test_two_at_once(self):
        workload = self.two_models()
        running = [self.start("replay", workload, "--device", "host:64MiB", "--device-memory", "33MiB", "--verify",
                              "--json") for _ in range(2)]
        for process in running:
            out, err = process.communicate(timeout=120)
            self.assertEqual((process.returncode, err), (0, ""))
            self.assertEqual(json.loads(out)["summary"]["residual_bytes"], 0)


class BadInput(Case):
    def test_devices(self):
        workload = self.two_models(MIB)
        self.bad("replay", workload, "--device", "host:0", says="host")
        self.bad("replay", workload, "--device", "host:", says="host")
        self.bad("replay", workload, "--device", "host:lots", says="lots")
        self.bad("replay", workload, "--device", "tpu:0", says="tpu:0")
        self.bad("replay", workload, "--device", "cuda:99", says="99")
        self.bad("replay", workload, "--device", "host:64MiB", "--granule", "1000", says="1000")

    def refuse_model(self, contents, *says):
        path = write(self.path("bad.safetensors"), contents)
        workload = self.workload({("bad", "none"): path}, ["bad_none"])
        self.bad("replay", workload, "--device", "host:64MiB", says=("bad.safetensors", *says))

    def refuse_header(self, header, n_bytes, *says):
        self.refuse_model(with_header(json.dumps(header).encode(), bytes(n_bytes)), *says)

    def test_models(self):
        good = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
        self.bad("replay", self.workload({("a", "b"): "missing"}, ["a_b"]), "--device", "host:64MiB", says="missing")
        self.bad("replay", self.workload({("a", "b"): self.tmp}, ["a_b"]), "--device", "host:64MiB", says=self.tmp)
        self.refuse_model(b"")
        self.refuse_model(b"1234567")
        self.refuse_model(struct.pack("<Q", 1 << 40) + b"{}")
        self.refuse_model(struct.pack("<Q", 2**64 - 1) + b"{}")
        self.refuse_model(with_header(b'{"a": ', b""))
        self.refuse_model(with_header(b"[" * 50000, b""))
        self.refuse_model(safetensors({"a": ("F32", [4], bytes(16))})[:-1])
        self.refuse_header({"a": good, "b": {**good, "data_offsets": [8, 24]}}, 24, "b")
        self.refuse_header({"a": {**good, "dtype": "F33"}}, 16, "a", "F33")
        self.refuse_header({"a": {**good, "shape": [5]}}, 16, "a")
        self.refuse_header({"a": {**good, "shape": [2**33, 2**33]}}, 16, "a")
        self.refuse_header({"a": {**good, "shape": [-4]}}, 16, "a")
        self.refuse_header({"a": {**good, "data_offsets": [16, 0]}}, 16, "a")
        self.refuse_header({"a": {**good, "data_offsets": [0, 2**63]}}, 16, "a")

    def test_unreadable_for_anybody(self):
        path = self.path("bad.safetensors")
        os.symlink(path, path)
        self.bad("replay", self.workload({("a", "b"): path}, ["a_b"]), "--device", "host:64MiB",
                 says="bad.safetensors")

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable(self):
        path = write(self.path("bad.safetensors"), safetensors({"a": ("F32", [4], bytes(16))}))
        os.chmod(path, 0)
        self.bad("replay", self.workload({("a", "b"): path}, ["a_b"]), "--device", "host:64MiB",
                 says=("bad.safetensors", "Permission denied"))

    def test_too_large_for_device(self):
        workload = self.two_models()
        error = self.bad("replay", workload, "--device", "host:20MiB", says=("flux_8-bit", "20.0 MiB"))
        self.assertEqual(error["status"], "OUT_OF_DEVICE_MEMORY")
        self.assertGreater(error["required_bytes"], 24 * MIB - 1)
        self.assertLess(error["available_bytes"], 20 * MIB)
        self.bad("replay", workload, "--device", "host:64MiB", "--device-memory", "20MiB", says="flux_8-bit")

    def test_failure_keeps_what_was_done(self):
        code, out, _ = self.run_unstick("replay", self.two_models(requests=["flux_4-bit", "flux_8-bit"]), "--device",
                                        "host:20MiB", "--json")
        out = json.loads(out)
        self.assertEqual((code, [r["key"] for r in out["requests"]]), (1, ["flux_4-bit"]))
        self.assertEqual(out["summary"]["residual_bytes"], 0)
        self.assertEqual(out["error"]["status"], "OUT_OF_DEVICE_MEMORY")

    def test_host_budget_too_small(self):
        error = self.bad("replay", self.two_models(), "--device", "host:33MiB", "--backup", "pinned", "--host-memory",
                         "1MiB")
        self.assertEqual(error["status"], "HOST_BUDGET")

    def test_changed_file(self):
        """Contents that are not the file's are found."""
        workload = self.two_models(requests=["flux_8-bit"] * 2000)
        path = self.path("eight", "text_encoder_2", "model.safetensors")
        process = self.start("replay", workload, "--device", "host:64MiB", "--verify")
        for _ in range(2):
            process.stdout.readline()
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 1)
        self.assertIn("c.weight", err)
        self.assertIn("NO", out)


class Bench(Case):
    CASES = ["link-up", "link-down", "pin", "hash", "load-pinned", "load-file", "load-cold", "restore-file",
             "evict-unchanged", "evict-first", "evict-dirty", "restore-pinned", "restore-at-once", "switch",
             "beside-backup", "beside-evict"]

    def check_results(self, results, names):
        self.assertEqual([result["case"] for result in results], names)
        for result in results:
            if "skipped" in result:
                # The folder of the test may be one that lives in memory.
                self.assertIn(result["case"], ("load-cold", "beside-backup", "beside-evict"))
                continue
            for side in (result["ours"], result["reference"]):
                self.assertEqual(len(side["samples_ms"]), 20)
                self.assertEqual(side["worst_ms"], max(side["samples_ms"]))
                self.assertLessEqual(side["median_ms"], side["worst_ms"])
                self.assertGreater(side["gb_per_s"], 0)
            self.assertAlmostEqual(result["ratio"],
                                   result["ours"]["gb_per_s"] / result["reference"]["gb_per_s"], 3)

    def test_all(self):
        out = json.loads(self.good("bench", "--device", "host:64MiB", "--granule", "128KiB", "--size", "600KiB", "--dir",
                                   self.tmp, "--json"))
        self.assertEqual(list(out), ["device", "bytes", "runs", "longest_step_ms", "longest_stall_ms", "results"])
        self.assertEqual((out["bytes"], out["runs"]), (512 << 10, 20))
        self.assertGreater(out["longest_step_ms"], 0)
        self.check_results(out["results"], self.CASES)

    def test_some(self):
        lines = self.good("bench", "--device", "host:64MiB", "--size", "4MiB", "--only", "switch,pin").splitlines()
        self.assertEqual([line.split()[0] for line in lines[3:5]], ["pin", "switch"])
        self.assertRegex(lines[-1], r"\Alongest step: [0-9.]+ ms; .* [0-9.]+ ms\Z")

    def test_bad(self):
        self.bad("bench", "--runs", "19", code=2, says="20")
        self.bad("bench", "--only", "pin,fly", code=2, says="fly")
        self.bad("bench", "--device", "host:1GiB", "--dir", self.path("none"), "--only", "load-file", says="none")
        self.bad("bench", "--device", "host:16MiB", "--size", "64MiB", says="16.0 MiB")


class Demo(Case):
    def test_table(self):
        self.environment["TMPDIR"] = self.path("tmp")
        lines = self.good("demo", "--device", "host:64MiB").splitlines()
        self.assertEqual([line.split()[:2] for line in lines if line.startswith("flux-dev_")],
                         [["flux-dev_8-bit", "load"], ["flux-dev_4-bit", "load"], ["flux-dev_8-bit", "restore"],
                          ["flux-dev_4-bit", "restore"], ["flux-dev_8-bit", "restore"]])
        self.assertEqual(lines[-1], "residual: 0 B")

    def test_kept(self):
        out = json.loads(self.good("demo", "--device", "host:48MiB", "--keep", "--dir", self.path("tmp"), "--json"))
        self.assertTrue(out["summary"]["verified"])
        (kept,) = os.listdir(self.tmp)
        self.assertEqual(sorted(os.listdir(self.path("tmp", kept))), ["flux-dev_4-bit", "flux-dev_8-bit"])
        shutil.rmtree(self.path("tmp", kept))

    def test_bad(self):
        self.bad("demo", "--dir", self.path("none"), says=(self.path("none"), "--dir"))
        self.bad("demo", "--device", "host:8MiB", says="the device is too small")
        self.bad("demo", "--full", "--device", "host:1GiB", says="--full")

    def test_disk_full(self):
        """A file system of 8 MiB, which needs a namespace to be mounted in."""
        script = 'mount -t tmpfs -o size=8m none "$TMPDIR" || exit 77; "$@"; code=$?; ls -A "$TMPDIR"; exit $code'
        process = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", UNSTICK, "demo", "--device",
                                  "host:256MiB"], capture_output=True, text=True, env=self.environment, check=False,
                                 timeout=120)
        if not os.path.exists("/proc/self/ns/user") or process.returncode == 77 or "unshare" in process.stderr:
            self.skipTest("no file system can be mounted here")
        self.assertEqual((process.returncode, process.stdout), (1, ""), process.stderr)
        self.assertRegex(process.stderr, r"\Aunstick demo: [^\n]+\n\Z")
        self.assertIn("the disk is too small", process.stderr)
        self.assertIn("--dir", process.stderr)

    def test_interrupt_and_kill(self):
        def start():
            process = self.start("demo", "--device", "host:256MiB")
            while not any(os.listdir(os.path.join(self.tmp, name)) for name in os.listdir(self.tmp)):
                self.assertIsNone(process.poll())
                time.sleep(0.001)
            return process

        process = start()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, os.listdir(self.tmp)), (130, []))
        self.assertEqual(err.count("\n"), 1)
        process = start()
        process.kill()
        process.communicate(timeout=60)
        self.assertEqual(len(os.listdir(self.tmp)), 1)
        self.good("demo", "--device", "host:48MiB")  # removes what the killed one left


@unittest.skipUnless("FAKECUDA_PATH" in os.environ, "needs the stand-in for the driver")
class Gpu(Case):
    """The same on the CUDA back end, with a driver that has no GPU behind it."""

    def setUp(self):
        super().setUp()
        self.report = self.path("report.json")
        self.environment.update({
            "LD_LIBRARY_PATH": os.environ["FAKECUDA_PATH"] + ":" + os.environ["FAKE_NVML_PATH"],
            "CUDA_MODULE_LOADING": "EAGER",
            "FAKECUDA_MEMORY": "128MiB",
            "FAKECUDA_REPORT": self.report,
        })

    def check_report(self):
        """The driver saw no misuse, and nothing is left in it."""
        with open(self.report, encoding="ascii") as file:
            report = json.load(file)
        for name, count in report.items():
            # A destroyed stream lives until its last work has ended, which may be a moment later than the report.
            if name not in ("calls", "failed", "left_behind", "streams"):
                self.assertEqual(count, 0, name)
        self.assertGreater(report["calls"], 0)

    def replay(self, *arguments):
        out = json.loads(self.good("replay", self.two_models(), "--granule", "2MiB", "--verify", "--json", *arguments))
        self.assertEqual(out["device"]["kind"], "cuda")
        self.assertTrue(out["summary"]["verified"])
        self.assertEqual((out["summary"]["residual_bytes"], out["summary"]["device_delta_bytes"]), (0, 0))
        self.check_report()
        return out

    def test_replay(self):
        for tier, arguments in {"file": [], "pinned": ["--backup", "pinned"], "pageable": ["--backup", "pageable"]}.items():
            out = self.replay("--device-memory", "34MiB", *arguments)
            self.assertEqual([r["action"] for r in out["requests"]],
                             ["load", "load", "restore", "hit", "restore", "restore"])
            self.assertEqual(out["summary"]["backup_tier"], tier)
            for request in out["requests"]:
                self.assertLessEqual(request["used_after_bytes"], 34 * MIB)

    def test_device_by_uuid(self):
        checks = json.loads(self.good("doctor", "--json"))["checks"]
        (uuid,) = {word.strip(",") for check in checks for word in check["text"].split() if word.startswith("GPU-")}
        self.assertEqual(self.replay("--device", f"cuda:{uuid}")["device"]["name"], "Fake GPU 0")

    def test_held_by_others(self):
        self.environment["FAKECUDA_STEAL"] = "100MiB"
        error = self.bad("replay", self.two_models(), "--granule", "2MiB",
                         says=("flux_8-bit", "also on the device", "(pid 2147483646) 2.0 GiB", "1 more"))
        self.assertEqual(error["status"], "OUT_OF_DEVICE_MEMORY")
        self.assertLess(error["available_bytes"], error["required_bytes"])
        self.environment["FAKE_NVML_FAILS"] = "compute"
        self.bad("replay", self.two_models(), "--granule", "2MiB", says=("flux_8-bit", "cannot be told", "NVML"))
        self.environment["LD_LIBRARY_PATH"] = os.environ["FAKECUDA_PATH"]
        self.bad("replay", self.two_models(), "--granule", "2MiB", says=("flux_8-bit", "cannot be told", "NVML"))
        self.check_report()

    def test_failures(self):
        """Whatever the driver answers, the run ends with one line and gives everything back."""
        workload = self.two_models(4 * MIB)
        for failure in ("cuMemCreate:5", "cuMemCreate:3:forever", "cuMemMap:4", "cuMemcpyHtoDAsync:2",
                        "cuMemHostRegister:1:forever", "cuEventRecord:3", "cuCtxSynchronize:1"):
            self.environment["FAKECUDA_FAIL"] = failure
            code, _, err = self.run_unstick("replay", workload, "--granule", "2MiB", "--verify")
            self.assertIn((code, err.count("\n")), ((0, 0), (1, 1)), failure + err)
        del self.environment["FAKECUDA_FAIL"]
        for n in (50, 100, 200, 400):
            self.environment["FAKECUDA_LOSE_AT"] = str(n)
            code, _, err = self.run_unstick("replay", workload, "--granule", "2MiB", "--verify")
            self.assertEqual((code, err.count("\n")), (1, 1), err)

    def test_doctor(self):
        checks = json.loads(self.good("doctor", "--json"))["checks"]
        found = {check["check"]: check["text"] for check in checks}
        self.assertIn("CUDA 13.0", found["driver"])
        self.assertIn("580.159.03", found["nvml"])
        self.assertTrue(any("Fake GPU 0" in check["text"] for check in checks))
        self.environment["FAKECUDA_NO_READ_ONLY_REGISTER"] = "1"
        self.assertIn("files cannot be pinned", self.good("doctor"))
        for settings, says in (({"FAKECUDA_NO_VMM": "1"}, "no virtual memory management"),
                               ({"FAKECUDA_DRIVER": "10000"}, "driver")):
            self.environment.update(settings)
            code, out, err = self.run_unstick("doctor", "--json")
            out = json.loads(out)
            self.assertEqual((code, err.count("\n"), out["error"]["status"]), (1, 1, "UNSUPPORTED"))
            self.assertTrue(any(check["level"] == "fail" and says in check["text"] + check["check"]
                                for check in out["checks"]), out)
            for name in settings:
                del self.environment[name]

    def test_doctor_makes_no_context(self):
        self.environment["FAKECUDA_FAIL"] = "cuDevicePrimaryCtxRetain:1:forever"
        self.good("doctor")

    def test_bench(self):
        out = json.loads(self.good("bench", "--granule", "2MiB", "--size", "4MiB", "--dir", self.tmp, "--json"))
        self.assertEqual([result["case"] for result in out["results"]], Bench.CASES)
        self.check_report()

    def test_demo(self):
        self.environment["FAKECUDA_MEMORY"] = "256MiB"
        self.assertEqual(self.good("demo").splitlines()[-1], "residual: 0 B")
        self.check_report()


class Interruption(Case):
    def start_long(self):
        """A run that is in the middle of things."""
        process = self.start("replay", self.two_models(requests=["flux_8-bit", "flux_4-bit"] * 20000), "--device",
                             "host:64MiB", "--device-memory", "33MiB", "--verify")
        for _ in range(4):
            self.assertTrue(process.stdout.readline())
        return process

    def interrupt(self, number, code):
        process = self.start_long()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, code, err)
        self.assertEqual(out.splitlines()[-1], "residual: 0 B")
        self.assertRegex(err, r"\Aunstick replay: interrupted[^\n]*\n\Z")
        self.check_clean()

    def test_interrupt(self):
        self.interrupt(signal.SIGINT, 130)

    def test_terminate(self):
        self.interrupt(signal.SIGTERM, 143)

    def test_kill(self):
        process = self.start_long()
        process.kill()
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.check_clean()

    def test_closed_pipe(self):
        process = self.start_long()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=60), 1)
        self.assertIn("Broken pipe", process.stderr.read())
        process.stderr.close()


if __name__ == "__main__":
    UNSTICK = os.path.abspath(sys.argv.pop(1))
    unittest.main()
