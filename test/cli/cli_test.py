# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: cli_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

import case
from case import MIB

VERBS = ["allocconf", "bench", "demo", "doctor", "estimate", "hibernate", "plan", "replay", "version", "wake"]


class Usage(case.Case):
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


class Doctor(case.Case):
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


class Workload(case.Case):
    def refuse(self, contents, *says):
        path = case.write(self.path("workload.json"), contents if isinstance(contents, bytes) else
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
        self.refuse({**good, "models": [model, {**model, "quantization": "bf16"}]}, "a_none", "twice")
        self.refuse({**good, "requests": ["a_none", "b_none"]}, "request 2", "b_none", "a_none")
        self.refuse({**good, "requests": [3]}, "requests[0]")

    def test_spellings_of_a_key(self):
        """One model is one key, however its quantization is spelled; what is no quantization is left alone."""
        path = self.model("m", MIB)
        for quantization, request, key in (("nf4", "a_4-bit", "a_4-bit"), ("8-bit", "a_bnb-int8", "a_8-bit"),
                                           ("q5_K", "a_q5_K", "a_q5_K")):
            workload = self.workload({("a", quantization): path}, [request, key])
            out = json.loads(self.good("replay", workload, "--device", "host:16MiB", "--json"))
            self.assertEqual([r["key"] for r in out["requests"]], [key, key])

    def test_unreadable(self):
        self.bad("replay", self.path("none.json"), says=("none.json", "No such file"))
        self.bad("replay", self.root, says=(self.root, "directory"))


class BadInput(case.Case):
    def test_devices(self):
        workload = self.two_models(MIB)
        self.bad("replay", workload, "--device", "host:0", says="host")
        self.bad("replay", workload, "--device", "host:", says="host")
        self.bad("replay", workload, "--device", "host:lots", says="lots")
        self.bad("replay", workload, "--device", "tpu:0", says="tpu:0")
        self.bad("replay", workload, "--device", "cuda:99", says="99")
        self.bad("replay", workload, "--device", "host:64MiB", "--granule", "1000", says="1000")

    def refuse_model(self, contents, *says):
        path = case.write(self.path("bad.safetensors"), contents)
        workload = self.workload({("bad", "none"): path}, ["bad_none"])
        self.bad("replay", workload, "--device", "host:64MiB", says=("bad.safetensors", *says))

    def refuse_header(self, header, n_bytes, *says):
        self.refuse_model(case.with_header(json.dumps(header).encode(), bytes(n_bytes)), *says)

    def test_models(self):
        good = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
        self.bad("replay", self.workload({("a", "b"): "missing"}, ["a_b"]), "--device", "host:64MiB", says="missing")
        self.bad("replay", self.workload({("a", "b"): self.tmp}, ["a_b"]), "--device", "host:64MiB", says=self.tmp)
        self.refuse_model(b"")
        self.refuse_model(b"1234567")
        self.refuse_model(struct.pack("<Q", 1 << 40) + b"{}")
        self.refuse_model(struct.pack("<Q", 2**64 - 1) + b"{}")
        self.refuse_model(case.with_header(b'{"a": ', b""))
        self.refuse_model(case.with_header(b"[" * 50000, b""))
        self.refuse_model(case.safetensors({"a": ("F32", [4], bytes(16))})[:-1])
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
        path = case.write(self.path("bad.safetensors"), case.safetensors({"a": ("F32", [4], bytes(16))}))
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


class Bench(case.Case):
    def check_results(self, results, names):
        self.assertEqual([result["case"] for result in results], names)
        for result in results:
            if "skipped" in result:
                # The folder of the test may be one that lives in memory.
                self.assertIn(result["case"], ("load-cold", "take-apart", "take-group", "take-half", "take-unpinning",
                                               "beside-backup", "beside-evict"))
                continue
            for side in (result["ours"], result["reference"]):
                self.assertEqual(len(side["samples_ms"]), 20)
                self.assertEqual(side["worst_ms"], max(side["samples_ms"]))
                self.assertLessEqual(side["median_ms"], side["worst_ms"])
                self.assertGreater(side["gb_per_s"], 0)
            self.assertAlmostEqual(result["ratio"],
                                   result["ours"]["gb_per_s"] / result["reference"]["gb_per_s"], 3)

    def test_all(self):
        out = json.loads(self.good("bench", "--device", "host:64MiB", "--granule", "128KiB", "--size", "600KiB",
                                   "--dir", self.tmp, "--json"))
        self.assertEqual(list(out), ["device", "bytes", "runs", "longest_step_ms", "longest_step",
                                     "longest_stall_ms", "results"])
        self.assertEqual((out["bytes"], out["runs"]), (512 << 10, 20))
        self.assertGreater(out["longest_step_ms"], 0)
        self.assertGreaterEqual(out["longest_step"]["calls"], 0)
        self.assertLessEqual(out["longest_step"]["longest_call_ms"], out["longest_step_ms"])
        self.check_results(out["results"], case.BENCH_CASES)

    def test_some(self):
        lines = self.good("bench", "--device", "host:64MiB", "--size", "4MiB", "--only", "switch,pin").splitlines()
        self.assertEqual([line.split()[0] for line in lines[3:5]], ["pin", "switch"])
        self.assertRegex(lines[-1], r"\Alongest step: [0-9.]+ ms, in (switch|preparing): [0-9]+ calls, .* [0-9.]+ ms\Z")

    @unittest.skipUnless("FAKECUDA_PATH" in os.environ, "needs the stand-in for the driver")
    def test_calls_of_the_driver(self):
        self.environment["LD_LIBRARY_PATH"] = os.environ["FAKECUDA_PATH"]
        gpu = ["--device", "cuda:0", "--only", "take-apart,take-group,take-half,take-unpinning"]
        out = json.loads(self.good("bench", *gpu, "--size", "16MiB", "--granule", "4MiB", "--json"))
        self.check_results(out["results"], ["take-apart", "take-group", "take-half", "take-unpinning"])
        for result in out["results"]:
            self.assertIn(result["slowest_call"]["name"], ("unmap", "map", "release"))
            self.assertGreater(result["slowest_call"]["ms"], 0)
        for call in ("cuMemRelease", "cuMemUnmap", "cuMemMap"):
            self.environment["FAKECUDA_FAIL"] = f"{call}:20:999"
            self.bad("bench", *gpu, "--size", "16MiB", "--granule", "4MiB", says=call)
        del self.environment["FAKECUDA_FAIL"]
        lines = self.good("bench", *gpu, "--size", "4MiB", "--granule", "2MiB").splitlines()
        self.assertEqual([line.split()[:2] for line in lines[3:7]],
                         [["take-apart", "-"], ["take-group", "-"], ["take-half", "-"], ["take-unpinning", "-"]])

    def test_share(self):
        host = ["--device", "host:64MiB", "--size", "4MiB"]
        head, line, row = self.good("bench", "--share", *host).splitlines()
        self.assertEqual([len(text.split("|")) for text in (head, line, row)], [15, 15, 15])
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        self.assertEqual((cells[1], cells[2], cells[10]), ("-", "4.0 MiB", "20"))
        for cell in cells[3:5] + cells[8:9]:
            self.assertRegex(cell, r"\A[0-9]+\.[0-9]\Z")
        for cell in cells[5:8] + cells[9:10]:
            self.assertRegex(cell, r"\A[0-9]+\.[0-9] \([0-9]+\.[0-9]\)\Z")
        self.assertRegex(cells[12], r"\A20[0-9]{2}-[0-9]{2}-[0-9]{2}\Z")
        # It is the table of docs/cards.md, and what was not measured is a dash.
        with open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "cards.md"), encoding="utf-8") as file:
            self.assertIn(f"{head}\n{line}\n", file.read())
        row = self.good("bench", "--share", "--only", "pin,link-up", *host).splitlines()[2]
        self.assertEqual([cell.strip() for cell in row.split("|")[5:11]], ["-"] * 6)

    def test_bad(self):
        self.bad("bench", "--share", "--json", code=2, says="--json")
        code, out, err = self.run_unstick("bench", "--share", "--device", "host:16MiB", "--size", "64MiB")
        self.assertEqual((code, out), (1, ""))  # a row of dashes would look like a result
        self.assertIn("16.0 MiB", err)
        self.bad("bench", "--runs", "19", code=2, says="20")
        self.bad("bench", "--only", "pin,fly", code=2, says="fly")
        self.bad("bench", "--device", "host:1GiB", "--dir", self.path("none"), "--only", "load-file", says="none")
        self.bad("bench", "--device", "host:16MiB", "--size", "64MiB", says="16.0 MiB")


class Demo(case.Case):
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
        process = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", case.UNSTICK, "demo", "--device",
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


class Interruption(case.Case):
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
    case.main()
