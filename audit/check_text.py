"""What `audit check` prints: the worst gates first, and the answer last."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit.gates.condense import condensed, worst_first
from audit.gates.judge import counted
from audit.gates.result import CheckResult, GateResult, Status

if TYPE_CHECKING:
    from audit.findings import Findings

MOST_ROWS = 50  # of one gate's classes or pairs
NARROWEST = 32  # columns for the reason; where there are fewer, it goes below
GAP = "  "
WORDS: dict[Status, str] = {  # from bad to good
    "ERROR": "can't tell",
    "FAIL": "failed",
    "WARN": "warned",
    "PASS": "passed",
}


def text_from_check(result: CheckResult, width: int) -> str:
    """The table as a person reads it, in lines of about `width` characters."""
    rows = worst_first(condensed(result.results, MOST_ROWS))
    lines = [f"findings  {described(result.findings)}"]
    if result.baseline is not None:
        lines.append(f"baseline  {described(result.baseline)}")
    return "\n".join([*lines, "", *_table(rows, width), "", answer(result)])


def answer(result: CheckResult) -> str:
    """The status, and how many gates it comes from."""
    counts = [(result.count(status), words) for status, words in WORDS.items()]
    (first, words), *others = [each for each in counts if each[0]] or [(0, "passed")]
    parts = [f"{counted(first, 'gate')} {words}", *(f"{count} {word}" for count, word in others)]
    first_night = "" if result.baseline is not None else "; no baseline"
    return f"{result.status}: {', '.join(parts)}{first_night}"


def explained(result: GateResult) -> str:
    """One gate in a sentence, without its name."""
    if result.value is None:
        return result.message
    return f"{result.shown_value}, expected {result.shown_limit}: {result.message}"


def described(findings: Findings) -> str:
    """A findings file in one line."""
    day = findings.created[:16].replace("T", " ")
    return (
        f"{findings.path}: {counted(findings.flagged, 'near tie')} among "
        f"{counted(findings.scanned, 'sample')} at ε = {findings.eps:g}, {day}"
    )


def _table(results: Sequence[GateResult], width: int) -> list[str]:
    header = ("status", "gate", "value", "limit")
    rows = [
        (result.status, result.name, result.shown_value, result.shown_limit) for result in results
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = sum(widths) + len(GAP) * len(widths)
    beside = width - left >= NARROWEST
    lines = [_line(header, widths) + (f"{GAP}why" if beside else "")]
    indent = " " * (left if beside else widths[0] + len(GAP))
    for result, row in zip(results, rows, strict=True):
        why = textwrap.wrap(
            result.message, max(width - len(indent), NARROWEST), break_on_hyphens=False
        )
        if beside:
            lines.append(f"{_line(row, widths)}{GAP}{why[0] if why else ''}")
            why = why[1:]
        else:
            lines.append(_line(row, widths))
        lines += [indent + each for each in why]
    return lines


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
