# SPDX-License-Identifier: Apache-2.0
"""The training step of neap bench step in plain PyTorch, on one GPU: what one would take instead.
Attention by scaled_dot_product_attention, experts by grouped products, AdamW fused, gradients
clipped; masters and moments F32, products in bf16, blocks compiled where that is faster.

    python3 step.py '{"layers":, "hidden":, "heads":, "kv_heads":, "ffn":, "experts":, "top_k":,
                      "sequence":, "batch":, "vocabulary":, "clip":, "decay":}' ORDERS

answers the words of the file ORDERS:

    prepare   builds the model, warms up, chooses the faster of eager and compiled blocks
    sample    milliseconds of one step
    rows      {"variant", "parameters", "device_bytes"}
"""
import time

import torch
import torch.nn.functional as F

from layers import Layer
from orders import serve

BF16 = torch.bfloat16
TRIALS = 3  # steps of eager and compiled, to choose the faster


def normal(*dims, scale):
    return torch.nn.Parameter(torch.randn(*dims, device="cuda").mul_(scale))


class Experts(Layer):
    """The MoE layer, of masters in F32."""

    def __init__(self, p):
        h, f, e = p["hidden"], p["ffn"], p["experts"]
        shape = {"experts": e, "top_k": p["top_k"]}
        what = (normal(h, e, scale=h**-0.5), normal(e, h, 2 * f, scale=h**-0.5))
        super().__init__(shape, *what, normal(e, f, h, scale=f**-0.5))

    def forward(self, x):
        return self.compute(x, self.router.to(BF16), self.w1.to(BF16), self.w2.to(BF16))


class Block(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        h, self.heads, self.kv = p["hidden"], p["heads"], p["kv_heads"]
        self.width = h // self.heads
        self.norm1 = torch.nn.Parameter(torch.ones(h, device="cuda"))
        self.norm2 = torch.nn.Parameter(torch.ones(h, device="cuda"))
        self.qkv = normal((self.heads + 2 * self.kv) * self.width, h, scale=h**-0.5)
        self.out = normal(h, h, scale=(2 * p["layers"] * h) ** -0.5)
        self.experts = Experts(p)

    def forward(self, x, cos, sin):
        b, s, h = x.shape
        y = F.linear(F.rms_norm(x, (h,), self.norm1.to(BF16)), self.qkv.to(BF16))
        y = y.view(b, s, -1, self.width).transpose(1, 2)
        q, k, v = y.split((self.heads, self.kv, self.kv), 1)
        q, k, grouped = rotate(q, cos, sin), rotate(k, cos, sin), self.heads != self.kv
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + F.linear(y.transpose(1, 2).reshape(b, s, h), self.out.to(BF16))
        y = F.rms_norm(x, (h,), self.norm2.to(BF16)).view(b * s, h)
        return x + self.experts(y).view(b, s, h)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Model(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        h, v, width = p["hidden"], p["vocabulary"], p["hidden"] // p["heads"]
        self.embed = normal(v, h, scale=1)
        self.blocks = torch.nn.ModuleList(Block(p) for _ in range(p["layers"]))
        self.norm = torch.nn.Parameter(torch.ones(h, device="cuda"))
        self.head = normal(v, h, scale=h**-0.5)
        angles = torch.outer(
            torch.arange(p["sequence"], device="cuda").float(),
            10000 ** -(torch.arange(0, width, 2, device="cuda") / width),
        )
        self.cos, self.sin = angles.cos().to(BF16), angles.sin().to(BF16)

    def forward(self, ids, targets, blocks):
        x = F.embedding(ids, self.embed).to(BF16)
        for block in blocks:
            x = block(x, self.cos, self.sin)
        x = F.rms_norm(x, (x.shape[-1],), self.norm.to(BF16))
        logits = F.linear(x, self.head.to(BF16)).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class Step:
    def __init__(self, p):
        torch.manual_seed(1)
        self.p, self.model = p, Model(p)
        groups = [[], []]
        for parameter in self.model.parameters():
            groups[parameter.dim() > 1].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[0], "weight_decay": 0.0},
                {"params": groups[1], "weight_decay": p["decay"]},
            ],
            lr=1e-4, betas=(0.9, 0.95), fused=True,
        )
        self.blocks = {"eager": list(self.model.blocks)}
        self.note = self.variant = "eager"
        times = {"eager": self.best("eager")}
        try:
            compiled = [torch.compile(block, dynamic=False) for block in self.model.blocks]
            self.blocks["compiled"] = compiled
            times["compiled"] = self.best("compiled")
            self.note = self.variant = min(times, key=times.get)
        except Exception as error:  # a compiler that is not there, or fails
            self.note = "eager; compiled: " + type(error).__name__

    def best(self, variant):
        self.variant = variant
        return min([self.milliseconds() for _ in range(1 + TRIALS)][1:])

    def draw(self):
        """Tokens of which the i-th is as frequent as 1 / i."""
        shape = (self.p["batch"], self.p["sequence"] + 1)
        powers = torch.rand(shape, device="cuda", dtype=torch.float64)
        ids = (self.p["vocabulary"] ** powers).long() - 1
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def milliseconds(self):
        ids, targets = self.draw()
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.model(ids, targets, self.blocks[self.variant]).backward()
        if self.p["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.p["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    def rows(self):
        count = sum(parameter.numel() for parameter in self.model.parameters())
        held = torch.cuda.max_memory_allocated()
        return {"variant": self.note, "parameters": count, "device_bytes": held}


def main():
    step = None

    def answer(order, word):
        nonlocal step
        if word == "prepare":
            step = Step(order)
            return True
        return step.milliseconds() if word == "sample" else step.rows()

    serve(answer)


main()
