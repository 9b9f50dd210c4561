"""`audit log`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import audit
from audit.cli.completion import FILE
from audit.cli.output import echo_json, echo_lines
from audit.options import TRACKERS


@click.command()
@click.argument("findings", type=FILE, metavar="FINDINGS.h5")
@click.option("--to", type=click.Choice(TRACKERS), required=True, help="The experiment tracker.")
@click.option(
    "--experiment",
    "--project",
    "experiment",
    metavar="NAME",
    help="MLflow's experiment, wandb's project, a folder of TensorBoard's.",
)
@click.option("--run", metavar="NAME", help="Name of the run.")
@click.option(
    "--uri",
    "--dir",
    "uri",
    type=FILE,
    metavar="URI|DIR",
    help="MLflow's tracking URI; folder of wandb's or TensorBoard's files.",
)
@click.option("--step", type=int, help="Where a run takes the metrics of many scans.")
@click.option("--closest", type=int, default=5, show_default=True, help="So many figures; 0: none.")
@click.option(
    "--baseline",
    type=FILE,
    metavar="OLD.h5",
    help="Also log what has changed since these findings.",
)
@click.option(
    "--report", type=FILE, metavar="REPORT.html", help="Made by 'audit report'; it goes along."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def log(findings: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Log findings to MLflow, Weights & Biases or TensorBoard.

    Metrics, parameters, figures of the closest ties, the findings file and, where it is given, the
    report.
    """
    logged = audit.log(findings, **options)
    if quiet:
        return
    files = [str(path) for path in logged.files]
    if as_json:
        echo_json(asdict(logged) | {"files": files})
        return
    lines = [
        f"logged    {logged.metrics} metrics, {logged.figures} figures to {logged.to}",
        f"files     {', '.join(files)}",
        *(f"note      {note}" for note in logged.notes),
        f"where     {logged.where}",
    ]
    echo_lines("\n".join(lines))
