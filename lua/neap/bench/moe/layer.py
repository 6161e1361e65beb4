"""The layer of neap bench moe in PyTorch: router, permutation, grouped products, combine.

    python3 layer.py '{"rows": [{"experts":, "top_k":, "hidden":, "ffn":, "tokens":, "load":}, ...],
                       "how": "eager" | "best", "repeats":, "warm_up":}'

prints a list of {"forward_ms", "both_ms", "kept_bytes", "variant"}, one a row: the faster of eager
and compiled for "best".
"""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

EXPONENTS = {"balanced": 0.0, "skewed": 0.6}
grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm


class Layer(torch.nn.Module):
    """SwiGLU experts; W1 (E, H, 2F) gate columns first, W2 (E, F, H)."""

    def __init__(self, row):
        super().__init__()
        experts, hidden, ffn = row["experts"], row["hidden"], row["ffn"]

        def parameter(*dims):
            values = torch.randn(*dims, device="cuda", dtype=torch.bfloat16)
            return torch.nn.Parameter(values.mul_(hidden**-0.5))

        self.experts, self.top_k = experts, row["top_k"]
        self.router = parameter(hidden, experts)
        self.w1, self.w2 = parameter(experts, hidden, 2 * ffn), parameter(experts, ffn, hidden)
        self.register_buffer("bias", torch.zeros(experts, device="cuda"))

    def choose(self, x):
        logits = (x @ self.router).float() + self.bias
        weights, ids = logits.softmax(-1).topk(self.top_k)
        return weights / weights.sum(-1, keepdim=True), ids

    def loads(self, ids):
        return torch.histc(ids.float(), self.experts, 0, self.experts - 1)

    def forward(self, x):
        weights, ids = self.choose(x)
        ends = self.loads(ids).cumsum(0).to(torch.int32)
        order = ids.flatten().argsort(stable=True)
        rows = x[order // self.top_k]
        gate, up = grouped_mm(rows, self.w1, offs=ends).chunk(2, -1)
        out = grouped_mm(F.silu(gate) * up, self.w2, offs=ends)
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel(), device=order.device)
        mine = out[place].view(x.shape[0], self.top_k, -1)
        return torch.bmm(weights.to(x.dtype).unsqueeze(1), mine).squeeze(1)


def tune(layer, x, exponent):
    """Changes the bias until loads are as 1 / rank^exponent."""
    shares = torch.arange(1, layer.experts + 1, device="cuda").float() ** -exponent
    wanted = shares / shares.sum() * x.shape[0] * layer.top_k
    with torch.no_grad():
        for _ in range(12):
            loads = layer.loads(layer.choose(x)[1])
            layer.bias += 0.7 * (wanted / loads.clamp(min=1)).log()


def median_ms(order, action):
    times = []
    for i in range(order["warm_up"] + order["repeats"]):
        torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        torch.cuda.synchronize()
        if i >= order["warm_up"]:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def kept_bytes(layer, function, x):
    before = torch.cuda.memory_allocated()
    y = function(x)
    kept = torch.cuda.memory_allocated() - before - y.numel() * y.element_size()
    return (kept + x.numel() * x.element_size()) / x.shape[0]


def time_layer(order, layer, function, x, slope):
    def forward():
        with torch.no_grad():
            function(x)

    def both():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        function(x).backward(slope)

    both()
    return {
        "both_ms": median_ms(order, both),
        "forward_ms": median_ms(order, forward),
        "kept_bytes": kept_bytes(layer, function, x),
    }


def measure(order, row):
    torch.manual_seed(1)
    layer = Layer(row)
    x = torch.randn(row["tokens"], row["hidden"], device="cuda", dtype=torch.bfloat16)
    slope = torch.randn_like(x)
    tune(layer, x, EXPONENTS[row["load"]])
    x.requires_grad_()
    best = dict(time_layer(order, layer, layer, x, slope), variant="eager")
    if order["how"] == "best":
        try:
            compiled = time_layer(order, layer, torch.compile(layer), x, slope)
            for name, value in compiled.items():
                best[name] = min(best[name], value)
            best["variant"] = "best of eager and compiled"
        except Exception as error:  # a compiler that is not there, or fails
            best["variant"] = "eager; compiled: " + type(error).__name__
    return best


def main():
    order = json.loads(sys.argv[1])
    results = []
    for row in order["rows"]:
        results.append(measure(order, row))
        torch.cuda.empty_cache()
    print(json.dumps(results))


main()
