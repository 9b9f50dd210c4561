"""`audit view`."""

from __future__ import annotations

import sys
from typing import Any

import click

from audit.cli.completion import FILE
from audit.cli.output import echo_lines
from audit.cli.page_options import page_keywords, page_options

NO_BROWSER = 1


@click.command()
@click.argument("findings", type=FILE, metavar="FINDINGS.h5")
@page_options
def view(findings: str, **options: Any) -> None:
    """Open the report in the browser.

    It is written to the user's cache, and stays there until it is viewed again. Exit code 1 where
    no browser can be opened; the page is written all the same.
    """
    from audit.view import view as open_report

    viewed = open_report(findings, **page_keywords(**options))
    if viewed.opened:
        echo_lines(f"report    {viewed.path}")
        return
    echo_lines(f"report    {viewed.path} (no browser can be opened; open it by hand)")
    sys.exit(NO_BROWSER)
