"""`audit figure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.cli.completion import BUNDLE, DIRECTORY, FILE
from audit.cli.names import names_from_option
from audit.cli.output import echo_lines
from audit.errors import FindingsError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

WHAT = "findings made by 'audit scan' or ascents made by 'audit ascend'"


@click.command()
@click.argument("source", type=FILE, metavar="FINDINGS.h5|ASCENT.h5")
@click.option(
    "--index", type=int, multiple=True, help="Position in the dataset; may be given several times."
)
@click.option("--closest", type=int, help="So many near ties, of smallest margin. [default: 5]")
@click.option("-o", "--out", type=DIRECTORY, metavar="DIR", help="[default: NAME-figures here]")
@click.option(
    "--format",
    "formats",
    type=click.Choice(("png", "svg", "pdf", "gif")),
    multiple=True,
    help="May be given several times; gif: of ascents. [default: png, of ascents also gif]",
)
@click.option("-k", "--projection-factor", type=float, help="k of x + k · gradient. [default: 3]")
@click.option(
    "--model",
    type=BUNDLE,
    metavar="BUNDLE",
    help="The bundle that was scanned with, where it has moved.",
)
@click.option(
    "--feature-names",
    type=FILE,
    metavar="NAMES",
    help="Of tabular samples: a,b,c or a text file with a name a line.",
)
def figure(
    source: str,
    index: tuple[int, ...],
    out: str | None,
    formats: tuple[str, ...],
    feature_names: str | None,
    **options: Any,
) -> None:
    """Draw near ties, or gradient ascents.

    Of findings, the closest ties or those of --index: the sample, what in it pulls to either
    class, both projections, and the numbers. Of an ascent file, each ascent or those of --index.
    """
    from audit import hdf5

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    names = names_from_option("--feature-names", feature_names, "feature name")
    if names is not None:
        given["feature_names"] = names
    stem = Path(source).stem.removesuffix(".findings").removesuffix(".ascent")
    out_dir = Path(out if out is not None else f"{stem}-figures")
    schema = hdf5.schema_of(source, FindingsError, WHAT)
    if schema.startswith("audit-ascent/"):
        paths = _draw_ascents(source, out_dir, index or None, formats or None, given)
    elif schema.startswith("audit-findings/"):
        from audit.figure import figure as draw

        paths = draw(source, out_dir, index=index or None, format=formats or "png", **given)
    else:
        raise FindingsError(f"{source}: no schema of ours; expected {WHAT}")
    echo_lines("\n".join(map(str, paths)) or f"{source}: holds none, nothing to draw")


def _draw_ascents(
    source: str,
    out_dir: Path,
    index: Sequence[int] | None,
    formats: Sequence[str] | None,
    given: dict[str, Any],
) -> list[Path]:
    from audit.ascent import load_ascents
    from audit.ascent_figure import ascent_figures

    names = given.pop("feature_names", None)
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise OptionError(f"{option}: for findings, and {source} is an ascent file; leave it out")
    return ascent_figures(
        load_ascents(source), out_dir, index=index, format=formats, feature_names=names
    )
