"""What a shell completes after an option or in place of an argument: the types of paths.

They check nothing: what is wrong with a path, the library says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHIPPED = Path(__file__).parents[1] / "shipped"


class PathType(click.ParamType):  # type: ignore[type-arg]
    """A path as given; the shell completes it, for it knows how to quote."""

    name = "path"

    def __init__(self, kind: str) -> None:
        """For `kind` "file", and directories on the way to one, or "dir"."""
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """Say of what kind it is."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self._kind)]


class BundleType(PathType):
    """A directory, or the name of a bundle that ships."""

    name = "bundle"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """The names that fit, too; bash takes them and, only where none fits, directories."""
        from click.shell_completion import CompletionItem

        names = [manifest.parent.name for manifest in SHIPPED.glob("*/manifest.json")]
        fitting = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
        return super().shell_complete(ctx, param, incomplete) + fitting


FILE = PathType("file")
DIRECTORY = PathType("dir")
BUNDLE = BundleType("dir")
