"""What every implementation of the op takes and returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Top2(NamedTuple):
    """The two largest logits of each row; rows with NaN or infinity hold no meaning.

    Attributes:
        margin: z_a - z_b in the logits' own dtype, (N,).
        top: z_a, (N,).
        classes: a and b, int64 (N, 2), equal logits: lower class number first; None unless asked
            for.
    """

    margin: NDArray[np.floating]
    top: NDArray[np.floating]
    classes: NDArray[np.int64] | None


class Kernel(Protocol):
    """An implementation: logits (N, C) with C ≥ 2, float32 or float64, to `Top2`."""

    def __call__(self, logits: NDArray[np.floating], *, classes: bool) -> Top2:
        """Margins of every row, and its classes where they are asked for."""
        ...
