"""`audit diff`."""

from __future__ import annotations

import click

import audit
from audit.cli.completion import FILE
from audit.cli.output import echo_json, echo_lines
from audit.diff_summary import summary_from_diff
from audit.diff_text import text_from_summary


@click.command()
@click.argument("old", type=FILE, metavar="OLD.h5")
@click.argument("new", type=FILE, metavar="NEW.h5")
@click.option(
    "-o", "--out", type=FILE, metavar="DIFF.h5", help="Also write it as HDF5, with a row a sample."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def diff(old: str, new: str, out: str | None, as_json: bool, quiet: bool) -> None:
    """Say what changed between two scans of the same dataset.

    What is newly tied, no longer tied, and still tied with another margin, distance or class; of
    scans with --keep-all also every prediction that flipped, while tied or while confident.
    """
    found = audit.diff(old, new, out=out)
    if not quiet:
        summary = summary_from_diff(found)
        echo_json(summary) if as_json else echo_lines(text_from_summary(summary))
