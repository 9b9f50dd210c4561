"""How often the model is right, overall and where it nearly ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audit.gates.judge import CanNotTellError, counted, judged
from audit.gates.result import GateResult

if TYPE_CHECKING:
    from audit.findings import Findings
    from audit.gates.thresholds import Gate

NO_LABELS = "no sample has a label; scan a dataset with labels"


def overall(findings: Findings, gate: Gate) -> list[GateResult]:
    """`min_accuracy`, by the fast pass as the scan counts it.

    Raises:
        CanNotTellError: There are no labels.
    """
    if findings.accuracy is None:
        raise CanNotTellError(NO_LABELS)
    of = f"{findings.correct:,} of {counted(findings.labelled, 'labelled sample')}"
    return [judged(gate, findings.accuracy, f"{of} classified as labelled")]


def flagged(findings: Findings, gate: Gate) -> list[GateResult]:
    """`min_accuracy_flagged`.

    Raises:
        CanNotTellError: There are no labels.
    """
    known = _labelled(findings)
    total = int(known.sum())
    if not total:
        return [GateResult(name=gate.name, status="PASS", message="no near tie has a label")]
    right = int((findings.label == findings.classes[:, 0])[known].sum())
    of = f"{right:,} of {counted(total, 'labelled near tie')}"
    return [judged(gate, right / total, f"{of} classified as labelled")]


def label_outside(findings: Findings, gate: Gate) -> list[GateResult]:
    """`max_label_outside`: near ties whose true class is neither of the two.

    Raises:
        CanNotTellError: There are no labels.
    """
    known = _labelled(findings)
    neither = (findings.label[:, None] != findings.classes).all(axis=1)
    outside = int((neither & known).sum())
    total = counted(int(known.sum()), "labelled near tie")
    return [judged(gate, outside, f"{outside:,} of {total} tied between two wrong classes")]


def _labelled(findings: Findings) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which near ties have a label, bool (M,)."""
    if not findings.labelled:
        raise CanNotTellError(NO_LABELS)
    known: np.ndarray[tuple[int], np.dtype[np.bool_]] = findings.label >= 0
    return known
