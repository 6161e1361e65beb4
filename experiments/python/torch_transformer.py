#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does a transformer learn the same when its MoE layers are swapped for Neap's, and how fast is it?

    PYTHONPATH=python python3 experiments/python/torch_transformer.py
    torchrun --nproc-per-node=4 experiments/python/torch_transformer.py --policy=laer

A small byte-level language model in plain PyTorch, trained twice from the same parameters on the
same batches: with the MoE layers below, a loop over experts (--plain=grouped: PyTorch's grouped
products, bf16 on a GPU), and with neap.torch.MoE in their place. Prints both losses a step, how far apart they get, and tokens a second. Ranks each train on
their part of a batch (the plain model on all of it). On a CPU 15 seconds; needs PyTorch.
"""

import argparse
import contextlib
import os
import time

import torch
from torch import nn
from torch.nn import functional as F

import neap.torch

grouped_mm = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


class PlainMoE(nn.Module):
    """Softmax, top_k, and a loop over experts: silu(x W1 gate) * (x W1 up) W2. masters: dtype of the
    experts' parameters, if not dtype, which they are then rounded to in every forward."""

    def __init__(self, hidden, ffn, experts, top_k, dtype=None, renormalise=True, masters=None):
        super().__init__()
        self.top_k, self.renormalise = top_k, renormalise
        self.router = nn.Parameter(torch.empty(hidden, experts, dtype=dtype))
        masters = masters or dtype
        self.w1 = nn.Parameter(torch.empty(experts, hidden, 2 * ffn, dtype=masters))
        self.w2 = nn.Parameter(torch.empty(experts, ffn, hidden, dtype=masters))
        nn.init.normal_(self.router, std=hidden ** -0.5)
        nn.init.normal_(self.w1, std=hidden ** -0.5)
        nn.init.normal_(self.w2, std=ffn ** -0.5)

    def forward(self, x):
        """y, of x's shape (…, hidden)."""
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = (rows @ self.router).softmax(-1).topk(self.top_k, -1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        w1, w2 = self.w1.to(x.dtype), self.w2.to(x.dtype)
        for expert in range(self.router.shape[1]):
            token, choice = (chosen == expert).nonzero(as_tuple=True)
            gate, up = (rows[token] @ w1[expert]).chunk(2, -1)
            out = (F.silu(gate) * up) @ w2[expert]
            y = y.index_add(0, token, weights[token, choice, None] * out)
        return y.reshape(x.shape)


class GroupedMoE(PlainMoE):
    """The same by PyTorch's grouped products: bf16 on a GPU."""

    def forward(self, x):
        """y, of x's shape (…, hidden)."""
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = (rows @ self.router).softmax(-1).topk(self.top_k, -1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.zeros(self.router.shape[1], dtype=torch.int32, device=x.device)
        ends = counts.index_add(0, chosen.flatten(), torch.ones_like(order, dtype=torch.int32))
        ends = ends.cumsum(0, dtype=torch.int32)
        w1, w2 = self.w1.to(x.dtype), self.w2.to(x.dtype)
        gate, up = grouped_mm(rows[order // self.top_k], w1, offs=ends).chunk(2, -1)
        out = grouped_mm(F.silu(gate) * up, w2, offs=ends)
        row_of = torch.empty_like(order)
        row_of[order] = torch.arange(order.numel(), device=x.device)
        mine = out[row_of].view(*chosen.shape, -1)
        return (weights.unsqueeze(1) @ mine).reshape(x.shape)


class Block(nn.Module):
    """Attention, then experts, each on a normed residual."""

    def __init__(self, o, moe):
        super().__init__()
        self.heads = o.heads
        self.norm1, self.norm2 = nn.LayerNorm(o.hidden), nn.LayerNorm(o.hidden)
        self.qkv = nn.Linear(o.hidden, 3 * o.hidden, bias=False)
        self.out = nn.Linear(o.hidden, o.hidden, bias=False)
        self.moe = moe

    def forward(self, x):
        """x (batch, sequence, hidden)."""
        batch, length, hidden = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True) if hasattr(
            F, "scaled_dot_product_attention") else attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.moe(self.norm2(x))


def attention(q, k, v):
    """Causal attention, for PyTorch before 2.0."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    late = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(late, float("-inf")).softmax(-1) @ v


class Transformer(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, o, make_moe):
        super().__init__()
        self.embed = nn.Embedding(256, o.hidden)
        self.place = nn.Embedding(o.sequence, o.hidden)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(o, make_moe()) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.hidden)

    def forward(self, ids):
        """ids (batch, sequence)."""
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.t()


def draw_batches(o, device):
    """Batches (steps, batch, sequence + 1) of a file's bytes."""
    with open(o.text, "rb") as file:
        text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(o.seed)
    at = torch.randint(0, len(text) - o.sequence - 1, (o.steps, o.batch), generator=generator)
    window = torch.arange(o.sequence + 1)
    return text[at[..., None] + window].to(device=device, dtype=torch.int64)


def train(o, model, batches, group):
    """Losses over all ranks' tokens, and tokens a second after the first two steps."""
    rank, ranks = (group.rank, group.ranks) if group else (0, 1)
    fused = {"fused": True} if o.device == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=o.lr, **fused)
    losses, began = [], 0.0
    for step, batch in enumerate(batches):
        if step == 2:
            began = now(batch)
        mine = batch[rank * o.batch // ranks: (rank + 1) * o.batch // ranks]
        logits = model(mine[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 256), mine[:, 1:].reshape(-1))
        loss.backward()
        if group:
            group.average_gradients(model)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(group.mean(loss) if group else loss.item())
    rate = (o.steps - 2) * o.batch * o.sequence / (now(batches) - began)
    return losses, rate


def now(of):
    """Seconds, once what was enqueued is done."""
    if of.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def read_options():
    """Sizes and where to compute."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("steps", 20), ("batch", 8), ("sequence", 64), ("layers", 2),
                          ("hidden", 64), ("ffn", 128), ("experts", 8), ("top_k", 2),
                          ("heads", 4), ("slots", 0), ("seed", 1)):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--policy", default="neap")
    parser.add_argument("--plain", default="loop", choices=("loop", "grouped"))
    parser.add_argument("--masters", default=None, choices=("float32", "bfloat16"),
                        help="of the plain experts; Neap's beside bfloat16 are float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16"))
    parser.add_argument("--text", default=__file__)
    return parser.parse_args()


def main():
    """Trains both, and compares."""
    o = read_options()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        torch.distributed.init_process_group("nccl" if o.device == "cuda" else "gloo")
    torch.set_default_dtype(getattr(torch, o.dtype))
    group = neap.torch.Group(o.experts, o.slots or None, o.policy, device=o.device)
    torch.manual_seed(o.seed)
    kind = GroupedMoE if o.plain == "grouped" else PlainMoE
    with torch.device(o.device) if o.device != "cpu" else contextlib.nullcontext():
        plain = Transformer(o, lambda: kind(o.hidden, o.ffn, o.experts, o.top_k,
                                            masters=o.masters and getattr(torch, o.masters)))
    # The one line:
    swapped = Transformer(o, lambda: neap.torch.MoE(o.hidden, o.ffn, o.top_k, group))
    for block, of in zip(swapped.blocks, plain.blocks):
        block.moe.load_state_dict(of.moe.state_dict())
    rest = {k: v for k, v in plain.state_dict().items() if ".moe." not in k}
    swapped.load_state_dict(rest, strict=False)
    swapped.to(o.device)
    batches = draw_batches(o, o.device)
    ours, our_rate = train(o, swapped, batches, group)
    if group.rank == 0:
        theirs, their_rate = train(o, plain, batches, None)
        for step, (a, b) in enumerate(zip(theirs, ours)):
            print(f"step {step:3d}  plain {a:.6f}  neap {b:.6f}")
        apart = max(abs(a - b) / abs(a) for a, b in zip(theirs, ours))
        print(f"losses differ by at most {apart:.2e}; tokens/s: plain {their_rate:.0f}, neap "
              f"{our_rate:.0f} on {group.ranks} ranks under {o.policy}")
    group.close()


if __name__ == "__main__":
    main()
