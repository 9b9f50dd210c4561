"""How many near ties: overall, per true class, per confusion pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audit.gates.classes import find_class, find_pair, pair_counts, shown_classes
from audit.gates.judge import CanNotTellError, counted, judged, verdict
from audit.gates.result import GateResult

if TYPE_CHECKING:
    from audit.findings import Findings
    from audit.gates.thresholds import Gate, Limits


def overall(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_rate` and `max_count`."""
    value = findings.rate if gate.kind.unit == "share" else findings.flagged
    message = f"{counted(findings.flagged, 'near tie')} among {findings.scanned:,} samples"
    return [judged(gate, value, f"{message} at ε = {findings.eps:g}")]


def by_class(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_class_rate` and `max_class_count`, of true classes.

    Raises:
        CanNotTellError: There are no labels.
    """
    totals = findings.label_counts
    if not totals.any():
        raise CanNotTellError("no sample has a label; scan a dataset with labels")
    label = findings.label[(findings.label >= 0) & (findings.label < len(totals))]
    flagged = np.bincount(label, minlength=len(totals))
    classes = shown_classes(findings, len(totals))
    parts = [
        _Part(name, int(count), int(total), f"of {counted(int(total), 'sample')} labelled {name}")
        for name, count, total in zip(classes, flagged, totals, strict=True)
    ]
    seen = np.flatnonzero(totals).tolist()
    return list(_judged(gate, parts.__getitem__, seen, lambda key: find_class(key, classes)))


def by_pair(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_pair_rate` and `max_pair_count`, of the pairs that occur and of those with a limit."""
    counts = pair_counts(findings)
    classes = shown_classes(findings, len(counts))

    def part(place: int) -> _Part:
        a, b = divmod(place, len(counts))
        between = f"between {classes[a]} and {classes[b]}, of {findings.scanned:,} samples"
        return _Part(f"{classes[a]}/{classes[b]}", int(counts[a, b]), findings.scanned, between)

    def find(key: str) -> int:
        a, b = find_pair(key, classes)
        return a * len(counts) + b

    return list(_judged(gate, part, np.flatnonzero(counts).tolist(), find))


class _Part(NamedTuple):
    """A class or pair: its name, near ties, out of how many samples, and those in words."""

    name: str
    ties: int
    total: int
    of: str


def _judged(
    gate: Gate,
    part: Callable[[int], _Part],
    occurring: Iterable[int],
    find: Callable[[str], int],
) -> Iterator[GateResult]:
    """Each class or pair against its own limits, else against those of all.

    Args:
        gate: How they are limited.
        part: Of a class's or pair's place.
        occurring: The places of those that occur.
        find: A name as it is set → the place; raises `CanNotTellError`.
    """
    named: dict[int, Limits] = {}
    keys: dict[int, str] = {}
    for key, limits in gate.named.items():
        try:
            place = find(key)
            if place in keys:
                raise CanNotTellError(f"the same as {keys[place]!r}, which has limits of its own")
            keys[place], named[place] = key, limits
        except CanNotTellError as exc:
            yield GateResult(name=f"{gate.name}[{key}]", status="ERROR", message=str(exc))
    any_judged = False
    for place in sorted({*occurring, *named}) if gate.limits.on else sorted(named):
        limits = named.get(place, gate.limits)
        if limits.on:
            any_judged = True
            yield _one(gate, part(place), limits)
    if not any_judged and gate.limits.on:
        limit = gate.limits.fail if gate.limits.fail is not None else gate.limits.warn
        message = f"there is no {'other ' if gate.named else ''}near tie"
        yield GateResult(name=gate.name, status="PASS", value=0, limit=limit, message=message)


def _one(gate: Gate, part: _Part, limits: Limits) -> GateResult:
    name = f"{gate.name}[{part.name}]"
    if not part.total:
        return GateResult(name=name, status="PASS", message=f"{part.of}: there is none to judge")
    value = part.ties / part.total if gate.kind.unit == "share" else part.ties
    status, limit = verdict(gate.name, value, limits)
    message = f"{counted(part.ties, 'near tie')} {part.of}"
    return GateResult(name=name, status=status, value=value, limit=limit, message=message)
