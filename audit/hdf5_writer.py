"""An HDF5 file that is written under a temporary name and gets its own when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from audit import digest, hdf5
from audit.diskfile import DiskFile
from audit.errors import FindingsError, OutputError
from audit.output_file import failing_as, sync

CHUNK_BYTES = 2**16  # a chunk takes its full size even for one row
CACHE_BYTES = 2**20  # of chunks, for each array: rows are appended, so that one would do


class NewFile:
    """A context manager that leaves nothing behind unless `commit` was called.

    Attributes:
        file: Open for writing, inside `disk_errors`. What a subclass's `_create` laid out is there.
    """

    def __init__(self, out: Path, option: str = "-o", *, scratch_in: Path | None = None) -> None:
        """Create the temporary file.

        Args:
            out: Where the file is to be, which the user named with that option.
            option: For messages.
            scratch_in: Directory of the temporary file, on the same file system; None: beside
                `out`.

        Raises:
            OutputError: It can't be created.
        """
        self._out = out
        self._scratch = (scratch_in or out.parent) / f".{out.name}.{secrets.token_hex(4)}.partial"
        with contextlib.ExitStack() as stack:
            stack.callback(_remove, self._scratch)
            self._disk = stack.enter_context(
                contextlib.closing(_created(self._scratch, out, option))
            )
            self.file = stack.enter_context(
                h5py.File(self._disk, "w", libver=("earliest", "v110"), rdcc_nbytes=CACHE_BYTES)
            )
            with self.disk_errors():
                self._create()
            self._cleanup = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close; what wasn't committed is removed."""
        self._cleanup.close()

    def _create(self) -> None:
        """Lay out groups and empty datasets."""

    def stamp(self, schema: str) -> None:
        """Write what every file of ours says of itself."""
        root = self.file.attrs
        root["schema"] = schema
        root["tool_version"] = version("near-tie-audit")
        root["created"] = datetime.now(UTC).isoformat()

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """In here a full or lost disk is an `OutputError`, at the latest at the end."""
        try:
            yield
            self._disk.check()
        except OSError as exc:
            reason = exc.strerror or " ".join(str(exc).split())
            raise OutputError(
                f"{self._out}: writing failed ({reason}); no half-written file is left"
            ) from exc

    def commit(self) -> None:
        """Seal and close the file, have it on the disk, give it its name.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            digest.seal(self.file)
            self.file.close()
            self._disk.sync()
            self._disk.check()
            with failing_as("rename"):
                self._scratch.replace(self._out)
            sync(self._out.parent)


def check_output(out: Path, schema: str, what: str, option: str = "-o") -> None:
    """Only a file of the same kind may be overwritten.

    Args:
        out: Where the new file is to be.
        schema: What the attribute `schema` of such a file begins with.
        what: The kind in words, for the message.
        option: What the user names the file with, for the message.

    Raises:
        OutputError: `out` is a directory, or a file that holds something else.
    """
    if not os.path.isdir(out.parent):
        raise OutputError(
            f"{out.parent}: no such directory; create it, or name another with {option}"
        )
    if os.path.isdir(out):
        raise OutputError(f"{out}: a directory; name a file with {option}")
    if os.path.exists(out):
        try:
            with hdf5.open_file(out, FindingsError, missing=FindingsError, what=what) as file:
                same_kind = (hdf5.text_attribute(file, "schema") or "").startswith(schema)
        except FindingsError:
            same_kind = False
        if not same_kind:
            raise OutputError(f"{out}: exists and is not {what}; name another with {option}")


def create_rows(group: h5py.Group, name: str, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
    """An empty dataset (0, *row) that `extend` appends to."""
    row_bytes = max(1, int(np.prod(row)) * dtype.itemsize)
    group.create_dataset(
        name,
        shape=(0, *row),
        maxshape=(None, *row),
        chunks=(max(1, min(4096, CHUNK_BYTES // row_bytes)), *row),
        dtype=dtype,
    )


def create_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """A dataset of these values in one chunk."""
    group.create_dataset(name, data=values, chunks=values.shape)


def extend(dataset: h5py.Dataset, rows: NDArray[Any]) -> None:
    """Append rows."""
    if len(rows):
        start = len(dataset)
        dataset.resize(start + len(rows), axis=0)
        dataset[start:] = rows


def _remove(scratch: Path) -> None:
    """Gone, if it can be: the error that led here must stay the one shown."""
    with contextlib.suppress(OSError):
        scratch.unlink()


def _created(scratch: Path, out: Path, option: str) -> DiskFile:
    try:
        return DiskFile(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as exc:
        raise OutputError(
            f"{out}: can't be written ({exc.strerror}); name another with {option}"
        ) from exc
