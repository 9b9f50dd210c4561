"""Which gates there are, what each measures, and which are always on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Unit = Literal["flag", "count", "share", "points", "growth", "distance", "logits"]


class Kind(NamedTuple):
    """What a gate measures; whether at most or at least is in its name.

    Attributes:
        unit: flag: on or off; share: of samples, 0 to 1; points: a difference of shares; growth: a
            share of the old value; distance: in input space.
        of: "class" or "pair", each of which is judged; "" for all samples together.
        baseline: Whether it compares with earlier findings.
        nth: Whether it has a setting n.
    """

    unit: Unit
    of: Literal["", "class", "pair"] = ""
    baseline: bool = False
    nth: bool = False


# In the order they are judged.
GATES: Mapping[str, Kind] = {
    "complete": Kind("flag"),
    "guard_held": Kind("flag"),
    "max_nonfinite": Kind("count"),
    "max_degenerate": Kind("count"),
    "max_parity": Kind("logits"),
    "max_rate": Kind("share"),
    "max_count": Kind("count"),
    "max_class_rate": Kind("share", of="class"),
    "max_class_count": Kind("count", of="class"),
    "max_pair_rate": Kind("share", of="pair"),
    "max_pair_count": Kind("count", of="pair"),
    "min_median_l2": Kind("distance"),
    "min_median_linf": Kind("distance"),
    "min_nth_l2": Kind("distance", nth=True),
    "min_nth_linf": Kind("distance", nth=True),
    "min_accuracy": Kind("share"),
    "min_accuracy_flagged": Kind("share"),
    "max_label_outside": Kind("count"),
    "max_rate_increase": Kind("points", baseline=True),
    "max_rate_increase_relative": Kind("growth", baseline=True),
    "max_new": Kind("count", baseline=True),
    "max_left": Kind("count", baseline=True),
    "max_flips": Kind("count", baseline=True),
}
LEVEL = "level"  # the one key that is no gate
DEFAULTS: Mapping[str, Any] = {  # what is on unless it is set otherwise
    "complete": True,
    "guard_held": {"warn": True},
    "max_nonfinite": 0,
    "max_rate_increase": 0,
    LEVEL: 0.01,
}
