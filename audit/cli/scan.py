"""`audit scan`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

import audit
from audit.cli.completion import BUNDLE, FILE
from audit.cli.configured import ConfiguredCommand
from audit.cli.output import echo_json, echo_lines
from audit.cli.progress import with_bar
from audit.options import DEVICES, PRECISIONS
from audit.summary import summary_from_findings, text_from_summary


@click.command(cls=ConfiguredCommand)
@click.argument("dataset", type=FILE, metavar="DATA.h5")
@click.option(
    "--eps", type=float, help="Near-tie threshold ε, in logit units; required, unless configured."
)
@click.option(
    "--model", type=BUNDLE, metavar="BUNDLE", help="Bundle directory, or 'mnist', which ships."
)
@click.option(
    "-o", "--out", type=FILE, metavar="FINDINGS.h5", help="[default: NAME.findings.h5 here]"
)
@click.option("--min-logit", type=float, help="Flag only where the largest logit exceeds this.")
@click.option("--batch-size", type=int, help="Samples a forward call. [default: the fastest]")
@click.option("--threads", type=int, help="[default: all processors]")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@click.option("--keep-all", is_flag=True, help="Record every sample's margin and top-2 as well.")
@click.option("--no-gradients", is_flag=True, help="Leave out gradients and distances.")
@click.option("--limit", type=int, help="Scan only the first so many samples.")
@click.option("--images", metavar="NAME", help="Name of the samples in the file.")
@click.option("--labels", metavar="NAME", help="Name of the labels in the file.")
@click.option("--allow-external", is_flag=True, help="Follow links that lead out of the file.")
@click.option("--segment-samples", type=int, help="Samples that an interruption can cost.")
@click.option(
    "--resume/--restart",
    default=None,
    help="Go on with the interrupted scan of this output, or drop it. [default: go on]",
)
@click.option("--trust", is_flag=True, help="Load the bundle, which can run code, whoever made it.")
@click.option("--memory-limit", metavar="SIZE", help="Of the process, such as 1GiB.")
@click.option("--strict", is_flag=True, help="Exit with 1 where logits are NaN or infinite.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def scan(dataset: str, strict: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Find the near ties of a dataset and write them, with gradients, to HDF5.

    The model comes from --model, else AUDIT_MODEL, else 'model' in audit.toml, else the dataset's
    attribute 'audit_bundle'. What audit.toml sets is the default of --eps, --min-logit, --device,
    --images and --labels; 'audit config' shows it.
    """
    if options["eps"] is None:
        raise click.UsageError(
            "Missing option '--eps'; give one, such as --eps 0.1, or write eps = 0.1 into "
            "audit.toml.",
            click.get_current_context(),
        )
    started = time.perf_counter()
    shown = not (quiet or as_json) and sys.stderr.isatty()
    findings = with_bar(
        "scanning", shown, lambda advance: audit.scan(dataset, progress=advance, **options)
    )
    if not quiet:
        summary = summary_from_findings(findings, time.perf_counter() - started)
        echo_json(summary) if as_json else echo_lines(text_from_summary(summary))
    if strict and findings.nonfinite:
        sys.exit(1)
