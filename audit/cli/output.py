"""Text for a terminal."""

from __future__ import annotations

from typing import Any

import click


def printable(text: str) -> str:
    """One line without control characters: names and paths may come from a stranger's file."""
    return "".join(each if each.isprintable() else "�" for each in " ".join(text.split()))


def echo_lines(text: str) -> None:
    """Print each line through `printable`, keeping its spaces."""
    for line in text.split("\n"):
        click.echo("".join(each if each.isprintable() else "�" for each in line))


def echo_json(document: dict[str, Any]) -> None:
    """Print one JSON object."""
    import json

    click.echo(json.dumps(document, indent=2, allow_nan=False))
