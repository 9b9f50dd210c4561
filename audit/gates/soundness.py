"""Whether the scan itself can be relied upon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.gates.judge import CanNotTellError, counted, judged
from audit.gates.result import GateResult

if TYPE_CHECKING:
    from audit.findings import Findings
    from audit.gates.thresholds import Gate


def complete(findings: Findings, gate: Gate) -> list[GateResult]:
    """`complete`: every sample of the dataset was scanned.

    Raises:
        CanNotTellError: How many there are isn't recorded.
    """
    samples = _number(findings.dataset, "samples")
    missing = samples - findings.scanned
    if missing > 0:
        message = f"{missing:,.0f} of {samples:,.0f} samples weren't scanned; leave --limit out"
    elif findings.dataset.get("fingerprint") is None:
        message = "made during training: all samples that were looked at"
    else:
        message = "all samples of the dataset scanned"
    return [_flag(gate, missing > 0, findings.scanned, samples, message)]


def guard_held(findings: Findings, gate: Gate) -> list[GateResult]:
    """`guard_held`: the fast pass was never off by more than it was allowed.

    Raises:
        CanNotTellError: It isn't recorded.
    """
    rescans, guard = _number(findings.engine, "rescans"), _number(findings.engine, "guard")
    if rescans:
        message = (
            f"the fast pass was off by more than the guard of the export; scanned again "
            f"{'once' if rescans == 1 else f'{rescans:,.0f} times'}, with {guard:.2g} in the end"
        )
    else:
        message = f"the fast pass was never off by more than its guard of {guard:.2g}"
    return [_flag(gate, rescans > 0, rescans, 0, message)]


def nonfinite(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_nonfinite`."""
    message = f"{counted(findings.nonfinite, 'sample')} with NaN or infinite logits"
    return [judged(gate, findings.nonfinite, message)]


def degenerate(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_degenerate`.

    Raises:
        CanNotTellError: There are no gradients to tell by.
    """
    if findings.degenerate is None:
        raise CanNotTellError("no gradients to tell by; scan again without --no-gradients")
    message = f"{counted(findings.degenerate, 'near tie')} that no change of the input tips"
    return [judged(gate, findings.degenerate, message)]


def parity(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_parity`: the fast pass against the canonical one, at export and in this scan.

    Raises:
        CanNotTellError: Either isn't recorded.
    """
    proof = findings.bundle.get("parity")
    if not isinstance(proof, Mapping):
        raise CanNotTellError(
            "the bundle's parity isn't recorded; scan again with this version, and a bundle"
        )
    exported = _number(proof, "max_margin_difference")
    scanned = _number(findings.engine, "max_disagreement")
    message = (
        f"margins in float32 and float64 differ by up to {exported:.2g} at export, "
        f"{scanned:.2g} in this scan"
    )
    return [judged(gate, max(exported, scanned), message)]


def _flag(gate: Gate, broken: bool, value: float, limit: float, message: str) -> GateResult:
    """The result of a gate without a number of its own."""
    result = judged(gate, float(broken), message)
    return GateResult(
        name=gate.name, status=result.status, value=value, limit=limit, message=message
    )


def _number(record: Mapping[str, Any], key: str) -> float:
    """A number of a record that a file holds."""
    value = record.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise CanNotTellError(f"{key!r} isn't recorded; scan again with this version")
