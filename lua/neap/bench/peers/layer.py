# SPDX-License-Identifier: Apache-2.0
"""The layer of neap bench moe by a library of PyTorch (layers.py), measured.

    python3 layer.py '{"kind": "torch" | "sonic" | "liger", "shapes": [{"experts":, "top_k":,
                       "hidden":, "ffn":}, ...], "loads": [...], "tokens":,
                       "how": "eager" | "best", "side":}' ORDERS

reads words, one per line, from the file ORDERS as they are appended to it, and answers each with a
line of JSON:

    prepare   the next shape: compiles, warms up, chooses the faster of eager and compiled
    sample    one of each load, forward and forward + backward, each right after dense products
    rows      a list of {"forward_ms", "both_ms", "dense_tflops", "kept_bytes", "variant"}, one a
              load: medians of the samples
"""
import statistics
import time

import torch

from layers import build
from orders import serve

EXPONENTS = {"balanced": 0.0, "skewed": 0.6}
KINDS = ("forward", "both")
FEWEST = 4  # dense products beside a sample
TRIALS = 5  # of eager and compiled, to choose the faster


def tune(layer, x, exponent):
    """The router's bias with which loads are as 1 / rank^exponent."""
    shares = torch.arange(1, layer.experts + 1, device="cuda").float() ** -exponent
    wanted = shares / shares.sum() * x.shape[0] * layer.top_k
    bias = torch.zeros(layer.experts, device="cuda")
    with torch.no_grad():
        for _ in range(12):
            layer.set_bias(bias)
            loads = layer.loads(layer.choose(x)[1])
            bias += 0.7 * (wanted / loads.clamp(min=1)).log()
    return bias


def seconds_of(action):
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


class Dense:
    """A dense bf16 product: what the card can do at the heat that a sample finds."""

    def __init__(self, side):
        self.a, self.b, self.c = (
            torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(3)
        )
        self.flops = 2 * side**3
        self.rate(FEWEST)

    def rate(self, count):
        """Operations per second of so many products."""

        def products():
            for _ in range(count):
                torch.mm(self.a, self.b, out=self.c)

        self.latest = count * self.flops / seconds_of(products)
        return self.latest

    def beside(self, expected, action):
        """Seconds of an action right after products that take about as long, and their rate."""
        rate = self.rate(max(FEWEST, round(expected * self.latest / self.flops)))
        return seconds_of(action), rate


def kept_bytes(function, x):
    before = torch.cuda.memory_allocated()
    y = function(x)
    kept = torch.cuda.memory_allocated() - before - y.numel() * y.element_size()
    return (kept + x.numel() * x.element_size()) / x.shape[0]


class Shape:
    """A layer of one shape, and the samples of its loads."""

    def __init__(self, order, shape, dense):
        torch.manual_seed(2)
        x = torch.randn(order["tokens"], shape["hidden"], device="cuda", dtype=torch.bfloat16)
        x[:, 0] = 1
        self.dense, self.layer = dense, build(order["kind"], shape, x)
        self.biases = [tune(self.layer, x, EXPONENTS[load]) for load in order["loads"]]
        self.x, self.grad = x.requires_grad_(), torch.randn_like(x)
        self.functions, self.kept, self.note = {"eager": self.layer}, {}, "eager"
        self.warm_up("eager")
        if order["how"] == "best" and self.layer.compiles:
            self.compile()
        self.choices = [self.choose(bias) for bias in self.biases]
        self.samples = [{"forward": [], "both": [], "rate": []} for _ in self.biases]

    def compile(self):
        try:
            torch._dynamo.reset()  # of the shape before: its sizes would make these symbols
            self.functions["compiled"] = torch.compile(self.layer, dynamic=False)
            self.warm_up("compiled")
            self.note = "best of eager and compiled"
        except Exception as error:  # a compiler that is not there, or fails
            self.functions.pop("compiled", None)
            self.note = "eager; compiled: " + type(error).__name__

    def run(self, kind, variant):
        function = self.functions[variant]
        if kind == "forward":
            with torch.no_grad():
                function(self.x)
        else:
            self.layer.zero_grad(set_to_none=True)
            self.x.grad = None
            function(self.x).backward(self.grad)

    def warm_up(self, variant):
        for kind in KINDS:
            self.run(kind, variant)
        self.kept[variant] = kept_bytes(self.functions[variant], self.x)

    def choose(self, bias):
        """The faster variant of each kind under a load."""
        self.layer.set_bias(bias)
        times = {(kind, variant): [] for kind in KINDS for variant in self.functions}
        for _ in range(TRIALS):
            for what, list_of_times in times.items():
                list_of_times.append(seconds_of(lambda: self.run(*what)))
        medians = {what: statistics.median(list_of_times) for what, list_of_times in times.items()}
        choice = {}
        for kind in KINDS:
            variant = min(self.functions, key=lambda variant: medians[kind, variant])
            choice[kind] = [variant, medians[kind, variant]]
        return choice

    def sample(self):
        for bias, choice, samples in zip(self.biases, self.choices, self.samples):
            self.layer.set_bias(bias)
            for kind in KINDS:
                variant, expected = choice[kind]
                seconds, rate = self.dense.beside(expected, lambda: self.run(kind, variant))
                samples[kind].append(seconds)
                samples["rate"].append(rate)
        return True

    def rows(self):
        return [
            {
                "forward_ms": 1e3 * statistics.median(samples["forward"]),
                "both_ms": 1e3 * statistics.median(samples["both"]),
                "dense_tflops": statistics.median(samples["rate"]) / 1e12,
                "kept_bytes": min(self.kept.values()),
                "variant": self.note,
            }
            for samples in self.samples
        ]


def main():
    shape, dense = None, None

    def answer(order, word):
        nonlocal shape, dense
        if word == "prepare":
            dense = dense or Dense(order["side"])
            shape = Shape(order, order["shapes"].pop(0), dense)
            return True
        if word == "sample":
            return shape.sample()
        torch.cuda.empty_cache()
        return shape.rows()

    serve(answer)


main()
