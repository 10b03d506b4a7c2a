# SPDX-License-Identifier: Apache-2.0
"""What `unstick doctor` explains: doctor_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os

import case


class Doctor(case.Case):
    def checks(self, **environment):
        """(check, level, text, advice) of a run with these variables."""
        before = dict(self.environment)
        self.environment.update(environment)
        out = json.loads(self.good("doctor", "--json"))
        self.environment = before
        return [(check["check"], check["level"], check["text"], check["advice"]) for check in out["checks"]]

    def check(self, name, **environment):
        found = [check for check in self.checks(**environment) if check[0] == name]
        self.assertEqual(len(found), 1, found)
        return found[0][1:]

    def test_allocator_string_in_force(self):
        """The first variable that is set, and what in it does harm."""
        for settings, level, advice in (
                ("expandable_segments:True", "ok", None),
                ("expandable_segments:False", "warn", "expandable_segments:True"),
                ("max_split_size_mb:128", "warn", "max_split_size_mb"),
                ("expandable_segments:True, max_split_size_mb:128", "warn", "max_split_size_mb"),
                ("garbage_collection_threshold:0.8,expandable_segments:True", "warn", "does nothing"),
                ("expandable_segments:true", "warn", "exactly these letters"),
                ("expandable_segments:True,expandable_segments:False", "warn", "add expandable_segments:True"),
                ("expandabel_segments:True", "warn", "is no key"),
                ("expandable_segments:True,per_process_memory_fraction:0.5", "ok", "stops torch before 2.10"),
                ("garbage_collection_threshold:0.6,max_split_size_mb:128,expandable_segments:True", "warn",
                 "max_split_size_mb")):
            found = self.check("torch settings", PYTORCH_CUDA_ALLOC_CONF=settings)
            self.assertEqual(found[:2], (level, f"PYTORCH_CUDA_ALLOC_CONF={settings}"))
            if advice:
                self.assertIn(advice, found[2])
            else:
                self.assertIsNone(found[2])
        found = self.check("torch settings", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True",
                           PYTORCH_ALLOC_CONF="max_split_size_mb:20")
        self.assertEqual(found[0], "ok")
        found = self.check("torch settings", PYTORCH_ALLOC_CONF="expandable_segments:True")
        self.assertEqual(found[0], "warn")
        self.assertIn("set both", found[2])

    def test_no_caching(self):
        self.assertFalse([check for check in self.checks() if check[0] == "torch caching"])
        level, text, advice = self.check("torch caching", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        self.assertEqual(level, "warn")
        self.assertIn("PYTORCH_NO_CUDA_MEMORY_CACHING=1", text)
        self.assertIn("unset", advice)

    def test_settings_are_cut(self):
        level, text, _ = self.check("torch settings", PYTORCH_CUDA_ALLOC_CONF="x" * 100000)
        self.assertEqual(level, "warn")
        self.assertLess(len(text), 512)


    def test_settings_that_are_not_utf8(self):
        level, text, advice = self.check("torch settings", PYTORCH_CUDA_ALLOC_CONF=os.fsdecode(b"foo\xff:1"))
        self.assertEqual((level, text), ("warn", "PYTORCH_CUDA_ALLOC_CONF=foo?:1"))
        self.assertIn("is no key", advice)


class OnAFakeGpu(Doctor):
    def setUp(self):
        super().setUp()
        paths = [os.environ["FAKECUDA_PATH"], os.environ["FAKE_NVML_PATH"]]
        self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)

    def gpu(self, **environment):
        return [check[1:] for check in self.checks(**environment) if check[0] == "cuda:0"]

    def test_nothing_set(self):
        level, text, advice = self.check("torch settings")
        self.assertEqual((level, text), ("warn", "PYTORCH_CUDA_ALLOC_CONF is not set"))
        self.assertIn("expandable_segments:True", advice)

    def test_who_holds_memory(self):
        self.assertTrue(any("in use by ? (pid 2147483645) 3.0 GiB" in text for _, text, _ in self.gpu()))
        self.assertFalse(any("in use" in text for _, text, _ in self.gpu(FAKE_NVML_FAILS="compute")))

    def test_virtual_gpu(self):
        for mode, level, says in (("2", "warn", "a virtual GPU"), ("1", "ok", "passed through")):
            found = [check for check in self.gpu(FAKE_NVML_VIRTUALIZATION=mode) if says in check[1]]
            self.assertEqual([check[0] for check in found], [level])
        for mode in ("0", "4"):
            self.assertFalse(any("virtual GPU" in text or "passed" in text
                                 for _, text, _ in self.gpu(FAKE_NVML_VIRTUALIZATION=mode)))

    def test_older_driver(self):
        """It works without what came later, and says what that is."""
        self.assertIn("CUDA 12.4", self.check("driver", FAKECUDA_DRIVER="12040")[1])
        self.assertIn("570", self.check("hibernation", FAKECUDA_DRIVER="12040")[2])
        self.assertFalse([check for check in self.checks() if check[0] == "hibernation"])


if __name__ == "__main__":
    case.main()
