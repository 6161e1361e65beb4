# SPDX-License-Identifier: Apache-2.0
"""Neap from Python: planners, splits, traces, replays, simulations, the run store.

    import neap
    topology = neap.Topology(ranks=32, experts=16, slots=4, node_size=8)
    layout = neap.Planner(topology, "laer").plan(load_so_far)
    neap.Split(topology, "minimax").compute(layout, load_now).balance()
    neap.replay("trace.safetensors", ["static", "neap"]).frame()

Needs NumPy; neap.torch needs PyTorch, frames need pandas. Failures raise NeapError with the
engine's words. docs/howto-python.md goes through it.
"""

from ._engine import NeapError, version
from .commands import command, replay, simulate
from .planning import Balance, Layout, Planner, Split, Topology, planners, splits
from .policy import Policy, PolicyFault
from .store import Store
from .tables import Table
from .traces import Trace, TraceWriter

__all__ = ["Balance", "Layout", "NeapError", "Planner", "Policy",
           "PolicyFault", "Split", "Store", "Table", "Topology",
           "Trace", "TraceWriter", "command", "planners", "replay", "simulate", "splits", "version"]
__version__ = version().split()[0]
