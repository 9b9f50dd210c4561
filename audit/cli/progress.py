"""A bar for what takes long, and Ctrl-C between its steps."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from audit.cli import interrupt

T = TypeVar("T")


def with_bar(label: str, shown: bool, work: Callable[[Callable[[int, int], None]], T]) -> T:
    """The result of `work`, which is given a function to report (done, total) to."""
    with contextlib.ExitStack() as stack:
        bar: Any = None

        def advance(done: int, total: int) -> None:
            # Made with the first samples: a mistake found before is one line, not a bar and a line.
            nonlocal bar
            interrupt.check()
            if bar is None:
                bar = stack.enter_context(
                    click.progressbar(length=total, label=label, file=sys.stderr, hidden=not shown)
                )
            bar.update(done - bar.pos)

        with interrupt.deferred():
            return work(advance)
