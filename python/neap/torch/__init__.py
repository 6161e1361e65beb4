# SPDX-License-Identifier: Apache-2.0
"""Neap in PyTorch: a Mixture-of-Experts layer on its engine, and a recorder of any layer's routing.

    group = neap.torch.Group(experts=16, policy="neap")        # one for the layers of a model
    layer = neap.torch.MoE(hidden=512, ffn=1024, top_k=2, group=group)
    y = layer(x)                                               # x (…, hidden)

    recorder = neap.torch.Recorder("routing.safetensors", layers=24, experts=64)
    recorder.add(layer, indices)                               # the router's choices (tokens, K)
    recorder.step()                                            # once a training step

docs/howto-pytorch.md goes through both.
"""

from ..policy import PolicyFault
from .adamw import AdamW
from .group import Group
from .moe import MoE
from .recorder import Recorder

__all__ = ["AdamW", "Group", "MoE", "PolicyFault", "Recorder"]
