# SPDX-License-Identifier: Apache-2.0
"""`unstick synth` as a user meets it: synth_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import resource
import signal
import time

import case


class Synth(case.Case):
    def setUp(self):
        super().setUp()
        self.parent = self.path("models")
        os.mkdir(self.parent)

    def model(self, name="model"):
        return os.path.join(self.parent, name)

    def assert_nothing_left(self):
        self.assertEqual(os.listdir(self.parent), [])

    def test_full_size(self):
        """The figures that the project builds on."""
        out = self.good("synth", self.model(), "--quant", "8-bit", "--sparse", "--json")
        report = json.loads(out)
        self.assertEqual({part["name"]: part["device_bytes"] for part in report["components"]},
                         {"transformer": 11916757376, "text_encoder_2": 5904281600, "text_encoder": 246120960,
                          "vae": 167639366})
        self.assertEqual(report["path"], self.model())
        self.assertEqual((report["model"], report["quantization"], report["scale"], report["seed"],
                          report["is_sparse"]), ("flux-dev", "8-bit", 1, 0, True))
        sizes = [os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(self.model())
                 for name in names if name.endswith(".safetensors")]
        self.assertEqual(sum(sizes), report["file_bytes"])

    def test_table(self):
        out = self.good("synth", "--model", "flux-schnell", "--scale", 4096, "--seed", 9, self.model())
        lines = out.splitlines()
        self.assertEqual([line.split()[0] for line in lines[1:5]],
                         ["transformer", "text_encoder_2", "text_encoder", "vae"])
        self.assertIn("flux-schnell, none, 1/4096", lines[5])
        with open(os.path.join(self.model(), "transformer", "config.json"), encoding="utf-8") as file:
            self.assertFalse(json.load(file)["guidance_embeds"])

    def test_name_that_is_not_utf8(self):
        name = os.fsencode(self.model()) + b"-\xff"
        out = self.good("synth", os.fsdecode(name), "--scale", 4096, "--sparse", "--json")
        self.assertIsNone(json.loads(out)["path"])
        self.assertTrue(os.path.isdir(name))

    def test_bad_usage(self):
        self.bad("synth", code=2, says="DIR")
        self.bad("synth", self.model(), self.model("b"), code=2, says="too many")
        self.bad("synth", self.model(), "--quant", "5-bit", code=2, says=["5-bit", "4-bit-dq"])
        self.bad("synth", self.model(), "--model", "sdxl", code=2, says=["sdxl", "flux-schnell"])
        for scale in ("0", "4097", "-1", "1.5", "x"):
            self.bad("synth", self.model(), "--scale", scale, code=2, says=scale)
        self.assert_nothing_left()

    def test_bad_places(self):
        os.mkdir(self.model("full"))
        case.write(self.model("full/file"), b"")
        self.bad("synth", self.model("full"), says="is not empty")
        self.bad("synth", self.model("full/file"), says="not a directory")
        self.bad("synth", self.model("missing/model"), says=["cannot create", "missing"])
        self.assertEqual(os.listdir(self.parent), ["full"])

    def test_disk_full(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.MIB, case.MIB))

        self.bad("synth", self.model(), "--scale", 1000, says=["no room", "File too large"], preexec_fn=limit)
        self.assert_nothing_left()

    def test_no_space(self):
        free = os.statvfs(self.parent).f_bavail * os.statvfs(self.parent).f_frsize
        if free > 33 << 30:
            self.skipTest("34 GB would fit on this file system")
        error = self.bad("synth", self.model(), says=["takes 31.4 GiB", "free"])
        self.assertEqual(error["status"], "NO_SPACE")
        self.assert_nothing_left()

    def test_interrupted(self):
        process = self.start("synth", self.model(), "--quant", "8-bit", "--scale", 4)
        while not os.listdir(self.parent):
            self.assertIsNone(process.poll())
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertIn("interrupted", err)
        self.assert_nothing_left()

    def test_killed(self):
        process = self.start("synth", self.model(), "--quant", "8-bit", "--scale", 4)
        while not os.listdir(self.parent):
            self.assertIsNone(process.poll())
            time.sleep(0.001)
        process.kill()
        process.communicate(timeout=60)
        self.assertNotIn("model", os.listdir(self.parent))
        self.good("synth", self.model(), "--scale", 4096, "--sparse")
        self.assertEqual(os.listdir(self.parent), ["model"])


if __name__ == "__main__":
    case.main()
