"""Exact binomial probabilities and intervals, for as many as 1e9 trials."""

from __future__ import annotations

import math
from typing import NamedTuple

BLOCK = 4096  # terms of a tail that are added at once
NEGLIGIBLE = 1e-17  # of the sum: a term that float64 wouldn't notice
# Stirling's series 1/(12 n) - 1/(360 n³) + …, good to float64 from here on.
SERIES_FROM = 16
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)


class Interval(NamedTuple):
    """From where to where, both included."""

    low: float
    high: float


def upper_tail(successes: int, trials: int, probability: float = 0.5) -> float:
    """P(X ≥ successes), X ~ Binomial(trials, probability)."""
    if successes <= 0:
        return 1.0
    if successes > trials:
        return 0.0
    if successes > trials * probability:
        return _tail(successes, trials, probability, up=True)
    return 1.0 - _tail(successes - 1, trials, probability, up=False)


def lower_tail(successes: int, trials: int, probability: float = 0.5) -> float:
    """P(X ≤ successes), X ~ Binomial(trials, probability)."""
    if successes < 0:
        return 0.0
    if successes >= trials:
        return 1.0
    if successes < trials * probability:
        return _tail(successes, trials, probability, up=False)
    return 1.0 - _tail(successes + 1, trials, probability, up=True)


def clopper_pearson(successes: int, trials: int, confidence: float) -> Interval:
    """The exact two-sided interval for a binomial proportion.

    low solves P(X ≥ successes; low) = (1 - confidence) / 2, high P(X ≤ successes; high) = the
    same. Clopper and Pearson 1934, Biometrika 26, 404-413.

    Args:
        successes: Of the trials, 0 to `trials`.
        trials: At least 1.
        confidence: Such as 0.99.
    """
    outside = (1 - confidence) / 2
    share = successes / trials
    low, high = 0.0, 1.0
    if successes:
        below, above = 0.0, share
        while below < (middle := (below + above) / 2) < above:
            if upper_tail(successes, trials, middle) < outside:
                below = middle
            else:
                above = middle
        low = above
    if successes < trials:
        below, above = share, 1.0
        while below < (middle := (below + above) / 2) < above:
            if lower_tail(successes, trials, middle) < outside:
                above = middle
            else:
                below = middle
        high = below
    return Interval(low, high)


def _tail(start: int, trials: int, p: float, *, up: bool) -> float:
    """The terms from `start` to the end, away from the mean, so that they only get smaller."""
    import numpy as np

    odds = p / (1 - p) if up else (1 - p) / p
    term = _term(start, trials, p)
    last = trials if up else 0
    total, at = term, start
    while at != last and term > NEGLIGIBLE * total:
        steps = np.arange(min(BLOCK, abs(last - at)), dtype=np.float64)
        ratios = (
            (trials - at - steps) / (at + 1 + steps)
            if up
            else (at - steps) / (trials - at + 1 + steps)
        )
        terms = term * np.cumprod(ratios * odds)
        total += float(terms.sum())
        term = float(terms[-1])
        at += len(steps) if up else -len(steps)
    return min(1.0, total)


def _term(k: int, n: int, p: float) -> float:
    """P(X = k), by Loader's saddle-point expansion: no digits are lost however large n is.

    log P = S(n) - S(k) - S(n - k) - D(k, n p) - D(n - k, n (1 - p)) + log(n / 2π k (n - k)) / 2,
    S the error of Stirling's formula, D(x, m) = x log(x / m) + m - x. Loader 2000, "Fast and
    accurate computation of binomial probabilities".
    """
    if k == 0:
        return math.exp(n * math.log1p(-p))
    if k == n:
        return math.exp(n * math.log(p)) if p > 0 else 0.0
    exponent = (
        _stirling_error(n)
        - _stirling_error(k)
        - _stirling_error(n - k)
        - _deviance(k, n * p)
        - _deviance(n - k, n * (1 - p))
    )
    return math.exp(exponent) * math.sqrt(n / (2 * math.pi * k * (n - k)))


def _stirling_error(n: int) -> float:
    """Compute log n! - log(√(2π n) (n / e)^n)."""
    if n < SERIES_FROM:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - math.log(2 * math.pi) / 2
    inverse = 1 / n
    total = 0.0
    for coefficient in reversed(SERIES):
        total = total * inverse**2 + coefficient
    return total * inverse


def _deviance(x: float, mean: float) -> float:
    """Compute x log(x / mean) + mean - x, by its series where the two nearly cancel."""
    difference = (x - mean) / (x + mean)
    if abs(difference) >= 0.1:
        return x * math.log(x / mean) + mean - x
    # x log(x/m) = 2 x atanh(v), v = (x - m)/(x + m): the first term joins m - x to (x - m) v.
    total = (x - mean) * difference
    power, k = 2 * x * difference, 1
    while True:
        power *= difference * difference
        added = total + power / (2 * k + 1)
        if added == total:
            return total
        total, k = added, k + 1
