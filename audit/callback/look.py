"""One look at a batch: propose, decide, explain, as a scan does with a block.

Everything is taken from the weights of one moment, after the optimizer's step, in evaluation mode:
the flags, the classes and the gradients belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audit.callback.batches import array_from
from audit.callback.frozen import FrozenNetwork
from audit.decide import Kept, decide
from audit.found import Found, count_labels, count_margins
from audit.gradients import PairGradients
from audit.guard import Guard
from audit.options import ScanOptions
from audit.preprocess import Preprocess, layouts_of
from audit_kernels import Top2
from audit_kernels import get as get_kernel

# How far the fast logits may be off, relative to the larger of the two and of 1: TF32, and half
# precision within a layer, are off by 1e-3. A wider guard costs little, since it is relative to ε.
GUARD = Guard(1e-2, 1.0)
NO_MARGIN, NO_CLASSES = np.empty(0, np.float32), np.empty((0, 2), np.int32)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a batch was seen.

    Attributes:
        epoch: From 0.
        step: The optimizer's, Lightning's `global_step`.
        batch: Index of the batch in its epoch.
        stage: As a number, see `audit.callback.options.STAGES`.
    """

    epoch: int
    step: int
    batch: int
    stage: int


@dataclass(frozen=True, kw_only=True)
class Look(Found):
    """What a batch brought.

    Attributes:
        gradient: As found, float64.
        row: Of the flagged samples, place in the batch, int64 (M,).
        moment: When the batch was seen.
        disagreement: Largest of the fast logits with the canonical ones.
    """

    gradient: NDArray[Any]
    row: NDArray[np.int64]
    moment: Moment
    disagreement: float


def look(
    network: FrozenNetwork,
    x: Tensor,
    label: NDArray[np.int64],
    *,
    preprocess: Preprocess,
    options: ScanOptions,
    moment: Moment,
    start: int,
    most: int | None = None,
) -> Look:
    """The near ties of a batch.

    Args:
        network: Of this moment.
        x: Samples as the module gets them, (N, …).
        label: True classes, -1 where unknown, (N,).
        preprocess: That of `identity`.
        options: ε and min_logit.
        moment: When the batch is seen.
        start: Samples that were looked at before.
        most: Flagged samples to keep, the closest; None: all.

    Raises:
        GuardBroken: The canonical logits differ from the fast ones by more than rounding.
        ModelError: The network fails.
    """
    fast = network.fast_logits(x)
    top2 = get_kernel("numpy")(fast, classes=False)
    near = _proposed(top2, options)
    rows = np.flatnonzero(near)
    settled = _NOTHING
    if len(rows):
        raw = array_from(x[torch.from_numpy(rows).to(x.device)])
        kept = Kept(rows, raw, fast[rows], near[rows])
        settled = _settled(network, preprocess, options, kept, most)
    own = label[rows]
    right = settled.finite & (settled.classes[:, 0] == own)
    flagged = rows[settled.flagged]
    return Look(
        scanned=len(label),
        index=start + flagged,
        classes=settled.classes[settled.flagged],
        logits=settled.logits,
        margin=settled.margin,
        label=label[flagged],
        input=settled.input,
        gradient=settled.explained.gradient,
        distance_l2=settled.explained.distance_l2,
        distance_linf=settled.explained.distance_linf,
        degenerate=int(settled.explained.degenerate.sum()),
        nonfinite_index=start + rows[~settled.finite],
        margin_counts=count_margins(top2.margin),
        label_counts=count_labels(label, fast.shape[1]),
        correct=_right_by_far(fast, top2, label, near) + int(right.sum()),
        scan_margin=NO_MARGIN,
        scan_classes=NO_CLASSES,
        row=flagged,
        moment=moment,
        disagreement=settled.disagreement,
    )


def identity(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Preprocess:
    """Input space is the batch itself, as the module gets it."""
    return Preprocess(
        raw_shape=shape,
        raw_dtype=str(dtype),
        raw_layout=next(iter(layouts_of(shape))),
        input_shape=shape,
        scale=1.0,
        offset=0.0,
        mean=(0.0,),
        std=(1.0,),
    )


@dataclass(frozen=True)
class _Settled:
    """What was proposed, k samples, decided, and M of them explained.

    Attributes:
        finite: Which have finite logits, bool (k,).
        classes: Top-2 of each, int64 (k, 2).
        flagged: Those that are near ties and kept, as places among the k, int64 (M,).
        logits: z_a, z_b of those, float64 (M, 2).
        margin: Theirs, float64 (M,).
        input: They themselves.
        explained: Their gradients and distances.
        disagreement: Largest of the fast logits with the canonical ones.
    """

    finite: NDArray[np.bool_]
    classes: NDArray[np.int64]
    flagged: NDArray[np.int64]
    logits: NDArray[np.float64]
    margin: NDArray[np.float64]
    input: NDArray[Any]
    explained: PairGradients
    disagreement: float


_NOTHING = _Settled(
    finite=np.empty(0, bool),
    classes=np.empty((0, 2), np.int64),
    flagged=np.empty(0, np.int64),
    logits=np.empty((0, 2)),
    margin=np.empty(0),
    input=np.empty(0),
    explained=PairGradients(np.empty(0), np.empty(0), np.empty(0), np.empty(0, bool)),
    disagreement=0.0,
)


def _settled(
    network: FrozenNetwork,
    preprocess: Preprocess,
    options: ScanOptions,
    kept: Kept,
    most: int | None,
) -> _Settled:
    decided = decide(lambda: network, preprocess.to_input_space, GUARD, options, kept)
    flagged = np.flatnonzero(decided.flagged)
    margin = decided.logits[flagged, 0] - decided.logits[flagged, 1]
    if most is not None:
        closest = np.sort(margin.argsort(kind="stable")[:most])
        flagged, margin = flagged[closest], margin[closest]
    raw = kept.raw[flagged]
    return _Settled(
        finite=decided.finite,
        classes=decided.classes,
        flagged=flagged,
        logits=decided.logits[flagged],
        margin=margin,
        input=raw,
        explained=network.pair_gradients(
            preprocess.to_input_space(raw), decided.classes[flagged], margin
        ),
        disagreement=decided.disagreement,
    )


def _proposed(top2: Top2, options: ScanOptions) -> NDArray[np.bool_]:
    guard = GUARD.of(top2)
    near = ~(top2.margin >= options.eps + guard)  # NaN: not finite
    if options.min_logit is not None:
        # Early in training most samples nearly tie, and few have an opinion.
        near &= np.isnan(top2.margin) | (top2.top > options.min_logit - guard)
    return np.asarray(near)


def _right_by_far(
    fast: NDArray[np.float32],
    top2: Top2,
    label: NDArray[np.int64],
    near: NDArray[np.bool_],
) -> int:
    """Samples that weren't proposed and are classified as labelled."""
    known = ~near & (label >= 0)
    of_label = np.take_along_axis(fast, np.maximum(label, 0)[:, None], axis=1)[:, 0]
    # Two equals there have no opinion: which of them is counted as right is of no weight.
    return int((known & (of_label == top2.top)).sum())
