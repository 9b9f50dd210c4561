"""The bundles that this user trusts on this machine: a key, and records that it has signed.

A record names a bundle by its manifest's SHA-256: it holds for every copy of the bundle, and for
none with a byte changed. It counts only with an HMAC-SHA256 under the key, which only its owner can
read: what somebody else writes into the store is ignored.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from audit.errors import OutputError, TrustStoreError
from audit.output_file import write_file

SCHEMA = "audit-trust/1"
FOLDER = "near-tie-audit"
KEY = "key"
KEY_BYTES = 32
RECORDS = "trusted"
MAX_RECORD_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class TrustRecord:
    """A bundle that is trusted.

    Attributes:
        manifest_sha256: Which.
        name: Its name, by its manifest.
        path: Where it was.
        trusted: Since when, UTC, as ISO 8601 has it.
    """

    manifest_sha256: str
    name: str
    path: str
    trusted: str


class Listing(NamedTuple):
    """All records, and how many files beside them aren't signed by this store's key."""

    records: list[TrustRecord]
    ignored: int


class TrustStore:
    """A folder with the key and the records; both are made when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = folder / RECORDS

    def knows(self, manifest_sha256: str) -> bool:
        """Whether the bundle is trusted.

        Raises:
            TrustStoreError: The store can't be read, or others could have changed it.
        """
        key = self._key()
        return key is not None and _read_record(self._path(manifest_sha256), key) is not None

    def add(self, record: TrustRecord) -> None:
        """Trust a bundle.

        Raises:
            TrustStoreError: The store can't be written, or others could have changed it.
        """
        key = self._key() or self._make_key()
        body = json.dumps(asdict(record), indent=2).encode() + b"\n"
        try:
            self._records.mkdir(mode=0o700, exist_ok=True)
            write_file(self._path(record.manifest_sha256), _mac(body, key) + b"\n" + body)
        except OutputError as exc:
            raise TrustStoreError(str(exc)) from exc
        except OSError as exc:
            raise _unusable(self._records, exc) from exc

    def remove(self, manifest_sha256: str) -> bool:
        """Trust a bundle no longer; False where there was no record of it.

        Raises:
            TrustStoreError: The record can't be deleted.
        """
        path = self._path(manifest_sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _unusable(path, exc) from exc
        return True

    def list(self) -> Listing:
        """All records, the oldest first.

        Raises:
            TrustStoreError: The store can't be read, or others could have changed it.
        """
        key = self._key()
        try:
            paths = sorted(self._records.iterdir()) if self._records.exists() else []
        except OSError as exc:
            raise _unusable(self._records, exc) from exc
        found = [None if key is None else _read_record(path, key) for path in paths]
        records = [each for each in found if each is not None]
        records.sort(key=lambda each: (each.trusted, each.manifest_sha256))
        return Listing(records, len(found) - len(records))

    def _path(self, manifest_sha256: str) -> Path:
        return self._records / manifest_sha256

    def _key(self) -> bytes | None:
        """The key; None where there is none yet."""
        path = self._folder / KEY
        try:
            _check_folder(self._folder, os.lstat(self._folder))
            with _opened(path) as descriptor:
                _check_key(path, os.fstat(descriptor))
                key = os.read(descriptor, KEY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _unusable(path, exc) from exc
        if len(key) != KEY_BYTES:
            raise TrustStoreError(
                f"{path}: not a key of {KEY_BYTES} bytes; delete it, and trust your bundles again "
                "with 'audit trust'"
            )
        return key

    def _make_key(self) -> bytes:
        """Make the key, or take the one that another process has made meanwhile."""
        path = self._folder / KEY
        scratch = self._folder / f".{KEY}.{os.urandom(4).hex()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                _write_private(scratch, os.urandom(KEY_BYTES))
                os.link(scratch, path)  # whole or not at all, and never over another one
            finally:
                scratch.unlink(missing_ok=True)
        except FileExistsError:
            pass
        except OSError as exc:
            raise _unusable(self._folder, exc) from exc
        key = self._key()
        if key is None:
            raise TrustStoreError(f"{path}: gone as soon as it was made; try again")
        return key


def default_store() -> TrustStore:
    """That of this user: in `$XDG_DATA_HOME`, else `~/.local/share`.

    Raises:
        TrustStoreError: The user has no home directory.
    """
    # A path from the current folder would be a stranger's choice; the XDG specification, too, has
    # it ignored.
    for base in (os.environ.get("XDG_DATA_HOME", ""), os.path.expanduser("~/.local/share")):
        if os.path.isabs(base):
            return TrustStore(Path(base) / FOLDER)
    raise TrustStoreError("no home directory to keep trust in; set HOME or XDG_DATA_HOME")


def _check_folder(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a folder"
        raise TrustStoreError(f"{path}: {what}; expected a folder of yours, so delete or move it")
    _check_owner(path, status)
    if status.st_mode & 0o022:
        raise TrustStoreError(
            f"{path}: others can write into it (mode {stat.S_IMODE(status.st_mode):o}); "
            "run chmod 700 on it"
        )


def _check_key(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TrustStoreError(f"{path}: not a file; expected a key of yours, so delete it")
    _check_owner(path, status)
    if status.st_mode & 0o077:
        raise TrustStoreError(
            f"{path}: others can read or write it (mode {stat.S_IMODE(status.st_mode):o}), so that "
            "they could sign as well; delete it, and trust your bundles again with 'audit trust'"
        )


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise TrustStoreError(
            f"{path}: belongs to user {status.st_uid}; expected yours, {os.geteuid()}. Set "
            "XDG_DATA_HOME to a folder of yours"
        )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Its descriptor; a symbolic link isn't followed, a named pipe not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read_record(path: Path, key: bytes) -> TrustRecord | None:
    """None where there is none, or one that the key hasn't signed."""
    try:
        with _opened(path) as descriptor:
            content = os.read(descriptor, MAX_RECORD_BYTES)
    except OSError:
        return None
    signature, _, body = content.partition(b"\n")
    if not hmac.compare_digest(signature, _mac(body, key)):
        return None
    record = TrustRecord(**json.loads(body))
    return record if path.name == record.manifest_sha256 else None


def _mac(body: bytes, key: bytes) -> bytes:
    """In hexadecimal digits: a record's first line, of what follows it."""
    return hmac.digest(key, f"{SCHEMA}\0".encode() + body, "sha256").hex().encode()


def _unusable(path: Path, exc: OSError) -> TrustStoreError:
    reason = "a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
    return TrustStoreError(f"{path}: can't be used to keep trust in ({reason})")
