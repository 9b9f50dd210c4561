"""What `audit report` and `audit view` have in common: the options of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from audit.cli.completion import BUNDLE, FILE
from audit.cli.gate_options import gate_option, gates_from_options
from audit.cli.names import names_from_option

OPTIONS = (
    click.option(
        "--baseline",
        type=FILE,
        metavar="OLD.h5",
        help="Earlier findings of the same dataset: marks what is new.",
    ),
    click.option(
        "--max-samples",
        type=int,
        default=500,
        show_default=True,
        help="In the gallery: those of smallest margin, new ones first.",
    ),
    gate_option,
    click.option(
        "--model",
        type=BUNDLE,
        metavar="BUNDLE",
        help="The bundle that was scanned with, where it has moved.",
    ),
    click.option(
        "--feature-names",
        type=FILE,
        metavar="NAMES",
        help="Of tabular samples: a,b,c or a text file with a name a line.",
    ),
)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them, as keywords of the command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def page_keywords(
    *, gates: Sequence[str], feature_names: str | None, **options: Any
) -> dict[str, Any]:
    """What `audit.report` takes, from what the command got."""
    return {
        "gates": gates_from_options(gates),
        "feature_names": names_from_option("--feature-names", feature_names, "feature name"),
        **options,
    }
