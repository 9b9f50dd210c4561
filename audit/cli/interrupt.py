"""Ctrl-C, remembered: an exception can get lost on its way up through foreign code.

HDF5 swallows what is raised while it calls back for a write, the interpreter what is raised while
it drops a weak reference, and torch what is raised while it imports a part of itself, which then
fails for want of the rest.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received: list[int] = []
_deferring: list[bool] = []


def watch() -> None:
    """Note SIGINT from here on, unless it is ignored (a shell's background job, nohup)."""
    _received.clear()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def received() -> bool:
    """Whether Ctrl-C came."""
    return bool(_received)


@contextmanager
def deferred() -> Iterator[None]:
    """In here, the first Ctrl-C waits for the next `check`; the second doesn't."""
    _deferring.append(True)
    try:
        yield
    finally:
        _deferring.pop()


def check() -> None:
    """Raise what was deferred.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
    """
    if _received:
        raise KeyboardInterrupt


def ignore() -> None:
    """Nothing is left to interrupt: in the interpreter's shutdown it would only spoil the end."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _received.append(signum)
    if not _deferring or len(_received) > 1:
        raise KeyboardInterrupt
