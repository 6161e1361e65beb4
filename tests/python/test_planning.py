# SPDX-License-Identifier: Apache-2.0
"""Topologies, layouts, planners, splits: arrays in and out, and every refusal."""

import unittest

import numpy as np

import neap
from neap._engine import C, DECLARED, Handle
from neap.arrays import dense

LOAD = np.arange(4 * 6).reshape(4, 6) * 7 % 23


def plain_balance(topology, layout, tokens):
    """Imbalance, remote and inter-node tokens of tokens (ranks, slots), by the definition."""
    rank_of = np.repeat(np.arange(topology.ranks), topology.slots_of)
    work = np.array([tokens[:, rank_of == r].sum() for r in range(topology.ranks)], float)
    source = np.arange(topology.ranks)[:, None]
    remote = tokens[np.broadcast_to(source != rank_of, tokens.shape)].sum()
    far = topology.node_of[:, None] != topology.node_of[rank_of][None, :]
    return work.max() / work.mean(), remote, tokens[far].sum()


class Planning(unittest.TestCase):
    def setUp(self):
        self.topology = neap.Topology(4, 6, 2, node_size=2)

    def test_every_planner_and_rule(self):
        for planner in neap.planners():
            layout = neap.Planner(self.topology, planner).plan(LOAD)
            self.assertEqual(set(layout.experts), set(range(6)), planner)
            for rule in neap.splits():
                split = neap.Split(self.topology, rule).compute(layout, LOAD)
                tokens, balance = split.tokens(), split.balance()
                for expert in range(6):
                    held = tokens[:, layout.experts == expert].sum(axis=1)
                    np.testing.assert_array_equal(held, LOAD[:, expert])
                np.testing.assert_array_equal(split.row(3), tokens[3])
                imbalance, remote, far = plain_balance(self.topology, layout, tokens)
                self.assertAlmostEqual(balance.imbalance, imbalance, places=12)
                self.assertEqual((balance.remote, balance.inter_node, balance.tokens),
                                 (remote, far, LOAD.sum()))

    def test_history_and_parameters(self):
        planner = neap.Planner(self.topology, "laer", token_bytes=100)
        names = [p["name"] for p in planner.parameters()]
        self.assertIn("token_bytes", names)
        newest = planner.plan(np.stack([LOAD[::-1], LOAD]))
        self.assertEqual(newest, planner.plan(LOAD.astype(float)))
        self.assertEqual(hash(newest), hash(planner.plan(LOAD)))
        self.assertEqual(newest.changed(newest), 0)

    def test_slots_that_differ_and_homes(self):
        topology = neap.Topology(3, 4, [1, 2, 3], node_size=3, cost=[1, 2, 1, 1], speed=[1, 2, 1])
        layout = neap.Layout(topology, [0, 1, 2, 3, 0, 1])
        np.testing.assert_array_equal(layout.of_rank(2), [3, 0, 1])
        other = neap.Layout(topology, [1, 0, 2, 0, 1, 3]).align(layout)
        np.testing.assert_array_equal(other.of_rank(2), [3, 0, 1])
        self.assertEqual(other.arrivals(layout), 2)
        homes = neap.Topology(4, 4, 2, homes=2)
        static = neap.Planner(homes, "static").plan(np.ones((4, 4)))
        np.testing.assert_array_equal(static.of_rank(0), static.of_rank(2))

    def test_own_split(self):
        layout = neap.Layout(self.topology, [0, 1, 2, 3, 4, 5, 0, 1])
        own = neap.Split(self.topology, "even").compute(layout, LOAD).tokens()
        split = neap.Split(self.topology).set(layout, LOAD, own)
        np.testing.assert_array_equal(split.tokens(), own)
        own[0, 0] += 1
        with self.assertRaisesRegex(neap.NeapError, "split: ") as caught:
            split.set(layout, LOAD, own)
        self.assertEqual(caught.exception.code, "SPLIT")

    def test_refusals(self):
        topology = self.topology
        layout = neap.Planner(topology).plan(LOAD)
        split = neap.Split(topology)
        cases = [
            ("ARGUMENT", "99 experts do not fit", lambda: neap.Topology(4, 99, 2)),
            ("ARGUMENT", "0 ranks", lambda: neap.Topology(0, 1, 1)),
            ("ARGUMENT", "'lear'", lambda: neap.Planner(topology, "lear")),
            ("ARGUMENT", "no parameter", lambda: neap.Planner(topology, "laer", no_such=1)),
            ("SHAPE", r"\(2, 6\); it must be \(4, 6\)",
             lambda: neap.Planner(topology).plan(LOAD[:2])),
            ("LAYOUT", "expert 1 is in no slot", lambda: neap.Layout(topology, [0] * 8)),
            ("ARGUMENT", "nothing was computed", lambda: split.row(0)),
            ("ARGUMENT", "whole numbers", lambda: split.compute(layout, LOAD + 0.5)),
            ("ARGUMENT", "must be numbers", lambda: split.compute(layout, LOAD.astype(str))),
            ("ARGUMENT", "rank 4", lambda: split.compute(layout, LOAD).row(4)),
        ]
        for code, text, call in cases:
            with self.assertRaisesRegex(neap.NeapError, text) as caught:
                call()
            self.assertEqual(caught.exception.code, code)

    def test_closed(self):
        with neap.Planner(self.topology) as planner:
            planner.plan(LOAD)
        planner.close()
        with self.assertRaisesRegex(neap.NeapError, "closed Planner"):
            planner.plan(LOAD)
        self.topology.close()
        self.assertIsInstance(planner, Handle)


class Arrays(unittest.TestCase):
    def test_no_copy(self):
        for dtype in (np.int64, np.float64):
            given = LOAD.astype(dtype)
            self.assertIs(dense(given, dtype, (4, 6), "load"), given)

    def test_torch_no_copy(self):
        try:
            import torch
        except ImportError:
            self.skipTest("no torch")
        given = torch.arange(24, dtype=torch.float64).reshape(4, 6).requires_grad_()
        self.assertEqual(dense(given, np.float64, (4, 6), "load").ctypes.data, given.data_ptr())
        topology = neap.Topology(4, 6, 2)
        self.assertEqual(neap.Planner(topology, "laer").plan(given),
                         neap.Planner(topology, "laer").plan(given.detach().numpy()))
        with self.assertRaisesRegex(neap.NeapError, "no array on the CPU"):
            dense(torch.zeros(4, 6, device="meta"), np.float64, (4, 6), "load")


class Declared(unittest.TestCase):
    def test_everything(self):
        self.assertGreater(len(DECLARED.functions), 200)
        for name in DECLARED.functions:
            self.assertTrue(getattr(C, name))
        self.assertEqual(DECLARED.constants["NEAP_GROUP_RESIDENT"], -2)
        fields = dict(DECLARED.structs["neap_time_use"]._fields_)
        self.assertEqual(fields["exposed"]._length_, DECLARED.constants["NEAP_STREAMS"])


if __name__ == "__main__":
    unittest.main()
