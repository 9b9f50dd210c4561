"""Options whose defaults may be configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from audit.errors import AuditError, BundleError, OptionError


class ConfiguredCommand(click.Command):
    """Takes from `audit.toml` and `pyproject.toml` what isn't on the command line.

    The model excepted, which `audit.config.find_model` finds: findings know theirs.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the configuration first; a mistake in it doesn't keep --help from being shown."""
        mistake = None
        if not ctx.resilient_parsing:  # which is for completion
            from audit.config import load_config

            try:
                ctx.obj = load_config()
            except OptionError as exc:
                mistake = exc
            else:
                settings = {name: each.value for name, each in ctx.obj.values.items()}
                settings.pop("model", None)
                ctx.default_map = settings
        rest = super().parse_args(ctx, args)  # --help ends in here
        if mistake is not None:
            raise mistake
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Say of a value that turns out to be wrong where it is from."""
        try:
            return super().invoke(ctx)
        except AuditError as exc:
            origin = _origin(ctx, exc)
            if origin is None:
                raise
            raise type(exc)(f"{exc} ({origin})") from exc


def is_configured(ctx: click.Context, name: str) -> bool:
    """Whether an option has its value from a file."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def _origin(ctx: click.Context, exc: AuditError) -> str | None:
    """Where the value is from that the message is about, unless the command line has it."""
    from audit.config import effective

    for name, (value, source) in effective(ctx.obj).values.items():
        option = f"--{name.replace('_', '-')}"
        if is_configured(ctx, name) and option in str(exc):
            return f"{option} {value} is from {source}"
        if name == "model" and value is not None and ctx.params.get(name) is None:
            places = (value, str(Path(value)))
            if isinstance(exc, BundleError) and str(exc).startswith(places):
                return f"the model is from {source}"
    return None
