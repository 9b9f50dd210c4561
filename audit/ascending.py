"""The line of an ascent, and nothing else: open, start, climb, check, shrink, write."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.ascent import REACHED, Ascents, load_ascents
from audit.ascent_source import Source, open_source
from audit.ascent_writer import AscentRows, AscentWriter, Minimal, check_ascent_output
from audit.bundle import TORCHSCRIPT
from audit.climb import Climbers, climb, per_row
from audit.decide import canonical_top2
from audit.errors import DatasetError, OptionError
from audit.forward import available_threads
from audit.minimal import Boundary, is_class
from audit.options import AscendOptions
from audit.preprocess import Preprocess
from audit.projection import Box
from audit.scan import Progress

if TYPE_CHECKING:
    from audit.gradients import Canonical

GROUP_ROWS = 1024
GROUP_BYTES = 256 * 2**20
ARRAYS = 32  # of a group's size in float64 that are held at once, frames not counted
PART = 0.1  # of the first-order distance: a step
# Where start and target tie, there is no distance to take a part of: this much of the logits' size.
LEAST_GAIN = 1e-6


def ascend_samples(
    path: Path,
    model: str | os.PathLike[str] | None,
    out: Path,
    options: AscendOptions,
    progress: Progress,
) -> Ascents:
    """See `audit.ascend`."""
    with open_source(path, model, options) as source:
        check_ascent_output(out)
        line = _Line(source, options, progress)
        with AscentWriter(out, source.bundle, options.minimal) as writer:
            for rows in line.groups():
                writer.append(rows)
            writer.finish(
                options=line.describe_options(),
                source=source.origin,
                dataset=source.dataset,
                engine=line.describe_engine(),
            )
    return load_ascents(out)


@dataclass(frozen=True)
class _Starts:
    """Some samples and what the network says of them.

    Attributes:
        index: Positions in the dataset, int64 (n,).
        label: True classes, int64 (n,).
        raw: As stored, (n, *raw_shape).
        x: In input space, float32 (n, *input_shape).
        logits: float64 (n, C).
        top2: Canonical, int64 (n, 2).
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    raw: NDArray[Any]
    x: NDArray[np.float32]
    logits: NDArray[np.float64]
    top2: NDArray[np.int64]


class _Line:
    """What every group of ascents passes through."""

    def __init__(self, source: Source, options: AscendOptions, progress: Progress) -> None:
        manifest = source.bundle.manifest
        self._source = source
        self._options = options
        self._progress = progress
        self._preprocess = manifest.preprocess
        self._target = _find_target(options.target, manifest.classes)
        self._box = _box(options, manifest.preprocess)
        self._done = 0
        targets = len(manifest.classes) - 1 if self._target == "all" else 1
        self._total = len(source.index) * targets
        row_bytes = (
            8 * int(np.prod(manifest.preprocess.input_shape)) * (ARRAYS + int(options.frames))
        )
        self._most = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
        self._threads = options.threads or available_threads()
        self._canonical = self._load()

    def _load(self) -> Canonical:
        from audit.gradients import Canonical

        bundle = self._source.bundle
        return Canonical(
            bundle.read(TORCHSCRIPT),
            device=self._options.device,
            threads=self._threads,
            source=str(bundle.path / TORCHSCRIPT),
            between=lambda: self._progress(self._done, self._total),  # who watches may stop it
        )

    def groups(self) -> Iterator[AscentRows]:
        """Every ascent, in the order of the samples, so many at once as the memory allows."""
        for start in range(0, len(self._source.index), self._most):
            starts = self._start(start, min(start + self._most, len(self._source.index)))
            sample, target = self._pairs(starts)
            for first in range(0, len(sample), self._most):
                part = slice(first, first + self._most)
                yield self._ascend(starts, sample[part], target[part])
                self._done += len(sample[part])
                self._progress(self._done, self._total)

    def describe_options(self) -> dict[str, Any]:
        """What was asked for, JSON-ready; an infinite bound is null."""
        options = self._options
        bounds = [bound if np.isfinite(bound) else None for bound in self._box]
        return {
            "target": options.target if isinstance(options.target, str) else int(options.target),
            "norm": options.norm,
            "objective": options.objective,
            "step": None if options.step is None else float(options.step),
            "max_steps": int(options.max_steps),
            "clip": None if bounds == [None, None] else bounds,
            "minimal": bool(options.minimal),
            "frames": int(options.frames),
        }

    def describe_engine(self) -> dict[str, Any]:
        """How it was computed, JSON-ready."""
        return {
            "device": self._options.device,
            "threads": self._threads,
            "versions": {name: version(name) for name in ("torch", "numpy", "h5py")},
        }

    def _start(self, start: int, stop: int) -> _Starts:
        index = self._source.index[start:stop]
        raw = self._source.read(start, stop)
        x = self._preprocess.to_input_space(raw)
        self._check_within(index, x)
        logits = self._canonical.logits(x)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(wrong):
            raise DatasetError(
                f"{self._source.origin['path']}: sample {index[wrong[0]]} has NaN or infinite "
                "logits; leave it out"
            )
        label = self._source.label[start:stop]
        return _Starts(index, label, raw, x, logits, canonical_top2(logits).classes)

    def _check_within(self, index: NDArray[np.int64], x: NDArray[np.float32]) -> None:
        flat = x.reshape(len(x), -1)
        low, high = flat.min(axis=1), flat.max(axis=1)
        outside = np.flatnonzero((low < self._box.low) | (high > self._box.high))
        if len(outside):
            row = outside[0]
            raise OptionError(
                f"--clip {self._box.low:g},{self._box.high:g}: sample {index[row]} has values from "
                f"{low[row]:g} to {high[row]:g}; expected a range that holds them"
            )

    def _pairs(self, starts: _Starts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row of each sample and its target, a pair an ascent."""
        samples = np.arange(len(starts.index))
        if self._target == "second":
            return samples, starts.top2[:, 1]
        if self._target != "all":
            return samples, np.full(len(samples), self._target, dtype=np.int64)
        classes = np.arange(starts.logits.shape[1])
        sample, target = np.nonzero(classes[None] != starts.top2[:, :1])
        return sample, target

    def _ascend(
        self, starts: _Starts, sample: NDArray[np.int64], target: NDArray[np.int64]
    ) -> AscentRows:
        options, start_class = self._options, starts.top2[sample, 0]
        x32 = starts.x[sample]
        x = x32.astype(np.float64)
        already = start_class == target
        # Of logits that tie but for rounding, the start's may be the smaller one.
        gap = np.maximum(starts.logits[sample, start_class] - starts.logits[sample, target], 0.0)
        per_logit = self._canonical.pair_gradients(
            x32, np.stack([start_class, target], axis=1), np.ones(len(x))
        )
        with np.errstate(invalid="ignore"):  # no gap and no gradient: NaN
            first_order_l2 = np.where(already, 0.0, gap * per_logit.distance_l2)
            first_order_linf = np.where(already, 0.0, gap * per_logit.distance_linf)
        if options.step is None:
            size = np.abs(starts.logits[sample]).max(axis=1)
            gain = PART * np.maximum(gap, LEAST_GAIN * np.maximum(size, 1.0))
            distance = per_logit.distance_l2 if options.norm == "l2" else per_logit.distance_linf
            step = np.where(already, 0.0, gain * distance)
        else:
            step = np.full(len(x), options.step)
        climbed = climb(self._canonical, Climbers(x, start_class, target, step), options, self._box)
        success = climbed.outcome == REACHED
        raw = starts.raw[sample]
        rounded = self._preprocess.to_raw(climbed.final)
        minimal = None
        if options.minimal:
            minimal = self._shrink(x, raw, climbed.final, target, success, already)
        return AscentRows(
            index=starts.index[sample],
            label=starts.label[sample],
            start_class=start_class,
            target=target,
            success=success,
            step_size=step,
            input=raw,
            rounded=rounded,
            survives_rounding=success & self._is_class(rounded, target),
            distance_l2=_l2(climbed.final - x),
            distance_linf=_linf(climbed.final - x),
            first_order_l2=first_order_l2,
            first_order_linf=first_order_linf,
            climbed=climbed,
            minimal=minimal,
        )

    def _shrink(
        self,
        x: NDArray[np.float64],
        raw: NDArray[Any],
        final: NDArray[np.float64],
        target: NDArray[np.int64],
        success: NDArray[np.bool_],
        already: NDArray[np.bool_],
    ) -> Minimal:
        smallest = np.where(per_row(success, x), x, np.nan)
        rounded = raw.copy()
        shrinks = np.flatnonzero(success & ~already)
        if len(shrinks):
            boundary = Boundary(
                self._canonical, x[shrinks], target[shrinks], self._options.norm, self._box
            )
            smallest[shrinks] = boundary.smallest(final[shrinks])
            rounded[shrinks] = self._preprocess.to_raw(smallest[shrinks])
        return Minimal(
            input=smallest,
            rounded=rounded,
            survives_rounding=success & self._is_class(rounded, target),
            distance_l2=_l2(smallest - x),
            distance_linf=_linf(smallest - x),
        )

    def _is_class(self, raw: NDArray[Any], target: NDArray[np.int64]) -> NDArray[np.bool_]:
        return is_class(self._canonical.logits(self._preprocess.to_input_space(raw)), target)


def _find_target(target: int | str, names: tuple[str, ...]) -> int | str:
    """`second`, `all`, or the number of the class.

    Raises:
        OptionError: There is no such class.
    """
    if target in ("second", "all"):
        return target
    if target in names:
        return names.index(str(target))
    try:
        number = int(target)
    except ValueError:
        number = -1
    if 0 <= number < len(names):
        return number
    near = difflib.get_close_matches(str(target), [*names, "second", "all"], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise OptionError(
        f"--target {target}: no such class{hint} Expected second, all, a class number from 0 to "
        f"{len(names) - 1}, or a class name"
    )


def _box(options: AscendOptions, preprocess: Preprocess) -> Box:
    if options.clip is not None:
        return Box(*map(float, options.clip))
    if preprocess.raw_dtype != "uint8":
        return Box(-np.inf, np.inf)
    # As samples become input space, so that none lies outside by rounding.
    ends = np.array([[0], [255]], dtype=np.uint8)
    whole = np.broadcast_to(
        ends.reshape(2, *(1,) * len(preprocess.raw_shape)), (2, *preprocess.raw_shape)
    )
    low, high = np.sort(preprocess.to_input_space(whole).reshape(2, -1)[:, 0].astype(np.float64))
    return Box(float(low), float(high))


def _l2(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = difference.reshape(len(difference), -1)
    with np.errstate(over="ignore"):
        return np.asarray(np.sqrt(np.einsum("ni,ni->n", flat, flat)))


def _linf(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.abs(difference).reshape(len(difference), -1).max(axis=1, initial=0.0))
