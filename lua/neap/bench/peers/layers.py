# SPDX-License-Identifier: Apache-2.0
"""One MoE layer, of one function, as several libraries of PyTorch compute it: PyTorch's own grouped
products, SonicMoE (arXiv 2512.14080; sonic-moe) and Liger (liger-kernel's fused MoE).

All take the same weights: the router (H, E), whose row 0 is a bias, since column 0 of the input is
1; W1 (E, H, 2F), columns of the gate first; W2 (E, F, H); bf16. Gate weights are the softmax over
the K experts of largest logit.
"""
import torch
import torch.nn.functional as F

grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm


def weights(shape):
    """Router, W1 and W2 of a shape."""
    experts, hidden, ffn = shape["experts"], shape["hidden"], shape["ffn"]

    def normal(*dims):
        values = torch.randn(*dims, device="cuda", dtype=torch.bfloat16)
        return values.mul_(hidden**-0.5)

    return normal(hidden, experts), normal(experts, hidden, 2 * ffn), normal(experts, ffn, hidden)


class Layer(torch.nn.Module):
    """Router and grouped products of PyTorch; what others share: how experts are chosen."""

    compiles = True

    def __init__(self, shape, router, w1, w2):
        super().__init__()
        self.experts, self.top_k = shape["experts"], shape["top_k"]
        self.router = torch.nn.Parameter(self.router_as(router))
        self.w1 = torch.nn.Parameter(self.w1_as(w1))
        self.w2 = torch.nn.Parameter(self.w2_as(w2))

    @staticmethod
    def router_as(router):
        return router.clone()

    w1_as = w2_as = router_as

    def set_bias(self, bias):
        self.router.data[0] = bias

    def choose(self, x):
        return self.best(x @ self.router)

    def best(self, logits):
        values, ids = logits.float().topk(self.top_k)
        return values.softmax(-1), ids

    def loads(self, ids):
        return torch.histc(ids.float(), self.experts, 0, self.experts - 1)

    def forward(self, x):
        return self.compute(x, self.router, self.w1, self.w2)

    def compute(self, x, router, w1, w2):
        weights, ids = self.best(x @ router)
        ends = self.loads(ids).cumsum(0).to(torch.int32)
        order = ids.flatten().argsort(stable=True)
        rows = x[order // self.top_k]
        gate, up = grouped_mm(rows, w1, offs=ends).chunk(2, -1)
        out = grouped_mm(F.silu(gate) * up, w2, offs=ends)
        row_of = torch.empty_like(order)
        row_of[order] = torch.arange(order.numel(), device=order.device)
        mine = out[row_of].view(x.shape[0], self.top_k, -1)
        return torch.bmm(weights.to(x.dtype).unsqueeze(1), mine).squeeze(1)


class Sonic(Layer):
    """SonicMoE: its router, its products; W1 with gates and ups in turn."""

    compiles = False

    def __init__(self, *what):
        import sonicmoe

        super().__init__(*what)
        self.call = sonicmoe.moe_TC_softmax_topk_layer

    @staticmethod
    def router_as(router):
        return router.t().contiguous()

    @staticmethod
    def w1_as(w1):
        experts, hidden, both = w1.shape
        halves = w1.view(experts, hidden, 2, both // 2)
        return halves.permute(0, 3, 2, 1).reshape(experts, both, hidden).contiguous()

    @staticmethod
    def w2_as(w2):
        return w2.transpose(1, 2).contiguous()

    def set_bias(self, bias):
        self.router.data[:, 0] = bias

    def choose(self, x):
        return self.best(x @ self.router.t())

    def forward(self, x):
        w1, w2 = self.w1.permute(1, 2, 0), self.w2.permute(1, 2, 0)
        stream = torch.cuda.current_stream().cuda_stream
        return self.call(x, self.router, w1, None, w2, None, self.top_k, stream)[0]


class Liger(Layer):
    """Liger's fused MoE, of Triton alone, behind PyTorch's router."""

    compiles = False

    def __init__(self, *what):
        from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

        super().__init__(*what)
        self.call = LigerFusedMoEFunction.apply

    @staticmethod
    def w1_as(w1):
        return w1.transpose(1, 2).contiguous()

    w2_as = w1_as

    def forward(self, x):
        weights, ids = self.choose(x)
        return self.call(x, self.w1, self.w2, ids.to(torch.int32), weights.to(x.dtype))


KINDS = {"torch": Layer, "sonic": Sonic, "liger": Liger}
MOST_ERROR = 0.02  # of an output in bf16, relative; of the median token, since ties may differ
TRIED = 2048  # tokens that outputs are compared of


def build(kind, shape, x):
    """The layer of a kind. Raises unless it computes what PyTorch's does."""
    torch.manual_seed(1)
    what = weights(shape)
    layer = KINDS[kind](shape, *what)
    if kind != "torch":
        with torch.no_grad():
            plain, mine = Layer(shape, *what)(x[:TRIED]), layer(x[:TRIED])
        away = (plain - mine).float().norm(dim=-1) / plain.float().norm(dim=-1)
        if not away.median().item() < MOST_ERROR:
            raise RuntimeError(f"{kind} computes other outputs: {away.median().item():.3g} away")
    return layer
