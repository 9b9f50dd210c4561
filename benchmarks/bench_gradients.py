"""Both gradients of near ties, `audit`'s canonical ones against Captum's Saliency.

Ours are float64, so Captum is measured in both precisions: float32 is what its users run and does
half the arithmetic, float64 is the same work. The samples are those with the smallest margins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audit.bundle import TORCHSCRIPT
from audit.gradients import Canonical
from benchmarks import peers, stages
from benchmarks.conftest import Work
from benchmarks.contest import Claim, Contest
from benchmarks.data import Scale
from benchmarks.reference import assert_gradients

MAKE = Callable[[str], Work]
ALONE = 5  # a share of the samples is enough for those who go one at a time: a fifth


class Samples(NamedTuple):
    """In input space, float32 (M, …), with the tied classes (M, 2) and their margins (M,)."""

    x: NDArray[np.float32]
    classes: NDArray[np.int64]
    margin: NDArray[np.float64]


class Both(NamedTuple):
    """The contestants' models, and the peer's input."""

    canonical: Canonical
    eager: nn.Module
    x: Tensor


def closest(work: Work, count: int) -> Samples:
    """The samples with the smallest margins."""
    rows = np.sort(np.argsort(work.reference.margin, kind="stable")[:count])
    return Samples(
        work.model.input_space(work.raw[rows]),
        work.reference.classes[rows],
        work.reference.margin[rows],
    )


def both(work: Work, samples: Samples, dtype: str) -> Both:
    """Ours from the bundle, the peer's as its user has it: parameters not frozen."""
    canonical = Canonical(
        work.bundle.read(TORCHSCRIPT), device="cpu", threads=stages.threads(), source="bundle"
    )
    kind = getattr(torch, dtype)
    eager = copy.deepcopy(work.model.from_input_space()).eval().to(kind)
    return Both(canonical, eager, torch.from_numpy(samples.x).to(kind))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_captum_one_sample_at_a_time(
    contest: Contest, work: MAKE, scale: Scale, dtype: str
) -> None:
    this = work("cnn")
    samples = closest(this, max(1, scale.gradients // ALONE))
    models, classes = both(this, samples, dtype), torch.from_numpy(samples.classes)
    claim = Claim(
        work=f"both gradients of {len(samples.x):,} near ties, {this.model.name}",
        against=f"Captum Saliency, one sample at a time, {dtype} (ours: float64)",
        goal=4.0,
    )
    contest.run(
        claim,
        lambda: models.canonical.pair_gradients(*samples),
        lambda: peers.captum_one_at_a_time(models.eager, models.x, classes),
        lambda ours, theirs: assert_gradients(theirs, ours.gradient),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("model", "goal"), [("cnn", 1.7), ("resnet", 1.3)])
def test_against_captum_in_one_batch(
    contest: Contest, work: MAKE, scale: Scale, model: str, goal: float, dtype: str
) -> None:
    this = work(model)
    samples = closest(this, scale.gradients if model == "cnn" else scale.rgb_gradients)
    models, classes = both(this, samples, dtype), torch.from_numpy(samples.classes)
    claim = Claim(
        work=f"both gradients of {len(samples.x):,} near ties, {this.model.name}",
        against=f"Captum Saliency called twice on the batch, eager, {dtype} (ours: float64)",
        goal=goal,
    )
    contest.run(
        claim,
        lambda: models.canonical.pair_gradients(*samples),
        lambda: peers.captum_batched(models.eager, models.x, classes),
        lambda ours, theirs: assert_gradients(theirs, ours.gradient),
    )
