"""Decide: the canonical answer for what the fast pass proposed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from audit.guard import Guard
from audit.options import ScanOptions

# Top-2 logits this close, relative to their size, are equal: a matrix product sums the columns of
# two equal rows in different orders, so that the last bits of equal logits differ, and differ
# otherwise on the next machine. Seen: 1e-16 for a copied output row; deep networks add up more.
EQUAL = 1e-12
# Two float64 evaluations of one sample differ by rounding, about 1e-15 relative a layer. What is
# closer than this to a threshold is settled by one evaluation that nothing else can influence.
ROUNDING = 1e-9
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Kept:
    """Samples that the canonical evaluation must see: k of a segment, in order.

    Attributes:
        index: Positions in the dataset, int64 (k,).
        raw: As stored, (k, *raw_shape).
        fast: Logits of the fast pass, float32 (k, C).
        proposed: False: kept only as a check on the guard. bool (k,).
    """

    index: NDArray[np.int64]
    raw: NDArray[Any]
    fast: NDArray[np.float32]
    proposed: NDArray[np.bool_]


@dataclass(frozen=True)
class Decided:
    """The canonical answer for the kept samples.

    Attributes:
        flagged: Which are near ties, bool (k,).
        finite: Which have finite logits, bool (k,).
        classes: Top-2 of each, int64 (k, 2); no meaning where not finite.
        logits: Canonical z_a, z_b, float64 (k, 2).
        disagreement: Largest disagreement with the fast pass, in logit units.
    """

    flagged: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    classes: NDArray[np.int64]
    logits: NDArray[np.float64]
    disagreement: float


class CanonicalLogits(Protocol):
    """What decides: a bundle's TorchScript module or ONNX graph, or a network in training."""

    def logits(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Logits (N, C) of N samples, as `to_input` gave them."""

    def logits_alone(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """As `logits`, each sample by itself."""


class Top2(NamedTuple):
    """The two largest logits of each row, those that differ by rounding alone being equal.

    Attributes:
        classes: a, b, int64 (n, 2); equal logits: lower class number first.
        logits: z_a ≥ z_b, float64 (n, 2).
    """

    classes: NDArray[np.int64]
    logits: NDArray[np.float64]


class GuardBroken(Exception):
    """A graph was off by more than its guard; carries its precision, and by how much."""

    def __init__(self, precision: str, disagreement: float) -> None:
        super().__init__(precision, disagreement)
        self.precision = precision
        self.disagreement = disagreement


def decide(
    canonical: Callable[[], CanonicalLogits],
    to_input: Callable[[NDArray[Any]], NDArray[Any]],
    guard: Guard,
    options: ScanOptions,
    kept: Kept,
) -> Decided:
    """Canonical flags of the kept samples.

    Args:
        canonical: Gives the canonical path; not called where nothing was kept.
        to_input: From raw samples to what the canonical path takes.
        guard: The guard that the samples were proposed with.
        options: ε and min_logit.
        kept: What the fast pass kept.

    Raises:
        GuardBroken: The fast pass was off by more than the guard.
    """
    classes = np.zeros((len(kept.index), 2), dtype=np.int64)
    pair = np.full((len(kept.index), 2), np.nan)
    finite = np.zeros(len(kept.index), dtype=bool)
    worst = 0.0
    for start in range(0, len(kept.index), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        x = to_input(kept.raw[rows])
        logits = canonical().logits(x)
        worst = max(worst, float(guard.disagreement(kept.fast[rows], logits).max()))
        if worst > guard.value:
            raise GuardBroken("float32", worst)
        unsettled = _near_a_threshold(logits, options)
        if unsettled.any():
            logits[unsettled] = canonical().logits_alone(x[unsettled])
        finite[rows] = np.isfinite(logits).all(axis=1)
        classes[rows], pair[rows] = canonical_top2(np.where(finite[rows, None], logits, 0.0))
    flagged = finite & (pair[:, 0] - pair[:, 1] < options.eps)
    if options.min_logit is not None:
        flagged &= pair[:, 0] > options.min_logit
    return Decided(flagged, finite, classes, pair, worst)


def canonical_top2(logits: NDArray[np.float64]) -> Top2:
    """Top-2 of finite logits (n, C), as DESIGN defines it but for rounding."""
    rows = np.arange(len(logits))
    equal = EQUAL * _size(*_largest_two(logits))
    rest = logits.copy()
    classes, values = [], []
    for _ in range(2):
        largest = rest.max(axis=1)
        first = (rest >= (largest - equal)[:, None]).argmax(axis=1)
        rest[rows, first] = -np.inf
        classes.append(first)
        values.append(logits[rows, first])
    z_a, z_b = values
    tied = z_a - z_b <= equal
    return Top2(np.stack(classes, axis=1), np.stack([z_a, np.where(tied, z_a, z_b)], axis=1))


def _near_a_threshold(logits: NDArray[np.float64], options: ScanOptions) -> NDArray[Any]:
    """Rows where the rounding of a batch could carry a sample over ε or min_logit."""
    z_a, z_b = _largest_two(logits)
    near = ROUNDING * _size(z_a, z_b)
    with np.errstate(invalid="ignore"):
        unsettled = np.abs(z_a - z_b - options.eps) < near
        if options.min_logit is not None:
            unsettled |= np.abs(z_a - options.min_logit) < near
    return np.asarray(unsettled)


def _largest_two(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """z_a and z_b of each row, (2, n)."""
    return np.partition(logits, logits.shape[1] - 2, axis=1)[:, :-3:-1].T


def _size(z_a: NDArray[np.float64], z_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The size that rounding is relative to: of the two logits, not of a masked class's -1e9."""
    return np.maximum(1.0, np.maximum(np.abs(z_a), np.abs(z_b)))
