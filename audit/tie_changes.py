"""What the other scan knew of the samples that only one of two scans flagged.

A sample is newly tied because the model's margin moved, or only because ε (or the least logit) did:
it would have been a near tie before, had the new thresholds been in force. Which of the two is
asked at the *new* thresholds: was it a near tie of the old model by them, and is it one of the new?
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.errors import FindingsError

if TYPE_CHECKING:
    from audit.comparison import Comparison
    from audit.findings import Findings

# Why a sample is flagged in one scan only; the number is what `/newly/cause` holds.
CAUSES = ("model", "threshold", "unknown")
MODEL, THRESHOLD, UNKNOWN = range(len(CAUSES))
NO_CLASS = -1
BLOCK = 2**20  # samples of /scan that are read at once


class TieChanges(NamedTuple):
    """Of n samples that one scan flagged: what the other made of them, and why it didn't flag them.

    Attributes:
        margin: The other scan's, of its fast pass, float64 (n,); NaN: not recorded or not finite.
        classes: Its top-2, int64 (n, 2); -1: not recorded or not finite.
        cause: A position in `CAUSES`, int8 (n,).
    """

    margin: NDArray[np.float64]
    classes: NDArray[np.int64]
    cause: NDArray[np.int8]


def newly_tied(comparison: Comparison) -> TieChanges:
    """Of `comparison.newly`: what the old scan made of them."""
    old, new = comparison.old, comparison.new
    index = new.index[comparison.newly]
    margin, classes = _recorded(old, index)
    cause = np.full(len(index), MODEL, dtype=np.int8)
    if _looser(new, old):
        cause[:] = UNKNOWN
        if comparison.same_bundle:
            cause[:] = THRESHOLD
        elif old.kept_all:
            error = fast_error(old)
            with np.errstate(invalid="ignore"):
                was_tied = margin < new.eps - error
                was_apart = margin >= new.eps + error
            cause[was_apart] = MODEL
            if new.min_logit is None:
                cause[was_tied] = THRESHOLD
        # Without finite logits, no threshold would have made it a near tie.
        cause[np.isin(index, old.nonfinite_index)] = MODEL
    return TieChanges(margin, classes, cause)


def no_longer_tied(comparison: Comparison) -> TieChanges:
    """Of `comparison.left`: what the new scan made of them."""
    old, new = comparison.old, comparison.new
    rows = comparison.left
    margin, classes = _recorded(new, old.index[rows])
    by_new = old.margin[rows] < new.eps
    if new.min_logit is not None:
        by_new &= old.logits[rows, 0] > new.min_logit
    return TieChanges(margin, classes, np.where(by_new, MODEL, THRESHOLD).astype(np.int8))


def fast_error(findings: Findings) -> float:
    """How far the fast pass may be from the canonical margin: the guard of the scan.

    Raises:
        FindingsError: It isn't recorded.
    """
    guard = findings.engine.get("guard")
    if not isinstance(guard, int | float) or not (math.isfinite(guard) and guard >= 0):
        raise FindingsError(f"{findings.path}: its record of the engine has no guard; scan again")
    return float(guard)


def _looser(new: Findings, old: Findings) -> bool:
    """Whether `new` flags what `old` doesn't, of the same logits."""
    if new.eps > old.eps:
        return True
    return old.min_logit is not None and (new.min_logit is None or new.min_logit < old.min_logit)


class _Recorded(NamedTuple):
    margin: NDArray[np.float64]
    classes: NDArray[np.int64]


def _recorded(findings: Findings, index: NDArray[np.int64]) -> _Recorded:
    """What `--keep-all` recorded at these ascending positions, read in blocks."""
    margin = np.full(len(index), np.nan)
    classes = np.full((len(index), 2), NO_CLASS, dtype=np.int64)
    if findings.kept_all:
        first = 0
        while first < len(index):
            start = int(index[first])
            last = int(np.searchsorted(index, start + BLOCK))
            rows = findings.scan_rows(start, min(start + BLOCK, int(index[last - 1]) + 1))
            at = index[first:last] - start
            margin[first:last], classes[first:last] = rows.margin[at], rows.classes[at]
            first = last
    return _Recorded(margin, classes)
