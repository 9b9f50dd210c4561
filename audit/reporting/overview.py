"""What stands above the gallery: headline numbers and confusion pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from audit.errors import FindingsError
from audit.gates.classes import pair_counts
from audit.gates.judge import counted
from audit.reporting.names import ClassNames, moment, number, shortened

if TYPE_CHECKING:
    from audit.comparison import Comparison
    from audit.findings import Findings

MAX_MATRIX = 30  # classes of a matrix that can still be read
MAX_PAIRS = 50
LEVELS = 4  # of shade


class Fact(NamedTuple):
    """One number of the headline."""

    key: str
    term: str
    text: str
    note: str = ""


def facts_of(findings: Findings, comparison: Comparison | None) -> list[Fact]:
    """The headline numbers that are known, most important first."""
    return [*_results(findings), *_changes(comparison), *_circumstances(findings)]


def _results(findings: Findings) -> Iterator[Fact]:
    yield Fact("flagged", "near ties", f"{findings.flagged:,}", f"of {findings.scanned:,} scanned")
    yield Fact("rate", "rate", f"{findings.rate:.3%}", "of the scanned samples")
    if findings.accuracy is not None:
        yield Fact("accuracy", "accuracy", f"{findings.accuracy:.2%}", "of all labelled samples")
    if findings.accuracy_flagged is not None:
        share = f"{findings.accuracy_flagged:.2%}"
        yield Fact("accuracy_flagged", "among near ties", share, "classified right")


def _changes(comparison: Comparison | None) -> Iterator[Fact]:
    if comparison is None:
        return
    yield Fact("newly", "newly tied", f"{len(comparison.newly):,}", "not in the baseline")
    yield Fact("left", "gone", f"{len(comparison.left):,}", "in the baseline only")
    yield Fact("still", "still tied", f"{len(comparison.still_new):,}", "in both")


def _circumstances(findings: Findings) -> Iterator[Fact]:
    engine = findings.engine
    yield Fact("eps", "ε", number(findings.eps, 6), "margin below which two logits nearly tie")
    if findings.min_logit is not None:
        yield Fact("min_logit", "least logit", f"{findings.min_logit:g}", "of a near tie's largest")
    yield Fact("nonfinite", "non-finite", f"{findings.nonfinite:,}", "NaN or infinite logits")
    if findings.degenerate is not None:
        yield Fact("degenerate", "degenerate", f"{findings.degenerate:,}", "nothing tips them")
    guard = engine.get("guard")
    if isinstance(guard, int | float):
        rescans = engine.get("rescans")
        held = "held"
        if isinstance(rescans, int) and rescans > 0:
            held = f"widened {counted(rescans, 'time')}"
        yield Fact("guard", "guard", number(guard), held)


def origin_of(findings: Findings, baseline: Findings | None) -> list[Fact]:
    """Where the findings come from."""
    dataset = findings.dataset.get("path")
    origin = [
        Fact("model", "model", shortened(str(findings.bundle.get("name")))),
        Fact("dataset", "dataset", "a training's batches" if dataset is None else _file(dataset)),
        Fact("created", "scanned on", moment(findings.created)),
        Fact("tool", "by", f"near-tie-audit {shortened(findings.tool_version)}"),
    ]
    if baseline is not None:
        said = f"{shortened(baseline.path.name)}, {shortened(str(baseline.bundle.get('name')))}"
        origin.append(Fact("baseline", "baseline", f"{said}, {moment(baseline.created)}"))
    return origin


def _file(path: object) -> str:
    """Its name alone: a report is sent around, and paths tell of the machine."""
    return shortened(PurePath(str(path)).name)


class Cell(NamedTuple):
    """Of the matrix: an unordered pair, the smaller class number first."""

    pair: str
    names: str
    samples: int
    level: int  # of shade, 0: none


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Confusion pairs of all flagged samples.

    Attributes:
        names: Rows and columns of the matrix; none where there are too many.
        rows: The matrix's lower triangle, below the diagonal.
        top: Pairs, most frequent first.
        left_out: Pairs that `top` has no room for.
    """

    names: list[str]
    rows: list[list[Cell]]
    top: list[Cell]
    left_out: int


def pairs_of(findings: Findings) -> Pairs:
    """A matrix of all classes, or those that occur, or where these are many a list of pairs.

    Raises:
        FindingsError: The counts aren't of these classes.
    """
    import numpy as np

    names = ClassNames(findings)
    if findings.pairs.shape != (len(names), len(names)):
        raise FindingsError(
            f"{findings.path}: /summary/pairs is {findings.pairs.shape}; expected a row and a "
            f"column for each of {counted(len(names), 'class', 'classes')}; scan again"
        )
    counts = pair_counts(findings)
    low, high = np.nonzero(counts)
    found = counts[low, high]
    largest = int(found.max(initial=1))

    def cell(one: int, other: int) -> Cell:
        smaller, larger = sorted((one, other))
        samples = int(counts[smaller, larger])
        level = -(-LEVELS * samples // largest)
        return Cell(
            f"{smaller}-{larger}", f"{names[smaller]} / {names[larger]}", samples, int(level)
        )

    order = np.argsort(-found, kind="stable")[:MAX_PAIRS].tolist()
    top = [cell(int(low[each]), int(high[each])) for each in order]
    shown = list(range(len(counts)))
    if len(shown) > MAX_MATRIX:
        shown = sorted({*low.tolist(), *high.tolist()})
    if len(shown) > MAX_MATRIX:
        return Pairs(names=[], rows=[], top=top, left_out=len(found) - len(top))
    rows = [[cell(one, other) for other in shown[:place]] for place, one in enumerate(shown)]
    return Pairs(names=[names[each] for each in shown], rows=rows, top=top, left_out=0)
