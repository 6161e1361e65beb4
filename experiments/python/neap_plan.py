#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Neap's planners and splits on NumPy arrays, for those who have their own trainer.

    ./neap --help                                        # once: builds the engine
    PYTHONPATH=python python3 experiments/python/neap_plan.py

Skewed loads that drift: plans on the sum of five steps, splits the next one. Every rank that calls
with equal arguments gets equal results, so nothing needs to be sent around. Under a second; needs
NumPy. After `pip install .` no PYTHONPATH is needed.
"""

import numpy as np

import neap

RANKS, EXPERTS, TOKENS = 32, 16, 16384 * 4


def draw_loads(steps):
    """Loads (steps, ranks, experts), int64: popular experts stay popular."""
    random = np.random.default_rng(1)
    popularity = random.normal(0, 1.2, EXPERTS)
    loads = []
    for _ in range(steps):
        popularity = 0.99 * popularity + random.normal(0, 0.15, EXPERTS)
        share = np.exp(popularity + random.normal(0, 0.5, (RANKS, EXPERTS)))
        share /= share.sum(axis=1, keepdims=True)
        loads.append(np.stack([random.multinomial(TOKENS, p) for p in share]))
    return np.stack(loads)


def main():
    """Prints what four policies make of the same loads."""
    loads = draw_loads(6)
    topology = neap.Topology(RANKS, EXPERTS, slots=4, node_size=8)
    for planner, rule in (("static", "lite"), ("laer", "lite"), ("laer", "minimax"),
                          ("neap", "minimax")):
        layout = neap.Planner(topology, planner).plan(loads[:5].sum(axis=0))
        split = neap.Split(topology, rule).compute(layout, loads[5])
        assert (split.tokens().sum(axis=1) == TOKENS).all()
        balance = split.balance()
        print(f"{planner + '+' + rule:15s} imbalance {balance.imbalance:.4f}, "
              f"{100 * balance.inter_node / balance.tokens:.2f} % of tokens cross nodes")


if __name__ == "__main__":
    main()
