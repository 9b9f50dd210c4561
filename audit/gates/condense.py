"""The results that a person reads: a thousand classes that pass are one row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from audit.gates.judge import counted
from audit.gates.kinds import GATES
from audit.gates.result import STATUSES, GateResult, worst


def condensed(results: Sequence[GateResult], most: int | None = None) -> list[GateResult]:
    """One row a gate; of classes and pairs one for all that pass, and one for each that doesn't.

    Args:
        results: In their order, in which the rows are.
        most: So many of a gate's classes or pairs that don't pass are shown, the worst of them, and
            one row says how many more there are; None: all.
    """
    rows = []
    for gate, group in groupby(results, key=lambda result: result.gate):
        each = list(group)
        passed = [result for result in each if result.status == "PASS"]
        others = sorted((result for result in each if result.status != "PASS"), key=_severity)
        rows += _fewest(gate, others, most)
        if passed:
            rows.append(_together(gate, passed))
    return rows


def worst_first(results: Sequence[GateResult]) -> list[GateResult]:
    """What needs a person first; else in their order."""
    return sorted(results, key=lambda result: -STATUSES.index(result.status))


def _severity(result: GateResult) -> tuple[int, float]:
    """What needs a person most comes first; classes and pairs have limits from above only."""
    return -STATUSES.index(result.status), -(result.value or 0)


def _fewest(gate: str, results: list[GateResult], most: int | None) -> list[GateResult]:
    if most is None or len(results) <= most:
        return results
    rest = results[most:]
    more = GateResult(
        name=f"{gate}[…]",
        status=worst(result.status for result in rest),
        message=f"{counted(len(rest), _noun(gate, 1), _noun(gate, 2))} more; --json lists all",
    )
    return [*results[:most], more]


def _together(gate: str, passed: list[GateResult]) -> GateResult:
    if len(passed) == 1:
        return passed[0]
    top = max(passed, key=lambda result: result.value or 0)
    message = f"{len(passed):,} {_noun(gate, len(passed))} pass; the most: {top.message}"
    return GateResult(name=gate, status="PASS", value=top.value, limit=top.limit, message=message)


def _noun(gate: str, count: int) -> str:
    one, many = ("class", "classes") if GATES[gate].of == "class" else ("pair", "pairs")
    return one if count == 1 else many
