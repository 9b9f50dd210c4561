"""Ctrl-C, remembered: an exception can get lost on its way up through foreign code.

HDF5 swallows what is raised while it calls back for a write, and torch what is raised while it
imports a part of itself, which then fails for want of the rest.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

_received: list[int] = []


def watch() -> None:
    """Note SIGINT from here on, unless it is ignored (a shell's background job, nohup)."""
    _received.clear()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def received() -> bool:
    """Whether Ctrl-C came."""
    return bool(_received)


def check() -> None:
    """Raise what got lost.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
    """
    if _received:
        raise KeyboardInterrupt


def ignore() -> None:
    """Nothing is left to interrupt: in the interpreter's shutdown it would only spoil the end."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    _received.append(signum)
    raise KeyboardInterrupt
