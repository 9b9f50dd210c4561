"""The command line: each command parses, calls the library, prints and exits."""

from __future__ import annotations

import sys
from typing import Any

import click

from audit.cli.data import data
from audit.cli.export import export
from audit.cli.info import info
from audit.cli.output import printable
from audit.cli.scan import scan
from audit.errors import AuditError

INTERRUPTED = 130


class _Interrupted(Exception):
    """Ctrl-C, past click, which would print an empty line for it."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            raise _Interrupted from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="near-tie-audit", prog_name="audit")
def cli() -> None:
    """Find the inputs a classifier can't decide between two classes, and what would tip them.

    Exit codes: 0 done, 1 a gate failed or an answer is negative, 2 wrong use or bad input,
    130 interrupted.
    """


for command in (scan, export, info, data):
    cli.add_command(command)


def main() -> None:
    """Run; a user's mistake ends in one line and its exit code, a bug in a traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except AuditError as exc:
        click.echo(f"Error: {printable(str(exc))}", err=True)
        code = exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        code = exc.exit_code
    except click.ClickException as exc:
        where = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "audit"
        message = printable(exc.format_message())
        click.echo(f"Error: {message} See '{where} --help'.", err=True)
        code = exc.exit_code
    except (KeyboardInterrupt, _Interrupted):
        click.echo("Interrupted; nothing was written.", err=True)
        code = INTERRUPTED
    sys.exit(code)
