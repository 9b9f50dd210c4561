"""`audit.log`: findings → an experiment tracker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import AuditError, InstallationError, OptionError, OutputError, last_line
from audit.options import LogOptions

if TYPE_CHECKING:
    from audit.findings import Findings

EXTRAS = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "near-tie-audit[lightning]"}


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What was logged.

    Attributes:
        to: The tracker.
        where: The run, or its folder.
        metrics: How many.
        figures: How many.
        files: Those that went along.
        notes: What was left out and why, a sentence each.
    """

    to: str
    where: str
    metrics: int
    figures: int
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def log(
    findings: Findings | str | os.PathLike[str],
    *,
    to: str,
    experiment: str | None = None,
    run: str | None = None,
    uri: str | os.PathLike[str] | None = None,
    step: int | None = None,
    closest: int = 5,
    baseline: Findings | str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
) -> Logged:
    """Log metrics, parameters, figures and files of findings to an experiment tracker.

    Where a run is going on in this process (`mlflow.start_run()`, `wandb.init()`) and neither
    `experiment`, `run` nor `uri` is given, that run takes them.

    Args:
        findings: Of a scan, or their path.
        to: mlflow, wandb or tensorboard.
        experiment: MLflow's experiment, wandb's project, a folder of TensorBoard's.
        run: Name of the run.
        uri: MLflow's tracking URI, or the folder of wandb's or TensorBoard's files; None: what
            the tracker's own environment says; TensorBoard: ./runs.
        step: Of the metrics and figures, where a run takes those of many scans.
        closest: So many figures, of the near ties of smallest margin.
        baseline: Earlier findings of the same dataset, or their path: what has changed since is
            logged, too.
        report: File of `audit report` that goes along.

    Raises:
        OptionError: An option is out of range.
        FindingsError: The findings can't be read, or the baseline isn't of the same dataset.
        InstallationError: The tracker's package isn't installed.
        OutputError: The tracker refuses, or can't be reached.
    """
    from importlib import import_module

    from audit.findings import findings_from
    from audit.trackers.record import record_from_findings

    options = LogOptions(
        to=to,
        experiment=experiment,
        run=run,
        uri=None if uri is None else os.fspath(uri),
        step=step,
        closest=closest,
    )
    tracker = import_module(f"audit.trackers.{to}")
    try:
        import_module(tracker.PACKAGE)
    except ImportError as exc:
        raise InstallationError(f"{to} is not installed: pip install '{EXTRAS[to]}'") from exc
    if report is not None and not os.path.isfile(report):
        raise OptionError(f"--report {os.fspath(report)}: no such file; 'audit report' writes it")
    record = record_from_findings(
        findings_from(findings),
        closest=closest,
        baseline=None if baseline is None else findings_from(baseline),
        report=None if report is None else Path(report),
    )
    try:
        where = tracker.send(record, options)
    except AuditError:
        raise
    except Exception as exc:  # whatever a tracker's server, disk or client raises
        raise OutputError(f"{to}: {type(exc).__name__}: {last_line(exc)}") from exc
    return Logged(
        to=to,
        where=where,
        metrics=len(record.metrics),
        figures=len(record.pictures),
        files=record.files,
        notes=record.notes,
    )
