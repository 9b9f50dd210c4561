"""`top2_margin` as it is defined: the plainest code there is.

a = the first class with the largest logit, b = the first with the largest of the rest,
margin = z_a - z_b.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audit_kernels.types import Top2


def top2_margin(logits: NDArray[np.floating], *, classes: bool) -> Top2:
    """See `Kernel`."""
    rows = np.arange(len(logits))
    a = logits.argmax(axis=1)
    rest = logits.copy()
    rest[rows, a] = -np.inf
    b = rest.argmax(axis=1)
    top = logits[rows, a]
    return Top2(top - logits[rows, b], top, np.stack([a, b], axis=1) if classes else None)
