"""`audit report`: findings → one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import OptionError, OutputError
from audit.figure import check_feature_names
from audit.findings import Findings, findings_from
from audit.output_file import write_file

if TYPE_CHECKING:
    from audit.check import CheckResult
    from audit.comparison import Comparison
    from audit.reporting.gallery import Gallery

FORMAT = "audit-report/1"
MAX_SAMPLES = 500
MOST_ROWS = 50  # of one gate's classes or pairs
DOCTYPE = b"<!doctype html>"
WAY_OUT = "; name another file with -o"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        max_samples: Flagged samples in the gallery, at most.
        feature_names: Of the features of tabular samples.

    Raises:
        OptionError: An option is out of range.
    """

    max_samples: int = MAX_SAMPLES
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.max_samples, Integral) and self.max_samples >= 0):
            raise OptionError(f"--max-samples {self.max_samples}: expected 0 or more")


def report(
    findings: Findings | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    baseline: Findings | str | os.PathLike[str] | None = None,
    max_samples: int = MAX_SAMPLES,
    gates: Mapping[str, Any] | None = None,
    feature_names: Sequence[str] | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a page that shows findings, and needs nothing but a browser.

    Args:
        findings: Of a scan or a training, or their path.
        out: The page.
        baseline: Earlier findings of the same dataset: new samples are marked.
        max_samples: Flagged samples in the gallery, at most: those of smallest margin, new ones
            first.
        gates: As for `audit.check`.
        feature_names: Of the features of tabular samples.
        model: The bundle that was scanned with; None: it is looked for where the scan found it.
            Without it, the page shows no logits but those of the two tied classes.

    Returns:
        `out`.

    Raises:
        OptionError: An option is out of range.
        FindingsError: The findings can't be read, or the baseline is of another dataset.
        InstallationError: `model` is given, and what runs its graph isn't installed.
        BundleError: `model` is no bundle.
        OutputError: The page can't be written, or another kind of file is there.
    """
    options = ReportOptions(
        max_samples=max_samples,
        feature_names=None if feature_names is None else tuple(feature_names),
    )
    findings, out = findings_from(findings), Path(out)
    _check_out(out)
    write_file(out, _page(findings, baseline, options, gates, model), WAY_OUT)
    return out


def default_path(findings: str | os.PathLike[str]) -> Path:
    """Where the command line writes the report of this file, unless told."""
    return Path(f"{Path(findings).stem.removesuffix('.findings')}.report.html")


def _check_out(out: Path) -> None:
    """A report is written over; findings and datasets aren't."""
    if not out.is_file():
        return
    try:
        with out.open("rb") as file:
            start = file.read(len(DOCTYPE))
    except OSError as exc:
        raise OutputError(f"{out}: can't be read ({exc.strerror}){WAY_OUT}") from exc
    if start not in (b"", DOCTYPE):
        raise OutputError(f"{out}: exists and is not a report{WAY_OUT}")


def _page(
    findings: Findings,
    baseline: Findings | str | os.PathLike[str] | None,
    options: ReportOptions,
    gates: Mapping[str, Any] | None,
    model: str | os.PathLike[str] | None,
) -> bytes:
    from audit.check import check
    from audit.comparison import compare
    from audit.reporting.gallery import gallery_of
    from audit.reporting.page import page_from

    old = None if baseline is None else findings_from(baseline)
    comparison = None if old is None else compare(old, findings)
    checked = check(findings, baseline=old, gates=gates)
    gallery = gallery_of(findings, comparison, max_samples=options.max_samples, model=model)
    check_feature_names(options.feature_names, tuple(gallery.picture["input"]))
    return page_from(
        _context(findings, comparison, checked, gallery),
        _payload(findings, comparison, gallery, options),
    )


def _context(
    findings: Findings, comparison: Comparison | None, checked: CheckResult, gallery: Gallery
) -> dict[str, Any]:
    """What the template shows, with or without scripts."""
    from audit.check_text import answer
    from audit.gates.condense import condensed, worst_first
    from audit.gates.judge import counted
    from audit.reporting import margins, overview
    from audit.reporting.names import number, one_line
    from audit.reporting.verdict import gates_in_need

    return {
        "headline": counted(findings.flagged, "near tie"),
        "facts": overview.facts_of(findings, comparison),
        "origin": overview.origin_of(findings, None if comparison is None else comparison.old),
        "checked": checked,
        "answer": answer(checked).partition(": ")[2],
        "in_need": gates_in_need(checked.results),
        "gates": worst_first(condensed(checked.results, MOST_ROWS)),
        "bins": margins.bins_of(findings),
        "eps": number(findings.eps, 6),
        "eps_marked": findings.margin_edges[1] <= findings.eps <= findings.margin_edges[-1],
        "histogram": margins.histogram_in_words(findings),
        "pairs": overview.pairs_of(findings),
        "gallery": gallery,
        "flagged": findings.flagged,
        "gradients": findings.degenerate is not None,
        "baseline": comparison is not None,
        "number": number,
        "one_line": one_line,
    }


def _payload(
    findings: Findings,
    comparison: Comparison | None,
    gallery: Gallery,
    options: ReportOptions,
) -> dict[str, Any]:
    """What the script works with."""
    from audit.reporting.gallery import shown_feature_names
    from audit.reporting.margins import histogram_of

    return {
        "format": FORMAT,
        "classes": gallery.class_names,
        "eps": findings.eps,
        "baseline": comparison is not None,
        "feature_names": shown_feature_names(options.feature_names),
        "histogram": histogram_of(findings)._asdict(),
        "picture": gallery.picture,
        "samples": gallery.samples,
    }
