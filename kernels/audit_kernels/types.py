"""What the implementations of the op take and return."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Top2(NamedTuple):
    """The two largest logits of each row, as arrays.

    Attributes:
        margin: z_a - z_b, (N,), in the logits' own dtype; float32 where that is float16. NaN for
            rows with NaN or infinity, and only for those.
        top: z_a, (N,), of the same dtype; no meaning where the margin is NaN.
        classes: a and b, int64 (N, 2), equal logits: lower class number first; None unless asked
            for. Within 0 to C - 1, but without a meaning where the margin is NaN.
    """

    margin: NDArray[np.floating]
    top: NDArray[np.floating]
    classes: NDArray[np.int64] | None


class TensorTop2(NamedTuple):
    """`Top2` as tensors, on the device of the logits; bfloat16 becomes float32, too."""

    margin: Tensor
    top: Tensor
    classes: Tensor | None


class Kernel(Protocol):
    """An implementation for arrays: logits (N, C), C ≥ 2, to `Top2`."""

    def __call__(self, logits: NDArray[np.floating], *, classes: bool, threads: int = 1) -> Top2:
        """Margins of every row, and its classes where they are asked for.

        Args:
            logits: float16, float32 or float64 (N, C), of any layout. Left as they are.
            classes: Whether classes are asked for.
            threads: How many may work on it, this one included; fewer do where more don't pay.

        Raises:
            TypeError: The logits have another dtype.
            ValueError: They aren't (N, C) with C ≥ 2.
        """
        ...


class TensorKernel(Protocol):
    """An implementation for tensors on a device: logits (N, C), C ≥ 2, to `TensorTop2`."""

    def __call__(self, logits: Tensor, *, classes: bool) -> TensorTop2:
        """Margins of every row, and its classes where they are asked for.

        Args:
            logits: float16, bfloat16, float32 or float64 (N, C), of any strides. Left as they are.
            classes: Whether classes are asked for.

        Raises:
            TypeError: The logits have another dtype.
            ValueError: They aren't (N, C) with C ≥ 2, or on a device that the kernel doesn't know.
        """
        ...
