# SPDX-License-Identifier: Apache-2.0
"""A Mixture-of-Experts layer by Neap's engine, as a module of PyTorch's."""

import ctypes
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._engine import C, CONSTANTS, STRUCTS, Handle, NeapError, check, opened
from ..arrays import address
from ..planning import Layout, Split
from .group import Group, wait
from .tensors import Tensor, code, on, over, sums

_PARAMETER = CONSTANTS["NEAP_SHARD_PARAMETER"]
_GRADIENT = CONSTANTS["NEAP_SHARD_GRADIENT"]
_MOMENTS = {"moment1": CONSTANTS["NEAP_SHARD_MOMENT1"], "moment2": CONSTANTS["NEAP_SHARD_MOMENT2"]}


class MoE(nn.Module):
    """y = sum over a token's top_k experts of weight x W2 (silu(x W1 gate) * (x W1 up)).

    x (…, hidden) of this rank; y of the same shape. Weights are the softmax of x times router,
    renormalised over the chosen experts unless renormalise is False. Forward and backward are
    collective over the group's ranks. A token's output does not depend, to the bit, on ranks,
    layouts and policy.

    Parameters: router (hidden, experts), the same on all ranks, and shard, this rank's part of all
    experts in float32 or float64: any torch optimizer steps it, or neap.torch.AdamW. Gradients of
    the shard are means over ranks of the ranks' gradients, as DistributedDataParallel makes them of
    the others; those of shards are not to be averaged again (Group.leave_to_us).

    state_dict has router, w1 (experts, hidden, 2 ffn: gate, up) and w2 (experts, ffn, hidden),
    whatever the ranks, slots and layouts; saving is collective, loading local. load: the last
    counts, (ranks, experts). aux_loss: coefficient of the load-balance loss, whose gradient is part
    of the backward, for a loss that is not scaled; last_aux_loss tells its value.
    """

    def __init__(self, hidden: int, ffn: int, top_k: int, group: Optional[Group] = None,
                 experts: Optional[int] = None, renormalise: bool = True, aux_loss: float = 0.0,
                 recompute: bool = False, chunks: int = 1, dtype: Optional[torch.dtype] = None,
                 seed: int = 0, **group_options: Any):
        super().__init__()
        if (group is None) == (experts is None):
            raise NeapError("MoE: give it a group, or experts for a group of its own", "ARGUMENT")
        self.group = group or Group(experts or 0, **group_options)
        if group and group_options:
            raise NeapError(f"MoE: {', '.join(group_options)}: of the group, which is given",
                            "ARGUMENT")
        self.hidden, self.ffn, self.top_k, self.seed = hidden, ffn, top_k, seed
        self.dtype = dtype or torch.get_default_dtype()
        self._settings = STRUCTS["neap_moe_options"](
            hidden=hidden, top_k=top_k, dtype=code(self.dtype), renormalise=renormalise,
            aux_loss=aux_loss, recompute=recompute, chunks=chunks)
        self.number = self.group.next_layer()
        with on(self.group.device):
            self._open()
            self._initialise()
        self.group.layers.append(self)
        self.load: Optional[NDArray[np.int64]] = None
        self.adamw_steps = 0
        self._step = -1
        self._calls = 0

    # ---- life ------------------------------------------------------------------------------------

    def _open(self) -> None:
        g, topology = self.group, self.group.topology
        size = 3 * self.hidden * self.ffn
        ffns = np.full(topology.experts, self.ffn, dtype=np.int64)
        sizes = np.full(topology.experts, size, dtype=np.int64)
        self._moe = Handle(
            opened(C.neap_moe_open, g.tokens.pointer, topology.pointer,
                   ctypes.byref(self._settings), address(ffns)), C.neap_moe_close)
        self._shards = Handle(
            opened(C.neap_shards_open, g.unshards.pointer, topology.pointer,
                   self._settings.dtype, CONSTANTS["NEAP_TRAVEL_DTYPE"], 0, address(sizes),
                   CONSTANTS["NEAP_GROUP_ALL"]),
            C.neap_shards_close)
        check(C.neap_shards_reduce_over(self._shards.pointer, g.reduces.pointer))
        self.layout = Layout(topology, np.arange(topology.slots) % topology.experts)
        self._split = Split(topology)
        self._owned: int = C.neap_shards_owned(self._shards.pointer)
        slots = int(topology.slots_of[g.rank])
        self._weights = torch.empty(slots, size, dtype=self.dtype, device=g.device)
        self._weights_of = Tensor(self._weights)
        self.router = nn.Parameter(torch.empty(self.hidden, topology.experts, dtype=self.dtype,
                                               device=g.device))
        self.shard = nn.Parameter(self._part(_PARAMETER))

    def _part(self, part: int) -> torch.Tensor:
        """This rank's elements of all experts, in the engine's memory."""
        return over(C.neap_shards_data(self._shards.pointer, part), self._owned, sums(self.dtype),
                    self.group.device)

    def close(self) -> None:
        """Gives the engine's memory back; the layer cannot be called any more."""
        self.shard.data = torch.empty(0, dtype=self.shard.dtype, device=self.shard.device)
        self._moe.close()
        self._shards.close()

    def _initialise(self) -> None:
        """Normal, scaled by the root of what is summed; the same whatever the ranks."""
        stream, w1 = 4 * self.number, 2 * self.hidden * self.ffn
        with torch.no_grad():
            router = Tensor(self.router.data)
            check(C.neap_tensor_normal(router.pointer, self.seed, stream, 0, self.hidden ** -0.5))
        for expert in range(self.group.topology.experts):
            for kind, first, count, fan in ((1, 0, w1, self.hidden),
                                            (2, w1, w1 // 2, self.ffn)):
                check(C.neap_shards_normal(self._shards.pointer, expert, first, count, self.seed,
                                           (stream + kind) << 20 | expert, fan ** -0.5))

    def _apply(self, *arguments: Any, **options: Any) -> "MoE":
        before = self.shard.data_ptr()
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        if self.shard.data_ptr() != before:
            raise NeapError("MoE: it stays where it was made: give Group device=, and MoE dtype=",
                            "ARGUMENT")
        return self

    def __deepcopy__(self, memo: Any) -> "MoE":
        raise NeapError("MoE: it owns memory of the engine's and cannot be copied; make another "
                        "one and load its state_dict", "ARGUMENT")

    # ---- a step ----------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y, of x's shape. Raises NeapError: SHAPE, POLICY, COMM."""
        if (x.shape[-1:] != (self.hidden,) or x.dtype != self.dtype
                or x.device.type != self.group.device.type):
            raise NeapError(f"MoE: x is {x.dtype} {tuple(x.shape)} on {x.device}; expected "
                            f"{self.dtype} (…, {self.hidden}) on {self.group.device}", "SHAPE")
        training = self.training and torch.is_grad_enabled()
        if training and self._step == self.group.step:
            self.group.advance()
        if training:
            self._step = self.group.step
        rows = x.reshape(-1, self.hidden).contiguous()
        y: torch.Tensor = _Experts.apply(rows, self.router, self.shard, self, training)
        return y.reshape(x.shape)

    @property
    def last_aux_loss(self) -> float:
        """The load-balance loss of the last forward, times its coefficient."""
        return float(C.neap_moe_aux_loss(self._moe.pointer))

    @property
    def choices(self) -> NDArray[np.int32]:
        """Experts of this rank's tokens in the last forward, (tokens, top_k), most probable
        first."""
        from ..arrays import at
        rows = int(self.load[self.group.rank].sum()) // self.top_k if self.load is not None else 0
        with on(self.group.device):
            found = C.neap_moe_choices(self._moe.pointer)
            return at(found, ctypes.c_int32, (rows, self.top_k))

    def _unshard(self) -> Optional[int]:
        """Starts to bring the layout's experts to this rank's slots."""
        refresh = opened(C.neap_shards_refresh_start, self._shards.pointer)
        check(wait(refresh))
        return opened(C.neap_shards_unshard_start, self._shards.pointer, self.layout.pointer,
                      self._weights_of.pointer, 1)

    def _run_forward(self, x: torch.Tensor, router: torch.Tensor, training: bool) -> torch.Tensor:
        now = self.group.plans_now() and training
        rows, table = Tensor(x), Tensor(router.detach())
        arriving = None if now else self._unshard()
        try:
            check(C.neap_moe_route(self._moe.pointer, rows.pointer, table.pointer))
            load_at = C.neap_moe_load(self._moe.pointer)
            tokens = self.group.decide(self, load_at, training)
            assert self.load is not None
            self._split.set(self.layout, self.load, tokens)
            if now:
                arriving = self._unshard()
            check(C.neap_moe_dispatch(self._moe.pointer, rows.pointer, self.layout.pointer,
                                      self._split.pointer))
            y = torch.empty_like(x)
            check(C.neap_moe_forward(self._moe.pointer, self._weights_of.pointer, arriving,
                                     Tensor(y)))
        finally:
            status = wait(arriving)
        check(status)
        self._calls += 1
        return y

    def _run_backward(self, x: torch.Tensor, router: torch.Tensor, call: int, dy: torch.Tensor
                      ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if call != self._calls:
            raise NeapError("MoE: backward of a forward that another one has followed; run "
                            "backward before the layer is called again", "ARGUMENT")
        dx = torch.empty_like(x)
        drouter = torch.zeros(router.shape, dtype=sums(self.dtype), device=x.device)
        gradients = torch.empty(self._weights.shape, dtype=sums(self.dtype), device=x.device)
        rows, table, into = Tensor(x), Tensor(router.detach()), Tensor(gradients)
        check(C.neap_moe_backward_dispatch(self._moe.pointer, Tensor(dy.contiguous())))
        check(C.neap_moe_backward(self._moe.pointer, rows.pointer, table.pointer,
                                  self._weights_of.pointer, None, into.pointer, Tensor(dx),
                                  Tensor(drouter)))
        slot_tokens = C.neap_moe_slot_tokens(self._moe.pointer)
        check(wait(opened(C.neap_shards_reduce_start, self._shards.pointer, self.layout.pointer,
                          into.pointer, slot_tokens, 0)))
        dshard = self._part(_GRADIENT) / self.group.ranks
        return dx, drouter.to(router.dtype), dshard

    # ---- state -----------------------------------------------------------------------------------

    def _whole(self, part: int) -> List[torch.Tensor]:
        """w1 and w2 of all experts of a part; collective."""
        size, w1 = 3 * self.hidden * self.ffn, 2 * self.hidden * self.ffn
        experts = self.group.topology.experts
        all_of = torch.empty(experts, size, dtype=sums(self.dtype), device=self.group.device)
        for expert in range(experts):
            check(C.neap_shards_get(self._shards.pointer, part, expert,
                                    Tensor(all_of[expert])))
        return [all_of[:, :w1].reshape(experts, self.hidden, 2 * self.ffn).clone(),
                all_of[:, w1:].reshape(experts, self.ffn, self.hidden).clone()]

    def _take(self, part: int, w1: torch.Tensor, w2: torch.Tensor) -> None:
        experts, dtype = self.group.topology.experts, sums(self.dtype)
        for expert in range(experts):
            value = torch.cat([w1[expert].reshape(-1), w2[expert].reshape(-1)])
            value = value.detach().to(dtype=dtype, device=self.group.device).contiguous()
            check(C.neap_shards_set(self._shards.pointer, part, expert, Tensor(value)))

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        experts = self.group.topology.experts
        return {"w1": (experts, self.hidden, 2 * self.ffn), "w2": (experts, self.ffn, self.hidden)}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        router = self.router if keep_vars else self.router.detach()
        destination[prefix + "router"] = router
        parts = {"": _PARAMETER}
        if self.adamw_steps:
            parts.update({name + ".": part for name, part in _MOMENTS.items()})
            destination[prefix + "adamw_steps"] = torch.tensor(self.adamw_steps)
        for name, part in parts.items():
            with on(self.group.device):
                w1, w2 = self._whole(part)
            destination[f"{prefix}{name}w1"], destination[f"{prefix}{name}w2"] = w1, w2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any,
                              strict: bool, missing_keys: List[str], unexpected_keys: List[str],
                              error_msgs: List[str]) -> None:
        known: Dict[str, Tuple[int, ...]] = {prefix + "router": tuple(self.router.shape)}
        known.update({prefix + name: shape for name, shape in self._shapes().items()})
        more = {f"{prefix}{m}.{name}": shape for m in _MOMENTS
                for name, shape in self._shapes().items()}
        given = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        missing_keys += [key for key in known if key not in given]
        steps = given.pop(prefix + "adamw_steps", None)
        if strict:
            unexpected_keys += [key for key in given if key not in known and key not in more]
        for key, shape in {**known, **more}.items():
            if key in given and tuple(given[key].shape) != tuple(shape):
                error_msgs.append(f"{key}: shape {tuple(given[key].shape)}; it must be "
                                  f"{tuple(shape)}")
        if error_msgs:
            return
        with torch.no_grad():
            if prefix + "router" in given:
                self.router.copy_(given[prefix + "router"])
        for name, part in {"": _PARAMETER, **{m + ".": p for m, p in _MOMENTS.items()}}.items():
            w1, w2 = (given.get(f"{prefix}{name}{w}") for w in ("w1", "w2"))
            if w1 is not None and w2 is not None:
                with on(self.group.device):
                    self._take(part, w1, w2)
        if steps is not None:
            self.adamw_steps = int(steps)

    def adamw(self, settings: Any) -> None:
        """One step of Neap's AdamW on this rank's shard, by shard.grad (neap.torch.AdamW)."""
        grad = self.shard.grad
        if grad is None:
            return
        self.adamw_steps += 1
        settings.step = self.adamw_steps
        self._part(_GRADIENT).copy_(grad)
        with on(self.group.device):
            check(C.neap_shards_adamw(self._shards.pointer, ctypes.byref(settings)))


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, router: torch.Tensor, shard: torch.Tensor, layer: MoE,
                training: bool) -> torch.Tensor:
        del shard  # the engine has it
        with on(layer.group.device):
            y = layer._run_forward(x, router, training)
        ctx.save_for_backward(x, router)
        ctx.layer, ctx.call = layer, layer._calls
        return y

    @staticmethod
    def backward(ctx: Any, *dy: torch.Tensor) -> Any:
        x, router = ctx.saved_tensors
        with on(ctx.layer.group.device):
            dx, drouter, dshard = ctx.layer._run_backward(x, router, ctx.call, dy[0])
        return dx, drouter, dshard, None, None
