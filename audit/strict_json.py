"""JSON as its standard has it: Python's reader and writer also take NaN and Infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str | bytes) -> Any:
    """Parse.

    Raises:
        ValueError: It isn't JSON, or holds a number that isn't finite.
    """
    return json.loads(text, parse_constant=_no_constant)


def finite(value: Any) -> float | None:
    """The number as JSON can say it: NaN and infinity are null."""
    return float(value) if math.isfinite(value) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
