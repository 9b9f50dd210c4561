"""A gate's numbers as a person reads them."""

from __future__ import annotations

import math

from audit.gates.kinds import Unit

DIGITS = 4
ALL_DIGITS = 17  # of a float64


def shown(value: float | None, unit: Unit, against: float | None = None) -> str:
    """The value in its unit, a dash where there is none.

    Args:
        value: Which.
        unit: Of the gate.
        against: Its limit: as many digits are shown as tell the two apart.
    """
    if value is None:
        return "-"
    for digits in range(DIGITS, ALL_DIGITS):
        text = _text(value, unit, digits)
        if against is None or value == against or text != _text(against, unit, digits):
            return text
    return _text(value, unit, ALL_DIGITS)


def _text(value: float, unit: Unit, digits: int) -> str:
    if math.isinf(value):
        return "∞"
    if unit in ("count", "flag"):
        return f"{value:,.0f}"
    if unit == "share":
        return f"{100 * value:.{digits}g}%"
    if unit == "points":
        return f"{100 * value:{'+' if value else ''}.{digits}g} pp"
    if unit == "growth":
        return f"{100 * value:{'+' if value else ''}.{digits}g}%"
    return f"{value:.{digits}g}"
