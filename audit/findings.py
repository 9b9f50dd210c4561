"""The findings file: what a scan found, read back lazily.

`docs/findings.md` describes the schema; `audit.findings_writer` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit.errors import FindingsError, NotRecordedError
from audit.hdf5_reader import ResultReader, json_object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.preprocess import Preprocess

SCHEMA = "audit-findings/1"
WHAT = "a findings file made by 'audit scan'"
OPTIONAL = {  # what a scan can leave out → the way to have it
    **dict.fromkeys(
        ("flagged/gradient", "flagged/distance_l2", "flagged/distance_linf"), "gradients"
    ),
    **dict.fromkeys(("scan/margin", "scan/classes"), "--keep-all"),
    "summary/labels": "this version of near-tie-audit",
}
# What is read by rows: name under /flagged → dtype and shape of a row.
LARGE: dict[str, tuple[str | None, tuple[Any, ...]]] = {
    "input": (None, (...,)),
    "gradient": ("float32", (2, ...)),
}


class ScanRows(NamedTuple):
    """What the fast pass made of consecutive samples; only with `keep_all`.

    Attributes:
        margin: float32 (n,); NaN: not finite.
        classes: Top-2, int32 (n, 2); -1: not finite.
    """

    margin: NDArray[np.float32]
    classes: NDArray[np.int32]


@dataclass(frozen=True)
class Findings:
    """An opened findings file.

    The counts are in memory; each array is read from the file when it is first asked for. The
    file is closed in between, and must not be replaced by another scan's meanwhile.

    Attributes:
        path: The file.
        tool_version: Version of near-tie-audit that made it.
        created: When, ISO 8601 in UTC.
        eps: Near-tie threshold in logit units.
        min_logit: Least largest logit of a flagged sample, or None.
        scanned: Samples scanned.
        flagged: Near ties found, M.
        nonfinite: Samples whose logits are NaN or infinite, K.
        degenerate: Flagged samples with equal logits and no gradient difference; None where
            gradients weren't computed.
        labelled: Scanned samples whose label is known.
        correct: Those of them whose largest logit is their label's.
        dataset: What was scanned: path, names, shape, dtype, fingerprint.
        bundle: With which bundle: path, name, class names, SHA-256 of its manifest and files.
        engine: How: versions, device, precision, guard and its checks.
    """

    path: Path
    tool_version: str
    created: str
    eps: float
    min_logit: float | None
    scanned: int
    flagged: int
    nonfinite: int
    degenerate: int | None
    labelled: int
    correct: int
    dataset: dict[str, Any]
    bundle: dict[str, Any]
    engine: dict[str, Any]

    @property
    def rate(self) -> float:
        """Share of the scanned samples that are near ties."""
        return self.flagged / self.scanned

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled samples that are classified as labelled; None without labels."""
        return self.correct / self.labelled if self.labelled else None

    @property
    def accuracy_flagged(self) -> float | None:
        """Share of the labelled near ties that are classified as labelled; None without any."""
        labelled = int((self.label >= 0).sum())
        return int((self.label == self.classes[:, 0]).sum()) / labelled if labelled else None

    @cached_property
    def preprocess(self) -> Preprocess | None:
        """How `input` becomes input space; None where the scan was by an older version.

        Raises:
            FindingsError: What is recorded can't be.
        """
        from audit.manifest import preprocess_from_document

        if "raw" not in self.bundle:
            return None
        try:
            return preprocess_from_document(self.bundle)
        except ValueError as exc:
            raise FindingsError(f"{self.path}: its bundle's record: {exc}; scan again") from exc

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Positions in the dataset, ascending, int64 (M,)."""
        return self._read("flagged/index", "int64", self.flagged)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The tied classes a, b, int64 (M, 2)."""
        return self._read("flagged/classes", "int64", self.flagged, 2)

    @cached_property
    def logits(self) -> NDArray[np.float64]:
        """Canonical z_a, z_b, float64 (M, 2)."""
        return self._read("flagged/logits", "float64", self.flagged, 2)

    @cached_property
    def margin(self) -> NDArray[np.float64]:
        """Canonical margins z_a - z_b, float64 (M,)."""
        return self._read("flagged/margin", "float64", self.flagged)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """True classes, int64 (M,); -1 where unknown."""
        return self._read("flagged/label", "int64", self.flagged)

    @cached_property
    def input(self) -> NDArray[Any]:
        """The samples as stored, (M, *raw_shape) in their own dtype."""
        return self._read("flagged/input", None, self.flagged, ...)

    @cached_property
    def gradient(self) -> NDArray[np.float32]:
        """∂z_a/∂x and ∂z_b/∂x in input space, float32 (M, 2, *input_shape)."""
        return self._read("flagged/gradient", "float32", self.flagged, 2, ...)

    @cached_property
    def distance_l2(self) -> NDArray[np.float64]:
        """First-order L2 distance to the a/b boundary, float64 (M,); NaN: degenerate."""
        return self._read("flagged/distance_l2", "float64", self.flagged)

    @cached_property
    def distance_linf(self) -> NDArray[np.float64]:
        """First-order L∞ distance to the a/b boundary, float64 (M,); NaN: degenerate."""
        return self._read("flagged/distance_linf", "float64", self.flagged)

    @cached_property
    def nonfinite_index(self) -> NDArray[np.int64]:
        """Positions of samples whose logits are NaN or infinite, ascending, int64 (K,)."""
        return self._read("nonfinite/index", "int64", self.nonfinite)

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """Flagged samples per (a, b), int64 (C, C)."""
        return self._read("summary/pairs", "int64", None, None)

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Scanned samples per true class, int64 (C,)."""
        return self._read("summary/labels", "int64", None)

    @cached_property
    def margin_edges(self) -> NDArray[np.float64]:
        """Bin edges of the histogram of all margins of the fast pass, float64 (B + 1,)."""
        return self._read("summary/margin_edges", "float64", None)

    @cached_property
    def margin_counts(self) -> NDArray[np.int64]:
        """Samples a bin, int64 (B,); what exceeds the last edge is counted in the last bin."""
        return self._read("summary/margin_counts", "int64", None)

    @cached_property
    def scan_margin(self) -> NDArray[np.float32]:
        """Every sample's margin of the fast pass, float32 (N,); only with `keep_all`."""
        return self._read("scan/margin", "float32", self.scanned)

    @cached_property
    def scan_classes(self) -> NDArray[np.int32]:
        """Every sample's top-2 of the fast pass, int32 (N, 2); only with `keep_all`."""
        return self._read("scan/classes", "int32", self.scanned, 2)

    @cached_property
    def kept_all(self) -> bool:
        """Whether the scan recorded every sample's margin and classes."""
        reader = _reader(self.path)
        with reader.open() as file:
            return reader.dataset(file, "scan/margin") is not None

    def scan_rows(self, start: int, stop: int) -> ScanRows:
        """Samples `start` to `stop` of `scan_margin` and `scan_classes`; no others are read."""
        rows = slice(start, stop)
        return ScanRows(
            self._read("scan/margin", "float32", self.scanned, rows=rows),
            self._read("scan/classes", "int32", self.scanned, 2, rows=rows),
        )

    def rows(self, name: str, rows: Sequence[int]) -> NDArray[Any]:
        """Some rows of `input` or `gradient`, in the order asked for; no others are read."""
        dtype, shape = LARGE[name]
        import numpy as np

        positions = np.array([range(self.flagged)[row] for row in rows], dtype=np.int64)
        wanted, place = np.unique(positions, return_inverse=True)  # ascending, as HDF5 selects
        values = self._read(f"flagged/{name}", dtype, self.flagged, *shape, rows=wanted.tolist())
        return values[place]

    def _read(
        self, name: str, dtype: str | None, *shape: Any, rows: list[int] | slice | None = None
    ) -> NDArray[Any]:
        """The array; `dtype` None: any number, a size None: any, `...` at the end: more axes.

        `rows`, ascending or a slice, are read and no others; None: all are.
        """
        from audit import hdf5

        reader = _reader(self.path)
        with reader.open() as file:
            if hdf5.text_attribute(file, "created") != self.created:
                raise FindingsError(f"{self.path}: replaced by another scan; load it again")
            if name in OPTIONAL and reader.dataset(file, name) is None:
                raise NotRecordedError(f"{self.path}: no /{name}; scan again with {OPTIONAL[name]}")
            dataset = reader.checked(file, name, dtype, *shape)
            values: NDArray[Any] = dataset[()] if rows is None else dataset[rows]
            return values


def load_findings(path: str | os.PathLike[str]) -> Findings:
    """Open a findings file.

    Raises:
        FindingsError: There is no such file, or it isn't a complete findings file.
    """
    from audit import hdf5

    path = Path(path)
    reader = _reader(path)
    with reader.open() as file:
        schema = hdf5.text_attribute(file, "schema")
        if schema != SCHEMA:
            raise FindingsError(f"{path}: schema {schema!r}; expected {WHAT} ({SCHEMA!r})")
        try:
            with hdf5.with_heaps_checked(file) as checked:
                findings = _from_attributes(path, checked)
        except hdf5.FOREIGN as exc:
            reason = " ".join(str(exc).split())[: hdf5.MAX_REASON]
            raise FindingsError(f"{path}: incomplete ({reason}); expected {WHAT}") from exc
        for name, rows in (
            ("flagged/index", findings.flagged),
            ("nonfinite/index", findings.nonfinite),
        ):
            dataset = reader.dataset(file, name)
            if dataset is None or dataset.shape != (rows,):
                raise FindingsError(f"{path}: no /{name} of {rows} rows; expected {WHAT}")
    return findings


def findings_from(given: Findings | str | os.PathLike[str]) -> Findings:
    """The findings of a path; findings as they are.

    Raises:
        FindingsError: There is no such file, or it isn't a complete findings file.
    """
    return given if isinstance(given, Findings) else load_findings(given)


def _from_attributes(path: Path, file: Any) -> Findings:
    """Everything but the arrays; what is missing or malformed raises one of `hdf5.FOREIGN`."""
    from audit import hdf5

    try:
        group = hdf5.find_object(file, "summary")
    except hdf5.LeadsOutsideError as exc:
        raise ValueError(str(exc)) from exc
    if group is None:
        raise ValueError("no /summary")
    root, summary = hdf5.Scalars(file), hdf5.Scalars(group)
    min_logit, degenerate = float(root["min_logit"]), int(summary["degenerate"])
    findings = Findings(
        path=path,
        tool_version=str(root["tool_version"]),
        created=str(root["created"]),
        eps=float(root["eps"]),
        min_logit=None if math.isnan(min_logit) else min_logit,
        scanned=int(root["scanned"]),
        flagged=int(root["flagged"]),
        nonfinite=int(root["nonfinite"]),
        degenerate=None if degenerate < 0 else degenerate,
        labelled=int(summary["labelled"]),
        correct=int(summary["correct"]),
        dataset=json_object(root["dataset"]),
        bundle=json_object(root["bundle"]),
        engine=json_object(root["engine"]),
    )
    if not (math.isfinite(findings.eps) and math.isfinite(findings.min_logit or 0)):
        raise ValueError("a threshold that is not a finite number")
    if findings.scanned < max(1, findings.flagged, findings.nonfinite) or not (
        0 <= findings.correct <= findings.labelled <= findings.scanned
    ):
        raise ValueError("counts that contradict each other")
    return findings


def _reader(path: Path) -> ResultReader:
    return ResultReader(path, FindingsError, WHAT)
