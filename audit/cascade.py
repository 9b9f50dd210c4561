"""Which graphs of a bundle scan, and with which guards: measured on the data and the machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.bundle import ONNX, ONNX_INT8, Bundle
from audit.dataset import Dataset
from audit.errors import OptionError
from audit.fast_pass import Level, outside, proposed_by_data
from audit.forward import Forward
from audit.guard import Guard, margin
from audit.options import ScanOptions

CHECKS = 256  # samples a scan that are decided though they weren't proposed
# Samples that are computed in float32 though the quantised graph didn't propose them: one in a
# hundred costs less than that, and a few thousand bound what is missed to 0.1 %.
QUANTISED_CHECKS = (256, 4096)
SHARE_CHECKED = 0.01
SEED = 0
TRIAL = (64, 512)  # samples that a choice is made by, at least and at most
SHARE_TRIED = 0.0025  # of all samples: twice that many forward calls
TRIAL_BATCH = 32
SHARE_OF_LIMIT = 1 / 16  # of the memory limit, that the trial's samples may take
SPANS = 4  # places that the trial's samples are read from
WORTH = 0.95  # of float32's time: less gain than that is noise


class Trial(NamedTuple):
    """Both graphs on a few samples of the dataset, on this machine.

    Attributes:
        guard: The quantised graph's: the exported one, or a wider one where that doesn't hold here.
        proposed: Share of the samples that it proposes.
        quantised_seconds: Of one sample on one thread.
        single_seconds: The same of the float32 graph.
    """

    guard: Guard
    proposed: float
    quantised_seconds: float
    single_seconds: float

    @property
    def pays(self) -> bool:
        """Whether the cascade is faster than the float32 graph alone."""
        again = (self.proposed + SHARE_CHECKED) * self.single_seconds
        return self.quantised_seconds + again < WORTH * self.single_seconds


class Choice(NamedTuple):
    """A level as it was chosen; with the bundle and the number of samples it can be made again."""

    precision: str
    guard: Guard


def make_levels(
    bundle: Bundle, options: ScanOptions, samples: int, choices: Sequence[Choice]
) -> tuple[Level, ...]:
    """The cascade as it was chosen by an earlier run of the same scan.

    Args:
        bundle: Where the graphs are.
        options: The device.
        samples: How many are scanned.
        choices: Of the first level to the last.

    Raises:
        BundleError: A graph can't be run, or the bundle hasn't got it.
        DeviceError: The device can't be had.
    """
    checks = _checks(samples)
    return tuple(_level(bundle, options, choice, checks[choice.precision]) for choice in choices)


def choose_levels(
    bundle: Bundle, dataset: Dataset, options: ScanOptions, samples: int
) -> tuple[Level, ...]:
    """The cascade: the float32 graph alone, or behind the quantised one.

    Args:
        bundle: Where the graphs are.
        dataset: To be scanned.
        options: Precision and device.
        samples: How many will be scanned.

    Raises:
        OptionError: int8 was asked for, and can't be had.
        BundleError: A graph can't be run.
        DeviceError: The device can't be had.
    """
    checks = _checks(samples)
    single = _level(bundle, options, Choice("float32", bundle.guard), checks["float32"])
    exported, record = bundle.int8_guard, bundle.manifest.int8
    if exported is None or record is None or not _may_quantise(options):
        if options.precision == "int8":
            raise OptionError(f"--precision int8: {_why_not(bundle, options)}")
        return (single,)
    quantised = _level(bundle, options, Choice("int8", exported), checks["int8"])
    raw, reach = _few(dataset, samples, options.memory_limit), options.eps + bundle.guard.value
    trial = _try(quantised.forward, single.forward, exported, raw, record.raw_range, reach)
    if options.precision == "auto" and not trial.pays:
        return (single,)
    return replace(quantised, guard=trial.guard), single


def _may_quantise(options: ScanOptions) -> bool:
    """What every sample's margin is recorded of should be as exact as a scan can be."""
    return options.precision != "float32" and options.device == "cpu" and not options.keep_all


def _why_not(bundle: Bundle, options: ScanOptions) -> str:
    if options.device != "cpu":
        return f"runs on the CPU; got --device {options.device}. Leave one of both out"
    if options.keep_all:
        return (
            "--keep-all records every sample's margin as exactly as a scan can; leave one of both "
            "out"
        )
    return (
        f"the bundle {bundle.manifest.name!r} has no {ONNX_INT8}; export it with --int8 "
        "--calibration DATA.h5, or leave --precision out"
    )


def _level(
    bundle: Bundle, options: ScanOptions, choice: Choice, checks: NDArray[np.int64]
) -> Level:
    name, record = ONNX, None
    if choice.precision == "int8":
        name, record = ONNX_INT8, bundle.manifest.int8
    raw_range = record.raw_range if record else None
    return Level(choice.precision, _forward(bundle, name, options), choice.guard, checks, raw_range)


def _forward(bundle: Bundle, name: str, options: ScanOptions) -> Forward:
    # One thread within an operator: the scan's own threads each compute a batch.
    return Forward(
        bundle.read(name), device=options.device, threads=1, source=str(bundle.path / name)
    )


def _checks(samples: int) -> dict[str, NDArray[np.int64]]:
    """Positions that go on from each level though they aren't proposed, by precision."""
    rng = np.random.default_rng(SEED)
    least, most = QUANTISED_CHECKS
    return {
        "float32": _drawn(rng, samples, CHECKS),
        "int8": _drawn(rng, samples, min(max(int(samples * SHARE_CHECKED), least), most)),
    }


def _drawn(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.int64]:
    """Random positions, ascending."""
    return np.sort(rng.choice(samples, min(count, samples), replace=False))


def _few(dataset: Dataset, samples: int, limit: int | None) -> NDArray[np.generic]:
    """Samples for the trial, from places all over the dataset."""
    least, most = TRIAL
    if limit is not None:
        most = max(SPANS, min(most, int(limit * SHARE_OF_LIMIT) // dataset.sample_bytes))
    each = min(max(int(samples * SHARE_TRIED), least), most, samples) // SPANS or 1
    spread = np.linspace(0, samples - each, SPANS).astype(np.int64)
    raw = np.empty((len(spread) * each, *dataset.sample_shape), dtype=dataset.dtype)
    for place, start in enumerate(spread.tolist()):
        dataset.read_into(raw[place * each : (place + 1) * each], start)
    return raw


def _try(
    quantised: Forward,
    single: Forward,
    exported: Guard,
    raw: NDArray[np.generic],
    raw_range: tuple[float, float],
    reach: float,
) -> Trial:
    """`reach` is ε and the guard of the float32 graph."""
    fast, exact = _timed(quantised, raw), _timed(single, raw)
    far = outside(raw, raw_range) | proposed_by_data(raw)
    logits, again = fast.logits[~far], exact.logits[~far]
    guard = exported
    disagreement = exported.disagreement(logits, again).max(initial=0)
    if disagreement > exported.value:
        guard = exported.widened(float(disagreement))
    proposed = far | ~(margin(fast.logits) >= reach + guard.value)
    return Trial(guard, float(proposed.mean()), fast.seconds, exact.seconds)


class _Timed(NamedTuple):
    logits: NDArray[np.float32]
    seconds: float  # a sample


def _timed(forward: Forward, raw: NDArray[np.generic]) -> _Timed:
    forward.logits(raw[:1])  # allocates
    parts, seconds = [], []
    for start in range(0, len(raw), TRIAL_BATCH):
        batch = raw[start : start + TRIAL_BATCH]
        started = time.perf_counter()
        parts.append(forward.logits(batch))
        seconds.append((time.perf_counter() - started) / len(batch))
    return _Timed(np.concatenate(parts), min(seconds))
