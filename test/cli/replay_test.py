# SPDX-License-Identifier: Apache-2.0
"""`unstick replay`, and every verb on the CUDA back end: replay_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import subprocess
import time
import unittest

import case
from case import MIB


class Replay(case.Case):
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
        with open(case.UNSTICK, "rb") as file:
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


@unittest.skipUnless("FAKECUDA_PATH" in os.environ, "needs the stand-in for the driver")
class Gpu(case.Case):
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
        for tier, arguments in (("file", []), ("pinned", ["--backup", "pinned"]),
                                ("pageable", ["--backup", "pageable"])):
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
        self.assertEqual([result["case"] for result in out["results"]], case.BENCH_CASES)
        self.check_report()

    def test_demo(self):
        self.environment["FAKECUDA_MEMORY"] = "256MiB"
        self.assertEqual(self.good("demo").splitlines()[-1], "residual: 0 B")
        self.check_report()


if __name__ == "__main__":
    case.main()
