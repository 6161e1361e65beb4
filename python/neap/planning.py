# SPDX-License-Identifier: Apache-2.0
"""Topologies, layouts, planners and splits: pure functions on arrays.

    topology = neap.Topology(ranks=32, experts=16, slots=4, node_size=8)
    layout = neap.Planner(topology, "laer").plan(load_so_far)
    split = neap.Split(topology, "minimax").compute(layout, load_now)
    split.balance().imbalance

A load is tokens of each source rank to each expert, (ranks, experts): a NumPy array, or a torch
tensor on the CPU. Whoever calls with equal arguments gets equal results, on every machine. Objects
are not for two threads at once.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np
from numpy.typing import NDArray

from ._engine import C, STRUCTS, Handle, NeapError, check, opened
from .arrays import address, at, dense


def _names(count: Any, name: Any) -> List[str]:
    return [name(i).decode() for i in range(count())]


def planners() -> List[str]:
    """Names of the built-in planners."""
    return _names(C.neap_planner_count, C.neap_planner_name)


def splits() -> List[str]:
    """Names of the built-in rules that split."""
    return _names(C.neap_split_rule_count, C.neap_split_rule_name)


class Topology(Handle):
    """Ranks in nodes, their expert slots, what experts cost. Does not change.

    slots: expert slots of every rank, or a list with those of each. node_size: ranks per node, the
    last node may have fewer; None: one node. cost (experts,): work of a token of each expert.
    speed (ranks,): relative speed of the ranks. homes: ranks of a run in which every expert has one
    home, for plain expert parallelism; None: experts have no homes.
    """

    def __init__(self, ranks: int, experts: int, slots: Union[int, Sequence[int]],
                 node_size: Optional[int] = None, cost: Any = None, speed: Any = None,
                 homes: Optional[int] = None):
        self.ranks, self.experts, self.homes = ranks, experts, homes
        given = [slots] * max(ranks, 0) if isinstance(slots, int) else slots
        self.slots_of = dense(given, np.int32, (max(ranks, 0),), "slots")
        self.node_of = np.arange(max(ranks, 0), dtype=np.int32) // (node_size or max(ranks, 1))
        costs = None if cost is None else dense(cost, np.float64, (experts,), "cost")
        speeds = None if speed is None else dense(speed, np.float64, (ranks,), "speed")
        self.cost = None if costs is None else costs.tolist()
        self.speed = None if speeds is None else speeds.tolist()
        super().__init__(
            opened(C.neap_topology_open, ranks, experts, address(self.node_of),
                   address(self.slots_of), address(costs), address(speeds)), C.neap_topology_close)
        if homes:
            check(C.neap_topology_set_homes(self.pointer, homes))
        self.slots: int = C.neap_topology_slots(self.pointer)
        self.first_slot = np.concatenate([[0], np.cumsum(self.slots_of)])

    def load(self, values: Any, dtype: Any = np.int64) -> NDArray[Any]:
        """A load of this topology, (ranks, experts), as the engine takes it."""
        return dense(values, dtype, (self.ranks, self.experts), "load")


class Layout(Handle):
    """Which expert is in which slot.

    experts: (slots of all ranks,), rank by rank; where all ranks have as many, (ranks, slots) does
    too. Raises NeapError (LAYOUT), naming rank, slot and expert, unless every expert is somewhere.
    """

    def __init__(self, topology: Topology, experts: Any = None):
        self.topology = topology
        super().__init__(opened(C.neap_layout_open, topology.pointer), C.neap_layout_close)
        if experts is not None:
            self.set(experts)

    def set(self, experts: Any) -> "Layout":
        """Takes over other experts; keeps the old ones if those are not valid."""
        flat = np.asarray(experts).reshape(-1)
        flat = dense(flat, np.int32, (self.topology.slots,), "layout")
        check(C.neap_layout_set(self.pointer, address(flat)))
        return self

    @property
    def experts(self) -> NDArray[np.int32]:
        """A copy: (slots of all ranks,), int32; -1 in a layout that nothing was put into."""
        found = C.neap_layout_experts(self.pointer)
        return at(found, ctypes.c_int32, (self.topology.slots,))

    def of_rank(self, rank: int) -> NDArray[np.int32]:
        """The experts in a rank's slots."""
        first = self.topology.first_slot
        return self.experts[first[rank]:first[rank + 1]]

    def align(self, base: "Layout") -> "Layout":
        """Experts that a rank has in base too get the slots that they have there."""
        check(C.neap_layout_align(self.pointer, base.pointer))
        return self

    def arrivals(self, base: "Layout") -> int:
        """Experts that travel when this layout follows base, over all ranks."""
        return int(C.neap_layout_arrivals(base.pointer, self.pointer, None))

    def changed(self, other: "Layout") -> int:
        """Slots whose experts differ."""
        return int(C.neap_layout_changed(self.pointer, other.pointer))

    def __hash__(self) -> int:
        return int(C.neap_layout_hash(self.pointer))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and np.array_equal(self.experts, other.experts)


class Planner(Handle):
    """A built-in planner with its parameters, as keywords: Planner(topology, "laer", ...).

    parameters() tells what there is. Raises NeapError (ARGUMENT) for a name that is none and for
    values out of their range.
    """

    def __init__(self, topology: Topology, name: str = "neap", **values: float):
        self.topology, self.name = topology, name
        super().__init__(opened(C.neap_planner_open, topology.pointer, name.encode()),
                         C.neap_planner_close)
        for parameter, value in values.items():
            check(C.neap_planner_set(self.pointer, parameter.encode(), value))

    def parameters(self) -> List[Dict[str, Any]]:
        """Of each: name, doc, default, low, high, and whether it is a whole number."""
        found: List[Dict[str, Any]] = []
        while True:
            at_address = C.neap_planner_parameter(self.pointer, len(found))
            if not at_address:
                return found
            p = STRUCTS["neap_parameter"].from_address(at_address)
            found.append({"name": p.name.decode(), "doc": p.doc.decode(), "default": p.value,
                          "low": p.low, "high": p.high, "whole": bool(p.whole)})

    def plan(self, load: Any, previous: Optional[Layout] = None, seed: int = 0) -> Layout:
        """A layout for expected tokens (ranks, experts), in any scale; or for the loads of some
        steps, (steps, ranks, experts), oldest first.

        previous: the layout in force, which planners may start from. float64 is not copied.
        """
        t, out = self.topology, Layout(self.topology)
        before = previous.pointer if previous else None
        steps = len(load) if len(getattr(load, "shape", ())) == 3 else 0
        if not steps:
            values = t.load(load, np.float64)
            check(C.neap_planner_plan(self.pointer, address(values), before, seed, out.pointer))
            return out
        values = dense(load, np.float64, (steps, t.ranks, t.experts), "load")
        table = (ctypes.c_void_p * steps)(*(address(values[i]) for i in range(steps)))
        check(C.neap_planner_plan_history(self.pointer, table, steps, before, seed, out.pointer))
        return out


@dataclass(frozen=True)
class Balance:
    """What a split costs: work is tokens x cost / speed."""

    max_work: float
    mean_work: float
    imbalance: float  # max_work / mean_work
    std_percent: float  # standard deviation of the ranks' work, % of the mean
    tokens: int
    inter_node: int  # of them, computed on another node than their source's
    remote: int  # of them, computed on another rank than their source


class Split(Handle):
    """A rule that says how many tokens of a source go to which slot, and its last result."""

    def __init__(self, topology: Topology, rule: str = "minimax",
                 price: Optional[float] = None):
        """price: of work that crosses nodes, for the rule minimax (neap_split_set_price)."""
        self.topology, self.rule = topology, rule
        super().__init__(opened(C.neap_split_open, topology.pointer, rule.encode()),
                         C.neap_split_close)
        self._computed = False
        if price is not None:
            check(C.neap_split_set_price(self.pointer, price))

    def compute(self, layout: Layout, load: Any) -> "Split":
        """Splits exact counts (ranks, experts). int64 is not copied."""
        values = self.topology.load(load)
        check(C.neap_split_compute(self.pointer, layout.pointer, address(values)))
        self._computed = True
        return self

    def set(self, layout: Layout, load: Any, tokens: Any) -> "Split":
        """Takes a given split, tokens (ranks, slots of all ranks), after checking it."""
        values = self.topology.load(load)
        table = dense(tokens, np.int64, (self.topology.ranks, self.topology.slots), "split")
        check(C.neap_split_set(self.pointer, layout.pointer, address(values), address(table)))
        self._computed = True
        return self

    def _result(self) -> int:
        if not self._computed:
            raise NeapError("split: nothing was computed yet; call compute or set", "ARGUMENT")
        return self.pointer

    def tokens(self) -> NDArray[np.int64]:
        """Tokens from each source to each slot: (ranks, slots of all ranks)."""
        table = np.empty((self.topology.ranks, self.topology.slots), dtype=np.int64)
        for source in range(self.topology.ranks):
            check(C.neap_split_row(self._result(), source, address(table[source])))
        return table

    def row(self, source: int) -> NDArray[np.int64]:
        """tokens()[source], which is cheaper: what one rank needs to send its tokens."""
        if not 0 <= source < self.topology.ranks:
            raise NeapError(f"split: rank {source}; allowed are 0 to {self.topology.ranks - 1}",
                            "ARGUMENT")
        row = np.empty(self.topology.slots, dtype=np.int64)
        check(C.neap_split_row(self._result(), source, address(row)))
        return row

    def balance(self) -> Balance:
        """Imbalance, tokens that cross nodes, and more."""
        out = STRUCTS["neap_balance"]()
        check(C.neap_split_balance(self._result(), ctypes.byref(out)))
        return Balance(**{name: getattr(out, name) for name, _ in out._fields_})
