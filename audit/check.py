"""`audit.check`: findings and gates → what passed and what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.gates.result import CheckResult as CheckResult
from audit.gates.result import GateResult as GateResult

if TYPE_CHECKING:
    from audit.config import Setting
    from audit.findings import Findings
    from audit.gates.thresholds import Gate


def check(
    findings: str | os.PathLike[str] | Findings,
    *,
    baseline: str | os.PathLike[str] | Findings | None = None,
    gates: Mapping[str, Any] | None = None,
    level: float | None = None,
) -> CheckResult:
    """Judge findings by gates, and against earlier findings.

    Args:
        findings: Of `audit scan`, or of the training callback.
        baseline: Findings of the same dataset to compare with, such as last night's.
        gates: Gate → value as in `audit.toml`, such as {"max_rate": 0.002}; `docs/gates.md` lists
            them. None: those of `[gates]` in ./audit.toml or of `[tool.audit.gates]` in
            ./pyproject.toml. Gates that are always on are on in either case, unless set to False.
        level: Significance level of the exact tests; None: `level` of the gates, else 0.01.

    Returns:
        Each gate's result, and the worst status.

    Raises:
        OptionError: There is no such gate, or its value can't be.
        FindingsError: Either file is no complete findings file.
    """
    from audit.config import Setting, load_config
    from audit.gates.thresholds import read_gates

    settings = load_config(Path()).gates if gates is None else gates
    settings = {name: _setting(value) for name, value in settings.items()}
    if level is not None:
        settings["level"] = Setting(level, "--level")
    wanted = read_gates(settings)

    from audit.findings import findings_from
    from audit.gates.baseline import judge_against

    tonight, before = findings_from(findings), None if baseline is None else findings_from(baseline)
    results = [
        result
        for gate in wanted.gates
        if not gate.kind.baseline
        for result in _judged(tonight, gate)
    ]
    against = [gate for gate in wanted.gates if gate.kind.baseline]
    results += judge_against(tonight, before, against, wanted.level)
    return CheckResult(
        results=tuple(results), findings=tonight, baseline=before, level=wanted.level
    )


def _setting(value: Any) -> Setting:
    """The value with where it is from, which whoever merged several sources says."""
    from audit.config import Setting

    return value if isinstance(value, Setting) else Setting(value, "gates")


def _judged(findings: Findings, gate: Gate) -> list[GateResult]:
    """An ERROR where these findings don't have what the gate is computed from."""
    from audit.errors import NotRecordedError
    from audit.gates.judge import CanNotTellError

    try:
        return _judges()[gate.name](findings, gate)
    except (CanNotTellError, NotRecordedError) as exc:
        return [GateResult(name=gate.name, status="ERROR", message=str(exc))]


def _judges() -> Mapping[str, Callable[[Findings, Gate], list[GateResult]]]:
    """Gate → what judges it; those against a baseline excepted."""
    from audit.gates import accuracy, distances, rates, soundness

    return {
        "complete": soundness.complete,
        "guard_held": soundness.guard_held,
        "max_nonfinite": soundness.nonfinite,
        "max_degenerate": soundness.degenerate,
        "max_parity": soundness.parity,
        "max_rate": rates.overall,
        "max_count": rates.overall,
        "max_class_rate": rates.by_class,
        "max_class_count": rates.by_class,
        "max_pair_rate": rates.by_pair,
        "max_pair_count": rates.by_pair,
        "min_median_l2": distances.median,
        "min_median_linf": distances.median,
        "min_nth_l2": distances.nth_smallest,
        "min_nth_linf": distances.nth_smallest,
        "min_accuracy": accuracy.overall,
        "min_accuracy_flagged": accuracy.flagged,
        "max_label_outside": accuracy.label_outside,
    }
