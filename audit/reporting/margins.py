"""The histogram of all margins, drawn, in a table and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from audit.errors import FindingsError
from audit.gates.judge import counted
from audit.reporting.names import number

if TYPE_CHECKING:
    from audit.findings import Findings


class Histogram(NamedTuple):
    """Of all margins."""

    edges: list[float]
    counts: list[int]


def histogram_of(findings: Findings) -> Histogram:
    """The histogram, which can be drawn.

    Raises:
        FindingsError: It can't.
    """
    import numpy as np

    edges, counts = findings.margin_edges, findings.margin_counts
    ascending = np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    if len(counts) < 2 or len(edges) != len(counts) + 1 or not ascending:
        raise FindingsError(
            f"{findings.path}: {len(edges)} /summary/margin_edges of {len(counts)} bins; expected "
            "one more than bins, ascending; scan again"
        )
    return Histogram(edges.tolist(), counts.tolist())


class Bin(NamedTuple):
    """Of the histogram."""

    low: str
    high: str
    samples: int


def bins_of(findings: Findings) -> list[Bin]:
    """Those that aren't empty."""
    edges, counts = histogram_of(findings)
    texts = [number(edge) for edge in edges]
    return [
        Bin(low, high, count)
        for low, high, count in zip(texts, texts[1:], counts, strict=False)
        if count
    ]


def histogram_in_words(findings: Findings) -> str:
    """What one sees in it at a glance."""
    counts = findings.margin_counts
    words = (
        f"{counted(findings.scanned, 'sample')}, {counted(findings.flagged, 'near tie')} below "
        f"ε = {number(findings.eps, 6)}"
    )
    if not counts.any():
        return words
    place = int(counts.argmax())
    low, high = (number(float(each)) for each in findings.margin_edges[place : place + 2])
    return f"{words}; most samples a bin between {low} and {high}"
