"""A value against its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from audit.gates.result import GateResult, Status

if TYPE_CHECKING:
    from audit.gates.thresholds import Gate, Limits


class CanNotTellError(Exception):
    """The findings don't have what the gate is computed from; the text says why."""


class Verdict(NamedTuple):
    """The status, and the limit that it comes from."""

    status: Status
    limit: float | None


def verdict(name: str, value: float, limits: Limits) -> Verdict:
    """PASS, WARN or FAIL; a value at its limit passes."""
    sign = -1 if name.startswith("min_") else 1
    for status, limit in (("FAIL", limits.fail), ("WARN", limits.warn)):
        if limit is not None and sign * value > sign * limit:
            return Verdict("FAIL" if status == "FAIL" else "WARN", limit)
    return Verdict("PASS", limits.fail if limits.fail is not None else limits.warn)


def judged(gate: Gate, value: float, message: str) -> GateResult:
    """The result of a gate that judges all samples together."""
    status, limit = verdict(gate.name, value, gate.limits)
    return GateResult(name=gate.name, status=status, value=value, limit=limit, message=message)


def counted(count: int, one: str, many: str | None = None) -> str:
    """The count and its noun: "1 near tie", "1,200 near ties"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
