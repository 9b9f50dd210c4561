"""What consecutive samples add to the findings, and the sum of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# 0, then ten bins a decade: wide enough for any logits, and the same for every scan, so that
# histograms of two nights can be subtracted.
MARGIN_EDGES = np.concatenate([[0.0], np.logspace(-6, 6, 121)])


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of consecutive samples, M of them flagged; arrays are as in `docs/findings.md`."""

    scanned: int
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    logits: NDArray[np.float64]
    margin: NDArray[np.float64]
    label: NDArray[np.int64]
    input: NDArray[Any]
    gradient: NDArray[np.float32]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]
    degenerate: int
    nonfinite_index: NDArray[np.int64]
    margin_counts: NDArray[np.int64]
    label_counts: NDArray[np.int64]
    correct: int
    scan_margin: NDArray[np.float32]
    scan_classes: NDArray[np.int32]


class Totals:
    """What is counted over everything found."""

    def __init__(self, classes: int) -> None:
        self.scanned = 0
        self.degenerate = 0
        self.label_counts = np.zeros(classes, dtype=np.int64)
        self.correct = 0
        self.pairs = np.zeros((classes, classes), dtype=np.int64)
        self.margin_counts = np.zeros(len(MARGIN_EDGES) - 1, dtype=np.int64)

    def add(self, found: Found) -> None:
        """Count it in."""
        self.scanned += found.scanned
        self.degenerate += found.degenerate
        self.label_counts += found.label_counts
        self.correct += found.correct
        self.margin_counts += found.margin_counts
        np.add.at(self.pairs, (found.classes[:, 0], found.classes[:, 1]), 1)

    def merge(self, other: Totals) -> None:
        """Count in what was counted apart."""
        self.scanned += other.scanned
        self.degenerate += other.degenerate
        self.label_counts += other.label_counts
        self.correct += other.correct
        self.pairs += other.pairs
        self.margin_counts += other.margin_counts


def count_labels(label: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Samples a true class, int64 (C,); those whose label is unknown, -1, aren't counted."""
    return np.bincount(label[label >= 0], minlength=classes)


def count_margins(margin: NDArray[np.floating]) -> NDArray[np.int64]:
    """Histogram of finite margins over `MARGIN_EDGES`; what exceeds the last is in the last bin."""
    counts, _ = np.histogram(np.minimum(margin, MARGIN_EDGES[-1]), MARGIN_EDGES)
    return counts
