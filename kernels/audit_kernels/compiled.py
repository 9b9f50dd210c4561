"""Functions that numba compiles when they are first run, and keeps on disk for later processes."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

_functions: dict[tuple[Callable[..., None], np.dtype[Any]], Callable[..., None]] = {}
_lock = threading.Lock()


# Without the GIL, so that threads compute at once, and dividing as numpy does. numba doesn't see
# when these options change: it compiles anew when the file of the function does.
_jit: Any = partial(njit, nogil=True, error_model="numpy")


def inlined(function: Function) -> Function:
    """A function that functions which are `run` call; compiled into each of these."""
    return cast("Function", _jit()(function))


def run(function: Callable[..., None], array: Any, *others: Any) -> None:
    """Calls the compiled function. What types it is compiled for, `array.dtype` decides.

    Whatever is wrong with numba's directory (it can't be written, the disk is full, a file is
    damaged): then the function is compiled for this process alone.
    """
    key = (function, array.dtype)
    if key not in _functions:
        with _lock:
            if key not in _functions:
                try:
                    _functions[key] = _from_disk(function, array, *others)
                except Exception:
                    _functions[key] = _jit()(function)
    _functions[key](array, *others)


def _from_disk(function: Callable[..., None], *arguments: Any) -> Callable[..., None]:
    compiled: Any = _jit(cache=True)(function)
    # numba numbers its files, and writes down the number before the file, without a lock:
    # processes that start at once may load each other's code, for other types.
    with open(Path(compiled.stats.cache_path, "audit_kernels.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        compiled(*arguments)
    return cast("Callable[..., None]", compiled)
