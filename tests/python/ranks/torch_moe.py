# SPDX-License-Identifier: Apache-2.0
"""A model of two MoE layers, trained for some steps on the ranks that there are, on the same tokens
whatever their number. Rank 0 prints what the ranks have come to, as JSON: a hash of the outputs of
the first step, the losses, a hash of the state loaded again, faults of the policy.

    python3 torch_moe.py POLICY STATE [cuda] STATE: file; loaded first if it is there, else written
"""

import hashlib
import json
import os
import sys

import torch

import neap.torch

TOKENS, HIDDEN, STEPS = 48, 16, 4


def launched(device):
    """Joins the ranks of torchrun, if it has started us."""
    if device == "cuda":
        rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))
        torch.cuda.set_device(rank % torch.cuda.device_count())
    if "TORCHELASTIC_RUN_ID" in os.environ:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def digest(values):
    """Of a tensor's bits."""
    return hashlib.sha256(values.detach().contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


def flat(state):
    """All values of a state_dict."""
    return torch.cat([value.detach().cpu().double().reshape(-1) for value in state.values()])


def gather(comm, values):
    """Everybody's rows, in rank order."""
    import numpy as np
    wide = values.detach().cpu().double().contiguous()
    rows = comm.all_gather(wide.numpy().view(np.int64))
    return torch.from_numpy(rows.view(np.float64).reshape(-1, values.shape[-1]))


class Model(torch.nn.Module):
    """Two MoE layers with residuals."""

    def __init__(self, group):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            neap.torch.MoE(HIDDEN, 24, 2, group=group, seed=3) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def record(recorder, model):
    """Records a step's choices as a trainer would, and returns the engine's own counts of it."""
    for number, layer in enumerate(model.layers):
        recorder.add(number, torch.from_numpy(layer.choices))
    recorder.step()
    return [layer.load.tolist() for layer in model.layers]


def train(group, model, recorder):
    """Losses, over all ranks, a hash of the first step's outputs of all tokens, and the counts."""
    part = slice(group.rank * TOKENS // group.ranks, (group.rank + 1) * TOKENS // group.ranks)
    shards = neap.torch.AdamW(model, lr=0.05)
    routers = torch.optim.AdamW([layer.router for layer in model.layers], lr=0.05)
    several = torch.distributed.is_initialized()
    wrapped = torch.nn.parallel.DistributedDataParallel(
        group.leave_to_us(model)) if several else model
    losses, first, counts = [], None, []
    for step in range(STEPS):
        torch.manual_seed(step)
        x, target = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
        y = wrapped(x[part].to(group.device))
        if recorder:
            counts.append(record(recorder, model))
        loss = ((y - target[part].to(y.device)) ** 2).mean()
        loss.backward()
        if not several:
            group.average_gradients(model)
        shards.step()
        routers.step()
        model.zero_grad()
        everybody = gather(group.control, y)
        losses.append(((everybody - target) ** 2).mean().item())
        first = digest(everybody) if first is None else first
    return losses, first, counts


def run(policy, state, device="cpu"):
    """What is printed; None on other ranks than 0. In float32 on GPUs."""
    torch.set_default_dtype(torch.float32 if device == "cuda" else torch.float64)
    with neap.torch.Group(experts=6, slots=6, node_size=2, policy=policy, wait=True,
                          device=device) as group:
        model = Model(group)
        loaded = os.path.exists(state)
        if loaded:
            model.load_state_dict(torch.load(state))
        begun = digest(flat(model.state_dict()))
        several = torch.distributed.is_initialized()
        recorder = neap.torch.Recorder(state + ".trace", 2, 6) if several else None
        losses, first, counts = train(group, model, recorder)
        if recorder:
            recorder.close()
        saved = model.state_dict()
        if group.rank == 0:
            if not loaded:
                torch.save(saved, state)
            return {"ranks": group.ranks, "first": first, "losses": losses, "loaded": begun,
                    "counts": counts,
                    "faults": group.report()["faults"],
                    "saved": digest(flat(saved))}
    return None


if __name__ == "__main__":
    launched(sys.argv[3] if len(sys.argv) > 3 else "cpu")
    found = run(*sys.argv[1:])
    if found:
        print(json.dumps(found))
