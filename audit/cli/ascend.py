"""`audit ascend`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

import audit
from audit.ascent_summary import summary_from_ascents, text_from_summary
from audit.cli.completion import BUNDLE, FILE
from audit.cli.configured import ConfiguredCommand, is_configured
from audit.cli.output import echo_json, echo_lines
from audit.cli.progress import with_bar
from audit.errors import DatasetNotFoundError
from audit.options import DEVICES, NORMS, OBJECTIVES


class Bounds(click.ParamType):  # type: ignore[type-arg]
    """LO,HI."""

    name = "LO,HI"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Two numbers."""
        try:
            low, high = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r}: expected two numbers with a comma between, such as 0,1.")
        return low, high


@click.command(cls=ConfiguredCommand)
@click.argument("source", type=FILE, metavar="FINDINGS.h5|DATA.h5")
@click.option(
    "--index", type=int, multiple=True, help="Position in the dataset; may be given several times."
)
@click.option(
    "--target",
    metavar="CLASS",
    default="second",
    show_default=True,
    help="A class, by number or name; 'second': the runner-up; 'all': every other class.",
)
@click.option("--norm", type=click.Choice(NORMS), default="l2", show_default=True)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="prob",
    show_default=True,
    help="What is ascended: the target's probability, its logit, or that less the largest other.",
)
@click.option("--step", type=float, help="[default: a tenth of the first-order distance]")
@click.option("--max-steps", type=int, default=1000, show_default=True)
@click.option(
    "--clip",
    type=Bounds(),
    help="Range of input space; -inf,inf for none. [default: what uint8 holds, else none]",
)
@click.option("--minimal", is_flag=True, help="Then look for the smallest perturbation.")
@click.option(
    "--frames", type=int, default=8, show_default=True, help="Inputs kept along each ascent."
)
@click.option(
    "--model", type=BUNDLE, metavar="BUNDLE", help="Bundle directory, or 'mnist', which ships."
)
@click.option("-o", "--out", type=FILE, metavar="ASCENT.h5", help="[default: NAME.ascent.h5 here]")
@click.option("--threads", type=int, help="[default: all processors]")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True)
@click.option("--images", metavar="NAME", help="Name of the samples in a dataset.")
@click.option("--labels", metavar="NAME", help="Name of the labels in a dataset.")
@click.option("--allow-external", is_flag=True, help="Follow links that lead out of a dataset.")
@click.option("--trust", is_flag=True, help="Load the bundle, which can run code, whoever made it.")
@click.option("--strict", is_flag=True, help="Exit with 1 where a target wasn't reached.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
@click.pass_context
def ascend(
    ctx: click.Context,
    /,
    source: str,
    index: tuple[int, ...],
    strict: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Push samples up a gradient until the network says another class.

    Of findings, all near ties or those of --index; of a dataset, the samples of --index. The model
    is the one that was scanned with; of a dataset, it is found as 'audit scan' finds it. What
    audit.toml sets is the default of --device, and of a dataset's --images and --labels.
    """
    names = [name for name in ("images", "labels") if is_configured(ctx, name)]
    if names and _is_ours(source):  # then there are no datasets to name, and to give one is wrong
        options |= dict.fromkeys(names)
    started = time.perf_counter()
    shown = not (quiet or as_json) and sys.stderr.isatty()
    ascents = with_bar(
        "ascending",
        shown,
        lambda advance: audit.ascend(source, index=index or None, progress=advance, **options),
    )
    if not quiet:
        summary = summary_from_ascents(ascents, time.perf_counter() - started)
        echo_json(summary) if as_json else echo_lines(text_from_summary(summary))
    if strict and ascents.succeeded < ascents.count:
        sys.exit(1)


def _is_ours(path: str) -> bool:
    from audit import hdf5
    from audit.ascent_source import WHAT

    return hdf5.schema_of(path, DatasetNotFoundError, WHAT).startswith("audit-")
