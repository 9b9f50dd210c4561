"""Ctrl-C and SIGTERM, remembered: an exception can get lost on its way up through foreign code.

HDF5 swallows what is raised while it calls back for a write, the interpreter what is raised while
it drops a weak reference, and torch what is raised while it imports a part of itself, which then
fails for want of the rest.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received: list[int] = []
_deferring: list[bool] = []


def watch() -> None:
    """Note both from here on, unless they are ignored (a shell's background job, nohup)."""
    _received.clear()
    for signum in SIGNALS:
        if signal.getsignal(signum) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(signum, _interrupt)


def received() -> int:
    """The number of the signal that came first; 0: none did."""
    return _received[0] if _received else 0


@contextmanager
def deferred() -> Iterator[None]:
    """In here, the first signal waits for the next `check`; the second doesn't."""
    _deferring.append(True)
    try:
        yield
    finally:
        _deferring.pop()


def check() -> None:
    """Raise what was deferred.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    if _received:
        raise KeyboardInterrupt


def ignore() -> None:
    """Nothing is left to interrupt: in the interpreter's shutdown it would only spoil the end."""
    for signum in SIGNALS:
        if signal.getsignal(signum) is _interrupt:
            signal.signal(signum, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _received.append(signum)
    if not _deferring or len(_received) > 1:
        raise KeyboardInterrupt
