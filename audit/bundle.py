"""The bundle: a directory with `manifest.json`, `model.onnx`, `model.ts`, and what is optional.

A bundle may come from a stranger. Only regular files of known names are opened, never what a link
leads to; their bytes are compared with the manifest's SHA-256 and handed on as they were compared,
so nothing can change in between. What can run code when it is loaded is handed on only where
somebody vouches for the bundle.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit import trust as trusting
from audit.errors import BundleError, BundleNotFoundError
from audit.guard import QUANTISED_SAFETY, Guard
from audit.manifest import ONNX as ONNX
from audit.manifest import ONNX_INT8 as ONNX_INT8
from audit.manifest import PT2 as PT2
from audit.manifest import RUN_CODE, describe_model, manifest_from_json
from audit.manifest import TORCHSCRIPT as TORCHSCRIPT
from audit.manifest import FileRecord as FileRecord
from audit.manifest import Int8 as Int8
from audit.manifest import Manifest as Manifest
from audit.manifest import Parity as Parity

MANIFEST = "manifest.json"
SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_NAMES = tuple(trusting.SHIPPED_SHA256)
MAX_MANIFEST_BYTES = 2**24
MAX_FILE_BYTES = 2**32  # protobuf allows an ONNX file half of that, and the others hold the same


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `read` gives the bytes of its files, compared with the manifest.

    Attributes:
        path: Its directory.
        manifest: What it says of itself.
        manifest_sha256: Of the manifest's text, in hex: with the hashes in it, of the whole bundle.
        trust: The caller vouches for it.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    trust: bool = False

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def guard(self) -> Guard:
        """The guard measured at export."""
        return Guard(self.manifest.parity.guard, self.manifest.parity.logit_scale)

    @property
    def int8_guard(self) -> Guard | None:
        """That of the quantised graph, measured on the exporting machine; None without one."""
        record = self.manifest.int8
        if record is None:
            return None
        return Guard(record.guard, record.logit_scale, QUANTISED_SAFETY)

    @property
    def trusted(self) -> bool:
        """Whether somebody vouches for it, so that its TorchScript may be loaded.

        Raises:
            OptionError: The key in the environment is too short.
        """
        return trusting.judge(self).by is not None

    def require_trust(self) -> None:
        """Refuse a bundle that nobody vouches for; what is damaged is refused for that first.

        Raises:
            UntrustedError: Nobody does.
            BundleError: A file is missing, or isn't the one that was exported.
        """
        if not self.trusted:
            self.check_files()
            raise trusting.refusal(self)

    def describe(self) -> dict[str, Any]:
        """What it is, for the findings' attribute `bundle`."""
        return {
            "path": os.path.abspath(self.path),
            "manifest_sha256": self.manifest_sha256,
            "files": {name: record.sha256 for name, record in self.manifest.files.items()},
            **describe_model(self.manifest.name, self.manifest.classes, self.manifest.preprocess),
            "parity": asdict(self.manifest.parity),
        }

    def read(self, name: str) -> bytes:
        """Content of a file of the bundle.

        Raises:
            BundleError: The file is missing, or isn't the one that was exported.
            UntrustedError: Loading it can run code, and nobody vouches for the bundle.
        """
        data = self._compared(name)
        if name in RUN_CODE:
            self.require_trust()
        return data

    def check_files(self) -> None:
        """Compare every file with the manifest.

        Raises:
            BundleError: One is missing, or isn't the one that was exported.
        """
        for name in self.manifest.files:
            self.check_file(name)

    def check_file(self, name: str) -> None:
        """Compare a file with the manifest.

        Raises:
            BundleError: It is missing, or isn't the one that was exported.
        """
        self._compared(name)

    def _compared(self, name: str) -> bytes:
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"{self.path}: the manifest lists no {name}; export the model again")
        data = _read_regular_file(self.path / name, min(record.size, MAX_FILE_BYTES))
        if data is None or record != _record_of(data):
            raise BundleError(
                f"{self.path / name}: not the file that was exported (its SHA-256 or size differs "
                "from the manifest); export the model again"
            )
        return data


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a bundle, if anything: a directory, or the name of a shipped one."""
    return os.path.isdir(path) or (str(path) in SHIPPED_NAMES and not os.path.exists(path))


def load_bundle(path: str | os.PathLike[str], *, trust: bool = False) -> Bundle:
    """Open the bundle at a path, or the shipped one of that name ("mnist").

    Args:
        path: Which.
        trust: Vouch for it, whoever made it: its TorchScript can run code when it is loaded.

    Raises:
        BundleNotFoundError: There is no bundle.
        BundleError: The manifest is malformed or a file is missing.
    """
    directory = SHIPPED / str(path) if str(path) in SHIPPED_NAMES else Path(path)
    if not os.path.isdir(directory):
        raise BundleNotFoundError(
            f"{path}: no such bundle; expected a directory made by 'audit export', or one of "
            f"{', '.join(SHIPPED_NAMES)}"
        )
    text = _read_regular_file(directory / MANIFEST, MAX_MANIFEST_BYTES)
    if text is None:
        raise BundleError(
            f"{directory / MANIFEST}: larger than {MAX_MANIFEST_BYTES:,} bytes; export the model "
            "again"
        )
    try:
        manifest = manifest_from_json(text)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{directory / MANIFEST}: {exc}; export the model again") from exc
    for name in manifest.files:
        _check_regular(directory / name)
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest(), trust)


def _record_of(data: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _read_regular_file(path: Path, limit: int) -> bytes | None:
    """The file's bytes; None of one larger than `limit`, which is a wrong one."""
    _check_regular(path)
    try:
        # What it is may have changed since: a link isn't followed, a pipe not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                return None
            return file.read(found.st_size)
    except OSError as exc:
        raise BundleError(f"{path}: can't be read ({exc.strerror})") from exc


def _check_regular(path: Path) -> None:
    """Raises BundleError where there is no file, or a link, a pipe, a device."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        mode = 0
    if stat.S_ISLNK(mode):
        raise BundleError(
            f"{path}: a symbolic link, which a bundle from elsewhere may not have; copy the bundle "
            "with 'cp -rL'"
        )
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path}: missing; expected a bundle made by 'audit export'")
