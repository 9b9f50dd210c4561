"""What gates can be set to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from audit.config import Setting
from audit.errors import OptionError
from audit.gates import DEFAULTS, GATES, KNOWN
from audit.gates.thresholds import Gate, Limits, read_gates


def read(**values: Any) -> dict[str, Gate]:
    settings = {name: Setting(value, "audit.toml") for name, value in values.items()}
    return {gate.name: gate for gate in read_gates(settings).gates}


def test_known() -> None:
    assert (*GATES, "level") == KNOWN
    assert set(DEFAULTS) <= set(KNOWN)


def test_what_is_always_on() -> None:
    gates = read()
    assert {name: gate.limits for name, gate in gates.items()} == {
        "complete": Limits(fail=0),
        "guard_held": Limits(warn=0),
        "max_nonfinite": Limits(fail=0),
        "max_rate_increase": Limits(fail=0),
    }
    off = dict.fromkeys(("complete", "guard_held", "max_nonfinite", "max_rate_increase"), False)
    assert read(**off) == {}


def test_forms() -> None:
    assert read(max_rate=0.002)["max_rate"].limits == Limits(fail=0.002)
    both = read(max_rate={"warn": 0.001, "fail": 0.002})["max_rate"]
    assert both.limits == Limits(0.001, 0.002)
    assert read(max_rate={"warn": 0.001})["max_rate"].limits == Limits(0.001, None)
    assert read(min_median_l2={"warn": 2, "fail": 1})["min_median_l2"].limits == Limits(2, 1)
    assert read(complete={"warn": True})["complete"].limits == Limits(warn=0)
    assert read(guard_held=True)["guard_held"].limits == Limits(fail=0)
    assert read(min_nth_l2={"n": 3, "fail": 0.1})["min_nth_l2"].n == 3
    assert read(min_nth_l2=0.1)["min_nth_l2"].n == 1
    named = read(max_class_rate={"fail": 0.1, "classes": {"9": 0.2, "1": False}})["max_class_rate"]
    assert named.named == {"9": Limits(fail=0.2), "1": Limits()}
    only = read(max_pair_count={"pairs": {"4/9": {"warn": 3, "fail": 5}}})["max_pair_count"]
    assert (only.limits, only.named) == (Limits(), {"4/9": Limits(3, 5)})
    assert "max_class_rate" not in read(max_class_rate={"classes": {"9": False}})
    assert "max_rate" not in read(max_rate=False)
    assert "max_rate" not in read(max_rate={"fail": False})


def test_level() -> None:
    assert read_gates({}).level == 0.01
    assert read_gates({"level": Setting(0.05, "x")}).level == 0.05


@pytest.mark.parametrize("name", [name for name in GATES if GATES[name].unit != "flag"])
@pytest.mark.parametrize(
    "value",
    [-1, -1e-9, math.nan, math.inf, True, "0.1", None, [], {}, {"wran": 1}, {"warn": "x"}, 10**400],
    ids=lambda value: str(value)[:20],
)
def test_no_number_that_can_be_a_limit(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"audit\.toml: {name}") as caught:
        read(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_rat": 1}, "audit.toml: no gate 'max_rat'; is max_rate meant?"),
        ({"x": 1}, "audit.toml: no gate 'x'; see docs/gates.md"),
        ({"max_rate": 1.5}, "audit.toml: max_rate is 1.5; expected a share of the samples, 0 to 1"),
        ({"max_count": 2.5}, "audit.toml: max_count is 2.5; expected a whole number, from 0"),
        (
            {"max_rate": {"warn": 0.2, "fail": 0.1}},
            "audit.toml: max_rate: warn = 0.2 comes after fail = 0.1; expected a warning of at "
            "most that",
        ),
        (
            {"min_accuracy": {"warn": 0.8, "fail": 0.9}},
            "audit.toml: min_accuracy: warn = 0.8 comes after fail = 0.9; expected a warning of at "
            "least that",
        ),
        ({"max_rate": {"fail": 0.1, "n": 3}}, "no setting 'n' of this gate"),
        ({"max_rate": {"fail": 0.1, "classes": {"9": 0.1}}}, "no setting 'classes' of this gate"),
        ({"max_class_rate": {"pairs": {"4/9": 1}}}, "no setting 'pairs' of this gate"),
        ({"max_class_rate": {"classes": 3}}, "expected a table, such as { NAME = 1 }"),
        ({"max_class_rate": {"classes": {"9": -1}}}, "classes[9]: max_class_rate is -1"),
        ({"max_class_rate": {"classes": {"9": {"n": 1}}}}, "no setting 'n' here"),
        ({"min_nth_l2": {"n": 0, "fail": 1}}, "min_nth_l2.n is 0; expected which distance"),
        ({"min_nth_l2": {"n": 1.5, "fail": 1}}, "min_nth_l2.n is 1.5"),
        ({"min_nth_l2": {"n": 3}}, "min_nth_l2 is { n = 3 }; expected a distance"),  # no limit
        ({"max_class_rate": {"classes": {}}}, "expected a share of the samples, 0 to 1 (or"),
        ({"complete": 1}, "complete is 1; expected true, { warn = true } or false"),
        ({"complete": {"wran": True}}, "no setting 'wran' here; is warn meant?"),
        ({"level": 0}, "level is 0; expected a significance level between 0 and 1"),
        ({"level": 1}, "level is 1; "),
        ({"level": False}, "level is false; "),
        ({"level": {"warn": 0.1}}, "level is { warn = 0.1 }; "),
    ],
)
def test_mistakes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(**values)
    assert message in str(caught.value)
