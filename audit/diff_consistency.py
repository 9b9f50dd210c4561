"""Whether the arrays of a diff file fit each other and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audit.consistency import Compared, ascending
from audit.diff_file import WHAT, DiffRecord, load_diff_record
from audit.errors import FindingsError
from audit.hdf5_reader import ResultReader

GROUPS = ("newly", "left", "still")  # no sample is in two of them


class OpenedDiff(NamedTuple):
    """A diff file, and what it says of itself."""

    path: Path
    record: DiffRecord


def open_diff(path: Path) -> OpenedDiff:
    """Read what it says of itself.

    Raises:
        FindingsError: It isn't a complete diff file.
    """
    return OpenedDiff(path, load_diff_record(path))


def compare_diff(diff: OpenedDiff) -> Iterator[Compared]:
    """What every diff file must fulfil."""
    count = sum(getattr(diff.record, group) for group in GROUPS)
    yield Compared("rows", count, "sample", _rows(diff))


def _rows(diff: OpenedDiff) -> Iterator[str]:
    record, reader = diff.record, ResultReader(diff.path, FindingsError, WHAT)
    positions = []
    with reader.open() as file:
        for group in GROUPS:
            size = getattr(record, group)
            yield from _lengths(reader, file, group, size)
            positions.append(reader.checked(file, f"{group}/index", "int64", size)[()])
            if not ascending(positions[-1], record.common):
                yield f"/{group}/index isn't ascending, or beyond {record.common} samples"
        if record.flips is not None:
            yield from _lengths(reader, file, "flips", record.flips)
    together = np.concatenate(positions)
    if len(np.unique(together)) != len(together):
        yield f"a sample is in two of /{', /'.join(GROUPS)}"


def _lengths(reader: ResultReader, file: Any, group: str, size: int) -> Iterator[str]:
    for name in file[group]:
        if len(reader.dataset(file, f"{group}/{name}")) != size:
            yield f"/{group}/{name} hasn't {size} rows"
