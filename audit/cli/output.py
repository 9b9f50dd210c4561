"""Text for a terminal."""

from __future__ import annotations

from typing import Any

import click

MOST_CHARACTERS = 2000  # of an error; a stranger's name in it may have millions


def printable(text: str) -> str:
    """One line without control characters: names and paths may come from a stranger's file."""
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[: half - 1]}…{text[1 - half :]}"
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """The text with a sign for each character that is none, line breaks included."""
    return "".join(each if each.isprintable() else "�" for each in text)


def echo_lines(text: str) -> None:
    """Print each line through `printable`, keeping its spaces."""
    for line in text.split("\n"):
        click.echo(visible(line))


def echo_json(document: dict[str, Any]) -> None:
    """Print one JSON object."""
    import json

    click.echo(json.dumps(document, indent=2, allow_nan=False))
