# SPDX-License-Identifier: Apache-2.0
"""Traces, replays, simulations and the run store."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import neap

ROOT = Path(__file__).resolve().parents[2]
LOAD = np.random.default_rng(3).integers(0, 90, (7, 2, 4, 6))


class Results(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, **metadata):
        path = self.path("trace.safetensors")
        neap.Trace(LOAD, metadata).write(path)
        return path

    def test_traces(self):
        trace = neap.Trace.read(self.write(slots="2", node_size="2", who="a test: ü"))
        np.testing.assert_array_equal(trace.load, LOAD)
        self.assertEqual(trace.metadata["who"], "a test: ü")
        self.assertNotEqual(trace.metadata.get("state"), "writing")
        trace.write(self.path("again"))
        self.assertEqual(neap.Trace.read(self.path("again")).metadata, trace.metadata)

    def test_traces_that_end_early(self):
        with self.assertRaises(ZeroDivisionError):
            with neap.TraceWriter(self.path("cut"), 2, 4, 6) as writer:
                writer.append(LOAD[0])
                1 / 0
        cut = neap.Trace.read(self.path("cut"))
        np.testing.assert_array_equal(cut.load, LOAD[:1])
        self.assertEqual(cut.metadata["state"], "writing")

    def test_replays(self):
        table = neap.replay(self.write(), ["static", "neap"], slots=2, node_size=2, seed=4)
        self.assertEqual([row["policy"] for row in table], ["static", "neap"])
        self.assertEqual(table.about["seed"], 4)
        again = neap.replay(neap.Trace(LOAD), "static", slots=2, node_size=2)
        self.assertEqual(again[0]["imbalance"], table[0]["imbalance"])
        topology = neap.Topology(4, 6, 2, node_size=2)
        layout = neap.Planner(topology, "static").plan(np.ones((4, 6)))
        split = neap.Split(topology, "lite")
        own = [split.compute(layout, load).balance().imbalance
               for step in LOAD[5:] for load in step]
        self.assertAlmostEqual(table[0]["imbalance"]["mean"], np.mean(own), places=12)

    def test_store(self):
        path = self.path("runs.db")
        neap.replay(self.write(), "static", slots=2, store=path)
        with neap.Store(path) as store:
            (run,), (result,) = store.runs(), store.results(1)
            self.assertEqual((run["kind"], run["state"]), ("replay", "done"))
            self.assertEqual(run["parameters"]["slots"], 2)
            self.assertGreater(result["imbalance"]["mean"], 1)
            self.assertEqual(len(store.steps(result["id"])), len(LOAD))
            self.assertEqual(store.runs("simulate"), [])
            self.assertEqual(store.query("SELECT 1 AS one")[0], {"one": 1})
            with self.assertRaisesRegex(neap.NeapError, "readonly"):
                store.query("DELETE FROM runs")

    def test_frames(self):
        table = neap.Table([{"policy": "neap", "imbalance": {"mean": 1.5}}])
        try:
            import pandas
        except ImportError:
            with self.assertRaisesRegex(neap.NeapError, "pandas, which is not installed"):
                table.frame()
            return
        self.assertIsInstance(table.frame(), pandas.DataFrame)
        self.assertEqual(table.frame()["imbalance.mean"][0], 1.5)
        with mock.patch.dict("sys.modules", pandas=None):
            with self.assertRaisesRegex(neap.NeapError, "pandas, which is not installed"):
                table.frame()

    def test_refusals(self):
        trace = self.write()
        cases = [
            ("USAGE", "unknown policy 'lear'", lambda: neap.replay(trace, "lear", slots=2)),
            ("USAGE", "--no-such", lambda: neap.replay(trace, no_such=1)),
            ("SYSTEM", "no such run store", lambda: neap.Store(self.path("nix.db"))),
            ("FORMAT", "file is not a database", lambda: neap.Store(trace)),
            ("FORMAT", "neither a safetensors", lambda: neap.Trace.read(__file__)),
            ("SHAPE", "3 dimensions", lambda: neap.Trace(LOAD[0])),
        ]
        for code, text, call in cases:
            with self.assertRaisesRegex(neap.NeapError, text) as caught:
                call()
            self.assertEqual(caught.exception.code, code, text)


if __name__ == "__main__":
    unittest.main()
