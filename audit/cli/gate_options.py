"""`--gate NAME=VALUE`, of the commands that judge."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from audit.errors import OptionError

if TYPE_CHECKING:
    from audit.config import Setting


def gate_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option, as `gates`."""
    return click.option(
        "--gate",
        "gates",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a gate, as in audit.toml; may be given several times.",
    )(command)


def gates_from_options(options: Sequence[str]) -> dict[str, Setting]:
    """The configured gates, and over them those of the command line.

    Raises:
        OptionError: One isn't NAME=VALUE, with a value of TOML; or the configuration is wrong.
    """
    from audit.config import Setting, load_config

    settings = dict(load_config().gates)
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise OptionError(f"--gate {option}: expected NAME=VALUE, such as max_rate=0.002")
        settings[name.strip()] = Setting(_value(option, text), "--gate")
    return settings


def _value(option: str, text: str) -> object:
    """One value of TOML; a line break could bring more."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as exc:
        raise OptionError(
            f"--gate {option}: the value isn't TOML; expected such as max_rate=0.002 or "
            "'max_rate={ warn = 0.001, fail = 0.002 }'"
        ) from exc
    if list(document) != ["value"]:
        raise OptionError(f"--gate {option}: expected one value in one line")
    return document["value"]
