"""Writes a bundle's files, whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from audit.bundle import MANIFEST
from audit.errors import OutputError
from audit.manifest import KNOWN_FILES
from audit.signature import SIGNATURE

KNOWN_NAMES = {MANIFEST, SIGNATURE, *KNOWN_FILES}
SCRATCH, OLD = ".partial", ".old"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' <fcntl.h> and <linux/fs.h>


def check_target(out: Path) -> Path:
    """The bundle's absolute path; only a bundle may be replaced.

    Raises:
        OutputError: Something else is there, or there is no folder to put it in.
    """
    target = out.resolve()  # what a link leads to is replaced, not the link
    if os.path.lexists(target) and not _is_bundle(target):
        raise OutputError(f"{out}: exists and is not a bundle; name another directory with -o")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such directory; create it, or name another with -o")
    return target


def _is_bundle(target: Path) -> bool:
    """Nothing but a bundle's files, damaged or not: it is deleted when it is replaced."""
    return (
        (target / MANIFEST).is_file()
        and {each.name for each in target.iterdir()} <= KNOWN_NAMES
        and b'"audit-bundle/' in (target / MANIFEST).read_bytes()
    )


def write_bundle(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target, then exchange the two: a bundle is there whole or not at all.

    What an export that was killed left beside the target is removed first, or put back.

    Raises:
        OutputError: The disk is full or gone, or something else took the target's place.
    """
    try:
        _tidy(target)
        check_target(target)
        with _scratch(target) as scratch:
            for name, data in files.items():
                with (scratch / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _sync_directory(scratch)
            _put_in_place(scratch, target)
            _sync_directory(target.parent)
    except OutputError:
        raise
    except OSError as exc:
        raise OutputError(f"{target}: can't be written ({exc.strerror})") from exc


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A directory beside the target, locked while its owner lives, and removed with what it holds.

    After an exchange that is the older bundle.
    """
    while True:
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=SCRATCH, dir=target.parent)
        )
        # Another export may take it for a dead one's before it is locked.
        with suppress(FileNotFoundError):
            descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
            if _lock(descriptor) is not False and scratch.exists():
                break
            os.close(descriptor)
    try:
        scratch.chmod(0o755)
        yield scratch
    finally:  # after Ctrl-C, too
        os.close(descriptor)
        old = scratch.with_suffix(OLD)
        if old.exists() and not target.exists():
            old.rename(target)
        for each in (scratch, old):
            _remove(each)


def _lock(descriptor: int) -> bool | None:
    """Whether the directory is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _tidy(target: Path) -> None:
    """Put back, or remove, what killed exports of this name left."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}({SCRATCH}|{OLD})")
    with suppress(OSError):  # what can't be removed isn't in the way
        for each in sorted(target.parent.iterdir()):
            if not ours.fullmatch(each.name):
                continue
            if each.suffix == OLD and not os.path.lexists(target) and _is_bundle(each):
                each.rename(target)
                continue
            with _opened(each) as descriptor:
                if _lock(descriptor):
                    _remove(each)


def _remove(directory: Path) -> None:
    """Remove a directory of a bundle's files; one that holds others stays as it is."""
    with suppress(OSError), _opened(directory) as descriptor:
        names = os.listdir(descriptor)
        if set(names) <= KNOWN_NAMES:
            for name in names:
                os.unlink(name, dir_fd=descriptor)
            directory.rmdir()


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _put_in_place(scratch: Path, target: Path) -> None:
    if not os.path.lexists(target):
        scratch.rename(target)
    elif not _exchange(scratch, target):
        # For a moment there is neither; killed in it, the next export puts the older one back.
        target.rename(scratch.with_suffix(OLD))
        scratch.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the system or the file system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def _sync_directory(directory: Path) -> None:
    """Let the names in it outlast a power cut, where the file system can be told so."""
    with suppress(OSError), _opened(directory) as descriptor:
        os.fsync(descriptor)
