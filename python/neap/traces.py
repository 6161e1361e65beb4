# SPDX-License-Identifier: Apache-2.0
"""Recorded loads, (steps, layers, ranks, experts): read, written, and written step by step."""

import ctypes
import os
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from ._engine import C, Handle, NeapError, check, opened
from .arrays import address, dense

Path = Union[str, "os.PathLike[str]"]


class Trace:
    """A trace in memory. load: int64 (steps, layers, ranks, experts); metadata: text by name."""

    def __init__(self, load: NDArray[np.int64], metadata: Optional[Mapping[str, str]] = None):
        if load.ndim != 4:
            raise NeapError(f"trace: {load.ndim} dimensions; it must have 4: steps, layers, ranks, "
                            "experts", "SHAPE")
        self.load = load
        self.metadata: Dict[str, str] = dict(metadata or {})

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """Reads safetensors and CSV, plain or gzipped. Raises NeapError (SYSTEM, FORMAT), naming
        the file and the place in it."""
        trace = opened(C.neap_trace_open, os.fsencode(path))
        try:
            shape = np.empty(4, dtype=np.int64)
            C.neap_trace_shape(trace, address(shape))
            load = np.empty(shape, dtype=np.int64)
            for step in range(shape[0]):
                for layer in range(shape[1]):
                    check(C.neap_trace_load(trace, step, layer, address(load[step, layer])))
            return cls(load, _metadata(trace))
        finally:
            C.neap_trace_close(trace)

    def write(self, path: Path) -> None:
        """Writes a finished trace; metadata that the writer makes itself is left out."""
        _, layers, ranks, experts = self.load.shape
        own = {k: v for k, v in self.metadata.items() if k not in _WRITERS_OWN}
        with TraceWriter(path, layers, ranks, experts, own) as writer:
            for step in self.load:
                writer.append(step)


_WRITERS_OWN = ("format", "version", "crc32", "state")


def _metadata(trace: Optional[int]) -> Dict[str, str]:
    found: Dict[str, str] = {}
    value = ctypes.c_char_p()
    while True:
        key = C.neap_trace_metadata(trace, len(found), ctypes.byref(value))
        if key is None:
            return found
        found[key.decode("utf-8", "replace")] = (value.value or b"").decode("utf-8", "replace")


class TraceWriter(Handle):
    """Writes a trace step by step: the file is valid between steps, whatever becomes of the
    process, and says whether it was finished. With `with` it is finished at the end, unless an
    exception leaves the block.

    metadata: text by name; node_size and slots are what replays go by if they are not told.
    """

    def __init__(self, path: Path, layers: int, ranks: int, experts: int,
                 metadata: Optional[Mapping[str, Any]] = None):
        self.shape: Tuple[int, int, int] = (layers, ranks, experts)
        self.steps = 0
        pairs = [(str(k).encode(), str(v).encode()) for k, v in (metadata or {}).items()]
        keys = (ctypes.c_char_p * len(pairs))(*(key for key, _ in pairs))
        values = (ctypes.c_char_p * len(pairs))(*(value for _, value in pairs))
        shape = np.asarray(self.shape, dtype=np.int64)
        super().__init__(
            opened(C.neap_trace_writer_open, os.fsencode(path), address(shape), keys, values,
                   len(pairs)), C.neap_trace_writer_close)

    def append(self, load: Any) -> None:
        """The next step's load, (layers, ranks, experts)."""
        values = dense(load, np.int64, self.shape, "trace")
        for layer in range(self.shape[0]):
            check(C.neap_trace_writer_append(self.pointer, self.steps, layer,
                                             address(values[layer])))
        self.steps += 1

    def finish(self) -> None:
        """Marks the file as complete, and closes it."""
        check(C.neap_trace_writer_finish(self.pointer))
        self.close()

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is None and self._finalizer.alive:
            self.finish()
        self.close()
