# SPDX-License-Identifier: Apache-2.0
"""`unstick plan` as a user meets it: plan_test.py PATH-TO-UNSTICK [unittest arguments]."""

import json
import os
import unittest

import case
from case import MIB

GIB = 1 << 30
FIELDS = {"verdict", "reason", "required_bytes", "available_bytes", "reclaim_bytes", "held_by_others_bytes", "victims",
          "suggestions"}


class Plan(case.Case):
    def setUp(self):
        super().setUp()
        self.environment["XDG_STATE_HOME"] = self.path("state")

    def plan(self, *arguments, device="host:16GiB"):
        out = json.loads(self.good("plan", "--device", device, *arguments, "--json"))
        self.assertLessEqual(FIELDS, set(out))
        self.assertTrue(out["reason"])
        self.assertNotIn("\n", out["reason"])
        text = self.good("plan", "--device", device, *arguments)
        self.assertTrue(text.startswith(f"{out['verdict']}: {out['reason']}\n"), text)
        for suggestion in out["suggestions"]:
            self.assertIn(f"suggestion: {suggestion['text']}\n", text)
        return out

    def actions(self, out):
        return [suggestion["action"] for suggestion in out["suggestions"]]

    def test_fits(self):
        out = self.plan("--request", "flux_4-bit", "--bytes", "16GiB")
        self.assertEqual((out["verdict"], out["required_bytes"], out["available_bytes"], out["victims"]),
                         ("fits", 16 * GIB, 16 * GIB, []))
        out = self.plan("--request", "flux_4-bit", "--bytes", 16 * GIB + 1)
        self.assertEqual((out["verdict"], out["short_bytes"]), ("refused", 1))

    def test_hit(self):
        out = self.plan("--request", "org/flux_4-bit", "--bytes", "9GiB", "--cached", "org/flux_4-bit=10GiB",
                        "--used-by-others", "6GiB", "--working", "1TiB")
        self.assertEqual((out["verdict"], out["victims"], out["reclaim_bytes"]), ("hit", [], 0))

    def test_spellings_of_a_key(self):
        """One model is one key, however its quantization is spelled; so are its learned peaks."""
        for request, cached in (("m_nf4", "m_4-bit"), ("m_4-bit", "m_bnb-4bit"), ("m_bf16", "m_none")):
            out = self.plan("--request", request, "--bytes", "9GiB", "--cached", f"{cached}=10GiB")
            self.assertEqual(out["verdict"], "hit")
        self.bad("plan", "--device", "host:1GiB", "--request", "m_4-bit", "--bytes", 1, "--cached", "m_nf4=1",
                 "--cached", "m_4-bit=2", code=2, says="twice")
        self.good("estimate", "--id", "m", "--quant", "nf4", "--record", "3GiB")
        out = self.plan("--request", "m_nf4")
        self.assertEqual((out["key"], out["basis"], out["required_bytes"]), ("m_4-bit", "learned", 3 * GIB))

    def test_evict(self):
        """The idlest first, and of the last one only what is needed."""
        out = self.plan("--request", "flux_none", "--bytes", "10GiB", "--cached", "a_none=4GiB:idle=1", "--cached",
                        "b_none=4GiB:idle=100.5", "--cached", "c_none=4GiB:idle=10", "--granule", "2MiB")
        self.assertEqual(out["verdict"], "evict")
        self.assertEqual([(v["key"], v["component"], v["bytes"]) for v in out["victims"]],
                         [("b_none", "model", 4 * GIB), ("c_none", "model", 2 * GIB)])
        self.assertEqual((out["available_bytes"], out["free_bytes"], out["evict_bytes"]), (16 * GIB, 4 * GIB, 6 * GIB))
        self.assertIn("b_none", out["reason"])

    @unittest.skipUnless("FAKECUDA_PATH" in os.environ, "needs the stand-in for the driver")
    def test_own_context_is_nobody_elses(self):
        """What the command's context takes on a GPU stays in use there, but is not held by others."""
        os.mkdir(self.path("processes"))
        self.environment |= {"FAKECUDA_MEMORY": "128MiB", "FAKECUDA_PROCESSES": self.path("processes"),
                             "LD_LIBRARY_PATH": os.environ["FAKECUDA_PATH"]}
        arguments = ["--request", "flux_none", "--bytes", "1GiB"]
        unknown = self.plan(*arguments, device="cuda:0")
        self.assertGreater(unknown["held_by_others_bytes"], 0)
        self.environment["LD_LIBRARY_PATH"] += ":" + os.environ["FAKE_NVML_PATH"]
        known = self.plan(*arguments, device="cuda:0")
        self.assertEqual(known["held_by_others_bytes"], 0)
        self.assertEqual(known["available_bytes"], unknown["available_bytes"])
        self.environment["FAKE_NVML_FAILS"] = "memory"
        self.assertEqual(self.plan(*arguments, device="cuda:0"), unknown)

    def test_policies(self):
        arguments = ["--request", "flux_none", "--bytes", "5GiB", "--cached", "a_none=8GiB:idle=9", "--cached",
                     "b_none=4GiB"]
        self.assertEqual(self.plan(*arguments, "--policy", "lru")["evict_bytes"], GIB)
        self.assertEqual(self.plan(*arguments, "--policy", "clear-everything")["evict_bytes"], 12 * GIB)

    def test_leased(self):
        arguments = ["--request", "flux_none", "--bytes", "10GiB", "--cached", "a_none=8GiB:leased:idle=3"]
        out = self.plan(*arguments)
        self.assertEqual((out["verdict"], out["wait"], out["victims"]), ("wait", "leases", []))
        self.assertEqual(out["leased_bytes"], 8 * GIB)
        out = self.plan(*arguments, "--max-wait", 0)
        self.assertEqual((out["verdict"], self.actions(out)[:2]), ("refused", ["smaller", "wait"]))
        out = self.plan("--request", "flux_none", "--bytes", "10GiB", "--cached", "a_none=8GiB:pinned")
        self.assertEqual((out["verdict"], out["wait"]), ("refused", "none"))

    def test_reclaim(self):
        """Torch's figures count as taken; what it can give back is reserved - active - inactive_split."""
        out = self.plan("--request", "flux_none", "--bytes", "12GiB", "--torch-reserved", "8GiB", "--torch-active",
                        "2GiB", "--torch-inactive-split", "1GiB")
        self.assertEqual((out["verdict"], out["available_bytes"], out["reclaim_bytes"]), ("reclaim", 13 * GIB, 4 * GIB))
        self.assertEqual(out["actions"], ["clear_workspaces", "empty_cache"])
        out = self.plan("--request", "flux_none", "--bytes", "14GiB", "--torch-reserved", "8GiB", "--torch-active",
                        "2GiB", "--torch-inactive-split", "1GiB")
        self.assertEqual(out["verdict"], "refused")
        self.assertIn("2.0 GiB are live in torch", out["reason"])
        self.assertIn("collect", self.actions(out))

    def test_others(self):
        out = self.plan("--request", "flux_8-bit", "--bytes", "12GiB", "--used-by-others", "11GiB")
        self.assertEqual((out["verdict"], out["held_by_others_bytes"]), ("refused", 11 * GIB))
        self.assertEqual(self.actions(out), ["others", "restart", "force"])
        self.assertIn("11.0 GiB are held by others", out["reason"])
        self.assertIn("the process that holds the rest", out["suggestions"][1]["text"])
        self.assertIn("allow_low_memory", out["suggestions"][2]["text"])

    def test_forced(self):
        out = self.plan("--request", "flux_8-bit", "--bytes", "12GiB", "--used-by-others", "6GiB", "--cached",
                        "a_none=1GiB", "--allow-low-memory")
        self.assertEqual((out["verdict"], out["was_forced"], out["short_bytes"]), ("forced", True, 2 * GIB))
        self.assertEqual(sum(v["bytes"] for v in out["victims"]), GIB)
        self.assertNotIn("force", self.actions(out))
        out = self.plan("--request", "flux_8-bit", "--bytes", "12GiB", "--allow-low-memory")
        self.assertEqual((out["verdict"], out["was_forced"]), ("fits", False))

    def test_smaller_first(self):
        out = self.plan("--request", "flux_none", "--bytes", "20GiB", device="host:13GiB")
        offers = [(s["quantization"], s["bytes"]) for s in out["suggestions"] if s["action"] == "smaller"]
        self.assertEqual(offers, [("4-bit", 8 * GIB), ("8-bit", 12 * GIB)])
        self.assertIn("guess", out["suggestions"][0]["text"])

    def test_limit(self):
        out = self.plan("--request", "flux_8-bit", "--bytes", "3GiB", "--cached", "a_none=3GiB", "--device-memory",
                        "4GiB", "--granule", "2MiB")
        self.assertEqual((out["verdict"], out["evict_bytes"], out["available_bytes"]), ("evict", 2 * GIB, 4 * GIB))

    def test_guess_and_learned(self):
        for mode, gib in (("4-bit", 8), ("8-bit", 12), ("none", 20)):
            out = self.plan("--request", f"flux_{mode}")
            self.assertEqual((out["required_bytes"], out["basis"]), (gib * GIB, "guess"))
            self.assertIn("(guess)", out["reason"])

    def test_path(self):
        """The sum that `estimate` says; the figure for another quantization is offered from the same files."""
        path = self.path("flux")
        self.good("synth", path, "--sparse")
        out = self.plan("--request", "flux_4-bit-dq", "--path", path, device="host:48GiB")
        self.assertEqual((out["verdict"], out["basis"]), ("fits", "rules"))
        self.assertLess(abs(out["required_bytes"] - 10_704_264_000) / 10_704_264_000, 0.001)
        offers = {s["quantization"]: s for s in out["suggestions"]}
        self.assertEqual({q: s["action"] for q, s in offers.items()}, {"none": "larger", "8-bit": "larger"})
        self.assertLess(abs(offers["8-bit"]["bytes"] - 18_234_799_000) / 18_234_799_000, 0.001)
        self.assertLess(abs(offers["none"]["bytes"] - 33_741_198_000) / 33_741_198_000, 0.001)
        out = self.plan("--request", "flux_none", "--path", path, device="host:20GiB")
        self.assertEqual(out["verdict"], "refused")
        self.assertEqual([s["quantization"] for s in out["suggestions"] if s["action"] == "smaller"],
                         ["4-bit-dq", "4-bit", "8-bit"])
        more = self.plan("--request", "flux_none", "--path", path, "--working", "auto", device="host:20GiB")
        self.assertGreater(more["required_bytes"], out["required_bytes"])
        more = self.plan("--request", "flux_none", "--path", path, "--working", "3GiB", device="host:20GiB")
        self.assertEqual(more["required_bytes"], out["required_bytes"] + 3 * GIB)

    def test_open_device(self):
        """auto is a device that exists; nothing is left on it."""
        out = json.loads(self.good("plan", "--request", "flux_4-bit", "--bytes", "1MiB", "--json"))
        self.assertEqual(out["verdict"], "fits")

    def test_key_that_is_not_utf8(self):
        out = self.good("plan", "--device", "host:1GiB", "--request", os.fsdecode(b"m\xff_4-bit"), "--bytes", "2GiB",
                        "--cached", os.fsdecode(b"n\xff_4-bit=1MiB"), "--json")
        self.assertEqual(json.loads(out)["key"], "m?_4-bit")

    def test_text_that_is_cut_within_a_character(self):
        """One '?' stands for what was cut; the rest is as it was given."""
        out = json.loads(self.good("plan", "--device", "host:1GiB", "--request", "x" + "\u00e9" * 100 + "_4-bit",
                                   "--bytes", "1MiB", "--json"))
        self.assertEqual(out["key"], "x" + "\u00e9" * 100 + "_4-bit")
        self.assertTrue(out["reason"].startswith("x" + "\u00e9" * 79 + "? needs"), out["reason"])

    def test_many_cached(self):
        arguments = [x for i in range(256) for x in ("--cached", f"m{i}_none=32MiB")]
        out = self.plan("--request", "flux_4-bit", "--bytes", "15GiB", *arguments)
        self.assertEqual((out["verdict"], len(out["victims"])), ("evict", 224))
        self.bad("plan", *arguments, "--cached", "x_none=1", "--request", "flux_4-bit", code=2, says="256")

    def test_bad_usage(self):
        self.bad("plan", code=2, says=["--request", "--workflow"])
        self.bad("plan", "now", "--request", "a_none", code=2, says="now")
        good = ("plan", "--device", "host:1GiB", "--request", "a_none")
        self.bad("plan", "--device", "host:1GiB", "--request", "flux_5-bit", "--bytes", "1", code=2, says="5-bit")
        self.bad("plan", "--device", "host:1GiB", "--request", "flux", "--bytes", "1", code=2, says="flux")
        for size in ("-1", "x", "", "0", "999999TiB"):
            self.bad(*good, "--bytes", size, code=2, says="--bytes")
        for item in ("a", "a=1", "a_5-bit=1", "a\nb_none=1", "=1", "b_none=", "b_none=x", "b_none=-1", "b_none=1:hot",
                     "b_none=1:idle=",
                     "b_none=1:idle=-1", "b_none=1:idle=x", "b_none=1:idle=nan", "b_none=1:leased:", "b_none=999TiB"):
            self.bad(*good, "--bytes", 1, "--cached", item, code=2, says=["--cached", item.replace("\n", "?")])
        self.bad(*good, "--bytes", 1, "--cached", "b_none=1", "--cached", "b_none=2", code=2, says="twice")
        self.bad(*good, "--bytes", 1, "--cached", "b_none=1GiB", "--used-by-others", 1, code=2, says="1.0 GiB")
        self.bad(*good, "--bytes", 1, "--torch-reserved", "9MiB", "--torch-active", "8MiB", "--torch-inactive-split",
                 "2MiB", code=2, says=["9.0 MiB", "10.0 MiB"])
        self.bad(*good, "--bytes", 1, "--path", self.root, code=2, says="give one")
        self.bad(*good, "--bytes", 1, "--working", "x", code=2, says="--working")
        self.bad(*good, "--bytes", 1, "--working", "auto", code=2, says="--path")
        self.bad(*good, "--policy", "best", code=2, says=["best", "lru"])
        self.bad("plan", "--device", "host:0", "--request", "a_none", code=2, says="host:16GiB")
        self.bad("plan", "--device", "host:much", "--request", "a_none", code=2, says="host:much")
        self.bad("plan", "--device", "tpu:0", "--request", "a_none", says="tpu")
        self.bad(*good, "--path", self.root, says=self.root)
        self.bad(*good, "--path", self.path("none"), says="none")


class Workflow(case.Case):
    def advise(self, workload, *arguments):
        out = json.loads(self.good("plan", "--workflow", workload, *arguments, "--json"))
        text = self.good("plan", "--workflow", workload, *arguments)
        self.assertIn("fit together", text + "fit together" * (not out["together"]))
        self.assertIn("the order with the fewest", text)
        return out

    def three_models(self, requests):
        models = {("a", "none"): self.model("a", 30 * MIB), ("b", "none"): self.model("b", 20 * MIB),
                  ("c", "none"): self.model("c", 24 * MIB)}
        return self.workload(models, requests)

    def test_advice(self):
        workload = self.three_models(["a_none", "b_none", "c_none"] * 5)
        out = self.advise(workload, "--device", "host:56MiB", "--granule", "2MiB")
        sizes = {model["key"]: model["bytes"] for model in out["models"]}
        self.assertEqual(set(sizes), {"a_none", "b_none", "c_none"})
        self.assertLess(abs(sizes["a_none"] - 30 * MIB), MIB)
        self.assertEqual(sorted(map(tuple, out["together"])),
                         [("a_none", "b_none"), ("a_none", "c_none"), ("b_none", "c_none")])
        self.assertEqual([s["key"] for s in out["switches"]], ["a_none", "b_none", "c_none"] * 5)
        self.assertEqual(sum(s["moved_bytes"] for s in out["switches"]), out["moved_bytes"])
        self.assertEqual([s["moved_bytes"] for s in out["switches"][:3]], [sizes[k] for k in
                                                                          ("a_none", "b_none", "c_none")])
        self.assertGreater(out["switches"][2]["evict_bytes"], 0)
        # Each model once is the least there can be, and the least that was found.
        self.assertEqual(out["order"], ["a_none", "b_none", "c_none"])
        self.assertEqual(out["order_moved_bytes"], sum(sizes.values()))
        self.assertLess(out["order_moved_bytes"], out["moved_bytes"])
        self.assertLess(out["next_order_moved_bytes"], out["order_moved_bytes"])

    def test_all_fit(self):
        out = self.advise(self.three_models(["a_none", "b_none", "a_none", "a_none", "c_none"]), "--device",
                          "host:1GiB")
        self.assertEqual(out["together"], [["a_none", "b_none", "c_none"]])
        self.assertEqual([s["verdict"] for s in out["switches"]], ["fits", "fits", "hit", "fits"])
        self.assertEqual([s["request"] for s in out["switches"]], [0, 1, 2, 4])
        self.assertEqual((out["moved_bytes"], out["next_order_moved_bytes"]), (out["order_moved_bytes"], 0))

    def test_does_not_fit(self):
        """Said, and the rest goes on without it."""
        workload = self.three_models(["b_none", "a_none", "c_none"])
        for arguments in (["--device", "host:28MiB"], ["--device", "host:40MiB", "--working", "12MiB"],
                          ["--device", "host:40MiB", "--used-by-others", "12MiB"],
                          ["--device", "host:40MiB", "--device-memory", "28MiB"]):
            out = self.advise(workload, *arguments)
            self.assertEqual([model["fits"] for model in out["models"]], [False, True, True])
            self.assertEqual([model["fits_by_component"] for model in out["models"]], [True, True, True])
            self.assertEqual([s["verdict"] for s in out["switches"]], ["fits", "refused", "evict"])
            self.assertEqual(out["switches"][1]["moved_bytes"], 0)
            self.assertEqual(out["room_bytes"], 28 * MIB)
            self.assertIn("does not fit: a_none", self.good("plan", "--workflow", workload, *arguments))

    def test_bad(self):
        workload = self.three_models(["a_none"])
        self.bad("plan", "--workflow", self.path("none.json"), "--device", "host:1GiB", says="none.json")
        self.bad("plan", "--workflow", self.workload({("x", "none"): self.path("gone")}, ["x_none"], "w2.json"),
                 "--device", "host:1GiB", says="gone")
        self.bad("plan", "--workflow", workload, "--request", "a_none", code=2, says="--request")
        for extra in (["--bytes", 1], ["--path", "x"], ["--cached", "a_none=1"], ["--allow-low-memory"]):
            self.bad("plan", "--workflow", workload, "--device", "host:1GiB", *extra, code=2, says="--workflow")

    def test_nothing_asked(self):
        out = json.loads(self.good("plan", "--workflow", self.three_models([]), "--device", "host:1GiB", "--json"))
        self.assertEqual((out["switches"], out["order"], out["moved_bytes"]), ([], [], 0))


if __name__ == "__main__":
    case.main()
