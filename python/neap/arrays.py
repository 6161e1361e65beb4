# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays and torch tensors as the engine takes them: dense, row-major, of one type.

What has the type and the order already is passed as it is, without a copy.
"""

import ctypes
from typing import Any, Optional, Sequence

import numpy as np
from numpy.typing import NDArray

from ._engine import NeapError


def dense(values: Any, dtype: Any, shape: Sequence[int], what: str) -> NDArray[Any]:
    """values as an array of the dtype and shape; the same memory if they are that already.

    values: an array, a torch tensor on the CPU, or nested lists. Whole numbers may be given as
    reals. Raises NeapError (SHAPE, ARGUMENT).
    """
    if getattr(values, "requires_grad", False):
        values = values.detach()
    try:
        given = np.asarray(values)
    except (TypeError, RuntimeError, ValueError) as error:
        raise NeapError(f"{what}: no array on the CPU: {error}", "ARGUMENT") from error
    if given.shape != tuple(shape):
        raise NeapError(f"{what}: shape {given.shape}; it must be {tuple(shape)}", "SHAPE")
    if not np.issubdtype(given.dtype, np.number):
        raise NeapError(f"{what}: elements are {given.dtype}; they must be numbers", "ARGUMENT")
    array: NDArray[Any] = np.ascontiguousarray(given, dtype=dtype)
    if np.issubdtype(np.dtype(dtype), np.integer) and array.dtype != given.dtype:
        if not np.array_equal(array, given):
            raise NeapError(f"{what}: not all elements are whole numbers in range", "ARGUMENT")
    return array


def address(array: Optional[NDArray[Any]]) -> Optional[int]:
    """Where an array begins; None for None."""
    return None if array is None else array.ctypes.data


def at(pointer: int, ctype: Any, shape: Sequence[int]) -> NDArray[Any]:
    """A copy of what lies at an address of the engine's."""
    count = int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, dtype=np.dtype(ctype))
    block = ctypes.cast(pointer, ctypes.POINTER(ctype * count)).contents
    return np.frombuffer(block, dtype=np.dtype(ctype)).reshape(shape).copy()
