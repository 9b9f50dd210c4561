"""How much of each picture a page can hold: exactly, coarser in value, coarser in space, or fewer.

A page of 500 samples is to stay below 10 MB. What doesn't fit is first rounded where it hurts
least: gradients are for looking, so they become int8, each with a scale of its own. Then blocks of
pixels are averaged, of samples and gradients alike: averaging commutes with x + k · gradient, so
what the page computes is the average of what it would have computed. What is coarser than
`MIN_SIDE` shows nothing; then the samples at the end of the gallery go without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BUDGET = 9_000_000  # characters of base64, all pictures of a page
MIN_SIDE = 24  # pixels of the longest side that averaging leaves
FIRST_SPATIAL = {2: 1, 3: 1, 4: 1}  # rank of the input → its first axis that can be averaged over
ITEM_BYTES = {"uint8": 1, "float16": 4, "float32": 4, "float64": 8}  # float16 is sent as float32


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What is embedded of each sample's arrays.

    Attributes:
        pictured: So many samples have any, the first of the gallery.
        shape: Of an embedded sample, channels first.
        dtype: Of its values as stored: uint8, float32 or float64.
        factor: Side of the blocks of pixels that are averaged; 1: none are.
        gradient: Dtype of a gradient: float32, int8, or None where there are none.
    """

    pictured: int
    shape: tuple[int, ...]
    dtype: str
    factor: int
    gradient: str | None


def choose_encoding(
    samples: int,
    shape: tuple[int, ...],
    raw_dtype: str,
    *,
    gradients: bool,
    budget: int = BUDGET,
) -> Encoding:
    """The first rung of the ladder on which all samples fit.

    Args:
        samples: In the gallery.
        shape: Of the input, channels first.
        raw_dtype: Of a stored sample.
        gradients: Whether there are any.
        budget: Characters of base64.
    """
    exact = "float32" if raw_dtype == "float16" else raw_dtype
    averaged = "uint8" if raw_dtype == "uint8" else "float32"
    coarse = "int8" if gradients else None
    rungs: list[tuple[int, str, str | None]] = [(1, exact, "float32")] if gradients else []
    rungs.append((1, exact, coarse))
    rungs += [(factor, averaged, coarse) for factor in range(2, _largest_factor(shape) + 1)]
    for factor, dtype, gradient in rungs:
        small = averaged_shape(shape, factor)
        each = _characters(small, dtype, gradient)
        pictured = min(samples, budget // each)
        if pictured == samples:
            break
    return Encoding(pictured=pictured, shape=small, dtype=dtype, factor=factor, gradient=gradient)


def averaged_shape(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """What averaging blocks of that side leaves; blocks at the end may be narrower."""
    first = first_spatial(shape)
    return shape[:first] + tuple(math.ceil(size / factor) for size in shape[first:])


def first_spatial(shape: tuple[int, ...]) -> int:
    """The first axis that can be averaged over: not channels, not features."""
    return FIRST_SPATIAL.get(len(shape), len(shape))


def _largest_factor(shape: tuple[int, ...]) -> int:
    spatial = shape[first_spatial(shape) :]
    return max(1, max(spatial) // MIN_SIDE) if spatial else 1


def _characters(shape: tuple[int, ...], dtype: str, gradient: str | None) -> int:
    size = math.prod(shape)
    characters = _base64(size * ITEM_BYTES[dtype])
    if gradient is not None:
        characters += _base64(2 * size * (4 if gradient == "float32" else 1))
    return characters


def _base64(count: int) -> int:
    return 4 * math.ceil(count / 3)
