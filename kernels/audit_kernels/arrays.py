"""Logits as the array kernels compute with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def as_logits(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Checked logits (N, C) in the dtype of their margins, in native byte order.

    Raises:
        TypeError: They are no float16, float32 or float64.
        ValueError: They aren't (N, C) with C ≥ 2.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits of shape {logits.shape}; expected (rows, classes), 2 classes up")
    dtype = logits.dtype.newbyteorder("=")
    if dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"logits of dtype {dtype}; expected float16, float32 or float64")
    return logits.astype(np.float32 if dtype == np.float16 else dtype, copy=False)
