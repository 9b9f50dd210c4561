"""`audit data`."""

from __future__ import annotations

import click

from audit.cli.completion import DIRECTORY, FILE
from audit.options import SPLITS


@click.group()
def data() -> None:
    """Write a dataset that ships with this program, or is made from its original files."""


@data.command()
@click.option(
    "--from",
    "source",
    type=DIRECTORY,
    metavar="DIR",
    help="Directory of the IDX files, gzipped or not.",
)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--download", is_flag=True, help="Fetch what DIR lacks, into it.")
@click.option("--mirror", "mirrors", metavar="URL", multiple=True, help="Fetch from there.")
@click.option("-o", "--out", type=FILE, metavar="FILE.h5", default="mnist.h5", show_default=True)
def mnist(
    source: str | None, split: str, download: bool, mirrors: tuple[str, ...], out: str
) -> None:
    """Write MNIST: by default the 10,000-image test split that ships with this program."""
    from audit.mnist import MIRRORS, write_mnist

    count = write_mnist(
        out, split=split, source=source, download=download, mirrors=mirrors or MIRRORS
    )
    click.echo(f"wrote     {count:,} images to {out}")
