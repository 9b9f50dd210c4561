"""Tonight against an earlier night."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

import audit
from audit.check import GateResult
from audit.findings import Findings
from audit.gates import GATES
from nights import Tie, ties, write_night

AGAINST = [name for name, kind in GATES.items() if kind.baseline]


def compared(
    old: Findings, new: Findings, level: float | None = None, **gates: Any
) -> dict[str, GateResult]:
    gates = dict.fromkeys(AGAINST, 0) | gates
    result = audit.check(new, baseline=old, gates=gates, level=level)
    return {each.name: each for each in result.results if each.name in AGAINST}


def night(path: Path, *indices: int, **options: Any) -> Findings:
    return write_night(path, ties(*indices), **options)


def test_six_to_eight_of_ten_thousand_is_no_alarm(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 1, 2, 3, 4, 5, 6)
    new = night(tmp_path / "new.h5", 4, 5, 6, 7, 8, 9, 10, 11)  # 5 new, 3 gone
    results = compared(old, new)
    increase = results["max_rate_increase"]
    assert (increase.status, increase.value, increase.limit) == ("PASS", 2 / 10_000, 0)
    p = binomtest(5, 8, 0.5, alternative="greater").pvalue
    assert f"no alarm: may well be chance (p = {p:.2g}, level 0.01)" in increase.message
    low, high = (
        100 * (2 * share - 1) * 8 / 10_000
        for share in binomtest(5, 8).proportion_ci(0.98, method="exact")
    )
    assert f"98% interval of the increase: {low:+.4g} pp to {high:+.4g} pp" in increase.message
    low, high = 10_000 / 6 * low, 10_000 / 6 * high
    relative = results["max_rate_increase_relative"].message
    assert f"98% interval of the increase: {low:+.4g}% to {high:+.4g}%" in relative
    assert results["max_rate_increase_relative"].status == "PASS"
    assert results["max_rate_increase_relative"].value == pytest.approx(1 / 3)
    assert {name: each.value for name, each in results.items() if "rate" not in name} == {
        "max_new": 5,
        "max_left": 3,
        "max_flips": 0,
    }


def test_six_to_thirty_is_one(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", *range(6))
    new = night(tmp_path / "new.h5", *range(4, 34))  # 28 new, 4 gone
    results = compared(old, new)
    for name in ("max_rate_increase", "max_rate_increase_relative"):
        assert results[name].status == "FAIL"
        assert "not by chance" in results[name].message
    assert results["max_rate_increase"].value == 24 / 10_000
    assert results["max_rate_increase_relative"].value == 4
    assert results["max_new"].status == "FAIL"
    warned = compared(old, new, max_rate_increase={"warn": 0.001})["max_rate_increase"]
    assert (warned.status, warned.limit) == ("WARN", 0.001)
    within = compared(old, new, max_rate_increase=0.0024)["max_rate_increase"]
    assert within.status == "PASS"
    assert "within the limit" in within.message


def test_the_interval_goes_no_lower_than_all_gone(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 1, 2, 3)
    results = compared(old, night(tmp_path / "new.h5", 4, 5, 6, 7))  # 4 new, 3 gone
    assert "interval of the increase: -0.03 pp to" in results["max_rate_increase"].message
    assert "interval of the increase: -100% to" in results["max_rate_increase_relative"].message


def test_no_interval_where_there_is_none(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 1, 2, 3)
    again = compared(old, night(tmp_path / "again.h5", 1, 2, 3))
    rises = compared(old, night(tmp_path / "new.h5", 1, 2, 3, 4), level=0.5)
    for results in (again, rises):  # nothing changed; a level that leaves no confidence
        assert "interval" not in results["max_rate_increase"].message
    none = night(tmp_path / "none.h5")
    growth = compared(none, old)["max_rate_increase_relative"]  # a share of nothing
    assert "interval" not in growth.message


@pytest.mark.parametrize("new", range(1, 14))
@pytest.mark.parametrize("level", [0.001, 0.01, 0.2])
def test_the_level_is_that_of_the_exact_test(new: int, level: float, tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 100, 101)
    later = night(tmp_path / "new.h5", *range(new), 101)  # `new` new, one gone, one stays
    result = compared(old, later, level=level)["max_rate_increase"]
    p = binomtest(new, new + 1, 0.5, alternative="greater").pvalue
    assert result.status == ("FAIL" if new > 1 and p <= level else "PASS")
    # The interval and the test say the same.
    assert (" of the increase: +" in result.message) == (p <= level)


def test_false_alarms_are_no_more_than_the_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    alarms, nights = 0, 200
    for _ in range(nights):
        both = rng.choice(1000, 60, replace=False)
        # Which of the two nights a sample is a tie in is a coin's toss.
        side = rng.random(60) < 0.5
        old = night(tmp_path / "old.h5", *sorted(both[side].tolist()), scanned=1000)
        new = night(tmp_path / "new.h5", *sorted(both[~side].tolist()), scanned=1000)
        result = audit.check(new, baseline=old, gates={}, level=0.05)
        alarms += result.status == "FAIL"
    assert 0 < alarms <= binomtest(10, nights).proportion_ci(0.999).high * nights


def test_from_nothing(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5")
    results = compared(old, night(tmp_path / "new.h5", *range(10)))
    relative = results["max_rate_increase_relative"]
    assert (relative.status, relative.value) == ("FAIL", math.inf)
    assert (relative.shown_value, relative.document()["value"]) == ("∞", None)
    still = compared(old, night(tmp_path / "again.h5"))
    assert {each.status for each in still.values()} == {"PASS"}
    assert {each.value for each in still.values()} == {0}


def test_flips(tmp_path: Path) -> None:
    old = write_night(tmp_path / "old.h5", [Tie(1, a=4, b=9), Tie(2, a=4, b=9), Tie(3, a=4, b=9)])
    new = write_night(tmp_path / "new.h5", [Tie(1, a=9, b=4), Tie(2, a=4, b=7), Tie(8, a=1, b=2)])
    result = compared(old, new)["max_flips"]
    assert (result.status, result.value) == ("FAIL", 1)
    assert "1 of 2 samples tied in both" in result.message


def test_a_limit_scans_less(tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 1, 2, 700, 800)
    record = {"samples": 10_000}
    new = night(tmp_path / "new.h5", 2, 3, scanned=500, dataset=record)
    results = compared(old, new)
    assert results["max_new"].value == 1
    assert results["max_left"].value == 1  # 700 and 800 weren't scanned
    assert results["max_rate_increase"].value == 0
    for result in (results["max_new"], results["max_rate_increase"]):
        assert "of 500 samples, the first" in result.message.replace("among", "of")
    back = compared(new, old)
    assert (back["max_new"].value, back["max_left"].value) == (1, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"eps": 0.2}, "ε = 0.2, these findings of 0.1"),
        ({"min_logit": 3.0}, "--min-logit = 3, these findings of none"),
        ({"dataset": {"fingerprint": "6" * 64}}, "different datasets"),
        ({"classes": tuple("abcdefghij")}, "class names differ"),
        ({"dataset": {"fingerprint": None}}, "during training"),
    ],
)
def test_what_can_not_be_compared(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    old = night(tmp_path / "old.h5", 1, 2, **options)
    results = compared(old, night(tmp_path / "new.h5", 1, 2))
    assert len(results) == len(AGAINST)
    for result in results.values():
        assert (result.status, result.value) == ("ERROR", None)
        assert reason in result.message


def test_a_first_night(tmp_path: Path) -> None:
    new = night(tmp_path / "new.h5", 1, 2)
    result = audit.check(new, gates=dict.fromkeys(AGAINST, 0))
    assert result.status == "PASS"
    for each in result.results:
        if each.name in AGAINST:
            assert each.message == "no baseline: nothing to compare with"


def test_a_rise_in_a_real_scan(tmp_path: Path, mnist_h5: Path) -> None:
    """The shipped model's near ties at two ε are of two rates; as one ε they would alarm."""
    small = audit.scan(mnist_h5, model="mnist", eps=0.05, out=tmp_path / "a.h5", no_gradients=True)
    large = audit.scan(mnist_h5, model="mnist", eps=0.5, out=tmp_path / "b.h5", no_gradients=True)
    refused = audit.check(large, baseline=small, gates={})
    assert refused.status == "ERROR"
    earlier = shutil.copy(large.path, tmp_path / "earlier.h5")
    same = audit.check(large, baseline=earlier, gates={"max_new": 0, "max_flips": 0})
    assert same.status == "PASS"


def test_against_itself(tmp_path: Path) -> None:
    """Which would pass whatever is in it."""
    new = night(tmp_path / "new.h5", 1, 2)
    (tmp_path / "link.h5").symlink_to("new.h5")
    for path in (new.path, tmp_path / "link.h5"):
        results = audit.check(new, baseline=path, gates={"max_new": 0}).results
        against = [each for each in results if each.name in AGAINST]
        assert {each.status for each in against} == {"ERROR"}
        assert "the baseline is the findings themselves" in against[0].message
