"""Writes a diff file: flips are appended, the rest comes at the end.

`docs/diff.md` is the schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from audit.diff_file import SCHEMA, WHAT
from audit.hdf5_writer import NewFile, check_output, create_rows, extend
from audit.prediction_flips import KINDS, Flips
from audit.tie_changes import CAUSES, TieChanges

if TYPE_CHECKING:
    from audit.diff import Diff
    from audit.findings import Findings

KIND_TYPE = h5py.enum_dtype({name: i for i, name in enumerate(KINDS)}, basetype="i1")
CAUSE_TYPE = h5py.enum_dtype({name: i for i, name in enumerate(CAUSES)}, basetype="i1")
DISTANCES = ("distance_l2", "distance_linf")


class DiffWriter(NewFile):
    """A context manager that leaves nothing behind unless finished."""

    def __init__(self, out: Path, *, with_flips: bool) -> None:
        """Create the temporary file beside `out`.

        Raises:
            OutputError: It can't be created, or `out` is something that isn't a diff file.
        """
        check_output(out, "audit-diff/", WHAT)
        self._with_flips = with_flips
        super().__init__(out)

    def append(self, flips: Flips) -> None:
        """Add the next flips.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            for name, dataset in self.file["flips"].items():
                extend(dataset, getattr(flips, name))

    def finish(self, diff: Diff) -> None:
        """Write everything else, then give the file its name.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            compared = diff.comparison
            self._write_one_sided("newly", compared.new, compared.newly, "old", diff.newly)
            self._write_one_sided("left", compared.old, compared.left, "new", diff.left)
            self._write_still(diff)
            self._write_group(
                "nonfinite", {"newly": diff.newly_nonfinite, "left": diff.left_nonfinite}
            )
            self._write_attributes(diff)
        self.commit()

    def _create(self) -> None:
        if self._with_flips:
            group = self.file.create_group("flips")
            create_rows(group, "index", np.dtype("i8"), ())
            create_rows(group, "classes", np.dtype("i8"), (2,))
            create_rows(group, "margin", np.dtype("f8"), (2,))
            create_rows(group, "kind", KIND_TYPE, ())

    def _write_one_sided(
        self,
        group: str,
        findings: Findings,
        rows: NDArray[np.int64],
        other: str,
        changes: TieChanges,
    ) -> None:
        """Samples that only `findings` flagged, and what the other scan made of them."""
        arrays: dict[str, NDArray[Any]] = {
            name: getattr(findings, name)[rows]
            for name in ("index", "classes", "margin", "label", *_distances(findings))
        }
        arrays[f"{other}_margin"] = changes.margin
        arrays[f"{other}_classes"] = changes.classes
        self._write_group(group, arrays)
        cause = self.file[group]
        create_rows(cause, "cause", CAUSE_TYPE, ())
        extend(cause["cause"], changes.cause)

    def _write_still(self, diff: Diff) -> None:
        compared = diff.comparison
        arrays: dict[str, NDArray[Any]] = {
            name: getattr(compared.new, name)[compared.still_new] for name in ("index", "label")
        }
        for side, findings, rows in (
            ("old", compared.old, compared.still_old),
            ("new", compared.new, compared.still_new),
        ):
            for name in ("classes", "margin", *_distances(findings)):
                arrays[f"{side}_{name}"] = getattr(findings, name)[rows]
        self._write_group("still", arrays)

    def _write_group(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        group = self.file.create_group(name)
        for each, values in arrays.items():
            create_rows(group, each, values.dtype, values.shape[1:])
            extend(group[each], values)

    def _write_attributes(self, diff: Diff) -> None:
        compared, root = diff.comparison, self.file.attrs
        self.stamp(SCHEMA)
        root["common"] = compared.common
        for name in ("newly", "left", "still"):
            root[name] = len(self.file[name]["index"])
        root["flips"] = -1 if diff.flips is None else diff.flips.flips
        root["compared"] = -1 if diff.flips is None else diff.flips.compared
        root["old"] = json.dumps(_described(compared.old))
        root["new"] = json.dumps(_described(compared.new))
        root["dataset"] = json.dumps(compared.new.dataset)
        root["NX_class"] = "NXroot"
        root["default"] = "newly"
        for name, signal in (("newly", "margin"), ("left", "margin"), ("still", "new_margin")):
            group = self.file[name]
            group.attrs["NX_class"] = "NXdata"
            group.attrs["signal"] = signal
            group.attrs["axes"] = ["index"]
            group.attrs["index_indices"] = 0


def _distances(findings: Findings) -> tuple[str, ...]:
    return DISTANCES if findings.degenerate is not None else ()


def _described(findings: Findings) -> dict[str, Any]:
    return {
        "path": str(findings.path),
        "tool_version": findings.tool_version,
        "created": findings.created,
        "eps": findings.eps,
        "min_logit": findings.min_logit,
        "scanned": findings.scanned,
        "flagged": findings.flagged,
        "nonfinite": findings.nonfinite,
        "bundle": findings.bundle,
    }
