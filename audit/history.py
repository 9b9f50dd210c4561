"""`audit history`: scans over time, a row each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from audit.errors import FindingsError, OptionError
from audit.findings import SCHEMA, Findings, load_findings
from audit.findings_text import bundle_name, class_names, made_at
from audit.near_tie import name_of_class

WHAT = "findings made by 'audit scan', or a folder of them"
FORMATS = ("png", "svg", "pdf")  # of a plot
OURS = SCHEMA.partition("/")[0] + "/"


class Series(NamedTuple):
    """What rows must share for their rates to be compared over time."""

    dataset: str | None
    bundle: str
    eps: float
    min_logit: float | None


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """One scan.

    Attributes:
        created: When, ISO 8601 in UTC, as the file has it.
        dataset: Path of what was scanned; None: a training's batches.
        dataset_fingerprint: Of it.
        bundle: Name of the bundle.
        manifest_sha256: Of the bundle's manifest: which model it was.
        eps: Near-tie threshold.
        min_logit: Least largest logit of a flagged sample, or None.
        scanned: Samples scanned.
        flagged: Near ties found.
        rate: Share of the scanned samples that are near ties.
        nonfinite: Samples with NaN or infinite logits.
        accuracy: Share of the labelled samples that are classified as labelled, or None.
        median_distance_l2: Of the near ties to their boundaries; None: not recorded, or none.
        worst_pair: The two classes that tie most often, lower number first; None: no near ties.
        worst_pair_count: How often they do.
        path: The findings.
    """

    created: str
    dataset: str | None
    dataset_fingerprint: str | None
    bundle: str
    manifest_sha256: str | None
    eps: float
    min_logit: float | None
    scanned: int
    flagged: int
    rate: float
    nonfinite: int
    accuracy: float | None
    median_distance_l2: float | None
    worst_pair: tuple[str, str] | None
    worst_pair_count: int
    path: Path

    @property
    def series(self) -> Series:
        """What it can be compared with over time."""
        return Series(
            self.dataset_fingerprint or self.dataset, self.bundle, self.eps, self.min_logit
        )

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True, kw_only=True)
class History:
    """Scans, the oldest first.

    Attributes:
        rows: A scan each.
        passed_over: What was found in folders and can't be read, each in one line with the reason.
        plot: The picture; None: none was asked for.
    """

    rows: tuple[HistoryRow, ...]
    passed_over: tuple[str, ...]
    plot: Path | None

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "scans": [row.document() for row in self.rows],
            "passed_over": list(self.passed_over),
            "plot": None if self.plot is None else str(self.plot),
        }


def history(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    plot: str | os.PathLike[str] | None = None,
) -> History:
    """List scans in the order in which they were made.

    Args:
        paths: Findings, and folders that are searched for `*.h5`, subfolders too; hidden files and
            folders, and what isn't findings, are passed over there.
        plot: Picture of the rates over time, as PNG, SVG or PDF by its suffix; None: none is drawn.

    Raises:
        FindingsError: A named file isn't findings, or there are none at all.
        OptionError: The suffix of `plot` is none of these.
        OutputError: The picture can't be written.
        InstallationError: A plot was asked for and matplotlib isn't installed.
    """
    picture = None if plot is None else Path(plot)
    if picture is not None and picture.suffix[1:] not in FORMATS:
        raise OptionError(f"--plot {picture}: expected a name that ends in .png, .svg or .pdf")
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    passed_over: list[str] = []
    rows: dict[str, HistoryRow] = {}
    for each in named:
        for row in _rows(Path(each), passed_over):
            rows.setdefault(os.path.realpath(row.path), row)
    if not rows:
        where = ", ".join(map(str, named)) or "nothing named"
        raise FindingsError(f"{where}: no findings there; expected {WHAT}")
    found = History(
        rows=tuple(sorted(rows.values(), key=_moment)),
        passed_over=tuple(dict.fromkeys(passed_over)),
        plot=picture,
    )
    if picture is not None:
        from audit.history_plot import write_plot

        write_plot(found, picture)
    return found


def _rows(path: Path, passed_over: list[str]) -> Iterator[HistoryRow]:
    """Of a named file or folder."""
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise FindingsError(f"{path}: no such file or folder; expected {WHAT}")
        yield _row(load_findings(path))
        return
    from audit import hdf5

    for file in _files(path):
        try:
            if hdf5.schema_of(file, FindingsError, WHAT).startswith(OURS):
                yield _row(load_findings(file))
        except FindingsError as exc:
            passed_over.append(str(exc))


def _files(folder: Path) -> Iterator[Path]:
    """Files called *.h5 in there and below, by name; hidden ones and links to folders aren't."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(files):
            if name.endswith(".h5") and not name.startswith("."):
                yield Path(where, name)


def _row(findings: Findings) -> HistoryRow:
    worst = _worst_pair(findings)
    return HistoryRow(
        created=findings.created,
        dataset=_text(findings.dataset.get("path")),
        dataset_fingerprint=_text(findings.dataset.get("fingerprint")),
        bundle=bundle_name(findings),
        manifest_sha256=_text(findings.bundle.get("manifest_sha256")),
        eps=findings.eps,
        min_logit=findings.min_logit,
        scanned=findings.scanned,
        flagged=findings.flagged,
        rate=findings.rate,
        nonfinite=findings.nonfinite,
        accuracy=findings.accuracy,
        median_distance_l2=_median_distance(findings),
        worst_pair=worst.pair,
        worst_pair_count=worst.near_ties,
        path=findings.path,
    )


class _Worst(NamedTuple):
    pair: tuple[str, str] | None
    near_ties: int


def _worst_pair(findings: Findings) -> _Worst:
    """The unordered pair with the most near ties; as many: the lower class numbers."""
    import numpy as np

    from audit.gates.classes import pair_counts

    both = pair_counts(findings)
    if not both.size or both.max() < 1:
        return _Worst(None, 0)
    a, b = np.unravel_index(both.argmax(), both.shape)
    names = class_names(findings)
    return _Worst((name_of_class(names, int(a)), name_of_class(names, int(b))), int(both[a, b]))


def _median_distance(findings: Findings) -> float | None:
    import numpy as np

    if findings.degenerate is None:
        return None
    known = findings.distance_l2[np.isfinite(findings.distance_l2)]
    return float(np.median(known)) if len(known) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


class _Order(NamedTuple):
    undated: bool
    moment: str
    path: str


def _moment(row: HistoryRow) -> _Order:
    """By time, then path; what says no time comes last."""
    moment = made_at(row.created)
    return _Order(
        moment is None, row.created if moment is None else moment.isoformat(), str(row.path)
    )
