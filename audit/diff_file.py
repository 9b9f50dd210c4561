"""The diff file: what `audit diff` wrote, as far as it can be said without its arrays.

`docs/diff.md` describes the schema; `audit.diff_writer` writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import FindingsError
from audit.hdf5_reader import ResultReader, json_object

SCHEMA = "audit-diff/1"
WHAT = "a diff file made by 'audit diff'"


@dataclass(frozen=True, kw_only=True)
class DiffRecord:
    """What a diff file says of itself.

    Attributes:
        tool_version: Version of near-tie-audit that made it.
        created: When, ISO 8601 in UTC.
        common: Samples that both scans scanned.
        newly: Samples that only the new scan flagged.
        left: Samples that only the old scan flagged.
        still: Samples that both flagged.
        flips: Predictions that changed; None: not recorded.
        compared: Samples with a prediction in both scans; None: not recorded.
        old: The old findings: path, created, eps, counts, bundle.
        new: The new ones.
        dataset: What both scanned.
    """

    tool_version: str
    created: str
    common: int
    newly: int
    left: int
    still: int
    flips: int | None
    compared: int | None
    old: dict[str, Any]
    new: dict[str, Any]
    dataset: dict[str, Any]


def load_diff_record(path: str | os.PathLike[str]) -> DiffRecord:
    """Read it.

    Raises:
        FindingsError: There is no such file, or it isn't a complete diff file.
    """
    from audit import hdf5

    reader = ResultReader(Path(path), FindingsError, WHAT)
    with reader.open() as file:
        schema = hdf5.text_attribute(file, "schema")
        if schema != SCHEMA:
            raise FindingsError(f"{path}: schema {schema!r}; expected {WHAT} ({SCHEMA!r})")
        try:
            with hdf5.with_heaps_checked(file) as checked:
                record = _from_attributes(hdf5.Scalars(checked))
        except hdf5.FOREIGN as exc:
            reason = " ".join(str(exc).split())[: hdf5.MAX_REASON]
            raise FindingsError(f"{path}: incomplete ({reason}); expected {WHAT}") from exc
        for group in ("newly", "left", "still"):
            reader.checked(file, f"{group}/index", "int64", getattr(record, group))
    return record


def _from_attributes(root: Any) -> DiffRecord:
    """What is missing or malformed raises one of `hdf5.FOREIGN`."""
    flips, compared = int(root["flips"]), int(root["compared"])
    return DiffRecord(
        tool_version=str(root["tool_version"]),
        created=str(root["created"]),
        common=int(root["common"]),
        newly=int(root["newly"]),
        left=int(root["left"]),
        still=int(root["still"]),
        flips=None if flips < 0 else flips,
        compared=None if compared < 0 else compared,
        old=json_object(root["old"]),
        new=json_object(root["new"]),
        dataset=json_object(root["dataset"]),
    )
