"""`audit history`."""

from __future__ import annotations

import click

import audit
from audit.cli.completion import FILE
from audit.cli.output import echo_json, echo_lines, printable
from audit.errors import OptionError
from audit.history_text import csv_from_history, text_from_history


@click.command()
@click.argument("paths", type=FILE, metavar="DIR_OR_FILES...", nargs=-1, required=True)
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--plot", type=FILE, metavar="FILE", help="Draw the rates over time: .png, .svg or .pdf."
)
def history(paths: tuple[str, ...], as_csv: bool, as_json: bool, plot: str | None) -> None:
    """List scans over time, the oldest first.

    Folders are searched for findings (*.h5, not hidden), subfolders too.
    """
    if as_csv and as_json:
        raise OptionError("--csv and --json exclude each other; give one")
    found = audit.history(paths, plot=plot)
    if as_json:
        echo_json(found.document())
    elif as_csv:
        click.echo(csv_from_history(found), nl=False)
        for reason in found.passed_over:
            click.echo(f"note      passed over {printable(reason)}", err=True)
    else:
        echo_lines(text_from_history(found))
