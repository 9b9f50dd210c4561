"""How much of this process is in memory: its resident set, shared libraries included."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from audit.errors import OptionError

STATM = "/proc/self/statm"
EVERY = 0.001  # seconds between two looks: in so little time few pages can be touched


def resident() -> int:
    """Bytes that this process has resident now.

    Raises:
        OptionError: The system doesn't tell.
    """
    try:
        with open(STATM, encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError) as exc:
        raise OptionError(
            f"--memory-limit: this system has no {STATM}, by which memory is measured; leave it out"
        ) from exc
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_of(run: Callable[[], object]) -> int:
    """Bytes that this process had resident at most while `run` ran.

    The kernel's own mark can't be used: what the process did before may have been larger.
    """
    seen = [resident()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY):
            seen[0] = max(seen[0], resident())

    watcher = threading.Thread(target=look, name="audit-memory", daemon=True)
    watcher.start()
    try:
        run()
    finally:
        over.set()
        watcher.join()
    return max(seen[0], resident())
