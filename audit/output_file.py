"""Files of results that aren't HDF5: there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from audit.errors import OutputError

NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def write_file(
    path: Path, content: bytes | memoryview, way_out: str = "", *, synced: bool = False
) -> None:
    """Write to a temporary file, which is renamed when complete.

    Args:
        path: Where.
        content: What.
        way_out: What else the user can do, for the message.
        synced: Wait until the disk has it: what is written next depends on it.

    Raises:
        OutputError: It can't be written.
    """
    import secrets  # takes milliseconds, which commands that write none needn't wait

    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            scratch.write_bytes(content)
            if synced:
                sync(scratch)
            with failing_as("rename"):
                scratch.replace(path)
            if synced:
                sync(path.parent)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{path}: can't be written ({exc.strerror}){way_out}") from exc


@contextlib.contextmanager
def failing_as(call: str) -> Iterator[None]:
    """In here an `OSError` says which call it is from: "Invalid argument" alone explains nothing.

    Raises:
        OSError: With the same number.
    """
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, f"{call}: {exc.strerror}") from exc


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk.

    Raises:
        OSError: The disk failed. That a file system has no way to sync a directory is none: then
            it is as safe as it gets there.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        with failing_as("fsync"):
            os.fsync(handle)
    except OSError as exc:
        if exc.errno not in NO_SYNC or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def append_file(path: Path, content: bytes) -> None:
    """Add to a file that others add to as well; it is made where it isn't there.

    Raises:
        OutputError: It can't be written.
    """
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as exc:
        raise OutputError(f"{path}: can't be written ({exc.strerror})") from exc


def make_directory(path: Path, way_out: str = "") -> None:
    """Make it, and those above it, where it isn't there.

    Args:
        path: Where.
        way_out: What else the user can do, for the message.

    Raises:
        OutputError: It can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{path}: can't be made a directory ({exc.strerror}){way_out}") from exc
