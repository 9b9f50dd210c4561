"""`FINDINGS.h5.partial/`: what a scan has done so far, beside the findings that it will become.

    lock           held by the scan that works here; its process id and host
    scan.json      which scan this is, and what was planned for it; written before the first segment
    00000000.h5 …  sealed segments: complete, on the disk, under their final name

A process that is killed leaves the directory, and the same scan goes on from it. Whatever else is
found in there isn't ours: it is neither used nor deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from audit import strict_json
from audit.errors import OutputError
from audit.output_file import write_file

SCHEMA = "audit-partial/1"
RECORD = "scan.json"
LOCK = "lock"
TRIES = 100  # some file systems number their files anew each time
SEGMENT = re.compile(r"[0-9]{8}\.h5")
SCRATCH = re.compile(r"\..*\.[0-9a-f]{8}\.partial")  # of what was being written
MAX_RECORD_BYTES = 2**20


class Partial:
    """The directory, locked; a context manager that leaves it only where something is sealed.

    Attributes:
        path: The directory.
        document: What an interrupted scan wrote about itself, JSON-ready; None: there is none.
    """

    def __init__(self, out: Path, *, restart: bool = False) -> None:
        """Make or take over the directory of the findings `out`.

        Args:
            out: Where the findings will be.
            restart: Drop what an earlier scan sealed.

        Raises:
            OutputError: It can't be made, another scan holds it, or it holds what isn't a scan's.
        """
        self._out = out
        self.path = directory_of(out)
        self._lock = self._locked()
        try:
            self._refuse_foreign()
            self._remove(SCRATCH)
            self.document: dict[str, Any] | None = None
            if restart or not (self.path / RECORD).exists():
                self.drop()
            else:
                self.document = self._read()
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not any(map(SEGMENT.fullmatch, self._names())):
                self._clear()
        finally:
            self._unlock()

    def segment(self, number: int) -> Path:
        """Where the segment of that number is, once it is sealed."""
        return self.path / f"{number:08}.h5"

    def write(self, document: dict[str, Any]) -> None:
        """Say which scan this is, before anything of it is sealed.

        Raises:
            OutputError: It can't be written.
        """
        text = json.dumps({"schema": SCHEMA, **document}, indent=1)
        write_file(self.path / RECORD, text.encode(), "; name another file with -o", synced=True)
        self.document = document

    def forget(self, number: int) -> None:
        """Delete a sealed segment, to be scanned again.

        Raises:
            OutputError: It can't be deleted.
        """
        self._unlink(self.segment(number).name)

    def drop(self) -> None:
        """Forget all of it: segments are worth something only beside their record.

        Raises:
            OutputError: It can't be deleted.
        """
        self.document = None
        self._unlink(RECORD)
        self._remove(SEGMENT)

    def _clear(self) -> None:
        """Delete the directory, and all of ours in it; the lock last, while it is held."""
        with contextlib.suppress(OSError, OutputError):  # it costs some bytes, and no result
            self.drop()
            self._remove(SCRATCH)
            (self.path / LOCK).unlink()
            self.path.rmdir()

    def _locked(self) -> int:
        """The lock's descriptor, held until it is closed, even by SIGKILL."""
        for _ in range(TRIES):
            lock = self._opened()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(lock):
                    self._sign(lock)
                    return lock
            except BlockingIOError as exc:
                holder = os.pread(lock, 300, 0).decode(errors="replace").split()
                os.close(lock)
                process, host = (*holder, "?", "?")[:2]
                raise OutputError(
                    f"{self._out}: another scan is writing it (process {process} on {host}); wait "
                    "for it, or name another file with -o"
                ) from exc
            except OSError as exc:
                os.close(lock)
                raise OutputError(
                    f"{self.path}: can't be locked ({exc.strerror}); write to another file system "
                    "with -o"
                ) from exc
            os.close(lock)  # whoever held it has deleted the directory meanwhile
        raise OutputError(
            f"{self.path}: can't be locked (the lock is another file whenever it is opened); write "
            "to another file system with -o"
        )

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):  # of what was signed: it is closed all the same
            os.close(self._lock)

    def _sign(self, lock: int) -> None:
        """Say who holds it; on a full disk nobody does, and the first segment will fail."""
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)

    def _opened(self) -> int:
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir()
        except OSError as exc:  # /proc says that there is no such directory
            raise self._cant("made", exc) from exc
        try:
            if not stat.S_ISDIR(self.path.lstat().st_mode):
                raise OutputError(
                    f"{self.path}: is in the way, a scan keeps its segments there; move it, or "
                    "name another file with -o"
                )
            return os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OutputError:
            raise
        except FileNotFoundError:  # deleted between two steps
            return self._opened()
        except OSError as exc:
            raise self._cant("made", exc) from exc

    def _is_current(self, lock: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(lock), (self.path / LOCK).lstat())
        return False

    def _refuse_foreign(self) -> None:
        for name in self._names():
            ours = name in (LOCK, RECORD) or SEGMENT.fullmatch(name) or SCRATCH.fullmatch(name)
            if not (ours and self._is_regular(name)):
                raise OutputError(
                    f"{self.path / name}: isn't of a scan; move it away, or name another file "
                    "with -o"
                )

    def _is_regular(self, name: str) -> bool:
        """Whether it is a file: a link leads elsewhere, and a pipe would be waited for."""
        try:
            return stat.S_ISREG((self.path / name).lstat().st_mode)
        except OSError as exc:
            raise self._cant("read", exc) from exc

    def _read(self) -> dict[str, Any]:
        path = self.path / RECORD
        try:
            with path.open("rb") as file:
                document = strict_json.loads(file.read(MAX_RECORD_BYTES))
            if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
                raise ValueError("another schema")
        except (OSError, ValueError, RecursionError) as exc:
            raise OutputError(
                f"{path}: can't be read; --restart drops what was kept of that scan"
            ) from exc
        return document

    def _remove(self, pattern: re.Pattern[str]) -> None:
        for name in filter(pattern.fullmatch, self._names()):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as exc:
            raise self._cant("emptied", exc) from exc

    def _names(self) -> Iterator[str]:
        try:
            yield from sorted(os.listdir(self.path))
        except OSError as exc:
            raise self._cant("read", exc) from exc

    def _cant(self, done: str, exc: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: can't be {done} ({exc.strerror}); name another file with -o"
        )


def directory_of(out: Path) -> Path:
    """Where a scan that writes `out` keeps what it has."""
    return out.with_name(f"{out.name}.partial")
