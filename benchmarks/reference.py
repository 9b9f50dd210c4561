"""What a scan must find, and what a float32 peer may: by float64 eager evaluation."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Model, cached, digest, fingerprint
from oracles import all_logits, relative_errors

# A float32 pass moves margins by up to 2e-5 (DESIGN, section 8); fifty times that is still far
# below what a wrong preprocessing or a lost sample would do.
FLOAT32 = 1e-3


# Gradients agree to rounding, but for the few samples where a ReLU's input is so close to 0 that
# float32 takes its other side.
FLOAT32_GRADIENTS = 1e-5
FLOAT32_KINKS = 0.1
FLOAT64_GRADIENTS = 1e-9


def assert_gradients(theirs: NDArray[Any], ours: NDArray[Any]) -> None:
    """The peer's pair gradients (M, 2, …) are ours as far as its precision goes."""
    assert len(theirs) == len(ours) > 0
    errors = relative_errors(theirs, ours)
    if theirs.dtype == np.float64:
        assert errors.max() < FLOAT64_GRADIENTS
    else:
        assert np.median(errors) < FLOAT32_GRADIENTS
        assert errors.max() < FLOAT32_KINKS


class Reference(NamedTuple):
    """Of every image.

    Attributes:
        margin: float64 (N,).
        classes: Top-2, int64 (N, 2).
    """

    margin: NDArray[np.float64]
    classes: NDArray[np.int64]

    def flagged(self, eps: float) -> NDArray[np.int64]:
        """Positions of the near ties."""
        return np.flatnonzero(self.margin < eps)

    def assert_peer_found(self, index: NDArray[np.int64], eps: float) -> None:
        """All near ties and nothing else, but for those that float32 can't decide."""
        surely = self.flagged(eps - FLOAT32)
        possibly = self.flagged(eps + FLOAT32)
        assert np.isin(surely, index).all()
        assert np.isin(index, possibly).all()


def reference(model: Model, raw: NDArray[np.uint8]) -> Reference:
    """Evaluated once and kept where git doesn't see it; minutes for ResNet."""
    kept = cached(f"reference-{digest(fingerprint(model), raw.shape, raw)}.npy")
    if kept.exists():
        logits = np.load(kept)
    else:
        module = copy.deepcopy(model.from_input_space()).double().eval()
        logits = all_logits(module, model.input_space(raw))
        np.save(kept, logits)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    pair = np.take_along_axis(logits, order, axis=1)
    return Reference(pair[:, 0] - pair[:, 1], order)
