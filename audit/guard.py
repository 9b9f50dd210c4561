"""The guard: how far the fast pass may be from the canonical evaluation.

A sample is proposed where its fast margin is below ε + guard, so that a fast pass that is off by
no more than the guard can't lose a near tie. The guard is `SAFETY` times the largest disagreement
seen, and rounding grows with the numbers that are rounded: for a sample whose largest |logit|
exceeds that of the samples the guard was measured on, it grows in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The largest of a few hundred disagreements underestimates the largest of millions.
SAFETY = 8.0
# Below this share of the logits' size, a measured disagreement is luck: float32 has 24 bits.
FLOOR = 16 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Guard:
    """A bound on |fast - canonical| of margins and largest logits.

    Attributes:
        value: The bound in logit units, for samples with |logits| up to `logit_scale`.
        logit_scale: Largest |logit| of the samples it was measured on, at least 1.
    """

    value: float
    logit_scale: float

    @classmethod
    def from_disagreement(cls, disagreement: float, logit_scale: float) -> Guard:
        """The guard that follows from the largest disagreement seen, in logit units."""
        scale = max(1.0, logit_scale)
        return cls(max(SAFETY * disagreement, FLOOR * scale), scale)

    def widened(self, disagreement: float) -> Guard:
        """The guard after a scan saw this disagreement, larger than `value`."""
        return Guard(SAFETY * max(disagreement, self.value), self.logit_scale)

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64] | np.float64:
        """The guard of each row of fast logits (N, C): float64, (N,) or a scalar for all rows."""
        return self.value * self._growth(logits)

    def disagreement(
        self, fast: NDArray[np.float32], canonical: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """|Δmargin| or |Δ largest logit|, whichever is larger, in units of `value`'s scale.

        Args:
            fast: Logits (N, C) of the fast pass.
            canonical: Logits (N, C) of the canonical evaluation of the same samples.

        Returns:
            float64 (N,); 0 where either has non-finite logits: such samples are always proposed.
        """
        finite = np.isfinite(fast).all(axis=1) & np.isfinite(canonical).all(axis=1)
        result = np.zeros(len(fast))
        near = np.sort(fast[finite].astype(np.float64), axis=1)[:, -2:]
        far = np.sort(canonical[finite], axis=1)[:, -2:]
        top = np.abs(near[:, 1] - far[:, 1])
        margin = np.abs((near[:, 1] - near[:, 0]) - (far[:, 1] - far[:, 0]))
        result[finite] = np.maximum(top, margin) / self._growth(fast[finite])
        return result

    def _growth(self, logits: NDArray[np.float32]) -> NDArray[np.float64] | np.float64:
        largest = np.float64(max(logits.max(initial=0), -logits.min(initial=0)))
        if largest <= self.logit_scale:
            return np.float64(1.0)
        # Rows with NaN or infinity are proposed whatever their guard.
        each = np.abs(logits.astype(np.float64)).max(axis=1)
        return np.where(np.isfinite(each), np.maximum(1.0, each / self.logit_scale), 1.0)
