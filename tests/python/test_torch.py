# SPDX-License-Identifier: Apache-2.0
"""neap.torch against plain PyTorch: outputs, gradients, training, state, ranks, recordings."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

import neap

try:
    import torch
except ImportError:
    torch = None

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "experiments/python"), str(ROOT / "tests/python/ranks")]

if torch:
    import neap.torch
    import torch_moe
    import torch_transformer
    from torch_transformer import PlainMoE

LONG = bool(os.environ.get("NEAP_LONG"))

RULE = "return 'lite'"
POLICY = """
local policy = require 'neap.policy'
local Mine = policy.define { name = 'mine', split = require 'rule_beside' }
function Mine:plan(ctx)
  if ctx.step == 2 then error 'no plan' end
  return require('neap').plan.laer(ctx)
end
return Mine
"""


@unittest.skipUnless(torch, "no torch")
class Layer(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def group(self, **options):
        group = neap.torch.Group(experts=8, slots=10, wait=True, **{"policy": "laer", **options})
        self.addCleanup(group.close)
        return group

    def pair(self, dtype=None, **options):
        """A layer and a plain one with its parameters."""
        dtype = dtype or torch.float64
        layer = neap.torch.MoE(16, 24, 2, group=self.group(), dtype=dtype, **options)
        plain = PlainMoE(16, 24, 8, 2, dtype=dtype, renormalise=options.get("renormalise", True))
        plain.load_state_dict(layer.state_dict())
        return layer, plain

    def check_gradients(self, layer, plain, tolerance):
        """Outputs and all gradients of a step are those of the plain layer."""
        x = torch.randn(3, 7, 16, dtype=layer.dtype)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours, theirs = layer(a), plain(b)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        weights = torch.randn_like(x)
        (ours * weights).sum().backward()
        (theirs * weights).sum().backward()
        whole = torch.cat([plain.w1.grad.flatten(1), plain.w2.grad.flatten(1)], 1).flatten()
        for mine, reference in ((a.grad, b.grad), (layer.router.grad, plain.router.grad),
                                (layer.shard.grad, whole)):
            torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
        layer.zero_grad()
        plain.zero_grad()

    def test_gradients(self):
        layer, plain = self.pair()
        for _ in range(3):
            self.check_gradients(layer, plain, 1e-12)
        self.assertEqual(layer.choices.shape, (21, 2))
        self.assertEqual(layer.load.sum(), 42)
        for options in ({"renormalise": False}, {"chunks": 2, "recompute": True}):
            self.check_gradients(*self.pair(**options), 1e-12)
        self.check_gradients(*self.pair(torch.float32), 2e-5)

    def test_accumulates(self):
        layer, plain = self.pair()
        for _ in range(2):
            x = torch.randn(5, 16, dtype=torch.float64)
            layer(x).square().sum().backward()
            plain(x).square().sum().backward()
        torch.testing.assert_close(layer.router.grad, plain.router.grad)
        torch.testing.assert_close(layer.shard.grad[:768], plain.w1.grad[0].flatten())

    def test_bf16_and_no_tokens(self):
        layer, plain = self.pair(torch.bfloat16)
        x = torch.randn(9, 16, dtype=torch.bfloat16)
        torch.testing.assert_close(layer(x), plain(x), rtol=0.05, atol=0.05)
        self.assertEqual(layer.shard.dtype, torch.float32)
        empty = layer(x[:0])
        empty.sum().backward()
        self.assertEqual((empty.shape, layer.shard.grad.abs().max().item()), ((0, 16), 0))

    def test_trains_as_plain(self):
        for neaps in (False, True):
            layer, plain = self.pair()
            if neaps:
                steps = [neap.torch.AdamW(layer, lr=0.01),
                         torch.optim.AdamW([layer.router], lr=0.01)]
            else:
                steps = [torch.optim.AdamW(layer.parameters(), lr=0.01)]
            steps.append(torch.optim.AdamW(plain.parameters(), lr=0.01))
            for _ in range(6):
                x = torch.randn(12, 16, dtype=torch.float64)
                losses = [module(x).square().mean() for module in (layer, plain)]
                self.assertAlmostEqual(losses[0].item(), losses[1].item(), places=12)
                for loss in losses:
                    loss.backward()
                for optimizer in steps:
                    optimizer.step()
                    optimizer.zero_grad()
            for name, value in layer.state_dict().items():
                if name in ("router", "w1", "w2"):
                    torch.testing.assert_close(value, plain.state_dict()[name])
        self.assertEqual(layer.state_dict()["adamw_steps"].item(), 6)

    def test_state(self):
        layer, _ = self.pair()
        optimizer = neap.torch.AdamW(layer, lr=0.1)
        x = torch.randn(4, 16, dtype=torch.float64)
        layer(x).sum().backward()
        optimizer.step()
        state = layer.state_dict()
        other = neap.torch.MoE(16, 24, 2, group=self.group(),
                               dtype=torch.float64, seed=9)
        self.assertFalse(torch.equal(other.eval()(x), layer.eval()(x)))
        other.load_state_dict(state)
        self.assertTrue(torch.equal(other(x), layer(x)))
        for name, value in other.state_dict().items():
            self.assertTrue(torch.equal(value, state[name]), name)
        with self.assertRaisesRegex(RuntimeError, r"w1: shape \(8, 16, 4\); it must be"):
            other.load_state_dict({**state, "w1": state["w1"][:, :, :4]})
        with self.assertRaisesRegex(RuntimeError, "Missing key.*w2"):
            other.load_state_dict({k: v for k, v in state.items() if k != "w2"})

    def test_policy_file(self):
        for name, text in (("mine.lua", POLICY), ("rule_beside.lua", RULE)):
            Path(self.folder.name, name).write_text(text)
        path = os.path.join(self.folder.name, "mine.lua")
        layer = neap.torch.MoE(16, 24, 2, experts=8, slots=10, policy=path, wait=True)
        self.addCleanup(layer.group.close)
        x = torch.randn(40, 16)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outputs = [layer(x) for _ in range(4)]
        self.assertTrue(all(torch.equal(y, outputs[0]) for y in outputs))
        told = [str(w.message) for w in caught if issubclass(w.category, neap.PolicyFault)]
        self.assertEqual(len(told), 1)
        self.assertRegex(told[0], r"mine\.lua:5: plan at step 2, layer 0: no plan")
        report = layer.group.report()
        self.assertEqual((report["name"], report["faults"]), ("mine", 1))
        strict = neap.torch.MoE(16, 24, 2, experts=8, slots=10, policy=path, wait=True, strict=True)
        self.addCleanup(strict.group.close)
        with self.assertRaisesRegex(neap.NeapError, "no plan") as failure:
            for _ in range(4):
                strict(x)
        self.assertEqual(failure.exception.code, "POLICY")

    def test_example(self):
        words = ("steps=3 batch=4 sequence=16 layers=2 hidden=16 ffn=16 heads=2 policy=laer "
                 "dtype=float64").split()
        before, said = torch.get_default_dtype(), io.StringIO()
        try:
            with mock.patch("sys.argv", ["example"] + ["--" + word for word in words]), \
                    contextlib.redirect_stdout(said):
                torch_transformer.main()
        finally:
            torch.set_default_dtype(before)
        *steps, last = said.getvalue().splitlines()
        self.assertEqual(len(steps), 3)
        self.assertLess(float(re.search(r"by at most (\S+);", last)[1]), 1e-12)

    def test_refusals(self):
        layer, _ = self.pair()
        x = torch.randn(4, 16, dtype=torch.float64)
        first = layer(x)
        layer(x)
        other = neap.torch.MoE(16, 24, 2, experts=8, policy="lear")
        self.addCleanup(other.group.close)
        cases = [
            ("ARGUMENT", "backward of a forward", lambda: first.sum().backward()),
            ("SHAPE", r"expected torch.float64 \(…, 16\) on cpu", lambda: layer(x.float())),
            ("SHAPE", "on meta", lambda: layer(x.to("meta"))),
            ("ARGUMENT", "device meta", lambda: neap.torch.Group(experts=8, device="meta")),
            ("SHAPE", r"\(4, 8\)", lambda: layer(x[:, :8])),
            ("ARGUMENT", "not finite", lambda: layer(x / 0)),
            ("ARGUMENT", "stays where it was made", lambda: layer.float()),
            ("ARGUMENT", "after the first step",
             lambda: neap.torch.MoE(16, 24, 2, group=layer.group)),
            ("ARGUMENT", "a group, or experts", lambda: neap.torch.MoE(16, 24, 2)),
            ("ARGUMENT", "top_k is 9", lambda: neap.torch.MoE(16, 24, 9, experts=8)),
            ("USAGE", "unknown policy 'lear'", lambda: other(x.float())),
            ("ARGUMENT", "no neap.torch.MoE", lambda: neap.torch.AdamW(torch.nn.Linear(1, 1))),
        ]
        for code, text, call in cases:
            with self.assertRaisesRegex(neap.NeapError, text) as caught:
                call()
            self.assertEqual(caught.exception.code, code, text)


def free_port():
    """A port of this host that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Launched(unittest.TestCase):
    """Trainings on ranks that are processes."""

    device = "cpu"

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def command(self, policy, state):
        return [sys.executable, str(ROOT / "tests/python/ranks/torch_moe.py"), policy,
                os.path.join(self.folder.name, state), self.device]

    def ended(self, processes):
        """What the first of the processes printed last."""
        said = [process.communicate() for process in processes]
        for process, (out, err) in zip(processes, said):
            self.assertEqual(process.returncode, 0, out + err)
        return json.loads(said[0][0].splitlines()[-1])

    def start(self, command, **variables):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **variables})

    def start_torchrun(self, ranks, state):
        """What torchrun does: a process a rank, told by variables."""
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                  "WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "test"}
        return [self.start(self.command("laer", state), RANK=str(rank), LOCAL_RANK=str(rank),
                           **common) for rank in range(ranks)]

    def as_torchrun(self, ranks, state):
        return self.ended(self.start_torchrun(ranks, state))

    def launched(self, launcher, state, policy="laer"):
        return self.ended([self.start(launcher + self.command(policy, state),
                                      OMPI_ALLOW_RUN_AS_ROOT="1",
                                      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")])


@unittest.skipUnless(torch, "no torch")
class Ranks(Launched):
    def test_ranks(self):
        before = torch.get_default_dtype()
        try:
            alone = torch_moe.run("laer", os.path.join(self.folder.name, "state"))
        finally:
            torch.set_default_dtype(before)
        runs = [self.as_torchrun(2, "torchrun")]
        recorded = neap.Trace.read(os.path.join(self.folder.name, "torchrun.trace")).load
        self.assertEqual(recorded.shape, (4, 2, 2, 6))
        np.testing.assert_array_equal(recorded, runs[0]["counts"])
        if LONG:
            runs.append(self.as_torchrun(4, "torchrun4"))
            runs += [self.launched(["mpirun", "--oversubscribe", "-n", str(ranks)], f"mpi{ranks}")
                     for ranks in (2, 4)]
            resumed = self.launched([], "mpi4", policy="late")
            self.assertEqual(resumed["loaded"], runs[-1]["saved"])
        self.assertEqual([run["ranks"] for run in runs], [2, 4, 2, 4][:len(runs)])
        for several in runs:
            self.assertEqual(alone["first"], several["first"])
            np.testing.assert_allclose(alone["losses"], several["losses"], rtol=1e-12)


@unittest.skipUnless(torch, "no torch")
class Recorded(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(2)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "routing")

    def test_any_router(self):
        router = torch.nn.Linear(8, 6)
        with neap.torch.Recorder(self.path, layers=2, experts=6, ranks=4, slots=2) as recorder:
            recorder.watch(router, 1, lambda logits: logits.topk(2).indices)
            for _ in range(7):
                indices = torch.randint(0, 6, (10, 2))
                recorder.add(0, indices.to(torch.int32))
                logits = router(torch.randn(10, 8))
                recorder.step()
        trace = neap.Trace.read(self.path)
        self.assertEqual(trace.load.shape, (7, 2, 4, 6))
        self.assertEqual(trace.metadata["slots"], "2")
        self.assertEqual(trace.metadata["generator"], "neap.torch")
        self.assertIn("4 ranks", trace.metadata["dealt"])
        rank = np.arange(10) * 4 // 10
        for layer, chosen in ((0, indices), (1, logits.topk(2).indices)):
            counted = np.zeros((4, 6))
            np.add.at(counted, (rank[:, None], chosen.numpy()), 1)
            np.testing.assert_array_equal(trace.load[-1, layer], counted)
        router(torch.randn(10, 8))  # nobody looks any more
        self.assertEqual(neap.replay(trace, "neap")[0]["policy"], "neap")

    def test_refusals(self):
        recorder = neap.torch.Recorder(self.path, layers=2, experts=6)
        self.addCleanup(recorder.close)
        for text, call in (("layer 2", lambda: recorder.add(2, torch.zeros(1, 1).long())),
                           ("integers", lambda: recorder.add(0, torch.zeros(1, 1))),
                           ("nothing was added for layer 0", recorder.step)):
            with self.assertRaisesRegex(neap.NeapError, text):
                call()
        for bad in (6, -1):
            recorder.add(0, torch.tensor([[0, 1]]))
            recorder.add(1, torch.tensor([[0, bad]]))
            with self.assertRaisesRegex(neap.NeapError, "choices of layer 1 are no experts"):
                recorder.step()


@unittest.skipUnless(torch and torch.cuda.is_available(), "no GPU")
class CudaRanks(Launched):
    device = "cuda"

    def test_ranks(self):
        alone = self.launched([], "alone")
        if torch.cuda.device_count() == 1:
            for process in self.start_torchrun(2, "shared"):  # by NCCL 2.30 and later they can
                out, err = process.communicate()
                self.assertTrue("share a GPU, which needs NCCL 2.30" in err or
                                process.returncode == 0, out + err)
            return
        ranks = min(4, torch.cuda.device_count())
        for several in (self.as_torchrun(ranks, "torchrun"),
                        self.launched(["mpirun", "-n", str(ranks)], "mpirun")):
            self.assertEqual(alone["first"], several["first"])
            np.testing.assert_allclose(alone["losses"], several["losses"], rtol=1e-5)


@unittest.skipUnless(torch and torch.cuda.is_available(), "no GPU")
class Cuda(unittest.TestCase):
    def near(self, layer, plain, x, tolerance):
        """Outputs of a step are near the plain layer's, and so are gradients, of the tokens that
        choose their experts clearly: near a tie, rounding decides."""
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours, theirs = layer(a), plain(b)
        top = (x.double() @ plain.router.double()).softmax(1).sort(1, descending=True)[0]
        clear = top[:, 1] - top[:, 2] > 0.02
        self.assertGreater(clear.double().mean().item(), 0.6)
        allowed = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(ours[clear], theirs[clear], **allowed)
        for y in (ours, theirs):
            (y[clear] * 3).square().mean().backward()
        torch.testing.assert_close(a.grad[clear], b.grad[clear], **allowed)
        whole = torch.cat([plain.w1.grad.flatten(1), plain.w2.grad.flatten(1)], 1).flatten()
        torch.testing.assert_close(layer.shard.grad, whole.to(layer.shard.dtype), **allowed)

    def test_stream_of_torch(self):
        torch.manual_seed(1)
        for dtype, tolerance in ((torch.float32, 2e-4), (torch.bfloat16, 0.15)):
            group = neap.torch.Group(experts=8, slots=10, policy="laer", wait=True, device="cuda")
            layer = neap.torch.MoE(64, 48, 2, group=group, dtype=dtype)
            plain = PlainMoE(64, 48, 8, 2, dtype=dtype).cuda()
            step = torch.optim.AdamW(layer.parameters(), lr=0.01)
            large = torch.randn(4096, 4096, device="cuda")
            for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
                torch.cuda.synchronize()
                with torch.cuda.stream(stream):
                    for _ in range(3):
                        plain.load_state_dict(layer.state_dict())
                        x = torch.full((200, 64), float("nan"), dtype=dtype, device="cuda")
                        wanted = torch.randn(200, 64, dtype=dtype, device="cuda") * 2
                        torch.cuda.synchronize()
                        for _ in range(20):  # some milliseconds, before x is written
                            large = torch.tanh(large @ large)
                        x.copy_(wanted)
                        self.near(layer, plain, x, tolerance)
                        step.step()
                        layer.zero_grad()
                        plain.zero_grad()
                torch.cuda.synchronize()
            group.close()


if __name__ == "__main__":
    unittest.main()
