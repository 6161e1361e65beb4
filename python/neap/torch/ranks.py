# SPDX-License-Identifier: Apache-2.0
"""The communicator of a training's ranks: processes of mpirun or of torchrun, or this one alone."""

import ctypes
import os
from typing import Any, List, Optional

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from .._engine import C, CONSTANTS, Handle, check, opened


class Comm:
    """A communicator of the engine's. Its calls are collective. Not closed by the collector, since
    that is collective, too."""

    def __init__(self, pointer: Optional[int]):
        self.pointer = pointer
        self.rank: int = C.neap_comm_rank(pointer)
        self.size: int = C.neap_comm_size(pointer)

    def duplicate(self) -> "Comm":
        """The same ranks with an order of their own."""
        return Comm(opened(C.neap_comm_duplicate, self.pointer))

    def broadcast(self, array: NDArray[Any], root: int = 0) -> None:
        """array of the root's, in place."""
        check(C.neap_comm_broadcast(self.pointer, array.ctypes.data, array.nbytes, root))

    def sum(self, array: NDArray[np.float64]) -> None:
        """Sums over ranks, in rank order, in place."""
        check(C.neap_comm_all_reduce(self.pointer, array.ctypes.data, array.size,
                                     CONSTANTS["NEAP_F64"], CONSTANTS["NEAP_SUM"]))

    def all_gather(self, mine: NDArray[np.int64]) -> NDArray[np.int64]:
        """Everybody's array, all of one shape: (ranks, *shape)."""
        out = np.empty((self.size, *mine.shape), dtype=np.int64)
        counts = np.full(self.size, mine.size, dtype=np.int64)
        check(C.neap_comm_all_gather(self.pointer, mine.ctypes.data, out.ctypes.data,
                                     counts.ctypes.data, CONSTANTS["NEAP_I64"]))
        return out

    def close(self) -> None:
        """Waits for what was started; collective."""
        if self.pointer:
            C.neap_comm_close(self.pointer)
        self.pointer = None


def _launched() -> int:
    """Processes that mpirun has started; 1 without it."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))


def distributed() -> bool:
    """Whether torch.distributed has several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _alone() -> Comm:
    world = ctypes.c_void_p()
    check(C.neap_world_open(1, ctypes.byref(world)))
    try:
        return Comm(opened(C.neap_comm_open_local, world, 0))
    finally:
        C.neap_world_close(world)


def _told(value: Any) -> List[Any]:
    """Everybody's value, over torch.distributed."""
    values: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _address() -> str:
    """Where other hosts reach this one: its address on the way to the training's first host."""
    import socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ.get("MASTER_ADDR", "127.0.0.1"), 9))
        return str(probe.getsockname()[0])


def _by_tcp() -> Comm:
    """The ranks of torch.distributed, which tells them each other's ports, linked by TCP."""
    import secrets
    import socket
    alone = len(set(_told(socket.gethostname()))) == 1
    host = "127.0.0.1" if alone else _address()
    listener = Handle(opened(C.neap_listener_open, host.encode()), C.neap_listener_close)
    told = _told((host, C.neap_listener_port(listener), secrets.randbits(64)))
    hosts = (ctypes.c_char_p * len(told))(*(host.encode() for host, _, _ in told))
    ports = (ctypes.c_int32 * len(told))(*(port for _, port, _ in told))
    comm = opened(C.neap_comm_open_tcp, listener, dist.get_rank(), len(told), hosts, ports,
                  told[0][2])
    listener.close()
    return Comm(comm)


def _over_nccl(host: Comm) -> Comm:
    """The same ranks, whose GPU memory travels by NCCL."""
    try:
        return Comm(opened(C.neap_comm_open_nccl_over, host.pointer))
    finally:
        host.close()


def open_ranks(device: torch.device) -> Comm:
    """All ranks of the training; where device is a GPU, which the engine computes on already, each
    has one of its own. Collective. Raises NeapError (COMM, ABSENT)."""
    if not distributed() and _launched() == 1:
        return _alone()
    host = _by_tcp() if distributed() else Comm(opened(C.neap_comm_open_mpi))
    return _over_nccl(host) if device.type == "cuda" else host
