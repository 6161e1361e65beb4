# SPDX-License-Identifier: Apache-2.0
"""Small files to the schemas that neap trace import reads, and what must come of them: a reference
that counts with NumPy, by itself.

    make_traces.py FOLDER MODULE...   writes the files and expected.json: name -> [arguments, shape,
                                      loads]; what needs torch or pyarrow if they are named
"""

import hashlib
import json
import os
import sys

import numpy as np

os.chdir(sys.argv[1])
draw = np.random.default_rng(7)
expected = {}


def expect(name, arguments, loads):
    loads = np.asarray(loads)
    expected[name] = [arguments, list(loads.shape), loads.ravel().tolist()]


def choices(*shape, experts, k):
    return np.argsort(draw.random((*shape, experts)), axis=-1)[..., :k]


def dealt(ids, ranks, step_tokens, experts):
    """Loads of choices [tokens, layers, K]: the i-th of a step's tokens is rank i * ranks // tokens."""
    steps = len(ids) // step_tokens
    loads = np.zeros((steps, ids.shape[1], ranks, experts), int)
    for token in range(steps * step_tokens):
        step, at = divmod(token, step_tokens)
        for layer in range(ids.shape[1]):
            for expert in ids[token, layer]:
                if expert >= 0:
                    loads[step, layer, at * ranks // step_tokens, expert] += 1
    return loads


def spread(counts, ranks):
    """Counts [..., experts] over ranks, which differ by one at most."""
    rank = np.arange(ranks)[:, None]
    expert = np.arange(counts.shape[-1])[None, :]
    return (counts[..., None, :] + (rank + expert) % ranks) // ranks


def numpy_files():
    ids = choices(43, 3, experts=9, k=2).astype(np.int16)
    ids[5, 1] = -1
    ids[0, 0, 0] = 8
    np.save("routed.npy", ids)
    expect("routed.npy", "--ranks 4 --step-tokens 20", dealt(ids, 4, 20, 9))
    os.mkdir("requests")
    np.save("requests/a.npy", ids[:20].astype(np.int32))
    np.save("requests/b.npy", ids[20:40].astype(np.int32))
    expect("requests", "--ranks 4 --experts 12", dealt(ids[:40], 4, 20, 12))
    loads = draw.integers(0, 50, (3, 2, 4, 6))
    for kind in ("u1", "i2", "u4", "i8", "f4", "f8"):
        np.save(kind + ".npy", loads.astype(kind))
        expect(kind + ".npy", "", loads)
    counts = draw.integers(0, 5000, (2, 3, 6))
    np.save("counts.npy", counts)
    expect("counts.npy", "--ranks 4 --format counts", spread(counts, 4))
    with open("eplb.json", "w") as file:
        json.dump(counts[0].tolist(), file)
    expect("eplb.json", "--ranks 4", spread(counts[:1], 4))
    with open("named.json", "w") as file:
        json.dump({"logical_count": counts.tolist()}, file)
    expect("named.json", "--ranks 5", spread(counts, 5))


def router_traces():
    os.mkdir("router")
    loads = np.zeros((3, 3, 2, 8), int)
    for rank in range(2):
        with open(f"router/router_trace_rank{rank}.jsonl", "w") as file:
            for step in range(3):
                for at, (block, layer) in enumerate((("decoder", 3), ("decoder", 4), ("mtp", 1))):
                    for _ in range(2 if layer == 4 else 1):  # micro-batches
                        ids = choices(5, experts=8, k=2)
                        record = {"step": step, "stage": "pre_dispatch", "block": block,
                                  "layer": layer, "rank": rank, "num_tokens": 5, "topk": 2}
                        if block == "mtp":
                            record["mtp_idx"] = 0
                        file.write(json.dumps({**record, "top_indices": ids.tolist()}) + "\n")
                        np.add.at(loads[step, at, rank], ids.ravel(), 1)
    expect("router", "--experts 8", loads)


def pipeline():
    """Ranks 0 and 1 have layer 1, ranks 2 and 3 layer 2."""
    os.mkdir("stages")
    loads = np.zeros((1, 2, 2, 4), int)
    for rank in range(4):
        ids = choices(6, experts=4, k=1)
        with open(f"stages/router_trace_rank{rank}.jsonl", "w") as file:
            file.write(json.dumps({"step": 0, "layer": 1 + rank // 2, "rank": rank, "num_tokens": 6,
                                   "topk": 1, "top_indices": ids.tolist()}) + "\n")
        np.add.at(loads[0, rank // 2, rank % 2], ids.ravel(), 1)
    expect("stages", "--experts 4", loads)


def sglang_csv():
    os.mkdir("csv")
    loads = np.zeros((2, 2, 3, 8), int)
    for rank in range(3):
        for step, time in enumerate((99.5, 100.25)):
            with open(f"csv/expert_distribution_rank{rank}_timestamp{time}.csv", "w") as file:
                file.write("layer_id,expert_id,count\n")
                for layer in range(2):
                    for expert in draw.permutation(8)[:6]:
                        count = int(draw.integers(1, 99))
                        file.write(f"{layer + 3},{expert},{count}\n")
                        loads[step, layer, rank, expert] = count
    expect("csv", "--experts 8", loads)


def torch_files():
    import torch
    counts = draw.integers(0, 900, (2, 3, 6))
    torch.save({"rank": 0, "logical_count": torch.tensor(counts),
                "average_utilization_rate_over_window": None},
               "expert_distribution_recorder_1.5.pt")
    expect("expert_distribution_recorder_1.5.pt", "--ranks 4", spread(counts, 4))
    os.mkdir("passes")
    maps = np.array([[0, 1, 2, 3, 0, 2], [3, 2, 1, 0, 1, 1]])
    loads = np.zeros((2, 2, 2, 4), int)
    for rank in range(2):
        records = []
        for at in range(2):
            physical = draw.integers(0, 30, (2, 6))
            records.append({"forward_pass_id": 10 + at, "rank": rank, "gatherer_key": "primary",
                            "global_physical_count": torch.tensor(physical, dtype=torch.int32)})
            for layer in range(2):
                np.add.at(loads[at, layer, rank], maps[layer], physical[layer])
        torch.save({"records": records, "last_physical_to_logical_map": torch.tensor(maps)},
                   f"passes/expert_distribution_recorder_9.5_{rank}.pt")
    expect("passes", "", loads)
    benchmark(torch)


def benchmark(torch):
    """Two steps of one layer, as Megatron-LM's benchmarks/moe/token_imbalance/trace.py saves them."""
    loads = np.zeros((2, 1, 2, 8), int)
    for step in range(2):
        folder = f"benchmark/step{step}"
        os.makedirs(folder + "/tensors")
        ids = choices(16, experts=8, k=2)
        source = (np.arange(16) // 8).astype(np.int32)
        tensors = {}
        for name, array in (("expert_ids", ids), ("token_ids", ids), ("source_rank", source),
                            ("gates", np.full((16, 2), 0.5, np.float32))):
            path = f"{folder}/tensors/{name}.pt"
            torch.save(torch.tensor(array), path)
            with open(path, "rb") as file:
                tensors[name] = {"file": f"tensors/{name}.pt", "shape": list(array.shape),
                                 "sha256": hashlib.sha256(file.read()).hexdigest(),
                                 "dtype": str(array.dtype)}
        with open(folder + "/manifest.json", "w") as file:
            json.dump({"schema_version": 1, "seed": 4, "logical_layer_id": 0, "step_id": step,
                       "logical_num_tokens": 16, "num_experts": 8, "topk": 2, "hidden_size": 4,
                       "world_size": 2, "workload_id": "W1_hot_expert_set",
                       "workload_checksum": "0", "tensors": tensors}, file, indent=2)
        np.add.at(loads[step, 0], (np.repeat(source, 2), ids.ravel()), 1)
    expect("benchmark", "", loads)


def parquet_files():
    import pyarrow
    from pyarrow import parquet
    loads = np.zeros((4, 2, 4, 8), int)
    for i, iteration in enumerate((540, 1080)):
        os.makedirs(f"actives/iter_{iteration:04}")
        ids = choices(24, 2, experts=8, k=3)
        for layer in range(2):
            table = pyarrow.table({
                "scores": pyarrow.array([[0.5] * 3] * 24, pyarrow.list_(pyarrow.float32())),
                "indices": pyarrow.array(ids[:, layer].tolist(), pyarrow.list_(pyarrow.int16()))})
            parquet.write_table(table, f"actives/iter_{iteration:04}/layer_{layer + 2:02}.parquet")
        loads[2 * i : 2 * i + 2] = dealt(ids, 4, 12, 8)
    expect("actives", "--ranks 4 --step-tokens 12 --experts 8", loads)


numpy_files()
router_traces()
pipeline()
sglang_csv()
lacks = []
for module, make in (("torch", torch_files), ("pyarrow", parquet_files)):
    try:
        if module not in sys.argv[2:]:
            raise ImportError
        make()
    except ImportError:
        lacks.append(module)
with open("expected.json", "w") as file:
    json.dump({"files": expected, "lacks": lacks}, file)
