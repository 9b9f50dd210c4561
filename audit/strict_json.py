"""JSON as its standard has it: Python's reader also takes NaN and Infinity."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """Parse.

    Raises:
        ValueError: It isn't JSON, or holds a number that isn't finite.
    """
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
