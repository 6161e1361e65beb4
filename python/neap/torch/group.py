# SPDX-License-Identifier: Apache-2.0
"""The ranks that share a model's experts, and the policy that lays them out."""

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from numpy.typing import NDArray

from .._engine import C, NeapError
from ..arrays import at
from ..planning import Topology
from ..policy import Policy
from .ranks import Comm, open_ranks
from .tensors import on

if TYPE_CHECKING:
    from .moe import MoE

_TEXT = 512  # bytes of an error that rank 0 tells the others


class Group:
    """One for the MoE layers of a model; collective, as all that uses it.

    experts: of every layer. slots: expert slots of a rank; default: twice what plain expert
    parallelism takes. policy: name, or path of a Lua file, with +SPLIT and :parameter=value.
    node_size: ranks per node; default: all on one. Others as of neap.Policy: a fault of the policy
    warns, strict raises it on all ranks; wait waits for plans. device: where experts compute.

    Ranks are the processes of torchrun (torch.distributed is initialised before) or mpirun, else
    this process alone. A step of training begins when a layer is called again.
    """

    def __init__(self, experts: int, slots: Optional[int] = None, policy: str = "neap",
                 node_size: Optional[int] = None, seed: int = 0, strict: bool = False,
                 deadline: float = 10, trusted: bool = False, wait: bool = False,
                 device: Any = "cpu"):
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise NeapError(f"group: device {device}; allowed are cpu and cuda", "ARGUMENT")
        with on(self.device):
            self.control = open_ranks(self.device)
            self.tokens, self.unshards, self.reduces = (
                self.control.duplicate() for _ in range(3))
        self.rank, self.ranks = self.control.rank, self.control.size
        self.topology = Topology(self.ranks, experts, slots or 2 * -(-experts // self.ranks),
                                 node_size)
        self.step = -1  # of the training; -1: none has begun
        self.policy: Optional[Policy] = None  # of rank 0
        self.layers: List["MoE"] = []
        self._options: Dict[str, Any] = {"text": policy, "seed": seed, "strict": strict,
                                         "deadline": deadline, "trusted": trusted, "wait": wait}
        self._plans_now = False
        self._open = False

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def comms(self) -> Tuple[Comm, ...]:
        """All that the group has opened."""
        return (self.control, self.tokens, self.unshards, self.reduces)

    def next_layer(self) -> int:
        """Number of a layer that is being made. Layers are made before the first is called."""
        if self._open:
            raise NeapError("group: a layer is added after the first step; make all layers first",
                            "ARGUMENT")
        return len(self.layers)

    def plans_now(self) -> bool:
        """Whether layouts may change after the counts are known. Collective at the first call."""
        if not self._open:
            self._open = True
            known = self._shared(self._start, 1)
            self._plans_now = bool(known[0])
        return self._plans_now

    def advance(self) -> None:
        """A step of training begins: all layers get the layouts that are ready."""
        self.plans_now()
        self.step += 1
        slots = self.topology.slots
        layouts = self._shared(lambda: self._policy().advance(self.step), len(self.layers) * slots)
        for layer, experts in zip(self.layers, layouts.reshape(-1, slots)):
            layer.layout.set(experts)

    def decide(self, layer: "MoE", load_at: int, record: bool) -> NDArray[np.int64]:
        """The split of a layer's counts, tokens (ranks, slots); layer.layout is what it is of."""
        ranks, slots = self.topology.ranks, self.topology.slots
        load = at(load_at, np.ctypeslib.as_ctypes_type(np.int64), (ranks, self.topology.experts))

        def ask() -> NDArray[np.int64]:
            layout, tokens = self._policy().split(max(self.step, 0), layer.number, load, record)
            return np.concatenate([layout, tokens.reshape(-1)])

        answer = self._shared(ask, slots + ranks * slots)
        if self._plans_now:
            layer.layout.set(answer[:slots])
        layer.load = load
        return np.ascontiguousarray(answer[slots:].reshape(ranks, slots))

    def mean(self, value: torch.Tensor) -> float:
        """Mean over ranks of a number, such as the ranks' losses; collective."""
        numbers = np.array([float(value.detach())])
        self.control.sum(numbers)
        return float(numbers[0]) / self.ranks

    def average_gradients(self, model: torch.nn.Module) -> None:
        """Means over ranks of all gradients but those of shards, where nothing like
        DistributedDataParallel makes them; collective. Added in rank order."""
        from .moe import MoE
        shards = {id(m.shard) for m in model.modules() if isinstance(m, MoE)}
        own = [p.grad for p in model.parameters() if p.grad is not None and id(p) not in shards]
        if self.ranks == 1 or not own:
            return
        wide = torch.cat([grad.reshape(-1).to("cpu", torch.float64) for grad in own]).numpy()
        self.control.sum(wide)
        means, at_ = torch.from_numpy(wide / self.ranks), 0
        for grad in own:
            grad.copy_(means[at_:at_ + grad.numel()].reshape(grad.shape))
            at_ += grad.numel()

    def leave_to_us(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, of which DistributedDataParallel leaves alone the shards from now on."""
        from .moe import MoE
        names = [f"{name}.shard".lstrip(".") for name, module in model.named_modules()
                 if isinstance(module, MoE)]
        ddp: Any = torch.nn.parallel.DistributedDataParallel
        ddp._set_params_and_buffers_to_ignore_for_model(model, names)
        return model

    def report(self) -> Optional[Any]:
        """On rank 0 what the policy has done so far (neap.Policy.report); None on others."""
        return self.policy.report() if self.policy else None

    def close(self) -> None:
        """Ends the policy, closes layers and communicators; collective."""
        if self.policy:
            self.policy.close()
        with on(self.device):
            for layer in self.layers:
                layer.close()
            for comm in reversed(self.comms):
                comm.close()

    def _start(self) -> NDArray[np.int64]:
        self.policy = Policy(self.topology, layers=len(self.layers), **self._options)
        return np.array([self.policy.plans_now])

    def _policy(self) -> Policy:
        assert self.policy is not None
        return self.policy

    def _shared(self, call: Any, count: int) -> NDArray[np.int64]:
        """What rank 0 gets by a call, count numbers, on all ranks; or its error."""
        words = np.zeros(1 + max(count, _TEXT // 8), dtype=np.int64)
        failure = None
        if self.rank == 0:
            try:
                words[1:1 + count] = np.asarray(call()).reshape(-1)
            except NeapError as error:
                failure, text = error, f"{error.code} {error}".encode()[:_TEXT]
                words[0] = len(text)
                words[1:].view(np.uint8)[:len(text)] = np.frombuffer(text, dtype=np.uint8)
        self.control.broadcast(words)
        if failure:
            raise failure
        if words[0]:
            told = words[1:].tobytes()[:words[0]].decode("utf-8", "replace")
            code, _, why = told.partition(" ")
            raise NeapError(why, code)
        return words[1:1 + count]


def wait(transfer: Optional[int]) -> int:
    """Status of a transfer's end."""
    return int(C.neap_transfer_wait(transfer)) if transfer else 0
