"""What decides where nobody vouches for a bundle: its ONNX graph. TorchScript can run code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.decide import Decided
from audit.forward import Forward
from audit.guard import Guard
from audit.options import ScanOptions
from audit_kernels import Top2


class GraphLogits:
    """The float32 graph in the place of the canonical path, one raw sample at a time.

    So what it says of a sample hangs on nothing but the sample; but it is rounded to float32, and
    within the guard of a threshold it may err.
    """

    def __init__(self, forward: Forward) -> None:
        """Take the session of the graph."""
        self._forward = forward

    def logits(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Logits (N, C) of raw samples (N, *raw_shape)."""
        each = [self._forward.logits(x[row : row + 1]) for row in range(len(x))]
        return np.concatenate(each).astype(np.float64)

    logits_alone = logits


def undecided(decided: Decided, guard: Guard, options: ScanOptions) -> int:
    """How many samples the graph may flag wrongly, or give their classes in the wrong order.

    Args:
        decided: By the graph; k samples.
        guard: How far its margins may be from the canonical ones.
        options: ε and min_logit.
    """
    z_a, z_b = decided.logits[decided.finite].T
    margin = z_a - z_b
    reach = guard.of(Top2(margin=margin, top=z_a, classes=None))
    near = (np.abs(margin - options.eps) <= reach) | (margin <= reach)
    if options.min_logit is not None:
        near |= np.abs(z_a - options.min_logit) <= reach
    return int(near.sum())
