"""The gates that need a person, in the page's first line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit.gates.condense import worst_first
from audit.gates.judge import counted
from audit.gates.kinds import GATES
from audit.reporting.names import shortened

if TYPE_CHECKING:
    from audit.gates.result import GateResult

MOST = 6  # names


def gates_in_need(results: Sequence[GateResult]) -> str:
    """Names of the gates that don't pass, the worst first; of one gate's classes how many."""
    found = [each for each in worst_first(results) if each.status != "PASS"]
    names = []
    for gate in dict.fromkeys(each.gate for each in found):
        rows = [each for each in found if each.gate == gate]
        names.append(shortened(rows[0].name) if len(rows) == 1 else f"{gate} ({_many(rows)})")
    if len(names) > MOST:
        names[MOST:] = [f"{len(names) - MOST} more"]
    return ", ".join(names)


def _many(rows: Sequence[GateResult]) -> str:
    noun = ("class", "classes") if GATES[rows[0].gate].of == "class" else ("pair", "pairs")
    return counted(len(rows), *noun)
