# SPDX-License-Identifier: Apache-2.0
"""Policies by name and by file, run by the program for a trainer of one's own."""

import os
import signal
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np

import neap

LOAD = np.arange(4 * 6).reshape(4, 6) * 7 % 23

MINE = """
local policy = require 'neap.policy'
local Mine = policy.define { name = 'mine', split = require 'rule_beside',
  params = { worst = { default = 99, doc = 'step of which there is no plan' } } }
function Mine:plan(ctx)
  if ctx.step == self.worst then error 'no plan' end
  return require('neap').plan.laer(ctx)
end
return Mine
"""


class Policies(unittest.TestCase):
    def setUp(self):
        self.topology = neap.Topology(4, 6, 2, node_size=2)

    def open(self, text, **options):
        policy = neap.Policy(self.topology, text, wait=True, **options)
        self.addCleanup(policy.close)
        return policy

    def file(self):
        """A policy that requires a module beside it."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        Path(folder.name, "mine.lua").write_text(MINE)
        Path(folder.name, "rule_beside.lua").write_text("return 'lite'")
        return os.path.join(folder.name, "mine.lua")

    def run_steps(self, policy, steps):
        """Layouts of each step and the last split, checked by the engine."""
        layouts = []
        for step in range(steps):
            layouts.append(policy.advance(step))
            for layer in range(policy.layers):
                layout, tokens = policy.split(step, layer, LOAD)
                neap.Split(self.topology).set(neap.Layout(self.topology, layout), LOAD, tokens)
        return layouts, tokens

    def test_by_name(self):
        policy = self.open("laer+even", layers=2)
        layouts, tokens = self.run_steps(policy, 3)
        self.assertEqual((policy.name, policy.plans_now), ("laer+even", False))
        planned = neap.Planner(self.topology, "laer").plan(LOAD)
        self.assertEqual(neap.Layout(self.topology, layouts[2][1]), planned)
        even = neap.Split(self.topology, "even").compute(planned, LOAD)
        np.testing.assert_array_equal(tokens, even.tokens())
        self.assertEqual(policy.report()["faults"], 0)

    def test_on_the_counts_of_the_step(self):
        policy = self.open("late")
        self.assertTrue(policy.plans_now)
        before = policy.advance(0)[0]
        kept, _ = policy.split(0, 0, LOAD * [9, 1, 1, 1, 1, 1], record=False)
        np.testing.assert_array_equal(kept, before)
        self.run_steps(policy, 3)

    def test_by_file(self):
        policy = self.open(self.file())
        layouts, tokens = self.run_steps(policy, 2)
        lite = neap.Split(self.topology, "lite").compute(
            neap.Layout(self.topology, layouts[1][0]), LOAD)
        np.testing.assert_array_equal(tokens, lite.tokens())

    def test_faults(self):
        path = self.file()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            policy = self.open(path + ":worst=2")
            layouts, _ = self.run_steps(policy, 4)
        told = [w for w in caught if issubclass(w.category, neap.PolicyFault)]
        self.assertEqual(len(told), 1)
        self.assertRegex(str(told[0].message), r"mine\.lua:6: plan at step 2, layer 0: no plan")
        np.testing.assert_array_equal(layouts[1], layouts[2])
        self.assertEqual(policy.report()["faults"], 1)
        with self.assertRaisesRegex(neap.NeapError, "no plan") as failure:
            self.run_steps(self.open(path + ":worst=1", strict=True), 3)
        self.assertEqual(failure.exception.code, "POLICY")

    def test_refusals(self):
        policy = self.open("static")
        cases = [("USAGE", "unknown policy 'lear'", lambda: self.open("lear")),
                 ("USAGE", "no such policy file", lambda: self.open("./nix.lua")),
                 ("SHAPE", r"\(3, 6\)", lambda: policy.split(0, 0, LOAD[:3]))]
        for code, text, call in cases:
            with self.assertRaisesRegex(neap.NeapError, text) as failure:
                call()
            self.assertEqual(failure.exception.code, code)

    def test_ends(self):
        policy = self.open("static")
        policy.advance(0)
        os.kill(policy._process.pid, signal.SIGKILL)
        with self.assertRaisesRegex(neap.NeapError, "its process has ended"):
            for step in range(1, 100):
                policy.advance(step)
        policy.close()
        with self.assertRaisesRegex(neap.NeapError, "closed Policy"):
            policy.advance(1)
        other = self.open("static")
        process = other._process
        other.close()
        self.assertEqual(process.returncode, 0)


if __name__ == "__main__":
    unittest.main()
