# SPDX-License-Identifier: Apache-2.0
"""The library, its errors, and objects that own something of it."""

import ctypes
import weakref
from typing import Any, Optional

from . import _where
from ._declarations import Declarations

PLACE = _where.find()
DECLARED = Declarations(PLACE.declarations.read_text())
C: Any = DECLARED.bind(ctypes.CDLL(str(PLACE.library)))
CONSTANTS = DECLARED.constants
STRUCTS = DECLARED.structs

_FAILED = "FAILED"  # what is no status of the engine: a program that failed


class NeapError(Exception):
    """What the engine refused, in its own words.

    code: name of the engine's status ("ARGUMENT", "LAYOUT", "FORMAT", ...; core/include/neap.h
    tells them), "USAGE" for words that a command does not know, "FAILED" for a command that failed.
    """

    def __init__(self, message: str, code: str = _FAILED):
        super().__init__(message)
        self.code = code


NeapError.__module__ = "neap"  # what tracebacks call it


def check(status: int) -> None:
    """Raises the calling thread's last failure unless the status is OK."""
    if status:
        code = C.neap_status_name(status).decode()
        raise NeapError(C.neap_error_message().decode("utf-8", "replace"), code)


def version() -> str:
    """Version of the engine, its build type and what it was built for."""
    return str(C.neap_version().decode())


class Handle:
    """Something that the engine has opened. Closed by close(), by `with`, or by the collector."""

    def __init__(self, opened: Optional[int], close: Any):
        self._pointer = opened
        self._finalizer = weakref.finalize(self, close, opened)

    @property
    def pointer(self) -> int:
        """Address for the engine. Raises NeapError after close."""
        if not self._finalizer.alive or self._pointer is None:
            raise NeapError(f"use of a closed {type(self).__name__}", "ARGUMENT")
        return self._pointer

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        """What ctypes passes: a handle that is an argument lives until the call returns."""
        return ctypes.c_void_p(self.pointer)

    def close(self) -> None:
        """Gives it back; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def opened(function: Any, *arguments: Any) -> Optional[int]:
    """Calls an open function, whose last argument is where the handle goes."""
    handle = ctypes.c_void_p()
    check(function(*arguments, ctypes.byref(handle)))
    return handle.value
