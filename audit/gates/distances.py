"""How far the near ties are from the boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audit.gates.judge import CanNotTellError, counted, judged
from audit.gates.result import GateResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.findings import Findings
    from audit.gates.thresholds import Gate

ORDINALS = {1: "st", 2: "nd", 3: "rd"}


def median(findings: Findings, gate: Gate) -> list[GateResult]:
    """`min_median_l2` and `min_median_linf`.

    Raises:
        CanNotTellError: No near tie has a distance.
    """
    known = _known(findings, gate)
    if not findings.flagged:
        return [_none(gate, "there is no near tie")]
    middle = float(np.median(known))
    return [judged(gate, middle, f"median over {_described(findings, known)}")]


def nth_smallest(findings: Findings, gate: Gate) -> list[GateResult]:
    """`min_nth_l2` and `min_nth_linf`.

    Raises:
        CanNotTellError: No near tie has a distance.
    """
    known = _known(findings, gate)
    if len(known) < gate.n:
        return [_none(gate, f"only {_described(findings, known)}: there is no {_ordinal(gate.n)}")]
    row = int(known.argsort(kind="stable")[gate.n - 1])
    smallest = "smallest" if gate.n == 1 else f"{_ordinal(gate.n)} smallest"
    message = f"the {smallest} over {_described(findings, known)}"
    return [judged(gate, float(known[row]), message)]


def _known(findings: Findings, gate: Gate) -> NDArray[np.float64]:
    """The finite ones: a tie that no small step tips has none, and would lift the median."""
    distance = findings.distance_l2 if gate.name.endswith("l2") else findings.distance_linf
    known = distance[np.isfinite(distance)]
    if findings.flagged and not len(known):
        raise CanNotTellError(
            f"none of {counted(findings.flagged, 'near tie')} has a distance: their two "
            "gradients are equal, or not finite"
        )
    return known


def _described(findings: Findings, known: NDArray[np.float64]) -> str:
    text = counted(len(known), "near tie")
    without = findings.flagged - len(known)
    return f"{text}; {without:,} more without a distance" if without else text


def _none(gate: Gate, message: str) -> GateResult:
    return GateResult(name=gate.name, status="PASS", message=message)


def _ordinal(n: int) -> str:
    return f"{n:,}{'th' if 10 < n % 100 < 20 else ORDINALS.get(n % 10, 'th')}"
