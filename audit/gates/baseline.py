"""Tonight's near ties against an earlier night's."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.comparison import compare
from audit.errors import FindingsError
from audit.gates.binomial import clopper_pearson, upper_tail
from audit.gates.judge import CanNotTellError, counted, judged, verdict
from audit.gates.result import GateResult
from audit.gates.units import shown

if TYPE_CHECKING:
    from audit.comparison import Comparison
    from audit.findings import Findings
    from audit.gates.thresholds import Gate

NONE = "no baseline: nothing to compare with"


def judge_against(
    findings: Findings, baseline: Findings | None, gates: Sequence[Gate], level: float
) -> list[GateResult]:
    """Those gates; each is an ERROR where the two can't be compared.

    Args:
        findings: Tonight's.
        baseline: Earlier ones; None: each gate passes and says so.
        gates: Of kind `baseline`.
        level: Significance level of the exact test.
    """
    if not gates:
        return []
    if baseline is None:
        return [GateResult(name=gate.name, status="PASS", message=NONE) for gate in gates]
    try:
        change = _Change.between(baseline, findings)
    except (CanNotTellError, FindingsError) as exc:
        return [GateResult(name=gate.name, status="ERROR", message=str(exc)) for gate in gates]
    return [_judged(gate, change, level) for gate in gates]


@dataclass(frozen=True, kw_only=True)
class _Change:
    """Near ties among the samples that both scanned.

    Attributes:
        common: Those samples.
        old: Near ties of the baseline.
        new: Near ties of tonight.
        newly: Of tonight's, how many weren't any.
        left: Of the baseline's, how many aren't any more.
        flips: Of those in both, how many are predicted as another class.
        part: Words for `common` where either scanned more than that; else "".
    """

    common: int
    old: int
    new: int
    newly: int
    left: int
    flips: int
    part: str

    @classmethod
    def between(cls, baseline: Findings, findings: Findings) -> _Change:
        """Raises `CanNotTellError` or `FindingsError` where the two can't be compared."""
        if os.path.realpath(baseline.path) == os.path.realpath(findings.path):
            raise CanNotTellError("the baseline is the findings themselves; name earlier ones")
        for name, old, new in (
            ("ε", baseline.eps, findings.eps),
            ("--min-logit", baseline.min_logit, findings.min_logit),
        ):
            if old != new:
                raise CanNotTellError(
                    f"the baseline is of {name} = {_number(old)}, these findings of "
                    f"{_number(new)}; scan both with the same"
                )
        comparison: Comparison = compare(baseline, findings)
        still, newly, left = (
            len(rows) for rows in (comparison.still_new, comparison.newly, comparison.left)
        )
        all_scanned = baseline.scanned == findings.scanned == comparison.common
        return cls(
            common=comparison.common,
            old=still + left,
            new=still + newly,
            newly=newly,
            left=left,
            flips=int(comparison.class_flips.sum()),
            part="" if all_scanned else ", the first, which both nights scanned",
        )


def _judged(gate: Gate, change: _Change, level: float) -> GateResult:
    if gate.kind.unit != "count":
        return _increase(gate, change, level)
    of = f"among {change.common:,} samples{change.part}"
    if gate.name == "max_new":
        return judged(gate, change.newly, f"{counted(change.newly, 'new near tie')} {of}")
    if gate.name == "max_left":
        message = f"{counted(change.left, 'near tie')} of the baseline gone, {of}"
        return judged(gate, change.left, message)
    both = counted(change.old - change.left, "sample")
    message = f"{change.flips:,} of {both} tied in both predicted as another class"
    return judged(gate, change.flips, message)


def _increase(gate: Gate, change: _Change, level: float) -> GateResult:
    """More than the limit, and not by chance.

    The exact sign test of the samples that changed (McNemar's test in its exact form: McNemar
    1947, Psychometrika 12, 153-157; Agresti, Categorical Data Analysis, 2nd ed., section 10.1.1).
    If the rate hadn't risen, a sample that is a near tie on one night only would be as likely to be
    so on either: p = P(X ≥ newly), X ~ Binomial(newly + left, 1/2).
    """
    rise = change.new - change.old
    whole = change.common if gate.kind.unit == "points" else change.old
    value = rise / whole if whole else math.inf if rise else 0.0
    p = upper_tail(change.newly, change.newly + change.left)
    status, limit = verdict(gate.name, value, gate.limits)
    exceeds = status != "PASS"
    if exceeds and p > level:
        status = "PASS"
    message = (
        f"{change.old:,} → {counted(change.new, 'near tie')} of {change.common:,} samples"
        f"{change.part}: {change.newly:,} new, {change.left:,} gone; {_test(exceeds, p, level)}"
        f"{_interval(gate, change, level, whole)}"
    )
    return GateResult(name=gate.name, status=status, value=value, limit=limit, message=message)


def _test(exceeds: bool, p: float, level: float) -> str:
    compared = f"p = {p:.2g}, level {level:g}"
    if not exceeds:
        return f"within the limit ({compared})"
    if p > level:
        return f"no alarm: may well be chance ({compared})"
    return f"not by chance ({compared})"


def _interval(gate: Gate, change: _Change, level: float, whole: int) -> str:
    """The increase that as many changes may come from: above 0 just where the test says so.

    Of the n samples that changed, the share θ of new ones has the exact interval whose either end
    is a one-sided test at `level`; the increase is (2θ - 1) n ÷ whole. No more near ties can go
    than there were.
    """
    changed = change.newly + change.left
    confidence = 1 - 2 * level
    if not changed or not whole or confidence <= 0:
        return ""
    low, high = (
        shown(max((2 * share - 1) * changed, -change.old) / whole, gate.kind.unit)
        for share in clopper_pearson(change.newly, changed, confidence)
    )
    return f". {100 * confidence:.6g}% interval of the increase: {low} to {high}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
