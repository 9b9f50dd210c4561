"""Every sample whose predicted class changed between two scans that recorded all samples.

The class of a flagged sample is the canonical one, that of any other the fast pass's. Where the
fast pass's margin is within its guard, that class is not settled: such a flip is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.tie_changes import BLOCK, NO_CLASS, fast_error

if TYPE_CHECKING:
    from audit.comparison import Comparison
    from audit.findings import Findings

# Of a flip; the number is what `/flips/kind` holds.
KINDS = ("tied", "confident", "unsettled")
TIED, CONFIDENT, UNSETTLED = range(len(KINDS))
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Flips of samples, n of them.

    Attributes:
        index: Positions in the dataset, int64 (n,).
        classes: Predicted before and now, int64 (n, 2).
        margin: Before and now, canonical where flagged, else of the fast pass, float64 (n, 2).
        kind: A position in `KINDS`, int8 (n,): flagged in either scan; in neither; in neither, but
            the margin in either is below its ε, as `min_logit` leaves it, or within the guard.
    """

    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    margin: NDArray[np.float64]
    kind: NDArray[np.int8]

    def most_confident(self) -> Flips:
        """The few confident ones of largest margin, the lesser of before and now; largest first."""
        rows = np.flatnonzero(self.kind == CONFIDENT)
        certainty = self.margin[rows].min(axis=1)
        return self._at(rows[np.argsort(-certainty, kind="stable")[:SHOWN]])

    def joined(self, other: Flips) -> Flips:
        """These, then those."""
        return Flips(
            index=np.concatenate([self.index, other.index]),
            classes=np.concatenate([self.classes, other.classes]),
            margin=np.concatenate([self.margin, other.margin]),
            kind=np.concatenate([self.kind, other.kind]),
        )

    def _at(self, rows: NDArray[np.int64]) -> Flips:
        return Flips(
            index=self.index[rows],
            classes=self.classes[rows],
            margin=self.margin[rows],
            kind=self.kind[rows],
        )


class FlipBlock(NamedTuple):
    """Consecutive samples: how many have a class in both scans, and the flips, ascending."""

    compared: int
    flips: Flips


@dataclass
class FlipTotals:
    """What is counted over all blocks.

    Attributes:
        compared: Samples with finite logits in both scans.
        kinds: Flips of each of `KINDS`.
        ways: Flips from class to class.
        examples: The confident ones of largest margin, the lesser of before and now.
    """

    compared: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ways: Counter[tuple[int, int]] = field(default_factory=Counter)
    examples: Flips | None = None

    @property
    def flips(self) -> int:
        """Of all kinds."""
        return self.kinds.total()

    def add(self, block: FlipBlock) -> None:
        """Count it in."""
        self.compared += block.compared
        flips = block.flips
        for number, kind in enumerate(KINDS):
            self.kinds[kind] += int((flips.kind == number).sum())
        pairs, counts = np.unique(flips.classes, axis=0, return_counts=True)
        for (before, now), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self.ways[before, now] += count
        few = flips.most_confident()
        self.examples = few if self.examples is None else self.examples.joined(few).most_confident()


def flip_blocks(comparison: Comparison) -> Iterator[FlipBlock]:
    """The flips among the samples that both scanned, block by block; none is held longer.

    Raises:
        NotRecordedError: A scan was without `keep_all`.
        FindingsError: A file is damaged, or doesn't say how exact its fast pass was.
    """
    old, new = comparison.old, comparison.new
    errors = fast_error(old), fast_error(new)
    for start in range(0, comparison.common, BLOCK):
        stop = min(start + BLOCK, comparison.common)
        before, now = (_predictions(each, start, stop) for each in (old, new))
        known = (before.classes != NO_CLASS) & (now.classes != NO_CLASS)
        rows = np.flatnonzero(known & (before.classes != now.classes))
        kind = np.full(len(rows), CONFIDENT, dtype=np.int8)
        for findings, error, side in zip((old, new), errors, (before, now), strict=True):
            kind[side.margin[rows] < max(findings.eps, error)] = UNSETTLED
        kind[before.flagged[rows] | now.flagged[rows]] = TIED
        yield FlipBlock(
            int(known.sum()),
            Flips(
                index=start + rows,
                classes=np.stack([before.classes[rows], now.classes[rows]], axis=1),
                margin=np.stack([before.margin[rows], now.margin[rows]], axis=1),
                kind=kind,
            ),
        )


class _Predictions(NamedTuple):
    """Of consecutive samples: class int64 (-1: none), margin float64, whether flagged."""

    classes: NDArray[np.int64]
    margin: NDArray[np.float64]
    flagged: NDArray[np.bool_]


def _predictions(findings: Findings, start: int, stop: int) -> _Predictions:
    rows = findings.scan_rows(start, stop)
    classes, margin = rows.classes[:, 0].astype(np.int64), rows.margin.astype(np.float64)
    flagged = np.zeros(stop - start, dtype=bool)
    here = slice(*np.searchsorted(findings.index, [start, stop]))
    at = findings.index[here] - start
    flagged[at] = True
    classes[at], margin[at] = findings.classes[here, 0], findings.margin[here]
    lost = slice(*np.searchsorted(findings.nonfinite_index, [start, stop]))
    classes[findings.nonfinite_index[lost] - start] = NO_CLASS
    return _Predictions(classes, margin, flagged)
