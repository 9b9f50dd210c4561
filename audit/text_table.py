"""Numbers in columns, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, its cells right-aligned in columns; the first row is the header's."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def shown_distance(distance: float | None) -> str:
    """Three digits, or a dash where there is none."""
    return "-" if distance is None else f"{distance:.3g}"
