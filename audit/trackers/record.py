"""What is logged of findings, whichever the tracker."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit.errors import FindingsError, InstallationError

if TYPE_CHECKING:
    from PIL.Image import Image

    from audit.findings import Findings

GROUP = "near_ties"
Value = str | int | float | bool


class Picture(NamedTuple):
    """The sheet of a near tie.

    Attributes:
        name: closest_1 is the closest tie's.
        sample: Its position in the dataset.
        png: The picture as a PNG file.
    """

    name: str
    sample: int
    png: bytes

    @property
    def tag(self) -> str:
        """The name, in the group of all that is logged."""
        return f"{GROUP}/{self.name}"

    @property
    def caption(self) -> str:
        """Which sample it shows."""
        return f"sample {self.sample}"

    def image(self) -> Image:
        """The picture, RGB."""
        from PIL import Image  # matplotlib brings it

        return Image.open(io.BytesIO(self.png)).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is logged.

    Attributes:
        name: Of what was scanned, for runs and artefacts that are given none.
        metrics: Finite numbers by name.
        parameters: What was scanned, and how.
        pictures: Of the closest ties, the closest first.
        files: The findings and, where there is one, the report.
        notes: What is left out and why, a sentence each.
    """

    name: str
    metrics: dict[str, float]
    parameters: dict[str, Value]
    pictures: tuple[Picture, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def record_from_findings(
    findings: Findings, *, closest: int, baseline: Findings | None, report: Path | None
) -> Record:
    """Gather it.

    Args:
        findings: Of a scan.
        closest: So many pictures, of the near ties of smallest margin.
        baseline: Earlier findings of the same dataset.
        report: File that goes along.

    Raises:
        FindingsError: The findings can't be read, or the baseline isn't of the same dataset.
    """
    notes: list[str] = []
    numbers = _numbers(findings) | ({} if baseline is None else _changes(baseline, findings))
    try:
        pictures = tuple(_pictures(findings, closest))
    except (InstallationError, FindingsError) as exc:
        notes.append(f"no figures: {exc}")
        pictures = ()
    source = findings.dataset.get("path")
    return Record(
        name=Path(source).stem if source else findings.path.stem,
        metrics={
            f"{GROUP}/{name}": float(value)
            for name, value in numbers.items()
            if value is not None and math.isfinite(value)
        },
        parameters={
            f"{GROUP}/{name}": value
            for name, value in _parameters(findings).items()
            if value is not None
        },
        pictures=pictures,
        files=(findings.path, *(() if report is None else (report,))),
        notes=tuple(notes),
    )


def _numbers(findings: Findings) -> dict[str, float | None]:
    import numpy as np

    from audit.summary import summary_from_findings

    summary = summary_from_findings(findings)
    names = ("scanned", "flagged", "rate", "accuracy", "accuracy_flagged")
    numbers: dict[str, float | None] = {name: summary[name] for name in names}
    numbers |= {name: summary[name] for name in ("nonfinite", "degenerate", "rescans")}
    of_ties = {"margin": findings.margin}
    if findings.degenerate is not None:
        of_ties |= {name: getattr(findings, name) for name in ("distance_l2", "distance_linf")}
    for name, values in of_ties.items():
        known = values[np.isfinite(values)]
        if len(known):
            numbers |= {f"median_{name}": float(np.median(known)), f"min_{name}": known.min()}
    return numbers


def _changes(baseline: Findings, findings: Findings) -> dict[str, float | None]:
    from audit.comparison import compare

    comparison = compare(baseline, findings)
    return {
        "new": len(comparison.newly),
        "left": len(comparison.left),
        "class_flips": int(comparison.class_flips.sum()),
        "rate_change": findings.rate - baseline.rate,
    }


def _parameters(findings: Findings) -> dict[str, Any]:
    dataset, bundle, engine = findings.dataset, findings.bundle, findings.engine
    return {
        "eps": findings.eps,
        "min_logit": findings.min_logit,
        "model": bundle.get("name"),
        "model_sha256": bundle.get("manifest_sha256"),
        "dataset": dataset.get("path"),
        "dataset_fingerprint": dataset.get("fingerprint"),
        "created": findings.created,
        "tool_version": findings.tool_version,
        **{name: engine.get(name) for name in ("device", "precision", "guard")},
    }


def _pictures(findings: Findings, closest: int) -> Iterator[Picture]:
    from audit.figure import bytes_from_figure, import_matplotlib, near_tie_figure
    from audit.near_tie import near_ties_from_findings

    rows = findings.margin.argsort(kind="stable")[:closest].tolist()
    if not rows:
        return
    import_matplotlib()
    for rank, tie in enumerate(near_ties_from_findings(findings, rows), 1):
        png = bytes_from_figure(near_tie_figure(tie), "png")
        yield Picture(f"closest_{rank}", tie.index, png)
