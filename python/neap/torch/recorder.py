# SPDX-License-Identifier: Apache-2.0
"""Records the routing of any Mixture-of-Experts model into a Neap trace."""

from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from .._engine import NeapError
from ..traces import Path, TraceWriter
from .ranks import distributed


class Recorder:
    """Give it what the routers choose, in any code:

        recorder = Recorder("routing.safetensors", layers=24, experts=64, slots=4, node_size=8)
        recorder.add(layer, indices)   # in the layer: the chosen experts, (tokens, K), any integers
        recorder.step()                # once a training step, on all ranks
        recorder.close()               # or `with`: the trace is marked as complete

    or let it look at modules: recorder.watch(router, layer, lambda output: output[1]).

    Counts stay on their device until step(), which gathers those of all ranks of torch.distributed
    on rank 0, which writes. Without it, ranks=N deals a process' tokens in their order to N ranks
    as if they had them, which the metadata tells (dealt). Several calls of add in a step add up.
    metadata: more pairs for the trace.
    """

    def __init__(self, path: Path, layers: int, experts: int, ranks: Optional[int] = None,
                 **metadata: Any):
        if ranks is not None and distributed():
            raise NeapError("recorder: ranks= deals the tokens of one process; torch.distributed "
                            "has ranks of its own", "ARGUMENT")
        self.layers, self.experts = layers, experts
        self._dealt = ranks or 1
        self._counts: Dict[int, torch.Tensor] = {}
        self._hooks: List[Any] = []
        self._root = not distributed() or dist.get_rank() == 0
        size = dist.get_world_size() if distributed() else self._dealt
        if ranks:
            metadata["dealt"] = f"tokens in their order to {ranks} ranks"
        self._writer = TraceWriter(path, layers, size, experts,
                                   {"generator": "neap.torch", **metadata}) if self._root else None

    def add(self, layer: int, indices: torch.Tensor) -> None:
        """Chosen experts of this process' tokens: (tokens, K) or any shape that begins with them.
        Raises NeapError (ARGUMENT); what are no experts, step finds."""
        if not 0 <= layer < self.layers:
            raise NeapError(f"recorder: layer {layer}; allowed are 0 to {self.layers - 1}",
                            "ARGUMENT")
        if indices.dtype.is_floating_point or indices.dim() == 0:
            raise NeapError(f"recorder: indices are {indices.dtype} {tuple(indices.shape)}; they "
                            "must be integers (tokens, K)", "ARGUMENT")
        rows = indices.detach().reshape(indices.shape[0], -1).to(torch.int64)
        token = torch.arange(len(rows), device=rows.device)
        rank = torch.div(token * self._dealt, max(len(rows), 1), rounding_mode="floor")
        known = (rows >= 0) & (rows < self.experts)
        none = self._dealt * self.experts  # the last cell: of choices that are no experts
        cells = torch.where(known, rank[:, None] * self.experts + rows, none).reshape(-1)
        if layer not in self._counts:
            self._counts[layer] = torch.zeros(none + 1, dtype=torch.int64, device=rows.device)
        self._counts[layer].scatter_add_(0, cells, torch.ones_like(cells))

    def watch(self, module: torch.nn.Module, layer: int,
              indices: Callable[[Any], torch.Tensor] = lambda output: output) -> None:
        """Adds what a module chooses whenever it is called in training; indices: of its output."""
        def hook(watched: torch.nn.Module, _: Any, output: Any) -> None:
            if watched.training:
                self.add(layer, indices(output))
        self._hooks.append(module.register_forward_hook(hook))

    def step(self) -> None:
        """Ends a step, in which all layers were added. Collective over torch.distributed. Raises
        NeapError (ARGUMENT)."""
        lacking = [layer for layer in range(self.layers) if layer not in self._counts]
        if lacking:
            raise NeapError(f"recorder: nothing was added for layer {lacking[0]} in this step",
                            "ARGUMENT")
        device = self._counts[0].device
        mine = torch.stack([self._counts[layer].to(device) for layer in range(self.layers)])
        self._counts = {}
        wrong = mine[:, -1].nonzero()
        if len(wrong):
            raise NeapError(f"recorder: choices of layer {int(wrong[0])} are no experts; allowed "
                            f"are 0 to {self.experts - 1}", "ARGUMENT")
        mine = mine[:, :-1].contiguous()
        load = _gathered(mine).reshape(-1, self.layers, self._dealt, self.experts)
        if self._writer:
            steps = np.moveaxis(load, 0, 1).reshape(self.layers, -1, self.experts)
            self._writer.append(np.ascontiguousarray(steps))

    def close(self) -> None:
        """Marks the trace as complete and looks at no module any more."""
        for hook in self._hooks:
            hook.remove()
        if self._writer:
            self._writer.finish()
        self._writer = None

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is None:
            self.close()
        elif self._writer:
            self._writer.close()


def _gathered(mine: torch.Tensor) -> NDArray[np.int64]:
    """Everybody's counts, (ranks, *shape), on rank 0; on others nobody reads them."""
    if not distributed():
        return mine[None].cpu().numpy()
    if dist.get_backend() == "gloo":
        mine = mine.cpu()
    out = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(out, mine)
    return torch.stack(out).cpu().numpy()
