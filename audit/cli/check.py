"""`audit check`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import audit
from audit.cli.completion import FILE
from audit.cli.gate_options import gate_option, gates_from_options
from audit.cli.output import echo_lines
from audit.errors import OptionError, OutputError
from audit.output_file import append_file, write_file

if TYPE_CHECKING:
    from audit.gates.result import CheckResult

EXIT_CODES = {"PASS": 0, "WARN": 0, "FAIL": 1, "ERROR": 2}
WIDTHS = (80, 120)  # lines of a terminal are no shorter and no longer
UNKNOWN_WIDTH = 100  # of a log
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


@click.command()
@click.argument("findings", type=FILE, metavar="FINDINGS.h5")
@click.option("--baseline", type=FILE, metavar="OLD.h5", help="Findings to compare with.")
@click.option(
    "--allow-missing-baseline",
    is_flag=True,
    help="A baseline that isn't there is none: for a first night.",
)
@gate_option
@click.option("--level", type=float, help="Significance level of exact tests. [default: 0.01]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--junit", type=FILE, metavar="FILE", help="Write JUnit XML, a case a gate.")
@click.option(
    "--markdown", type=FILE, metavar="FILE", help="Write a summary; $GITHUB_STEP_SUMMARY: append."
)
@click.option("--warn-as-fail", is_flag=True, help="Exit with 1 where a gate warns, too.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def check(
    findings: str,
    baseline: str | None,
    allow_missing_baseline: bool,
    gates: tuple[str, ...],
    level: float | None,
    as_json: bool,
    junit: str | None,
    markdown: str | None,
    warn_as_fail: bool,
    quiet: bool,
) -> None:
    """Judge findings by gates, alone and against earlier ones.

    Gates come from [gates] in audit.toml or [tool.audit.gates] in pyproject.toml; --gate sets more
    of them, or others. Exit code 0: all passed (or warned), 1: one failed, 2: one can't be told.
    """
    if baseline is not None and allow_missing_baseline and not os.path.exists(baseline):
        baseline = None
    for option, out in (("--junit", junit), ("--markdown", markdown)):
        _check_output(option, out)
    if junit is not None and markdown is not None and _same(junit, markdown):
        raise OptionError(f"--markdown {markdown}: is --junit's file; name another")
    result = audit.check(findings, baseline=baseline, gates=gates_from_options(gates), level=level)
    if not quiet:
        _print(result, as_json)
    if junit is not None:
        from audit.junit import junit_from_check

        write_file(Path(junit), junit_from_check(result, warn_as_fail=warn_as_fail))
    if markdown is not None:
        from audit.check_markdown import markdown_from_check

        write = append_file if _is_summary(markdown) else write_file
        write(Path(markdown), markdown_from_check(result).encode())
    code = EXIT_CODES[result.status]
    sys.exit(1 if warn_as_fail and result.status == "WARN" else code)


def _print(result: CheckResult, as_json: bool) -> None:
    """On standard output what was asked for; annotations go to the other, where they are seen."""
    from audit.github import annotations_from_check, defused

    on_github = os.environ.get("GITHUB_ACTIONS") == "true"
    if as_json:
        import json

        text = json.dumps(result.document(), indent=2, allow_nan=False)
        click.echo(text.replace("##[", r"##\u005b") if on_github else text)
    else:
        from audit.check_text import text_from_check

        columns = shutil.get_terminal_size((UNKNOWN_WIDTH, 24)).columns
        text = text_from_check(result, min(max(columns, WIDTHS[0]), WIDTHS[1]))
        echo_lines("\n".join(map(defused, text.split("\n"))) if on_github else text)
    if on_github:
        for line in annotations_from_check(result):
            click.echo(line, err=True)


def _check_output(option: str, out: str | None) -> None:
    """Findings and datasets must not be overwritten."""
    if out is None:
        return
    if os.path.isdir(out):
        raise OutputError(f"{out}: a directory; name a file with {option}")
    import h5py

    if os.path.isfile(out) and h5py.is_hdf5(out):
        raise OutputError(f"{out}: an HDF5 file; name another file with {option}")


def _is_summary(path: str) -> bool:
    """Whether it is the job summary, to which every step of a GitHub workflow adds."""
    summary = os.environ.get(SUMMARY_VARIABLE)
    return bool(summary) and _same(path, str(summary))


def _same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)
