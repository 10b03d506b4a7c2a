# SPDX-License-Identifier: Apache-2.0
"""`unstick hibernate` and `unstick wake` on the fake driver: hibernate_test.py UNSTICK TARGET [unittest arguments]."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import case

HELD = 8 * case.MIB
TARGET = ""


class Target:
    """A process on the fake driver (test/fakecuda/target.c)."""

    def __init__(self, environment):
        self.process = subprocess.Popen([TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                        env=environment)
        assert self.hear() == "ready"
        self.pid = self.process.pid

    def tell(self, line):
        self.process.stdin.write(line + "\n")

    def hear(self):
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Hibernate(case.Case):
    def setUp(self):
        super().setUp()
        # A socket's address is short.
        self.processes = tempfile.mkdtemp(prefix="fake-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.processes, ignore_errors=True)
        self.environment["FAKECUDA_PROCESSES"] = self.processes
        self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            (os.environ["FAKECUDA_PATH"], os.environ["FAKE_NVML_PATH"]))
        self.target = Target(self.environment)
        self.addCleanup(self.target.kill)

    def state(self):
        state = json.loads(self.good("wake", self.target.pid, "--state", "--json"))
        self.assertEqual(state["pid"], self.target.pid)
        return state["state"]

    def test_there_and_back(self):
        pid = self.target.pid
        self.assertEqual(self.state(), "running")
        there = json.loads(self.good("hibernate", pid, "--json"))
        self.assertEqual(list(there), ["pid", "state", "freed_bytes", "process_before_bytes", "process_after_bytes",
                                       "device_before_bytes", "device_after_bytes", "lock_ms", "copy_ms", "total_ms"])
        self.assertEqual((there["pid"], there["state"], there["freed_bytes"], there["process_before_bytes"],
                          there["process_after_bytes"]), (pid, "hibernated", HELD, HELD, 0))
        self.assertEqual(there["device_before_bytes"] - there["device_after_bytes"], HELD)
        self.assertGreater(there["copy_ms"], 0)
        self.assertGreaterEqual(there["total_ms"], there["copy_ms"] + there["lock_ms"])
        self.assertEqual(self.state(), "hibernated")
        self.assertEqual(self.good("hibernate", pid, "--state"), f"process {pid}: hibernated\n")
        self.target.tell("check")
        back = json.loads(self.good("wake", pid, "--json", "--timeout", 0))
        self.assertEqual((back["state"], back["taken_bytes"], back["process_after_bytes"]), ("running", HELD, HELD))
        self.assertEqual(self.target.hear(), "good")

    def test_text(self):
        there = self.good("hibernate", self.target.pid).splitlines()
        self.assertRegex(there[0], rf"\Aprocess {self.target.pid}: hibernated, in \d+\.\d\d s \(\d+\.\d\d s for what "
                                   r"it had submitted, \d+\.\d\d s to save\)\Z")
        self.assertRegex(there[1], r"holds on the GPUs +8\.0 MiB -> 0 B\Z")
        self.assertRegex(there[2], r"in use on all GPUs +72\.0 MiB -> 64\.0 MiB\Z")
        back = self.good("wake", self.target.pid).splitlines()
        self.assertRegex(back[0], r"running, in \d+\.\d\d s \(\d+\.\d\d s to restore\)\Z")
        self.assertEqual(len(back), 3)

    def test_without_nvml(self):
        self.environment["LD_LIBRARY_PATH"] = os.environ["FAKECUDA_PATH"]
        self.assertIn("not known", self.good("hibernate", self.target.pid))
        back = json.loads(self.good("wake", self.target.pid, "--json"))
        self.assertIsNone(back["taken_bytes"])
        self.assertIsNone(back["device_before_bytes"])

    def test_time_out(self):
        self.assertEqual(self.target.ask("hold"), "held")
        error = self.bad("hibernate", self.target.pid, "--timeout", 20, says=["within 20 ms", "runs on as before"])
        self.assertEqual((error["status"], error["native"]), ("TIMED_OUT", 600))
        self.assertEqual(self.state(), "running")
        self.assertEqual(self.target.ask("let go"), "let go")
        self.assertEqual(self.target.ask("check"), "good")

    def test_interrupted(self):
        """Gives up before the copy, and leaves it running."""
        self.assertEqual(self.target.ask("hold"), "held")
        process = self.start("hibernate", self.target.pid, "--timeout", 0)
        while self.state() != "locked":
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.target.ask("let go"), "let go")
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        if "canceled" in err:  # else the lock was there first, and so is the whole
            self.assertEqual(self.state(), "running")
        else:
            self.good("wake", self.target.pid)
        self.assertEqual(self.target.ask("check"), "good")

    def test_killed_half_way(self):
        """What is left locked is set free."""
        self.assertEqual(self.target.ask("hold"), "held")
        process = self.start("hibernate", self.target.pid, "--timeout", 0)
        while self.state() != "locked":
            self.assertIsNone(process.poll())
        process.kill()
        process.communicate(timeout=60)
        self.assertEqual(self.target.ask("let go"), "let go")
        self.good("wake", self.target.pid)
        self.assertEqual(self.target.ask("check"), "good")

    def test_wrong_state(self):
        error = self.bad("wake", self.target.pid, says="nothing to wake")
        self.assertEqual(error["status"], "WRONG_STATE")
        self.good("hibernate", self.target.pid)
        self.bad("hibernate", self.target.pid, says="hibernated already")

    def test_no_room(self):
        self.good("hibernate", self.target.pid)
        self.assertEqual(self.target.ask("set STEAL=250MiB"), "set")
        error = self.bad("wake", self.target.pid, says=["stays hibernated", "make room"])
        self.assertEqual(error["status"], "OUT_OF_DEVICE_MEMORY")
        self.assertEqual(self.state(), "hibernated")

    def test_who(self):
        for verb in ("hibernate", "wake"):
            for options in ([], ["--state"]):
                self.assertEqual(self.bad(verb, os.getpid(), *options, says="does not use CUDA")["status"],
                                 "UNSUPPORTED")
                self.assertEqual(self.bad(verb, 2147483647, *options, says="no process")["status"], "NOT_FOUND")
        if os.geteuid() == 0:
            other = subprocess.Popen(["sleep", "1000"], user=65534)
            try:
                self.assertEqual(self.bad("hibernate", other.pid, says="belongs to user 65534")["status"],
                                 "NOT_PERMITTED")
            finally:
                other.kill()
                other.wait()

    def test_killed(self):
        self.target.kill()
        self.assertEqual(self.bad("hibernate", self.target.pid, says="no process")["status"], "NOT_FOUND")

    def test_driver(self):
        self.environment["FAKECUDA_DRIVER"] = "12070"
        error = self.bad("hibernate", self.target.pid, says=["CUDA 12.7", "12.8", "driver 570"])
        self.assertEqual(error["status"], "DRIVER_TOO_OLD")
        self.environment["LD_LIBRARY_PATH"] = ""
        self.assertEqual(self.bad("hibernate", self.target.pid, says="no NVIDIA driver")["status"], "NO_DEVICE")

    def test_usage(self):
        self.bad("hibernate", code=2, says="PID")
        for pid in ("x", "0", "-1", "1.5", "99999999999", ""):
            self.bad("wake", pid, code=2)
        self.bad("hibernate", "1", "2", code=2, says="too many")
        self.bad("hibernate", self.target.pid, "--timeout", "4294967296", code=2, says="--timeout")


if __name__ == "__main__":
    case.UNSTICK = os.path.abspath(sys.argv.pop(1))
    TARGET = os.path.abspath(sys.argv.pop(1))
    unittest.main()
