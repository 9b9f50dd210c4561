"""Each gate against findings whose numbers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

import audit
from audit.check import CheckResult, GateResult
from audit.errors import FindingsError
from audit.findings import Findings, load_findings
from audit.gates import GATES
from audit.gates.result import Status
from nights import Tie, ties, write_night

Night = Callable[..., Findings]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """`write_night` into a file of its own."""
    made = []

    def write(*args: Any, **options: Any) -> Findings:
        made.append(1)
        return write_night(tmp_path / f"{len(made)}.h5", *args, **options)

    return write


def judge(findings: Findings, name: str, value: Any, **options: Any) -> list[GateResult]:
    """The results of that gate alone."""
    result = audit.check(findings, gates={name: value}, **options)
    return [each for each in result.results if each.gate == name]


def one(findings: Findings, name: str, value: Any, **options: Any) -> GateResult:
    (result,) = judge(findings, name, value, **options)
    return result


LIMITS: list[tuple[str, Any, Status]] = [
    # 3 near ties of 1,000: 4/9 twice and 9/4 → one pair of 3; labels 4, 9, 5; L2 0.1, 0.3, 0.2.
    ("max_rate", 0.003, "PASS"),
    ("max_rate", 0.0029, "FAIL"),
    ("max_rate", {"warn": 0.002, "fail": 0.003}, "WARN"),
    ("max_rate", {"warn": 0.002}, "WARN"),
    ("max_rate", {"warn": 0.001, "fail": 0.002}, "FAIL"),
    ("max_count", 3, "PASS"),
    ("max_count", 2, "FAIL"),
    ("max_nonfinite", 2, "PASS"),
    ("max_nonfinite", 1, "FAIL"),
    ("max_degenerate", 0, "PASS"),
    ("min_median_l2", 0.2, "PASS"),
    ("min_median_l2", 0.21, "FAIL"),
    ("min_median_l2", {"warn": 0.21, "fail": 0.2}, "WARN"),
    ("min_median_linf", 0.02, "PASS"),
    ("min_median_linf", 0.03, "FAIL"),
    ("min_nth_l2", {"n": 3, "fail": 0.3}, "PASS"),
    ("min_nth_l2", {"n": 3, "fail": 0.31}, "FAIL"),
    ("min_nth_l2", 0.1, "PASS"),
    ("min_nth_l2", 0.11, "FAIL"),
    ("min_nth_linf", {"n": 2, "fail": 0.03}, "FAIL"),
    ("min_accuracy", 0.9, "PASS"),
    ("min_accuracy", 0.901, "FAIL"),
    ("min_accuracy_flagged", 1 / 3, "PASS"),
    ("min_accuracy_flagged", 0.34, "FAIL"),
    ("max_label_outside", 1, "PASS"),
    ("max_label_outside", 0, "FAIL"),
    ("max_parity", 3e-6, "PASS"),
    ("max_parity", 2.5e-6, "FAIL"),
    ("complete", True, "PASS"),
    ("guard_held", True, "PASS"),
]


def three() -> list[Tie]:
    return [
        Tie(5, a=4, b=9, label=4, l2=0.1),
        Tie(70, a=9, b=4, label=4, l2=0.3),
        Tie(800, a=4, b=9, label=5, l2=0.2),
    ]


@pytest.mark.parametrize(("name", "value", "status"), LIMITS, ids=str)
def test_limits(name: str, value: Any, status: Status, night: Night) -> None:
    findings = night(three(), scanned=1000, correct=900, nonfinite=[1, 2])
    result = one(findings, name, value)
    assert (result.name, result.status) == (name, status)
    assert result.message
    assert result.value is not None
    assert result.limit is not None


def test_values(night: Night) -> None:
    findings = night(three(), scanned=1000, correct=900)
    gates = {
        "max_rate": 1,
        "max_count": 9,
        "min_median_l2": 0,
        "min_nth_l2": {"n": 2, "fail": 0},
        "min_accuracy": 0,
        "min_accuracy_flagged": 0,
        "max_label_outside": 9,
        "max_parity": 1,
    }
    values = {each.name: each.value for each in audit.check(findings, gates=gates).results}
    assert values == {
        "complete": 1000,
        "guard_held": 0,
        "max_nonfinite": 0,
        "max_rate_increase": None,
        "max_rate": 0.003,
        "max_count": 3,
        "min_median_l2": 0.2,
        "min_nth_l2": 0.2,
        "min_accuracy": 0.9,
        "min_accuracy_flagged": 1 / 3,
        "max_label_outside": 1,
        "max_parity": 3e-6,
    }


def test_by_class(night: Night) -> None:
    findings = night(three(), scanned=1000)  # 100 samples a class
    results = {each.name: each for each in judge(findings, "max_class_rate", 0.015)}
    assert len(results) == 10
    assert results["max_class_rate[4]"].status == "FAIL"
    assert results["max_class_rate[4]"].value == 0.02
    assert "2 near ties of 100 samples labelled 4" in results["max_class_rate[4]"].message
    assert results["max_class_rate[5]"].status == "PASS"
    named = {"fail": 0.015, "classes": {"4": 0.02, "0": False}}
    results = {each.name: each for each in judge(findings, "max_class_rate", named)}
    assert {each.status for each in results.values()} == {"PASS"}
    assert len(results) == 9
    only = judge(findings, "max_class_count", {"classes": {"4": 1, "x": 1}})
    assert {each.name: each.status for each in only} == {
        "max_class_count[x]": "ERROR",
        "max_class_count[4]": "FAIL",
    }


def test_a_class_without_samples_is_not_judged_unless_named(night: Night) -> None:
    counts = [0, 1000, *[0] * 8]
    findings = night([Tie(3, a=1, b=2, label=1)], scanned=1000, label_counts=counts)
    assert [each.name for each in judge(findings, "max_class_rate", 1)] == ["max_class_rate[1]"]
    result = one(findings, "max_class_rate", {"classes": {"0": 0.1}})
    assert (result.status, result.value) == ("PASS", None)
    assert "there is none to judge" in result.message


def test_by_pair(night: Night) -> None:
    findings = night([*three(), Tie(900, a=3, b=5)], scanned=1000)
    results = {each.name: each for each in judge(findings, "max_pair_count", 2)}
    assert {name: each.value for name, each in results.items()} == {
        "max_pair_count[4/9]": 3,
        "max_pair_count[3/5]": 1,
    }
    assert results["max_pair_count[4/9]"].status == "FAIL"
    rate = judge(findings, "max_pair_rate", {"pairs": {"9/4": 0.003, "0/1": 0}})
    assert {each.name: (each.status, each.value) for each in rate} == {
        "max_pair_rate[4/9]": ("PASS", 0.003),
        "max_pair_rate[0/1]": ("PASS", 0.0),
    }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("4", "expected NAME/NAME"),
        ("4/4", "expected NAME/NAME"),
        ("4/x", "no class 'x'"),
        ("4/10", "no class '10'"),
    ],
)
def test_no_such_pair(key: str, message: str, night: Night) -> None:
    result = one(night(three()), "max_pair_count", {"pairs": {key: 1}})
    assert result.status == "ERROR"
    assert message in result.message


def test_names_with_slashes(night: Night) -> None:
    classes = ("a", "a/b", "b/c", "c")
    findings = night([Tie(1, a=0, b=2, label=0)], classes=classes)
    result = one(findings, "max_pair_count", {"pairs": {"a/b/c": 1}})
    assert result.status == "ERROR"
    assert "2 ways" in result.message
    result = one(findings, "max_pair_count", {"pairs": {"0/b/c": 0}})
    assert (result.name, result.status) == ("max_pair_count[a/b/c]", "FAIL")


def test_two_limits_for_the_same(night: Night) -> None:
    """The last one mustn't win: a gate would be as loose as whichever came later."""
    findings = night(three())
    strict, loose = judge(findings, "max_pair_count", {"pairs": {"4/9": 1, "9/4": 1000}})[::-1]
    assert (strict.name, strict.status) == ("max_pair_count[4/9]", "FAIL")
    assert (loose.name, loose.status) == ("max_pair_count[9/4]", "ERROR")
    assert "the same as '4/9'" in loose.message


def test_all_that_occurs_is_switched_off(night: Night) -> None:
    """A gate that is on has a row."""
    result = one(night(three()), "max_pair_count", {"fail": 5, "pairs": {"4/9": False}})
    assert (result.status, result.value, result.limit) == ("PASS", 0, 5)
    assert result.message == "there is no other near tie"


def test_the_name_before_the_number(night: Night) -> None:
    findings = night([Tie(1, a=0, b=1, label=0)], classes=("1", "0", "cat"))
    assert one(findings, "max_class_count", {"classes": {"1": 0}}).status == "FAIL"
    assert one(findings, "max_class_count", {"classes": {"0": 0}}).status == "PASS"
    assert one(findings, "max_class_count", {"classes": {"2": 0}}).name == "max_class_count[cat]"
    result = one(findings, "max_class_count", {"classes": {"cta": 0}})
    assert result.message == "no class 'cta' in these findings; is 'cat' meant?"


def test_a_thousand_classes(night: Night) -> None:
    classes = [f"class of number {i}" for i in range(1000)]
    flagged = [Tie(i, a=i % 1000, b=(i * 7 + 1) % 1000, label=i % 1000) for i in range(2000)]
    findings = night(flagged, scanned=50_000, classes=classes)
    pairs = judge(findings, "max_pair_count", 1)
    distinct = {frozenset((tie.a, tie.b)) for tie in flagged}
    assert len(pairs) == len({pair for pair in distinct if len(pair) == 2})  # only what occurs
    assert len(judge(findings, "max_class_rate", 0.01)) == 1000


def test_nothing_flagged(night: Night) -> None:
    findings = night(scanned=1000)
    gates: dict[str, Any] = {
        "max_rate": 0,
        "max_count": 0,
        "max_class_rate": 0,
        "max_class_count": 0,
        "max_pair_rate": 0,
        "max_pair_count": 0,
        "min_median_l2": 1,
        "min_median_linf": 1,
        "min_nth_l2": 1,
        "min_nth_linf": {"n": 3, "fail": 1},
        "min_accuracy_flagged": 1,
        "max_label_outside": 0,
        "max_degenerate": 0,
    }
    result = audit.check(findings, gates=gates)
    assert {each.status for each in result.results} == {"PASS"}
    by_name = {each.name: each for each in result.results}
    for name in ("min_median_l2", "min_nth_linf", "min_accuracy_flagged"):
        assert by_name[name].value is None
        assert by_name[name].shown_value == "-"
    assert by_name["min_median_l2"].message == "there is no near tie"
    assert by_name["max_pair_count"].message == "there is no near tie"
    json.dumps(result.document(), allow_nan=False)


def test_ties_without_a_distance(night: Night) -> None:
    nan = math.nan
    findings = night([Tie(1, l2=nan, linf=nan), Tie(2, l2=0.4), Tie(3, l2=math.inf)])
    result = one(findings, "min_median_l2", 0.5)
    assert (result.status, result.value) == ("FAIL", 0.4)  # as history and trackers have it
    assert audit.history(findings.path).rows[0].median_distance_l2 == 0.4
    assert "2 more without a distance" in result.message
    third = one(findings, "min_nth_l2", {"n": 2, "fail": 0.1})
    assert (third.status, third.value) == ("PASS", None)
    assert "there is no 2nd" in third.message
    assert one(findings, "max_degenerate", 0).status == "FAIL"
    none = one(night(ties(1, 2, l2=nan)), "min_median_l2", 0.1)
    assert none.status == "ERROR"
    assert "none of 2 near ties has a distance" in none.message
    dead = one(night(ties(1, 2, l2=math.inf)), "min_median_l2", 0.1)  # all gradients are 0
    assert dead.status == "ERROR"


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("min_accuracy", {"label_counts": [0] * 10}, "no sample has a label"),
        ("min_accuracy_flagged", {"label_counts": [0] * 10}, "no sample has a label"),
        ("max_label_outside", {"label_counts": [0] * 10}, "no sample has a label"),
        ("max_class_rate", {"label_counts": [0] * 10}, "no sample has a label"),
        ("max_class_count", {"label_counts": [0] * 10}, "no sample has a label"),
        ("min_median_l2", {"no_gradients": True}, "scan again with gradients"),
        ("min_nth_linf", {"no_gradients": True}, "scan again with gradients"),
        ("max_degenerate", {"no_gradients": True}, "scan again without --no-gradients"),
        ("max_parity", {"bundle": {"parity": None}}, "parity isn't recorded"),
        ("max_parity", {"bundle": {"parity": {}}}, "'max_margin_difference' isn't recorded"),
        ("max_parity", {"engine": {"max_disagreement": None}}, "'max_disagreement' isn't"),
        ("guard_held", {"engine": {"rescans": "0"}}, "'rescans' isn't recorded"),
        ("complete", {"dataset": {"samples": None}}, "'samples' isn't recorded"),
    ],
)
def test_what_can_not_be_told(
    name: str, options: dict[str, Any], reason: str, night: Night
) -> None:
    value: Any = True if GATES[name].unit == "flag" else 0
    result = one(night(ties(1, 2, label=-1), **options), name, value)
    assert (result.status, result.value) == ("ERROR", None)
    assert reason in result.message


def test_a_label_that_is_unknown_is_not_counted(night: Night) -> None:
    flagged = [Tie(1, a=4, b=9, label=-1), Tie(2, a=4, b=9, label=9), Tie(3, a=4, b=9, label=1)]
    findings = night(flagged)
    accuracy = one(findings, "min_accuracy_flagged", 0.5)
    assert (accuracy.status, accuracy.value) == ("FAIL", 0)
    assert "0 of 2 labelled near ties" in accuracy.message
    assert one(findings, "max_label_outside", 1).value == 1
    classes = {each.name: each.value for each in judge(findings, "max_class_count", 9)}
    assert sum(value or 0 for value in classes.values()) == 2


def test_older_findings_have_no_label_counts(night: Night) -> None:
    findings = night(ties(1))
    with h5py.File(findings.path, "a") as file:
        del file["summary/labels"]
    result = one(load_findings(findings.path), "max_class_rate", 0.1)
    assert result.status == "ERROR"
    assert "/summary/labels" in result.message


def test_incomplete_and_broken_guard(night: Night) -> None:
    findings = night(scanned=500, dataset={"samples": 800}, engine={"rescans": 2, "guard": 0.004})
    by_name = {each.name: each for each in audit.check(findings, gates={}).results}
    complete, guard = by_name["complete"], by_name["guard_held"]
    assert (complete.status, complete.value, complete.limit) == ("FAIL", 500, 800)
    assert "300 of 800 samples weren't scanned" in complete.message
    assert (guard.status, guard.value) == ("WARN", 2)
    assert "scanned again 2 times, with 0.004 in the end" in guard.message
    assert one(findings, "complete", {"warn": True}).status == "WARN"
    assert judge(findings, "complete", False) == []


def test_findings_of_training(night: Night) -> None:
    record = {"path": None, "fingerprint": None, "images": "batches"}
    findings = night(ties(1, 2), dataset=record, engine={"source": "training callback"})
    result = audit.check(findings, gates={})
    assert result.status == "PASS"
    assert "made during training" in result.results[0].message
    against = audit.check(findings, baseline=night(ties(1)), gates={})
    assert against.status == "ERROR"
    assert "during training" in against.results[-1].message


def test_damaged_findings_are_an_error_of_the_call(night: Night) -> None:
    findings = night(ties(1))
    with h5py.File(findings.path, "a") as file:
        del file["flagged/classes"]
    with pytest.raises(FindingsError, match="/flagged/classes"):
        audit.check(findings.path, gates={"max_label_outside": 0})
    with h5py.File(findings.path, "a") as file:
        del file["summary/pairs"]
        file["summary/pairs"] = [[1, 2, 3]]
    with pytest.raises(FindingsError, match="/summary/pairs"):
        audit.check(findings.path, gates={"max_pair_count": 0})


def test_labels_and_class_names_of_a_stranger(night: Night) -> None:
    findings = night([Tie(1, label=2**62), Tie(2, label=10)])
    assert {each.status for each in judge(findings, "max_class_count", 0)} == {"PASS"}
    for names in (None, {"0": "a"}, ["a", None], [["deep"]] * 10, [""] * 10, ["same"] * 10):
        other = night(ties(1), bundle={"classes": names})
        results = judge(other, "max_class_count", 0)
        assert len({each.name for each in results}) == 10
        assert [each.status for each in results].count("FAIL") == 1
    long = night(ties(1), bundle={"classes": ["x" * 10**6 + str(i) for i in range(10)]})
    names_ = [each.name for each in judge(long, "max_class_count", 0)]
    assert len(set(names_)) == 10
    assert max(map(len, names_)) < 80


def test_status_is_the_worst(night: Night) -> None:
    findings = night(three())

    def status(**gates: Any) -> Status:
        return audit.check(findings, gates=gates).status

    assert status() == "PASS"
    assert status(max_count={"warn": 2}) == "WARN"
    assert status(max_count={"warn": 2}, max_rate=0) == "FAIL"
    assert status(max_rate=0, max_pair_count={"pairs": {"x/y": 1}}) == "ERROR"


def test_counts_are_of_gates(night: Night) -> None:
    result: CheckResult = audit.check(night(three()), gates={"max_class_count": 0, "max_rate": 1})
    assert (result.count("FAIL"), result.count("PASS")) == (1, 5)
    document = result.document()
    assert document["counts"] == {"PASS": 5, "WARN": 0, "FAIL": 1, "ERROR": 0}
    assert len(document["gates"]) == len(result.results) == 15


def test_a_value_that_is_nearly_its_limit_is_shown_apart() -> None:
    result = GateResult(
        name="min_accuracy", status="FAIL", value=0.98999999, limit=0.99, message=""
    )
    assert (result.shown_value, result.shown_limit) == ("98.999999%", "≥ 99%")
    equal = replace(result, value=0.99)
    assert (equal.shown_value, equal.shown_limit) == ("99%", "≥ 99%")
