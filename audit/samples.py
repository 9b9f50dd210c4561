"""The samples that an export is proven on, and calibrated on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.dataset import Dataset
from audit.errors import DatasetError, OptionError
from audit.options import RAW_DTYPES, ExportOptions
from audit.preprocess import Preprocess, plan_preprocess

RANDOM_SAMPLES = 256
PARITY_SAMPLES = 1024  # of parity data, evenly spaced
PARITY_BYTES = 64 * 2**20  # of input space; of either, no more than fit in it
PREFLIGHT_SAMPLES = 16  # the preflight compares batches of up to five
CALIBRATED = (128, 512)  # at least, at most
HELD_OUT = (1000, 2048)  # the guard of a quantised graph is as good as these are many
CALIBRATION_BYTES = 256 * 2**20  # of raw held-out samples, beyond the least
BATCH_BYTES = 4 * 2**20  # of float32 input
MAX_BATCH = 1024
SEED = 0


class Samples(NamedTuple):
    """What the proof runs on: raw (N, *raw_shape), where it came from, how it becomes input."""

    raw: NDArray[np.generic]
    source: str
    preprocess: Preprocess


class CalibrationSamples(NamedTuple):
    """Raw samples (N, *raw_shape) of one dataset, none of them in both parts."""

    calibrated: NDArray[np.generic]
    held_out: NDArray[np.generic]
    source: str
    preprocess: Preprocess


def parity_samples(options: ExportOptions) -> Samples:
    """Some of the parity data, or random ones; with them, what the raw samples are is settled.

    Raises:
        OptionError: The options leave it open, or contradict the data.
        DatasetError: The data can't be read.
    """

    def planned(raw_shape: tuple[int, ...] | None, raw_dtype: str) -> Preprocess:
        return plan_preprocess(
            input_shape=options.input_shape,
            raw_shape=raw_shape,
            raw_dtype=raw_dtype,
            raw_layout=options.raw_layout,
            scale=options.scale,
            offset=options.offset,
            mean=options.mean,
            std=options.std,
        )

    fitting = max(PREFLIGHT_SAMPLES, PARITY_BYTES // (4 * math.prod(options.input_shape)))
    if options.parity_data is None:
        preprocess = planned(None, options.raw_dtype or "float32")
        raw = preprocess.random_raw(min(RANDOM_SAMPLES, fitting), np.random.default_rng(SEED))
        return Samples(raw, "random", preprocess)
    with Dataset(options.parity_data, images=options.images) as data:
        preprocess = planned(data.sample_shape, _raw_dtype(options, data.dtype))
        spaced = np.linspace(0, data.stored - 1, min(PARITY_SAMPLES, fitting, data.stored))
        raw = data.samples(spaced.astype(np.int64)).astype(preprocess.raw_dtype)
    return Samples(raw, Path(options.parity_data).name, preprocess)


def _raw_dtype(options: ExportOptions, stored: np.dtype[Any]) -> str:
    raw_dtype = options.raw_dtype or str(stored)
    if raw_dtype not in RAW_DTYPES or not np.can_cast(stored, raw_dtype, "same_kind"):
        raise OptionError(
            f"the parity data's samples are {stored}, which can't stand for "
            f"{options.raw_dtype or 'any raw dtype'}; store them as one of "
            f"{', '.join(RAW_DTYPES)}, and name the same with --raw-dtype"
        )
    return raw_dtype


def calibration_samples(
    path: str, preprocess: Preprocess, images: str | None = None
) -> CalibrationSamples:
    """Random samples of a dataset, in two parts.

    Args:
        path: Of the dataset.
        preprocess: What the bundle takes.
        images: Name of the samples in the file; None: the usual names are tried.

    Raises:
        DatasetError: It can't be read, is of another kind than the bundle takes, or too small.
    """
    with Dataset(path, images=images) as data:
        name = Path(path).name
        if data.sample_shape != preprocess.raw_shape or data.dtype != preprocess.raw_dtype:
            raise DatasetError(
                f"{path}: calibration samples are {data.dtype} {data.sample_shape}; the bundle "
                f"takes {preprocess.raw_dtype} {preprocess.raw_shape}. Name data like that which "
                "will be scanned with --calibration"
            )
        least = CALIBRATED[0] + HELD_OUT[0]
        if data.stored < least:
            raise DatasetError(
                f"{path}: {data.stored} samples; --calibration needs {least} and more: "
                f"{CALIBRATED[0]} to find ranges by, and {HELD_OUT[0]} others to measure the guard"
            )
        fitting = max(HELD_OUT[0], CALIBRATION_BYTES // data.sample_bytes)
        held_out = min(data.stored - CALIBRATED[0], HELD_OUT[1], fitting)
        calibrated = min(data.stored - held_out, CALIBRATED[1], fitting)
        rng = np.random.default_rng(SEED)
        drawn = rng.choice(data.stored, calibrated + held_out, replace=False)
        return CalibrationSamples(
            data.samples(np.sort(drawn[:calibrated])),
            data.samples(np.sort(drawn[calibrated:])),
            name,
            preprocess,
        )


def default_batch_size(input_size: int) -> int:
    """Samples computed at once in a proof, for a network input of `input_size` numbers."""
    fitting = max(1, BATCH_BYTES // (4 * input_size))
    return int(min(MAX_BATCH, 2 ** (fitting.bit_length() - 1)))
