"""Text in a figure: names come from strangers' files, and room is short."""

from __future__ import annotations

import math
from functools import cache

from matplotlib import font_manager

from audit.near_tie import NearTie

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


def shown_class(tie: NearTie, class_index: int, limit: int) -> str:
    """The class's name; its number where the font has none of its characters."""
    return shown_name(tie.name(class_index), class_index, limit)


def shown_name(name: str, class_index: int, limit: int) -> str:
    """The class's name; its number where the font has none of its characters."""
    line = shown(name, limit)
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
