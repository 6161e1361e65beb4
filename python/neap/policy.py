# SPDX-License-Identifier: Apache-2.0
"""A policy, by name or by the path of its Lua file, for a trainer that is not Neap's.

The program runs it: a process with a session as trainings have it, which starts the policy's
worker, confined, and looks at its answers. One rank has it, and tells the others what it says.

    policy = neap.Policy(topology, "mine.lua+minimax:window=3", layers=24)
    layouts = policy.advance(step)                  # where a step begins: (layers, slots)
    layout, tokens = policy.split(step, layer, load)  # on the exact counts of this step and layer
"""

import json
import os
import subprocess
import warnings
from typing import Any, Dict, List, Tuple

import numpy as np
from numpy.typing import NDArray

from ._engine import PLACE, Handle, NeapError
from .planning import Topology


class PolicyFault(UserWarning):
    """What a policy did wrong; the last valid layout stays in force."""


def _start() -> Tuple[Any, Any, Any]:
    """The program, and the pipes to it and from it."""
    if not PLACE.program.exists():
        raise NeapError(f"{PLACE.program} is not there; it is installed with the library", "ABSENT")
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    script = PLACE.home / "lua" / "neap" / "main" / "policy_host.lua"
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith(("OMPI_", "PMI", "SLURM_"))}
    process = subprocess.Popen(
        [PLACE.program, "lua", script, f"/dev/fd/{requests_read}", f"/dev/fd/{answers_write}"],
        stdin=subprocess.DEVNULL, pass_fds=(requests_read, answers_write),
        start_new_session=True, env={**environment, "NEAP_HOME": str(PLACE.home)})
    os.close(requests_read)
    os.close(answers_write)
    return process, os.fdopen(requests_write, "wb"), os.fdopen(answers_read, "rb")


def _end(running: Tuple[Any, Any, Any]) -> None:
    process, requests, answers = running
    for pipe in (requests, answers):
        try:
            pipe.close()
        except OSError:
            pass  # the process has ended before what was kept back for it was written
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Policy(Handle):
    """A policy in force over some layers.

    text: name or file, with +SPLIT and :parameter=value. layers: how many it plans. strict: a
    fault raises NeapError (POLICY); else it warns (PolicyFault). deadline: seconds that a hook may
    run. trusted: the policy may do what the user may. wait: advance waits for all plans, so that nothing
    depends on time; else plans that are late become active a step later. plans_now: it plans on the
    counts of the very step, so that split changes layouts. Raises NeapError (USAGE, POLICY,
    FAILED).
    """

    def __init__(self, topology: Topology, text: str, layers: int = 1, seed: int = 0,
                 strict: bool = False, deadline: float = 10, trusted: bool = False,
                 wait: bool = False):
        self.topology, self.layers = topology, layers
        self.text = text
        running = _start()
        self._process, self._requests, self._answers = running
        super().__init__(id(running), lambda _: _end(running))
        about = self._ask(json.dumps({
            "topology": {
                "ranks": topology.ranks, "experts": topology.experts,
                "slots": topology.slots_of.tolist(), "node_of": topology.node_of.tolist(),
                "homes": topology.homes, "cost": topology.cost, "speed": topology.speed},
            "layers": layers, "policy": text, "seed": seed, "strict": strict,
            "deadline": deadline, "trusted": trusted, "wait": wait}))
        self.name: str = about["name"]
        self.plans_now: bool = about["plans_on"] != "history"

    def advance(self, step: int) -> NDArray[np.int32]:
        """A step begins: the layouts that are active in it, (layers, slots of all ranks)."""
        self._ask(f"advance {step}")
        return self._numbers(np.int32, (self.layers, self.topology.slots))

    def split(self, step: int, layer: int, load: Any,
              record: bool = True) -> Tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Layout (slots,) and tokens from rank to slot (ranks, slots), on exact counts (ranks,
        experts). record: the policy plans on them; False for evaluations."""
        values = self.topology.load(load)
        self._ask(f"split {step} {layer} {int(record)}", values.tobytes())
        ranks, slots = self.topology.ranks, self.topology.slots
        layout = self._numbers(np.int32, (slots,))
        return layout, self._numbers(np.int64, (ranks, slots))

    def report(self) -> Dict[str, Any]:
        """Faults, late plans, times of plans and splits so far; waits for plans under way."""
        return dict(self._ask("report")["report"])

    def _ask(self, line: str, load: bytes = b"") -> Dict[str, Any]:
        """Sends a request; what the line of its answer says, or raises it."""
        assert self.pointer
        try:
            self._requests.write(line.encode() + b"\n" + load)
            self._requests.flush()
            answer = self._answers.readline()
        except OSError:
            answer = b""
        if not answer:
            status = self._process.wait()
            raise NeapError(f"policy {self.text}: its process has ended, with status {status}",
                            "POLICY")
        about: Dict[str, Any] = json.loads(answer)
        if "error" in about:
            raise NeapError(about["error"]["message"], about["error"]["code"])
        messages: List[str] = about.get("messages") or []
        for message in messages:
            warnings.warn(message, PolicyFault, stacklevel=3)
        return about

    def _numbers(self, dtype: Any, shape: Tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = self._answers.read(count)
        if len(data) < count:
            raise NeapError(f"policy {self.text}: its process has ended in mid-answer", "POLICY")
        return np.frombuffer(data, dtype=dtype).reshape(shape)
