"""Findings to an MLflow run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from audit.trackers.record import GROUP, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from audit.options import LogOptions

PACKAGE = "mlflow"


def send(record: Record, options: LogOptions) -> str:
    """Log it to the run that is going on, or to one of its own.

    A run of its own is made where the options say where it belongs, or none is going on: neither
    `mlflow.start_run()` of this process nor `MLFLOW_RUN_ID`.

    Returns:
        Where it is.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=options.uri)
    folder = GROUP if options.step is None else f"{GROUP}/step_{options.step:08d}"
    with _run(client, record, options) as run:
        _log_parameters(client, run, record)
        for name, metric in record.metrics.items():
            client.log_metric(run, name, metric, step=options.step or 0)
        for picture in record.pictures:
            client.log_image(run, picture.image(), f"{folder}/{picture.name}.png")
        for path in record.files:
            client.log_artifact(run, str(path), folder)
    found = client.get_run(run).info
    return f"run {found.run_id} ({found.artifact_uri})"


def _log_parameters(client: MlflowClient, run: str, record: Record) -> None:
    """As tags where the run has another value: MLflow lets no parameter change."""
    there = client.get_run(run).data.params
    for name, value in record.parameters.items():
        if name not in there:
            client.log_param(run, name, value)
        elif there[name] != str(value):
            client.set_tag(run, name, value)


@contextlib.contextmanager
def _run(client: MlflowClient, record: Record, options: LogOptions) -> Iterator[str]:
    import mlflow

    active = mlflow.active_run()
    going_on = active.info.run_id if active else os.environ.get("MLFLOW_RUN_ID")
    if going_on and options.starts_no_run:
        yield going_on
        return
    experiment = _experiment(client, options)
    made: str = client.create_run(
        experiment, run_name=options.run or f"near ties of {record.name}"
    ).info.run_id
    try:
        yield made
    except BaseException:
        client.set_terminated(made, "FAILED")
        raise
    client.set_terminated(made)


def _experiment(client: MlflowClient, options: LogOptions) -> str:
    """The experiment's id; one that isn't there is made."""
    numbered = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if options.experiment is None and numbered:
        return numbered
    name = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
    found = client.get_experiment_by_name(name)
    experiment: str = found.experiment_id if found else client.create_experiment(name)
    return experiment
