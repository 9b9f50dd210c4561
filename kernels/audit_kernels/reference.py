"""`top2_margin` as it is defined: the plainest code there is.

a = the first class with the largest logit, b = the first with the largest of the rest,
margin = z_a - z_b, top = z_a.

Numbers count by value, so that 0.0 equals -0.0. The margin is computed in the logits' own dtype;
float16 and bfloat16 are converted to float32 first. It overflows to infinity where the difference
of two finite logits is too large for the dtype. For rows with any NaN or infinite logit it is NaN,
and a, b and top have no meaning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audit_kernels.arrays import as_logits
from audit_kernels.types import Top2


def top2_margin(logits: NDArray[np.floating], *, classes: bool, threads: int = 1) -> Top2:
    """See `Kernel`; on one thread."""
    logits = as_logits(logits)
    rows = np.arange(len(logits))
    a = logits.argmax(axis=1)
    rest = logits.copy()
    rest[rows, a] = -np.inf
    b = rest.argmax(axis=1)
    top = logits[rows, a]
    with np.errstate(invalid="ignore", over="ignore"):
        margin = top - logits[rows, b]
    margin[~np.isfinite(logits).all(axis=1)] = np.nan
    return Top2(margin, top, np.stack([a, b], axis=1) if classes else None)
