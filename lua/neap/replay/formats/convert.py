# SPDX-License-Identifier: Apache-2.0
"""Reads what only Python reads, for neap trace import: files of torch and of Parquet.

    convert.py KIND FILE...

Writes to stdout, for every array, a line of JSON (kind, shape, dtype, step, layer, metadata) and then
its elements, little-endian; at the end a line {"kind": "end"}. What is wrong with a file goes to
stderr in one line, and the exit status is 5; what Python lacks, 3.
"""

import hashlib
import json
import os
import re
import sys

import numpy as np


STEPS = 1000000  # ids of steps from one iteration to the next


class Damaged(Exception):
    """What is wrong with a file."""


def need(module, why):
    """Imports a module, or says who lacks it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError:
        print(f"{sys.executable} has no {module.split('.')[0]}, which reads {why}; "
              f"install it, or name another Python in NEAP_PYTHON", file=sys.stderr)
        sys.exit(3)


def head(kind, shape, dtype, **more):
    line = json.dumps({"kind": kind, "shape": [int(size) for size in shape], "dtype": dtype, **more})
    sys.stdout.buffer.write(line.encode() + b"\n")


def put(kind, array, **more):
    """Writes an array of whole numbers."""
    array = np.ascontiguousarray(array, dtype="<i8")
    head(kind, array.shape, "i8", **more)
    sys.stdout.buffer.write(array.tobytes())


def load_pt(path):
    torch = need("torch", ".pt files")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:  # whatever torch raises, it is about the file
        raise Damaged(f"{path}: torch cannot load it with weights_only: {str(why).splitlines()[0]}")


def numbers(path, name, value, dims):
    """A tensor as an array of so many dimensions."""
    array = getattr(value, "numpy", lambda: None)()
    if array is None or array.ndim not in dims:
        shape = None if array is None else array.shape
        raise Damaged(f"{path}: {name} has the shape {shape}; {' or '.join(map(str, dims))} "
                      "dimensions expected")
    if not np.issubdtype(array.dtype, np.integer) and (array != np.floor(array)).any():
        raise Damaged(f"{path}: {name} has values that are no whole numbers")
    return array.astype(np.int64)


# ---- SGLang (python/sglang/srt/eplb/expert_distribution.py) ---------------------------------------


def logical(path, counts, maps):
    """Counts [layers, physical] of slots as [layers, logical], by a map of that shape."""
    if counts.shape != maps.shape or maps.min() < 0:
        raise Damaged(f"{path}: counts of the shape {counts.shape}, a map of {maps.shape}")
    out = np.zeros((maps.shape[0], maps.max() + 1), np.int64)
    for layer in range(maps.shape[0]):
        np.add.at(out[layer], maps[layer], counts[layer])
    return out


def sglang(paths):
    """Of modes stat and stat_approx: logical_count of all ranks. Of per_pass and per_token: records
    of a rank's passes, a file a rank."""
    stats, records = [], {}
    for path in paths:
        data = load_pt(path)
        if not isinstance(data, dict) or not ("logical_count" in data or "records" in data):
            raise Damaged(f"{path}: neither logical_count nor records: not a dump of SGLang's "
                          "expert distribution recorder")
        if "logical_count" in data:
            counts = numbers(path, "logical_count", data["logical_count"], (2, 3))
            stats.append(counts if counts.ndim == 3 else counts[None])
            continue
        maps = numbers(path, "last_physical_to_logical_map", data["last_physical_to_logical_map"], (2,))
        for record in data["records"]:
            counts = logical(path, numbers(path, "global_physical_count",
                                           record["global_physical_count"], (2,)), maps)
            key = int(record["forward_pass_id"]), int(record["rank"])
            records[key] = records[key] + counts if key in records else counts
    if stats and records:
        raise Damaged("dumps with logical_count and with records do not go together")
    if stats:
        put("counts", np.concatenate(stats))
        return
    put_passes(records)


def put_passes(records):
    """Records by (pass, rank), those passes of which there are all ranks."""
    ranks = sorted({rank for _, rank in records})
    passes = sorted({at for at, _ in records})
    whole = [at for at in passes if all((at, rank) in records for rank in ranks)]
    if not whole:
        raise Damaged("no pass has records of all ranks")
    experts = max(counts.shape[1] for counts in records.values())
    layers = next(iter(records.values())).shape[0]
    out = np.zeros((len(whole), layers, len(ranks), experts), np.int64)
    for i, at in enumerate(whole):
        for j, rank in enumerate(ranks):
            counts = records[at, rank]
            out[i, :, j, : counts.shape[1]] = counts
    put("loads", out, left_out=len(passes) - len(whole))


# ---- the token-imbalance benchmark (Megatron-LM, benchmarks/moe/token_imbalance/trace.py) ---------


def tensor_of(folder, manifest, name):
    about = manifest["tensors"].get(name)
    if not about:
        raise Damaged(f"{folder}/manifest.json: it lists no tensor {name}")
    path = os.path.join(folder, about["file"])
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != about["sha256"]:
        raise Damaged(f"{path}: its SHA-256 is not the manifest's: it is damaged")
    array = load_pt(path).numpy()
    if list(array.shape) != list(about["shape"]):
        raise Damaged(f"{path}: its shape is {list(array.shape)}, the manifest's {about['shape']}")
    return array


def manifest(folders):
    """Folders with manifest.json and tensors: a layer of a step each."""
    for folder in folders:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            about = json.load(file)
        if about.get("schema_version") != 1:
            raise Damaged(f"{folder}/manifest.json: schema_version {about.get('schema_version')}; "
                          "this program reads 1")
        lacks = [name for name in ("num_experts", "topk", "world_size", "tensors") if name not in about]
        if lacks:
            raise Damaged(f"{folder}/manifest.json: it lacks {', '.join(lacks)}")
        experts, ranks = int(about["num_experts"]), int(about["world_size"])
        ids, source = (tensor_of(folder, about, name) for name in ("expert_ids", "source_rank"))
        if ids.ndim != 2 or ids.shape[1] != about["topk"] or source.shape != ids.shape[:1]:
            raise Damaged(f"{folder}: expert_ids have the shape {ids.shape}, source_rank {source.shape}")
        if ids.size and (ids.min() < 0 or ids.max() >= experts or source.min() < 0 or source.max() >= ranks):
            raise Damaged(f"{folder}: an id that is not of {experts} experts or {ranks} ranks")
        out = np.zeros((1, 1, ranks, experts), np.int64)
        np.add.at(out[0, 0], (np.repeat(source, ids.shape[1]), ids.ravel()), 1)
        put("loads", out, step=int(about.get("step_id", 0)), layer=int(about.get("logical_layer_id", 0)),
            metadata={"workload": str(about.get("workload_id", "")), "top_k": int(about["topk"]),
                      "seed": int(about.get("seed", 0))})


# ---- Parquet of choices (FLAME-MoE's traces) -------------------------------------------------------


def choices_of(table, path, column):
    """The lists of a column as an array [tokens, K]."""
    values = table.column(column).combine_chunks()
    if hasattr(values, "chunks"):
        values = values.chunk(0)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    k = len(flat) // max(1, len(values))
    if not len(values) or len(flat) != k * len(values):
        raise Damaged(f"{path}: rows of column {column} differ in how many experts they have")
    return flat.reshape(-1, k)


def parquet(paths):
    """iter_NNNN/layer_NN.parquet, a row a token, the experts in column "indices"."""
    reader = need("pyarrow.parquet", "Parquet")
    for path in paths:
        try:
            file = reader.ParquetFile(path)
        except Exception as why:  # whatever pyarrow raises, it is about the file
            raise Damaged(f"{path}: no Parquet: {str(why).splitlines()[0]}")
        names = [name for name in ("indices", "expert_ids", "topk_ids") if name in file.schema_arrow.names]
        if not names:
            raise Damaged(f"{path}: there is no column indices; it has {', '.join(file.schema_arrow.names)}")
        step, layer = (re.search(pattern, path) for pattern in (r"iter_(\d+)", r"layer_(\d+)"))
        tokens, first = file.metadata.num_rows, True
        for batch in file.iter_batches(batch_size=1 << 18, columns=names[:1]):
            rows = choices_of(need("pyarrow", "Parquet").Table.from_batches([batch]), path, names[0])
            if first:
                head("choices", (tokens, rows.shape[1]), "i2", step=STEPS * int(step[1]) if step else 0,
                     layer=int(layer[1]) if layer else 0)
                k, first = rows.shape[1], False
            if rows.shape[1] != k:
                raise Damaged(f"{path}: rows differ in how many experts they have")
            sys.stdout.buffer.write(np.ascontiguousarray(rows, dtype="<i2").tobytes())


KINDS = {"sglang": sglang, "token-imbalance": manifest, "flame": parquet}


def main():
    try:
        KINDS[sys.argv[1]](sys.argv[2:])
    except (Damaged, KeyError, OSError, ValueError) as why:
        text = str(why) if isinstance(why, (Damaged, OSError)) else f"{sys.argv[2]}: {why!r}"
        print(text, file=sys.stderr)
        sys.exit(5)
    sys.stdout.buffer.write(b'{"kind": "end"}\n')


if __name__ == "__main__":
    main()
