"""`audit verify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

import audit
from audit.cli.completion import BUNDLE, FILE
from audit.cli.output import echo_json, echo_lines
from audit.gates.judge import counted

if TYPE_CHECKING:
    from audit.verify import Verification


@click.command()
@click.argument("path", type=FILE)
@click.option(
    "--dataset",
    type=FILE,
    metavar="DATA.h5",
    help="Of findings: what was scanned; compute some of them anew.",
)
@click.option(
    "--bundle",
    type=BUNDLE,
    metavar="BUNDLE",
    help="Of findings: what was scanned with. [default: the one that they name]",
)
@click.option(
    "--samples",
    type=int,
    default=64,
    show_default=True,
    help="Near ties, and other samples, to compute anew.",
)
@click.option("--all", is_flag=True, help="Compute every one of both anew.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of samples.")
@click.option(
    "--allow-external", is_flag=True, help="Follow links that lead out of the dataset's file."
)
@click.option(
    "--trust", is_flag=True, help="Load the bundle's TorchScript even if nobody vouches for it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def verify(path: str, as_json: bool, **options: Any) -> None:
    """Check that findings, ascents, a diff or a bundle are what was written.

    SHA-256s of all that is in it, and whether its numbers fit each other. With --dataset, findings
    are computed from scratch as well: a random sample of what was flagged, and of what wasn't.
    Exit code 1: something differs, 2: it can't be told.
    """
    verification = audit.verify(path, **options)
    if as_json:
        echo_json(verification.document())
    else:
        echo_lines("\n".join(_lines(verification, recomputed=options["dataset"] is not None)))
    sys.exit(0 if verification.passed else 1)


def _lines(verification: Verification, recomputed: bool) -> list[str]:
    checks = verification.checks
    width = max(len(check.name) for check in checks)
    lines = [f"{verification.path}: {verification.kind}"]
    for check in checks:
        status = "PASS" if check.passed else "FAIL"
        lines.append(f"  {status}  {check.name:{width}}  {counted(check.compared, check.unit)}")
        lines += [f"        {problem}" for problem in check.problems]
    if not verification.passed:
        return [*lines, f"FAIL: {checks[-1].name}; nothing after it was checked"]
    hint = ""
    if verification.kind == "findings" and not recomputed:
        hint = "; --dataset DATA.h5 computes findings anew"
    return [*lines, f"PASS: nothing differs{hint}"]
