"""The guard: how far the fast pass may be from the canonical evaluation.

A sample is proposed where its fast margin is below ε + guard, so that a fast pass that is off by
no more than the guard can't lose a near tie. The guard is a multiple of the largest disagreement
seen, and rounding grows with the numbers that are rounded: for a sample whose top-2 logits exceed
those of the samples the guard was measured on, it grows in proportion.

What could make a near tie of a sample that isn't proposed, or give it another class, is an error
of z_a - z_c, a being the fast pass's first class and c any other: that is what is compared. An
error that all logits share changes nothing. A logit far from the top-2 (a class masked with -1e9)
is judged relative to its own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit_kernels import Top2
from audit_kernels import get as get_kernel

# The largest of a few hundred disagreements underestimates the largest of millions.
SAFETY = 8.0
# Of a quantised graph: its errors are no rounding, but have the spread of the data itself, and a
# thousand of them show it well. A larger factor would propose most of the data.
QUANTISED_SAFETY = 1.5
# Below this share of the logits' size, a measured disagreement is luck: float32 has 24 bits.
FLOOR = 16 * float(np.finfo(np.float32).eps)


# Disagreement of a sample with finite logits on the fast path alone: more than any float32 margin.
INCOMPARABLE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Guard:
    """A bound on the disagreement of a fast path with one that is more exact.

    Attributes:
        value: The bound in logit units, for samples whose top-2 |logits| are up to `logit_scale`.
        logit_scale: Largest |logit| in the top-2 of the samples it was measured on, at least 1.
        safety: How many times the largest disagreement it is.
    """

    value: float
    logit_scale: float
    safety: float = SAFETY

    @classmethod
    def measured(
        cls, fast: NDArray[np.float32], canonical: NDArray[np.float64], safety: float = SAFETY
    ) -> Guard:
        """The guard that follows from logits (N, C) of the same samples on both paths."""
        scale = float(_size(canonical).max())
        worst = float(cls(1.0, scale).disagreement(fast, canonical).max())
        return cls(max(safety * worst, FLOOR * scale), scale, safety)

    def widened(self, disagreement: float) -> Guard:
        """The guard after a scan saw this disagreement, larger than `value`."""
        return Guard(self.safety * max(disagreement, self.value), self.logit_scale, self.safety)

    def of(self, top2: Top2) -> NDArray[np.float64] | np.float64:
        """The guard of each sample, from its fast top-2: float64, (N,) or a scalar for all.

        Samples whose margin is NaN (NaN or infinity among their logits) are proposed whatever
        their guard.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.maximum(np.abs(top2.top), np.abs(top2.top - top2.margin))
        if not np.fmax.reduce(size, initial=0) > self.logit_scale:
            return np.float64(self.value)
        finite = np.where(np.isfinite(size), size, 0).astype(np.float64)
        return self.value * np.maximum(1.0, finite / self.logit_scale)

    def disagreement(
        self, fast: NDArray[np.float32], canonical: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Largest disagreement of each sample, comparable with `value`.

        max over c of |Δ(z_a - z_c)|, a being the largest fast logit; of a class beyond the top-2's
        size, relative to its own. Divided by how much the guard has grown for the sample. It is
        never less than |Δmargin|.

        Args:
            fast: Logits (N, C) of the fast pass.
            canonical: Logits (N, C) of the more exact evaluation of the same samples.

        Returns:
            float64 (N,); 0 where the fast logits aren't finite, since such samples are always
            proposed; `INCOMPARABLE` where only the canonical ones aren't.
        """
        known = np.isfinite(fast).all(axis=1)
        comparable = known & np.isfinite(canonical).all(axis=1)
        result = np.where(known, INCOMPARABLE, 0.0)
        near, far = fast[comparable].astype(np.float64), canonical[comparable].astype(np.float64)
        first = near.argmax(axis=1)[:, None]
        change = near - far
        change = np.abs(change - np.take_along_axis(change, first, axis=1))
        relative = np.minimum(1.0, _size(far)[:, None] / np.maximum(1e-300, np.abs(far)))
        growth = self.of(get_kernel("numpy")(fast[comparable], classes=False)) / self.value
        result[comparable] = (change * relative).max(axis=1, initial=0) / growth
        return result


def _size(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Largest |logit| in the top-2 of each row, at least 1."""
    top2 = np.partition(logits.astype(np.float64), logits.shape[1] - 2, axis=1)[:, -2:]
    return np.asarray(np.maximum(1.0, np.abs(top2).max(axis=1)))


def margin(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Top-2 margin of each row, by the scan's own kernel."""
    return get_kernel("numpy")(logits, classes=False).margin
