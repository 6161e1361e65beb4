# SPDX-License-Identifier: Apache-2.0
"""Neap's AdamW for the experts of neap.torch.MoE, whose moments are saved with the layers."""

from typing import Any, Iterable, Tuple

import torch
from torch import nn

from .._engine import STRUCTS, NeapError
from .moe import MoE


class AdamW(torch.optim.Optimizer):
    """Steps the shards of all MoE layers of a model; other parameters need an optimizer of their
    own. Moments lie in the engine and go into the layers' state_dict, so that a checkpoint does not
    depend on the ranks: this optimizer's own state_dict has the settings alone.

    Gradients are taken from shard.grad, so that clipping and accumulation are torch's.
    """

    def __init__(self, model: nn.Module, lr: float = 1e-3,
                 betas: Tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2):
        self.layers = [module for module in model.modules() if isinstance(module, MoE)]
        if not self.layers:
            raise NeapError("AdamW: the model has no neap.torch.MoE", "ARGUMENT")
        shards: Iterable[Any] = [layer.shard for layer in self.layers]
        super().__init__(shards, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def step(self, closure: Any = None) -> Any:
        """One step; local."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        settings = STRUCTS["neap_adamw"](
            rate=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            decay=group["weight_decay"], grad_scale=1.0)
        with torch.no_grad():
            for layer in self.layers:
                layer.adamw(settings)
        return loss
