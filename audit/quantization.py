"""A float32 graph → a quantised one, by the settings that measure best.

What a setting is worth shows on samples that nothing was calibrated on: how far its logits are
from canonical, how many samples a scan would propose by that, and its time.

Weights of 7 bits come first: the sums of a processor without VNNI instructions saturate with 8, and
then are off by many times more. Nobody knows where a bundle will be scanned.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.errors import BundleError, DatasetError, ModelError
from audit.forward import Forward, available_threads
from audit.gradients import Canonical
from audit.guard import QUANTISED_SAFETY, Guard, margin
from audit.manifest import METHODS, ONNX_INT8, Int8
from audit.quantiser import Quantiser, Setting
from audit.samples import CalibrationSamples, default_batch_size

QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
EPS = (0.01, 0.03, 0.1, 0.3, 1.0)
JUDGED_BY = 0.1  # the ε that the share of proposed samples is weighed at
Change = Callable[[Setting], Setting]
METHOD_CHANGES: tuple[Change, ...] = tuple(
    partial(Setting._replace, method=method) for method in METHODS
)
SWITCHES: tuple[Change, ...] = (
    lambda setting: setting._replace(float_first=True),
    lambda setting: setting._replace(layers_only=True),
    lambda setting: setting._replace(reduce_range=False),
)
TRIAL_BATCH = 64
TIMED_BATCHES = 7
NOISE = 0.1  # times this close are the same
# 8 bits must be better by this much: elsewhere they may be far worse.
WORTH_8_BITS = 0.8


class Trial(NamedTuple):
    """What a setting is worth.

    Attributes:
        setting: Which.
        graph: The quantised ONNX.
        logits: float32 (N, C) of the held-out samples.
        guard: That follows from them.
        time: Relative to that of the float32 graph.
    """

    setting: Setting
    graph: bytes
    logits: NDArray[np.float32]
    guard: Guard
    time: float

    @property
    def cost(self) -> float:
        """Time of a whole cascade, relative to the float32 graph alone."""
        return self.time + self.proposed(JUDGED_BY)

    def proposed(self, eps: float) -> float:
        """Share of the samples that a scan proposes to the float32 graph."""
        return float(np.mean(~(margin(self.logits) >= eps + self.guard.value)))


class Quantised(NamedTuple):
    """The graph that won, and the manifest's record of it."""

    graph: bytes
    record: Int8


class HeldOut(NamedTuple):
    """Samples that nothing is calibrated on: raw, and canonical logits float64 (N, C)."""

    raw: NDArray[np.generic]
    exact: NDArray[np.float64]
    batch: int


def quantise(graph: bytes, canonical: Canonical, samples: CalibrationSamples) -> Quantised:
    """Try a few settings, each change kept where it pays.

    Args:
        graph: The float32 ONNX graph from raw samples on.
        canonical: What it should compute.
        samples: To calibrate on, and to measure by.

    Raises:
        ModelError: ONNX Runtime can't quantise the network, or not to finite logits.
        DatasetError: The samples' own logits aren't finite.
    """
    held_out = _held_out(canonical, samples)
    single = _forward(graph)
    with tempfile.TemporaryDirectory(prefix="audit-int8-") as folder:
        quantiser = Quantiser(graph, Path(folder), samples.calibrated)
        best: Trial | None = None
        failure: ModelError | None = None
        for change in (*METHOD_CHANGES, *SWITCHES):
            setting = change(best.setting if best else Setting(METHODS[0]))
            if setting.float_first and len(quantiser.layers) == 1:
                continue
            try:
                trial = _trial(quantiser, setting, held_out, single)
            except ModelError as exc:  # a histogram of equal values, for one
                failure = failure or exc
                continue
            best = trial if best is None or _better(trial, best) else best
        if best is None:
            assert failure is not None
            raise failure
    return Quantised(best.graph, _record(best, quantiser, samples, held_out))


def _better(trial: Trial, best: Trial) -> bool:
    """By the guard where their times are the same, else by the time of the whole cascade."""
    gain = WORTH_8_BITS if trial.setting.reduce_range < best.setting.reduce_range else 1.0
    if abs(trial.time / best.time - 1) < NOISE:
        return trial.guard.value < gain * best.guard.value
    return trial.cost < gain * best.cost


def _held_out(canonical: Canonical, samples: CalibrationSamples) -> HeldOut:
    size = default_batch_size(math.prod(samples.preprocess.input_shape))
    raw = samples.held_out
    exact = np.concatenate(
        [
            canonical.logits(samples.preprocess.to_input_space(raw[start : start + size]))
            for start in range(0, len(raw), size)
        ]
    )
    if not np.isfinite(exact).all():
        raise DatasetError(
            f"{samples.source}: logits of calibration samples are NaN or infinite; leave such "
            "samples out"
        )
    return HeldOut(raw, exact, min(size, TRIAL_BATCH))


def _trial(quantiser: Quantiser, setting: Setting, held_out: HeldOut, single: Forward) -> Trial:
    graph = quantiser.graph(setting)
    starts = range(0, len(held_out.raw), held_out.batch)
    try:
        forward = _forward(graph)
        logits = np.concatenate(
            [forward.logits(held_out.raw[start : start + held_out.batch]) for start in starts]
        )
    except BundleError as exc:
        raise ModelError(f"the quantised network fails: {exc}; leave --int8 out") from exc
    if not np.isfinite(logits).all():
        raise ModelError(
            f"the quantised network's logits are NaN or infinite ({setting.method} calibration); "
            "leave --int8 out"
        )
    guard = Guard.measured(logits, held_out.exact, QUANTISED_SAFETY)
    return Trial(setting, graph, logits, guard, _relative_time(forward, single, held_out))


def _forward(graph: bytes) -> Forward:
    return Forward(graph, device="cpu", threads=available_threads(), source=ONNX_INT8)


def _relative_time(forward: Forward, single: Forward, held_out: HeldOut) -> float:
    """Best times of a batch, taken in turn: what disturbs only makes them longer."""
    raw = held_out.raw[: held_out.batch]
    taken: dict[Forward, list[float]] = {forward: [], single: []}
    for _ in range(TIMED_BATCHES):
        for each, seconds in taken.items():
            started = time.perf_counter()
            each.logits(raw)
            seconds.append(time.perf_counter() - started)
    return min(taken[forward]) / min(taken[single])


def _record(
    best: Trial,
    quantiser: Quantiser,
    samples: CalibrationSamples,
    held_out: HeldOut,
) -> Int8:
    setting = best.setting
    disagreement = best.guard.disagreement(best.logits, held_out.exact)
    return Int8(
        method=setting.method,
        activations="uint8",
        weights="int8",
        per_channel=True,
        reduce_range=setting.reduce_range,
        layers_only=setting.layers_only,
        float_nodes=tuple(quantiser.float_nodes(setting)),
        source=samples.source,
        samples=len(samples.calibrated),
        held_out=len(held_out.raw),
        raw_range=(
            float(min(samples.calibrated.min(), samples.held_out.min())),
            float(max(samples.calibrated.max(), samples.held_out.max())),
        ),
        disagreement={f"{q:g}": float(np.quantile(disagreement, q)) for q in QUANTILES},
        logit_scale=best.guard.logit_scale,
        guard=best.guard.value,
        proposed={f"{eps:g}": best.proposed(eps) for eps in EPS},
        speedup=1 / best.time,
    )
