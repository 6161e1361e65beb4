#!/usr/bin/env python3
"""Neap's planners and splits on NumPy arrays or torch tensors, for those who have their own trainer.

    ./neap --help                                   # once: builds build/libneap.so
    python3 experiments/python/neap_plan.py         # the example at the end of this file

or from your own code:

    from neap_plan import Planner
    planner = Planner(ranks=32, node_size=8, experts=16, slots=4, plan="laer", split="minimax")
    layout = planner.plan(load_so_far)              # (32, 4): the expert in each slot of each rank
    amount = planner.split(layout, load_now)        # (32, 32, 4): tokens from source to rank, slot
    planner.balance()                               # imbalance 1.13, …

load is tokens from each source rank to each expert, (ranks, experts): a NumPy array, or anything
that numpy.asarray takes, such as a torch tensor on the CPU. Planning wants the sum of some past
steps; the split wants the exact counts of this one. Every rank that calls with equal arguments gets
equal results, so nothing needs to be sent around. Needs only NumPy and ctypes; no Lua, no MPI run.
The functions are described in core/include/neap.h.
"""
import ctypes as c
import os

import numpy as np

_HOME = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..")
_LIB = c.CDLL(os.environ.get("NEAP_LIBRARY", os.path.join(_HOME, "build", "libneap.so")))


class NeapError(Exception):
    """What the engine refused, with its own words."""


class _Balance(c.Structure):  # neap_balance
    _fields_ = [("max_work", c.c_double), ("mean_work", c.c_double), ("imbalance", c.c_double),
                ("std_percent", c.c_double), ("tokens", c.c_int64), ("inter_node", c.c_int64),
                ("remote", c.c_int64)]


_LIB.neap_error_message.restype = c.c_char_p
_LIB.neap_planner_name.restype = c.c_char_p
_LIB.neap_split_rule_name.restype = c.c_char_p
_LIB.neap_layout_experts.restype = c.POINTER(c.c_int32)


def _check(status):
    if status:
        raise NeapError(_LIB.neap_error_message().decode())


def _pointer(array):
    return None if array is None else array.ctypes.data_as(c.c_void_p)


def _array(values, dtype, shape, what):
    array = np.ascontiguousarray(np.asarray(values), dtype=dtype)
    if array.shape != shape:
        raise ValueError(f"{what}: shape {array.shape}; it must be {shape}")
    return array


def plans():
    """Names of the built-in planners."""
    return [_LIB.neap_planner_name(i).decode() for i in range(_LIB.neap_planner_count())]


def splits():
    """Names of the built-in splits."""
    return [_LIB.neap_split_rule_name(i).decode() for i in range(_LIB.neap_split_rule_count())]


class Planner:
    """Layouts and splits for one shape of cluster and model. Not for two threads at once.

    slots: expert slots of every rank. cost (experts,): work of a token, for experts of unequal size.
    speed (ranks,): relative speed of the ranks. parameters: of the planner, as
    {"window": 3}; ./neap policy list tells them.
    """

    def __init__(self, ranks, experts, slots, node_size=8, plan="neap", split="minimax", cost=None,
                 speed=None, parameters=None):
        self.ranks, self.experts, self.slots = ranks, experts, slots
        self._handles = []
        node_of = np.arange(ranks, dtype=np.int32) // node_size
        slots_of = np.full(ranks, slots, dtype=np.int32)
        cost = None if cost is None else _array(cost, np.float64, (experts,), "cost")
        speed = None if speed is None else _array(speed, np.float64, (ranks,), "speed")
        topology = self._open(_LIB.neap_topology_open, _LIB.neap_topology_close, c.c_int32(ranks),
                              c.c_int32(experts), _pointer(node_of), _pointer(slots_of),
                              _pointer(cost), _pointer(speed))
        self._planner = self._open(_LIB.neap_planner_open, _LIB.neap_planner_close, topology,
                                   plan.encode())
        self._split = self._open(_LIB.neap_split_open, _LIB.neap_split_close, topology,
                                 split.encode())
        self._layout = self._open(_LIB.neap_layout_open, _LIB.neap_layout_close, topology)
        self._before = self._open(_LIB.neap_layout_open, _LIB.neap_layout_close, topology)
        self._planned = False
        for name, value in (parameters or {}).items():
            _check(_LIB.neap_planner_set(self._planner, name.encode(), c.c_double(value)))

    def _open(self, function, close, *arguments):
        handle = c.c_void_p()
        _check(function(*arguments, c.byref(handle)))
        self._handles.append((close, handle))
        return handle

    def close(self):
        while self._handles:
            close, handle = self._handles.pop()
            close(handle)

    def __del__(self):
        self.close()

    def plan(self, load, seed=0):
        """A layout for expected loads (ranks, experts), in any scale: experts (ranks, slots), int32.

        It starts from the layout that the last call gave, as planners do that change little.
        """
        load = _array(load, np.float64, (self.ranks, self.experts), "load")
        previous = self._before if self._planned else None
        _check(_LIB.neap_planner_plan(self._planner, _pointer(load), previous, c.c_uint64(seed),
                                      self._layout))
        _check(_LIB.neap_layout_copy(self._before, self._layout))
        self._planned = True
        experts = np.ctypeslib.as_array(_LIB.neap_layout_experts(self._layout),
                                        (self.ranks, self.slots))
        return experts.copy()

    def split(self, layout, load):
        """Tokens from each source to each slot of a layout, on exact counts (ranks, experts).

        (ranks, ranks, slots), int64. For one source's row alone use rank_split, which is cheaper.
        """
        self._compute(layout, load)
        amount = np.empty((self.ranks, self.ranks, self.slots), dtype=np.int64)
        for source in range(self.ranks):
            _check(_LIB.neap_split_row(self._split, c.c_int32(source), _pointer(amount[source])))
        return amount

    def rank_split(self, layout, load, rank):
        """What split(layout, load)[rank] would be: what one rank needs to send its tokens."""
        self._compute(layout, load)
        amount = np.empty((self.ranks, self.slots), dtype=np.int64)
        _check(_LIB.neap_split_row(self._split, c.c_int32(rank), _pointer(amount)))
        return amount

    def _compute(self, layout, load):
        layout = _array(layout, np.int32, (self.ranks, self.slots), "layout")
        load = _array(load, np.int64, (self.ranks, self.experts), "load")
        _check(_LIB.neap_layout_set(self._layout, _pointer(layout)))
        _check(_LIB.neap_split_compute(self._split, self._layout, _pointer(load)))

    def balance(self):
        """Of the last split: imbalance (largest work of a rank / mean), inter_node tokens, …"""
        balance = _Balance()
        _check(_LIB.neap_split_balance(self._split, c.byref(balance)))
        return {name: getattr(balance, name) for name, _ in _Balance._fields_}


def example():
    """Skewed loads that drift: plan on the sum of five steps, split the next one."""
    ranks, experts, tokens = 32, 16, 16384 * 4
    random = np.random.default_rng(1)
    popularity = random.normal(0, 1.2, experts)
    history = []
    for _ in range(6):
        popularity = 0.99 * popularity + random.normal(0, 0.15, experts)
        share = np.exp(popularity + random.normal(0, 0.5, (ranks, experts)))
        share /= share.sum(axis=1, keepdims=True)
        history.append(np.stack([random.multinomial(tokens, p) for p in share]))
    for plan, split in (("static", "lite"), ("laer", "lite"), ("laer", "minimax"),
                        ("neap", "minimax")):
        planner = Planner(ranks, experts, slots=4, node_size=8, plan=plan, split=split)
        layout = planner.plan(sum(history[:5]))
        amount = planner.split(layout, history[5])
        assert (amount.sum(axis=(1, 2)) == tokens).all()
        balance = planner.balance()
        print(f"{plan + '+' + split:15s} imbalance {balance['imbalance']:.4f}, "
              f"{100 * balance['inter_node'] / balance['tokens']:.2f} % of tokens cross nodes")
        planner.close()


if __name__ == "__main__":
    example()
