# SPDX-License-Identifier: Apache-2.0
"""`unstick allocconf` as a user meets it: allocconf_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import subprocess
import unittest

import case

RECOMMENDED = "expandable_segments:True"
SEED = "garbage_collection_threshold:0.8,max_split_size_mb:128,expandable_segments:True"


class Allocconf(case.Case):
    def check(self, *arguments):
        return json.loads(self.good("allocconf", "check", *arguments, "--json"))

    def emit(self, *arguments):
        return json.loads(self.good("allocconf", "emit", *arguments, "--json"))

    def test_check(self):
        out = self.check("max_split_size_mb:128MB,expandable_segments:True", "--torch", "2.11.0+cu130")
        self.assertEqual((out["valid"], out["variable"], out["torch"], out["errors"]),
                         (True, "PYTORCH_CUDA_ALLOC_CONF", "2.11", []))
        self.assertEqual([(e["key"], e["value"]) for e in out["entries"]],
                         [("max_split_size_mb", "128"), ("expandable_segments", "True")])
        self.assertIn("'128MB' reads as 128", out["warnings"][0])
        self.assertIn("more than doubles", out["warnings"][1])
        out = self.good("allocconf", "check", RECOMMENDED)
        self.assertEqual(out.splitlines()[-1], "valid")
        self.assertNotIn("warning", out)

    def test_check_refuses(self):
        error = self.bad("allocconf", "check", "expandable_segments:true", says="exactly these letters")
        self.assertEqual(error["status"], "BAD_FORMAT")
        code, out, _ = self.run_unstick("allocconf", "check", "foo:1,pinned_use_background_threads:True", "--json",
                                        "--torch", "2.5")
        out = json.loads(out)
        self.assertEqual((code, out["valid"], len(out["errors"])), (1, False, 2))
        self.assertIn("known from torch 2.6 on", out["errors"][1])
        self.bad("allocconf", "check", "\x01\n\t", says="is no key")
        self.bad("allocconf", "check", os.fsdecode(b"foo\xff:1"))
        self.bad("allocconf", "explain", "a\nb\x1b[1m", says="a?b?[1m")
        self.bad("allocconf", "check", "x" * 5000, says="longer than 1023")

    def test_check_what_is_not_utf8(self):
        warnings = self.check(os.fsdecode(b"max_split_size_mb:128\xff"))["warnings"]
        self.assertEqual(warnings[0], "'128?' reads as 128: torch ignores what follows")

    def test_check_what_is_set(self):
        self.bad("allocconf", "check", code=2, says="no variable that is set")
        self.environment["PYTORCH_ALLOC_CONF"] = RECOMMENDED
        self.assertEqual(self.check()["variable"], "PYTORCH_ALLOC_CONF")
        self.bad("allocconf", "check", "--torch", "2.9", code=2, says="torch 2.9 reads no variable")
        self.environment["PYTORCH_CUDA_ALLOC_CONF"] = "max_split_size_mb:64"
        out = self.check()
        self.assertEqual((out["variable"], out["entries"][0]["value"]), ("PYTORCH_CUDA_ALLOC_CONF", "64"))

    def test_caching_that_is_off(self):
        for value, torch, expected in (("1", "2.11", True), ("0", "2.11", False), ("0", "2.6", True)):
            self.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = value
            warnings = self.check(RECOMMENDED, "--torch", torch)["warnings"]
            self.assertEqual(any("PYTORCH_NO_CUDA_MEMORY_CACHING" in text for text in warnings), expected)

    def test_emit(self):
        texts = {"recommended": RECOMMENDED, "seed": SEED, "default": SEED,
                 "inference-optimized": "garbage_collection_threshold:0.9,max_split_size_mb:512",
                 "memory-constrained": "garbage_collection_threshold:0.7,max_split_size_mb:64",
                 "quantization-heavy": "garbage_collection_threshold:0.75,max_split_size_mb:128"}
        for profile, text in texts.items():
            for torch, names in (("2.9", ["PYTORCH_CUDA_ALLOC_CONF"]),
                                 ("2.10", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])):
                out = self.emit("--profile", profile, "--torch", torch)
                self.assertEqual(out["variables"], {name: text for name in names})
                self.assertTrue(out["valid"] and out["reason"] and out["measured"])
                self.assertEqual(bool(out["warnings"]), profile != "recommended")
        self.assertEqual(self.emit()["text"], RECOMMENDED)

    def test_emit_for_a_shell(self):
        script = self.good("allocconf", "emit", "--profile", "seed")
        out = subprocess.run(["sh", "-ec", script + "printenv PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF"],
                             capture_output=True, text=True, check=True, env=self.environment, timeout=30).stdout
        self.assertEqual(out.splitlines(), [SEED, SEED])

    def test_auto(self):
        self.environment["LD_LIBRARY_PATH"] = self.tmp
        small, large = (self.emit("--auto", "--device-memory", size) for size in ("8GiB", "80GiB"))
        self.assertEqual((small["text"], large["text"]), (RECOMMENDED, RECOMMENDED))
        self.assertIn("8.0 GiB", small["reason"])
        self.assertNotEqual(small["reason"], large["reason"])

    @unittest.skipUnless("FAKECUDA_PATH" in os.environ, "needs the stand-in for the driver")
    def test_auto_asks_the_driver(self):
        self.environment.update({"LD_LIBRARY_PATH": os.environ["FAKECUDA_PATH"], "FAKECUDA_MEMORY": "128MiB"})
        self.assertIn("128.0 MiB of device memory", self.emit("--auto")["reason"])
        self.environment["FAKECUDA_DRIVER"] = "10000"
        self.assertIn("no GPU was found", self.emit("--auto")["reason"])

    def test_explain(self):
        out = json.loads(self.good("allocconf", "explain", "--json"))
        keys = {key["key"]: key for key in out["keys"]}
        self.assertEqual(len(keys), 18)
        self.assertEqual(keys["large_segment_size_mb"]["since"], "2.11")
        self.assertEqual([profile["profile"] for profile in out["profiles"]][:2], ["recommended", "seed"])
        table = self.good("allocconf", "explain")
        for name, key in keys.items():
            self.assertIn(name, table)
            self.assertEqual(json.loads(self.good("allocconf", "explain", name, "--json")), key)
        self.assertIn("since    torch 2.2", self.good("allocconf", "explain", "release_lock_on_hipmalloc"))
        self.assertIn("26.80", self.good("allocconf", "explain", "seed"))
        self.bad("allocconf", "explain", "foo", says="neither a key nor a profile")

    def test_bad_usage(self):
        self.bad("allocconf", code=2, says="check")
        self.bad("allocconf", "set", code=2, says="check, emit or explain")
        self.bad("allocconf", "check", "a", "b", code=2, says="too many")
        self.bad("allocconf", "emit", "a", code=2, says="too many")
        self.bad("allocconf", "check", "--torch", "abc", code=2, says=("abc", "no torch version"))
        self.bad("allocconf", "emit", "--torch", "1.13", code=2, says="too old")
        self.bad("allocconf", "emit", "--profile", "fastest", code=2, says=("fastest", "quantization-heavy"))
        self.bad("allocconf", "emit", "--profile", "seed", "--auto", code=2, says="one or the other")
        self.bad("allocconf", "check", "", "--auto", code=2, says="belongs to emit")
        self.bad("allocconf", "emit", "--device-memory", "8GiB", code=2, says="emit --auto")
        self.bad("allocconf", "emit", "--auto", "--device-memory", "0", code=2, says="0")


if __name__ == "__main__":
    case.main()
