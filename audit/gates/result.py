"""What became of the gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audit.gates.kinds import GATES
from audit.gates.units import shown

if TYPE_CHECKING:
    from audit.findings import Findings

Status = Literal["PASS", "WARN", "FAIL", "ERROR"]
STATUSES: tuple[Status, ...] = ("PASS", "WARN", "FAIL", "ERROR")  # from good to bad


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate, judged.

    Attributes:
        name: The gate; of one class or pair: `max_class_rate[9]`, `max_pair_count[4/9]`.
        status: PASS, WARN, FAIL or ERROR (it can't be computed from these findings).
        value: What was found; None where there is nothing to compute it from, infinite where an
            increase is one from nothing.
        limit: What it was held against: of a WARN the warning's limit, else the failure's, or the
            warning's where there is no other; None where nothing was compared.
        message: Why, in one sentence; says what the value is of.
    """

    name: str
    status: Status
    value: float | None = None
    limit: float | None = None
    message: str

    @property
    def gate(self) -> str:
        """The key in the table of gates: the name without its class or pair."""
        return self.name.partition("[")[0]

    @property
    def shown_value(self) -> str:
        """The value in its unit; a dash where there is none."""
        return shown(self.value, GATES[self.gate].unit, self.limit)

    @property
    def shown_limit(self) -> str:
        """The limit in its unit, with ≤ or ≥; a dash where there is none."""
        if self.limit is None:
            return "-"
        least = self.gate.startswith("min_") or self.gate == "complete"
        return f"{'≥' if least else '≤'} {shown(self.limit, GATES[self.gate].unit, self.value)}"

    def document(self) -> dict[str, Any]:
        """JSON-ready: what is infinite is null."""
        finite = self.value is not None and math.isfinite(self.value)
        return {
            "name": self.name,
            "status": self.status,
            "value": self.value if finite else None,
            "limit": self.limit,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """All gates of one findings file.

    Attributes:
        results: One a gate, class and pair, in the order of `audit.gates.GATES`.
        findings: What was checked.
        baseline: What it was compared with, or None.
        level: Significance level of each exact test.
    """

    results: tuple[GateResult, ...]
    findings: Findings
    baseline: Findings | None
    level: float

    @property
    def status(self) -> Status:
        """The worst of the gates."""
        return worst(result.status for result in self.results)

    @property
    def by_gate(self) -> Mapping[str, Status]:
        """Of each gate the worst status of its classes or pairs."""
        gates: dict[str, Status] = {}
        for result in self.results:
            gates[result.gate] = worst((gates.get(result.gate, "PASS"), result.status))
        return gates

    def count(self, status: Status) -> int:
        """Gates of that status; one that is judged by class or pair counts once."""
        return list(self.by_gate.values()).count(status)

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "findings": str(self.findings.path),
            "baseline": None if self.baseline is None else str(self.baseline.path),
            "status": self.status,
            "level": self.level,
            "counts": {status: self.count(status) for status in STATUSES},
            "gates": [result.document() for result in self.results],
        }


def worst(statuses: Iterable[Status]) -> Status:
    """The worst status; PASS where there is none."""
    return max(statuses, key=STATUSES.index, default="PASS")
