"""Readers with every fault that the worker must see: python -m fuzzing.bad NAME:FIRST:COUNT …"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import fuzzing.worker
from audit.errors import DatasetError
from fuzzing.kind import Kind

HANG_S = 1


def _crash(path: Path, number: int) -> None:
    ctypes.string_at(0)


def _hang(path: Path, number: int) -> None:
    while True:
        pass


def _raise(path: Path, number: int) -> None:
    raise KeyError("a bug")


def _fill_memory(path: Path, number: int) -> None:
    assert len(b"x" * (6 * 10**8)) > 0


def _claim_memory(path: Path, number: int) -> None:
    bytearray(2**34)


def _say_nothing(path: Path, number: int) -> None:
    raise DatasetError("")


def _refuse(path: Path, number: int) -> None:
    raise DatasetError(f"{path}: mutated; expected the original")


# Reader → what the worker must say of it.
BAD: dict[Callable[[Path, int], None], str] = {
    _crash: "process ended with -11",
    _hang: "no answer in 1 s",
    _raise: "KeyError: 'a bug'",
    _fill_memory: "memory: ",
    _claim_memory: "MemoryError",
    _say_nothing: "an error that says ''",
    _refuse: "",
}

if __name__ == "__main__":
    fuzzing.worker.HANG_S = HANG_S
    kinds = {read.__name__: Kind(read.__name__, "audit.toml", read) for read in BAD}
    fuzzing.worker.main(sys.argv[1:], kinds)
