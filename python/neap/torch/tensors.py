# SPDX-License-Identifier: Apache-2.0
"""torch tensors as the engine's, over the same memory."""

import contextlib
import ctypes
from typing import Any, Dict, Iterator, Optional, Sequence

import numpy as np
import torch

from .._engine import C, CONSTANTS, Handle, NeapError, check, opened

DTYPES: Dict[torch.dtype, int] = {
    torch.float32: CONSTANTS["NEAP_F32"], torch.float64: CONSTANTS["NEAP_F64"],
    torch.bfloat16: CONSTANTS["NEAP_BF16"], torch.int32: CONSTANTS["NEAP_I32"],
    torch.int64: CONSTANTS["NEAP_I64"],
}


_LEGACY = 1  # CUDA's number for the stream that torch calls 0


def code(dtype: torch.dtype) -> int:
    """The engine's number of a dtype. Raises NeapError (ARGUMENT)."""
    if dtype not in DTYPES:
        raise NeapError(f"dtype {dtype}; allowed are {', '.join(str(d) for d in DTYPES)}",
                        "ARGUMENT")
    return DTYPES[dtype]


def sums(dtype: torch.dtype) -> torch.dtype:
    """The dtype of accumulation: of masters, moments and gradients."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Within it the calling thread's engine computes on the device, on torch's current stream, so
    that what both enqueue is done in its order. Raises NeapError (ABSENT)."""
    if device.type == "cpu":
        check(C.neap_device_use(-1))
        yield
        return
    ordinal = torch.cuda.current_device() if device.index is None else device.index
    check(C.neap_device_use(ordinal))
    stream: int = torch.cuda.current_stream(ordinal).cuda_stream
    check(C.neap_device_stream(stream or _LEGACY))
    try:
        yield
    finally:
        C.neap_device_stream(None)
        C.neap_device_use(-1)


class Tensor(Handle):
    """A dense torch tensor as the engine's, without a copy; keeps the former alive."""

    def __init__(self, tensor: torch.Tensor, shape: Optional[Sequence[int]] = None):
        if not tensor.is_contiguous():
            raise NeapError("a tensor with gaps; call contiguous() first", "ARGUMENT")
        self.tensor = tensor
        dims = np.asarray(tensor.shape if shape is None else shape, dtype=np.int64)
        super().__init__(
            opened(C.neap_tensor_open_over, code(tensor.dtype), len(dims), dims.ctypes.data,
                   tensor.data_ptr() or None), C.neap_tensor_close)


class _Memory:
    """GPU memory of the engine's, for torch.as_tensor."""

    def __init__(self, address: int, count: int, dtype: torch.dtype):
        self.__cuda_array_interface__ = {
            "shape": (count,), "typestr": "<f8" if dtype == torch.float64 else "<f4",
            "data": (address, False), "version": 3}


def over(address: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor (count,) over memory of the engine's, float32 or float64, which must outlive it."""
    if count == 0:
        return torch.empty(0, dtype=dtype, device=device)
    if device.type == "cuda":
        memory: Any = _Memory(address, count, dtype)
        return torch.as_tensor(memory, device=device)
    size = count * torch.empty(0, dtype=dtype).element_size()
    block = (ctypes.c_char * size).from_address(address)
    return torch.frombuffer(block, dtype=dtype, count=count)
