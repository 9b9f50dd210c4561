"""The findings file: what a scan found, read back lazily.

`docs/findings.md` describes the schema; `audit.findings_writer` writes it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import FindingsError, NotRecordedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = "audit-findings/1"
WHAT = "a findings file made by 'audit scan'"


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

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Positions in the dataset, ascending, int64 (M,)."""
        return self._read("flagged/index")

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The tied classes a, b, int64 (M, 2)."""
        return self._read("flagged/classes")

    @cached_property
    def logits(self) -> NDArray[np.float64]:
        """Canonical z_a, z_b, float64 (M, 2)."""
        return self._read("flagged/logits")

    @cached_property
    def margin(self) -> NDArray[np.float64]:
        """Canonical margins z_a - z_b, float64 (M,)."""
        return self._read("flagged/margin")

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """True classes, int64 (M,); -1 where unknown."""
        return self._read("flagged/label")

    @cached_property
    def input(self) -> NDArray[Any]:
        """The samples as stored, (M, *raw_shape) in their own dtype."""
        return self._read("flagged/input")

    @cached_property
    def gradient(self) -> NDArray[np.float32]:
        """∂z_a/∂x and ∂z_b/∂x in input space, float32 (M, 2, *input_shape)."""
        return self._read("flagged/gradient")

    @cached_property
    def distance_l2(self) -> NDArray[np.float64]:
        """First-order L2 distance to the a/b boundary, float64 (M,); NaN: degenerate."""
        return self._read("flagged/distance_l2")

    @cached_property
    def distance_linf(self) -> NDArray[np.float64]:
        """First-order L∞ distance to the a/b boundary, float64 (M,); NaN: degenerate."""
        return self._read("flagged/distance_linf")

    @cached_property
    def nonfinite_index(self) -> NDArray[np.int64]:
        """Positions of samples whose logits are NaN or infinite, ascending, int64 (K,)."""
        return self._read("nonfinite/index")

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """Flagged samples per (a, b), int64 (C, C)."""
        return self._read("summary/pairs")

    @cached_property
    def margin_edges(self) -> NDArray[np.float64]:
        """Bin edges of the histogram of all margins of the fast pass, float64 (B + 1,)."""
        return self._read("summary/margin_edges")

    @cached_property
    def margin_counts(self) -> NDArray[np.int64]:
        """Samples a bin, int64 (B,); what exceeds the last edge is counted in the last bin."""
        return self._read("summary/margin_counts")

    @cached_property
    def scan_margin(self) -> NDArray[np.float32]:
        """Every sample's margin of the fast pass, float32 (N,); only with `keep_all`."""
        return self._read("scan/margin")

    @cached_property
    def scan_classes(self) -> NDArray[np.int32]:
        """Every sample's top-2 of the fast pass, int32 (N, 2); only with `keep_all`."""
        return self._read("scan/classes")

    def _read(self, name: str) -> NDArray[Any]:
        with _open(self.path) as file:
            if file.attrs.get("created") != self.created:
                raise FindingsError(f"{self.path}: replaced by another scan; load it again")
            dataset = _dataset(file, self.path, name)
            if dataset is None:
                option = "--keep-all" if name.startswith("scan/") else "gradients"
                raise NotRecordedError(f"{self.path}: no /{name}; scan again with {option}")
            try:
                values: NDArray[Any] = dataset[()]
            except OSError as exc:
                raise FindingsError(f"{self.path}: /{name} is damaged; scan again") from exc
            return values


def load_findings(path: str | os.PathLike[str]) -> Findings:
    """Open a findings file.

    Raises:
        FindingsError: There is no such file, or it isn't a complete findings file.
    """
    path = Path(path)
    with _open(path) as file:
        attributes = file.attrs
        if attributes.get("schema") != SCHEMA:
            raise FindingsError(
                f"{path}: schema {attributes.get('schema')!r}; expected {WHAT} ({SCHEMA!r})"
            )
        try:
            min_logit = float(attributes["min_logit"])
            summary = file["summary"].attrs
            degenerate = int(summary["degenerate"])
            findings = Findings(
                path=path,
                tool_version=str(attributes["tool_version"]),
                created=str(attributes["created"]),
                eps=float(attributes["eps"]),
                min_logit=None if math.isnan(min_logit) else min_logit,
                scanned=int(attributes["scanned"]),
                flagged=int(attributes["flagged"]),
                nonfinite=int(attributes["nonfinite"]),
                degenerate=None if degenerate < 0 else degenerate,
                labelled=int(summary["labelled"]),
                correct=int(summary["correct"]),
                dataset=_json_object(attributes["dataset"]),
                bundle=_json_object(attributes["bundle"]),
                engine=_json_object(attributes["engine"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise FindingsError(f"{path}: incomplete ({exc}); expected {WHAT}") from exc
        for name, rows in (
            ("flagged/index", findings.flagged),
            ("nonfinite/index", findings.nonfinite),
        ):
            dataset = _dataset(file, path, name)
            if dataset is None or dataset.shape != (rows,):
                raise FindingsError(f"{path}: no /{name} of {rows} rows; expected {WHAT}")
    return findings


def _json_object(text: Any) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, got {document!r}")
    return document


def _open(path: Path) -> Any:
    from audit import hdf5

    return hdf5.open_file(path, FindingsError, missing=FindingsError, what=WHAT)


def _dataset(file: Any, path: Path, name: str) -> Any:
    """The dataset if it is there, and in this file, and as large as it says."""
    import h5py

    from audit import hdf5

    try:
        node = hdf5.find_object(file, name)
    except ValueError as exc:
        raise FindingsError(f"{path}: {exc}; expected {WHAT}") from exc
    if node is None:
        return None
    if not isinstance(node, h5py.Dataset):
        raise FindingsError(f"{path}: /{name} is not a dataset; expected {WHAT}")
    problem = hdf5.outside_source(node) or hdf5.missing_storage(node) or hdf5.oversized_chunk(node)
    if problem:
        raise FindingsError(f"{path}: /{name} {problem}; expected {WHAT}")
    return node
