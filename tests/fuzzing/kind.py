"""A kind of file, and what every error about one must be."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audit.cli.output import printable
from audit.errors import AuditError

CORPUS = Path(__file__).parents[1] / "corpus"
SEEDS = CORPUS / "seeds"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: Of the kind.
        pattern: Of its files in `SEEDS`.
        read: Reads a mutated file at a path to the end; its number says which of what takes long
            is done with it as well. Whatever but an `AuditError` leaves it is a failure.
        suffix: Of the mutated file.
    """

    name: str
    pattern: str
    read: Callable[[Path, int], None]
    suffix: str = ".h5"

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        """What is mutated."""
        paths = sorted(SEEDS.glob(self.pattern))
        return tuple(
            gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for path in paths
        )


def check_message(exc: AuditError) -> None:
    """What the command line prints must say something."""
    assert len(printable(str(exc))) > 10, f"an error that says {str(exc)!r}"
