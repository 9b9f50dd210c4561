"""Text in a figure: names come from strangers' files, and room is short."""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

from matplotlib import font_manager


class Named(Protocol):
    """A near tie or an ascent."""

    def name(self, class_index: int) -> str:
        """That class's name."""


REPLACEMENT = "�"
ELLIPSIS = "…"
MINUS = "\N{MINUS SIGN}"


def shown(text: str, limit: int) -> str:
    """One line of at most `limit` characters, all of which the font has.

    The middle is what is left out: names of classes and features often differ at their ends only.
    """
    if len(text) > 64 * limit:  # megabytes are not looked through
        text = f"{text[: 32 * limit]} {text[-32 * limit :]}"
    line = " ".join(text.split())
    line = "".join(each if _is_drawable(each) else REPLACEMENT for each in line)
    if len(line) > limit:
        tail = limit // 3
        line = f"{line[: limit - tail - 1].rstrip()}{ELLIPSIS}{line[-tail:].lstrip()}"
    return line


def shown_class(drawn: Named, class_index: int, limit: int) -> str:
    """The class's name; its number where the font has none of its characters."""
    line = shown(drawn.name(class_index), limit)
    if not set(line) - {REPLACEMENT, ELLIPSIS, " "}:
        return f"class {class_index}"
    return line


def shown_number(value: float, digits: int = 4) -> str:
    """Few digits, with a minus sign that is one, and a word for what is no number."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{value:.{digits}g}".replace("-", MINUS)


def _is_drawable(character: str) -> bool:
    return character.isprintable() and ord(character) in _characters()


@cache
def _characters() -> frozenset[int]:
    """What DejaVu Sans has, which comes with matplotlib."""
    path = font_manager.findfont("DejaVu Sans", fallback_to_default=True)
    return frozenset(font_manager.get_font(path).get_charmap())
