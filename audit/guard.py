"""The guard: how far the fast pass may be from the canonical evaluation.

A sample is proposed where its fast margin is below ε + guard, so that a fast pass that is off by
no more than the guard can't lose a near tie. The guard is `SAFETY` times the largest disagreement
seen, and rounding grows with the numbers that are rounded: for a sample whose top-2 logits exceed
those of the samples the guard was measured on, it grows in proportion.

Every class counts, not just the top-2: a class whose fast logit is wrong may belong there. A logit
far from the top-2 (a class masked with -1e9) is judged relative to its own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit_kernels import get as get_kernel

# The largest of a few hundred disagreements underestimates the largest of millions.
SAFETY = 8.0
# Below this share of the logits' size, a measured disagreement is luck: float32 has 24 bits.
FLOOR = 16 * float(np.finfo(np.float32).eps)


# Disagreement of a sample with finite logits on the fast path alone: more than any float32 margin.
INCOMPARABLE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Guard:
    """A bound on |fast - canonical| of margins and logits.

    Attributes:
        value: The bound in logit units, for samples whose top-2 |logits| are up to `logit_scale`.
        logit_scale: Largest |logit| in the top-2 of the samples it was measured on, at least 1.
    """

    value: float
    logit_scale: float

    @classmethod
    def measured(cls, fast: NDArray[np.float32], canonical: NDArray[np.float64]) -> Guard:
        """The guard that follows from logits (N, C) of the same samples on both paths."""
        scale = float(_size(canonical).max())
        worst = float(cls(1.0, scale).disagreement(fast, canonical).max())
        return cls(max(SAFETY * worst, FLOOR * scale), scale)

    def widened(self, disagreement: float) -> Guard:
        """The guard after a scan saw this disagreement, larger than `value`."""
        return Guard(SAFETY * max(disagreement, self.value), self.logit_scale)

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64] | np.float64:
        """The guard of each row of fast logits (N, C): float64, (N,) or a scalar for all rows.

        Rows with NaN or infinity are proposed whatever their guard.
        """
        largest = np.float64(max(logits.max(initial=0), -logits.min(initial=0)))
        if largest <= self.logit_scale:
            return np.float64(self.value)
        size = _size(logits)
        growth = np.where(np.isfinite(size), np.maximum(1.0, size / self.logit_scale), 1.0)
        return self.value * growth

    def disagreement(
        self, fast: NDArray[np.float32], canonical: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Largest disagreement of each sample, comparable with `value`.

        |Δmargin|, or |Δz_c| of any class c; of a class beyond the top-2's size, |Δz_c| relative to
        its own. Divided by how much the guard has grown for the sample.

        Args:
            fast: Logits (N, C) of the fast pass.
            canonical: Logits (N, C) of the canonical evaluation of the same samples.

        Returns:
            float64 (N,); 0 where the fast logits aren't finite, since such samples are always
            proposed; `INCOMPARABLE` where only the canonical ones aren't.
        """
        known = np.isfinite(fast).all(axis=1)
        comparable = known & np.isfinite(canonical).all(axis=1)
        result = np.where(known, INCOMPARABLE, 0.0)
        near, far = fast[comparable].astype(np.float64), canonical[comparable]
        size = _size(far)
        relative = np.minimum(1.0, size[:, None] / np.maximum(1e-300, np.abs(far)))
        logits = (np.abs(near - far) * relative).max(axis=1, initial=0)
        margins = np.abs(margin(near) - margin(far))
        growth = self.of(fast[comparable]) / self.value
        result[comparable] = np.maximum(logits, margins) / growth
        return result


def _size(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Largest |logit| in the top-2 of each row, at least 1."""
    top2 = np.partition(logits.astype(np.float64), logits.shape[1] - 2, axis=1)[:, -2:]
    return np.asarray(np.maximum(1.0, np.abs(top2).max(axis=1)))


def margin(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Top-2 margin of each row, by the scan's own kernel."""
    return get_kernel("cpu")(logits, classes=False).margin
