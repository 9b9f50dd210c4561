"""`audit info`."""

from __future__ import annotations

from typing import Any

import click

from audit.cli.completion import FILE
from audit.cli.output import echo_json, echo_lines, visible
from audit.info import info as describe


@click.command()
@click.argument("path", type=FILE)
@click.option("--images", metavar="NAME", help="Of a dataset: name of the samples in the file.")
@click.option("--labels", metavar="NAME", help="Of a dataset: name of the labels in the file.")
@click.option(
    "--allow-external", is_flag=True, help="Of a dataset: follow links that lead out of the file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(path: str, as_json: bool, **options: Any) -> None:
    """Say what a dataset, a bundle, a findings, ascent or diff file holds."""
    document = describe(path, **options)
    echo_json(document) if as_json else echo_lines("\n".join(_lines(document)))


def _lines(document: dict[str, Any], indent: str = "") -> list[str]:
    """One line a value, nested objects indented under their name."""
    lines = []
    width = max(map(len, document), default=0)
    for key, value in document.items():
        name = visible(key)
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{name:{width}}  {_shown(value)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return "-" if value is None else visible(str(value))
