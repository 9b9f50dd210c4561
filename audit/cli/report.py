"""`audit report`."""

from __future__ import annotations

from typing import Any

import click

from audit.cli.completion import FILE
from audit.cli.output import echo_lines
from audit.cli.page_options import page_keywords, page_options


@click.command()
@click.argument("findings", type=FILE, metavar="FINDINGS.h5")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="[default: NAME.report.html here]")
@page_options
def report(findings: str, out: str | None, **options: Any) -> None:
    """Write one self-contained page: numbers, gates, margins, pairs and each near tie.

    It asks for nothing else, on the network or beside it, and opens in any browser.
    """
    from audit.report import default_path
    from audit.report import report as write

    path = write(
        findings,
        out=default_path(findings) if out is None else out,
        **page_keywords(**options),
    )
    echo_lines(f"report    {path}")
