"""Writes a bundle's files, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from audit.bundle import MANIFEST
from audit.errors import OutputError
from audit.manifest import KNOWN_FILES
from audit.signature import SIGNATURE


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
    known = {MANIFEST, SIGNATURE, *KNOWN_FILES}
    return (
        (target / MANIFEST).is_file()
        and {each.name for each in target.iterdir()} <= known
        and b'"audit-bundle/' in (target / MANIFEST).read_bytes()
    )


def write_bundle(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target, then rename: a bundle is there whole or not at all.

    Raises:
        OutputError: The disk is full or gone.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as exc:
        raise OutputError(f"{target}: can't be written ({exc.strerror})") from exc
    old = scratch.with_name(f"{scratch.name}.old")
    try:
        scratch.chmod(0o755)
        for name, data in files.items():
            with (scratch / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        scratch.rename(target)
    except OSError as exc:
        raise OutputError(f"{target}: can't be written ({exc.strerror})") from exc
    finally:  # after Ctrl-C, too
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
