"""Scales: from where to where values are drawn, and in which colours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from numpy.typing import NDArray

from audit.figure_text import shown_number

Values = NDArray[np.float64]

# What matplotlib's axes compute with in comfort; beyond it there is nothing to see.
MAX_DRAWN = 1e30
MIN_DRAWN = 1e-30
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
MISSING = "#c51b8a"  # magenta, which no colour map here has: what can't be drawn
HIDDEN = (0.0, 0.0, 0.0, 0.0)


class Limits(NamedTuple):
    """A scale from `low` to `high`, low < high."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{shown_number(self.low, 3)} … {shown_number(self.high, 3)}"


class Fields(NamedTuple):
    """All that is drawn, float64; NaN: not to be drawn."""

    sample: Values  # (*input_shape)
    gradient: Values  # (2, *input_shape)
    projections: Values  # (2, *input_shape)
    factor: float
    clipped: bool = False  # pictures of projections saturate beyond the sample's range


def drawable(values: NDArray[Any]) -> Values:
    """In float64; NaN for what isn't finite or too large for axes."""
    wide = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wide[~(np.abs(wide) <= MAX_DRAWN)] = np.nan
    return wide


def limits_of(*arrays: Values) -> Limits:
    """[0, 1] where all values lie in it, as stored pixels' do; else from smallest to largest."""
    finite = np.concatenate([each[np.isfinite(each)].ravel() for each in arrays])
    if not finite.size or (finite.min() >= 0 and finite.max() <= 1):
        return Limits(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if high - low <= max(abs(low), abs(high)) * 1e-9:
        slack = max(abs(low) * 0.1, MIN_DRAWN)
        return Limits(low - slack, high + slack)
    return Limits(low, high)


def symmetric_limit(values: Values) -> float:
    """The largest size, from which minus to plus is a scale; 1 where all is zero."""
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    return largest if largest > MIN_DRAWN else 1.0


def diverging() -> Colormap:
    """Blue below zero, white at zero, red above: told apart by the colour-blind, too."""
    return colormaps["RdBu_r"].with_extremes(bad=HIDDEN)
