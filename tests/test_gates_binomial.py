"""Exact probabilities: against rational arithmetic where that is possible, against scipy beyond."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from audit.gates.binomial import clopper_pearson, lower_tail, upper_tail


def exact_upper(successes: int, trials: int, p: float) -> Fraction:
    """By the definition, without rounding."""
    q = Fraction(p)
    terms = (
        math.comb(trials, k) * q**k * (1 - q) ** (trials - k)
        for k in range(max(successes, 0), trials + 1)
    )
    return sum(terms, Fraction(0))


@given(
    st.integers(0, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(-1, n + 1))),
    st.one_of(st.just(0.5), st.floats(1e-9, 1 - 1e-9)),
)
def test_tails_are_exact(case: tuple[int, int], p: float) -> None:
    trials, successes = case
    expected = float(exact_upper(successes, trials, p))
    assert upper_tail(successes, trials, p) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    below = float(1 - exact_upper(successes + 1, trials, p))
    assert lower_tail(successes, trials, p) == pytest.approx(below, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(("new", "gone"), [(5, 3), (2, 0), (24, 0), (30, 6), (0, 0), (700, 610)])
def test_the_sign_test_is_that_of_scipy(new: int, gone: int) -> None:
    expected = binomtest(new, new + gone, 0.5, alternative="greater").pvalue if new + gone else 1.0
    assert upper_tail(new, new + gone) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("confidence", [0.95, 0.99, 0.999999])
@pytest.mark.parametrize(
    ("successes", "trials"),
    [(0, 1), (1, 1), (0, 10), (10, 10), (6, 10_000), (30, 10_000), (9_999, 10_000), (5, 9)],
)
def test_the_interval_is_that_of_scipy(successes: int, trials: int, confidence: float) -> None:
    expected = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    interval = clopper_pearson(successes, trials, confidence)
    # scipy looks for the root to 2e-12.
    assert interval.low == pytest.approx(expected.low, rel=1e-9, abs=5e-12)
    assert interval.high == pytest.approx(expected.high, rel=1e-9, abs=5e-12)


def test_random_intervals_are_quantiles_of_beta_distributions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        trials = int(10 ** rng.uniform(0.5, 9))
        successes = int(np.clip(rng.binomial(trials, 10 ** rng.uniform(-8, -0.01)), 1, trials - 1))
        interval = clopper_pearson(successes, trials, 0.99)
        low = beta.ppf(0.005, successes, trials - successes + 1)
        high = beta.ppf(0.995, successes + 1, trials - successes)
        assert interval.low == pytest.approx(low, rel=1e-8)
        assert interval.high == pytest.approx(high, rel=1e-8)


def test_a_billion_samples_take_no_time() -> None:
    started = time.perf_counter()
    # mpmath, 40 digits, of the terms themselves.
    assert upper_tail(33, 865_216_050, 5.553243178409923e-08) == pytest.approx(
        0.9908205342023224315305950679421946904081, rel=1e-13
    )
    assert lower_tail(1, 381_067_520, 1.065194625879934e-08) == pytest.approx(
        0.08734233195704704177014818370527688407555, rel=1e-12
    )
    assert upper_tail(10**9, 10**9) == 0.0  # of 2^-1e9
    assert upper_tail(10**9 + 1, 2 * 10**9 + 1) == pytest.approx(0.5, rel=1e-12)
    low, high = clopper_pearson(5 * 10**8, 10**9, 0.99)
    assert (0.5 - low) * 1e4 == pytest.approx((high - 0.5) * 1e4, rel=1e-6)
    assert high - 0.5 == pytest.approx(2.5758293 * 0.5 / math.sqrt(1e9), rel=1e-3)
    assert time.perf_counter() - started < 5


def test_an_interval_of_none_and_of_all() -> None:
    assert clopper_pearson(0, 100, 0.95).low == 0.0
    assert clopper_pearson(100, 100, 0.95).high == 1.0
    assert clopper_pearson(0, 100, 0.95).high == pytest.approx(1 - 0.025 ** (1 / 100))
