"""The command line: each command parses, calls the library, prints and exits."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

try:
    import click

    from audit.cli import interrupt
    from audit.cli.ascend import ascend
    from audit.cli.check import check
    from audit.cli.config import config
    from audit.cli.data import data
    from audit.cli.diff import diff
    from audit.cli.export import export
    from audit.cli.figure import figure
    from audit.cli.history import history
    from audit.cli.info import info
    from audit.cli.log import log
    from audit.cli.output import printable
    from audit.cli.report import report
    from audit.cli.scan import scan
    from audit.cli.trust import trust
    from audit.cli.verify import verify
    from audit.cli.view import view
    from audit.errors import AuditError
except KeyboardInterrupt:  # before there is a `main` to catch it
    os.write(2, b"Interrupted.\n")
    os._exit(128 + signal.SIGINT)  # see `main`


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM, past click, which would print an empty line for it."""


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
    130 interrupted (143 by SIGTERM).
    """


for command in (
    scan,
    export,
    check,
    report,
    view,
    diff,
    history,
    figure,
    ascend,
    log,
    info,
    trust,
    verify,
    config,
    data,
):
    cli.add_command(command)


def main() -> None:
    """Run; a user's mistake ends in one line and its exit code, a bug in a traceback."""
    interrupt.watch()
    try:
        code = cli.main(standalone_mode=False)
        interrupt.ignore()
    except BaseException as exc:
        interrupt.ignore()
        if interrupt.received() or isinstance(exc, (KeyboardInterrupt, _Interrupted)):
            click.echo(" ".join(["Interrupted.", *_notes(exc)]), err=True)
            # Not sys.exit: where Ctrl-C met exec() of a string, as when a dataclass is made, Python
            # remembers it and ends by SIGINT, whatever became of the exception.
            os._exit(128 + (interrupt.received() or signal.SIGINT))
        code = _report(exc)
    sys.exit(code)


def _report(exc: BaseException) -> int:
    """Print a user's mistake in one line and return its exit code; raise anything else again."""
    if isinstance(exc, AuditError):
        click.echo("; ".join([f"Error: {printable(str(exc))}", *_notes(exc)]), err=True)
        return exc.exit_code
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        return exc.exit_code
    if isinstance(exc, click.ClickException):
        where = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "audit"
        message = printable(exc.format_message())
        click.echo(f"Error: {message} See '{where} --help'.", err=True)
        return exc.exit_code
    raise exc


def _notes(exc: BaseException | None) -> list[str]:
    """What was noted on the exception, or on the one that it came of."""
    if exc is None:
        return []
    notes = getattr(exc, "__notes__", None) or _notes(exc.__cause__ or exc.__context__)
    return [printable(note) for note in notes]
