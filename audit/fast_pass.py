"""The fast pass of a segment: read, forward, margin, propose.

It may be off by its guard and still not lose a near tie, since it only proposes: every sample whose
margin is below ε + guard goes on. With a quantised graph it is a cascade: that graph proposes
within its wide guard, the float32 graph computes those samples again and narrows within its tiny
one. At each level a few samples that weren't proposed go on as well, drawn at random from the whole
dataset, so that a guard that doesn't hold is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audit import lanes
from audit.batch_size import BatchSize
from audit.bundle import Manifest
from audit.crc32 import crc32
from audit.dataset import Dataset
from audit.decide import GuardBroken, Kept
from audit.errors import BundleError
from audit.forward import Forward
from audit.found import count_margins
from audit.guard import Guard
from audit.memory import Memory
from audit.options import ScanOptions
from audit_kernels import Kernel, Top2

NO_CLASS = -1  # of samples whose logits aren't finite


@dataclass(frozen=True)
class Segment:
    """Samples `start` to `stop`."""

    start: int
    stop: int

    @property
    def samples(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True)
class Level:
    """A graph of the cascade.

    Attributes:
        precision: "int8" or "float32".
        forward: Runs the graph.
        guard: How far its margins may be off: those of the last level from the canonical ones,
            those of the level before it from the last level's. What the first proposes must
            therefore reach as far as both.
        checks: Ascending positions of the samples that go on though they aren't proposed, int64.
        raw_range: Smallest and largest stored value that the guard was measured with; samples with
            values outside are proposed. None: any value will do.
    """

    precision: str
    forward: Forward
    guard: Guard
    checks: NDArray[np.int64]
    raw_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """What every segment passes through; the same for all of a scan.

    Attributes:
        dataset: Where samples come from.
        manifest: What the bundle says of its input and classes.
        levels: The cascade, widest guard first.
        kernel: `top2_margin`.
        batch_size: Of the first level.
        threads: That read and compute.
        options: The scan's options.
        progress: Called with the number of samples that passed the fast pass.
        by_graph: The ONNX graph decides, not the TorchScript module.
        memory: What may be in memory at once; None: what is fastest.
    """

    dataset: Dataset
    manifest: Manifest
    levels: tuple[Level, ...]
    kernel: Kernel
    batch_size: BatchSize
    threads: int
    options: ScanOptions
    progress: Callable[[int], None]
    by_graph: bool = False
    memory: Memory | None = None


@dataclass(frozen=True)
class Passed:
    """What the fast pass knows of a block.

    Attributes:
        samples: In the block.
        kept: What goes on to the canonical evaluation.
        margin_counts: Histogram of all finite margins over `MARGIN_EDGES`, int64.
        correct: Labelled samples that aren't kept and are classified as labelled.
        rescored: Samples that a quantised graph proposed.
        checked: Samples that go on from a quantised graph though it hadn't proposed them.
        margin: Every sample's margin, float32; empty without `keep_all`.
        classes: Every sample's top-2, int32; empty without `keep_all`.
        crc32: Of the samples as stored.
        disagreement: Of a quantised graph with the float32 one, at worst; otherwise 0.
    """

    samples: int
    kept: Kept
    margin_counts: NDArray[np.int64]
    correct: int
    rescored: int
    checked: int
    margin: NDArray[np.float32]
    classes: NDArray[np.int32]
    crc32: int
    disagreement: float = 0.0


def fast_pass(line: Line, segment: Segment, labels: NDArray[np.int64]) -> Iterator[Passed]:
    """The blocks of a segment, in order.

    Args:
        line: What each passes through.
        segment: Which samples.
        labels: Theirs; -1 where unknown, int64.

    Raises:
        GuardBroken: The quantised graph is off by more than its guard.
        DatasetError: The stored bytes are damaged.
        BundleError: A graph of the bundle fails on the data.
    """
    own_pass = _HostPass(line) if line.options.device == "cpu" else _device_pass(line)

    def finish(span: range, raw: NDArray[Any], batches: list[Any]) -> Passed:
        own = labels[span.start - segment.start : span.stop - segment.start]
        return own_pass.finish(span, raw, batches, own)

    work = lanes.Work(
        row_shape=line.dataset.sample_shape,
        dtype=line.dataset.dtype,
        allocate=own_pass.allocate,
        read_into=line.dataset.read_into,
        forward=own_pass.forward,
        finish=finish,
        batch_size=line.batch_size,
    )
    blocks = [*line.dataset.blocks(segment.start, segment.stop, line.options.batch_size or 1)]
    first = line.levels[0]
    for passed in lanes.run(work, blocks, line.threads, line.progress, line.memory):
        # Here and not in the lane: which block is first to be seen hangs on the threads.
        if passed.disagreement > first.guard.value:
            raise GuardBroken(first.precision, passed.disagreement)
        yield passed


class Pass(Protocol):
    """What is done with the batches and blocks of a segment; see `audit.lanes.Work`."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A buffer for a block."""
        ...

    def forward(self, raw: NDArray[Any]) -> Any:
        """The logits of a raw batch, wherever they are best kept."""
        ...

    def finish(
        self, span: range, raw: NDArray[Any], batches: list[Any], labels: NDArray[np.int64]
    ) -> Passed:
        """From a block's logits to what it passes on."""
        ...


def _device_pass(line: Line) -> Pass:
    from audit.device import DevicePass  # imports torch

    return DevicePass(line, "cuda")


class _HostPass:
    """On the CPU, by numpy and the kernel."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def forward(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        return _logits(self._line, self._line.levels[0], raw)

    def finish(
        self,
        span: range,
        raw: NDArray[Any],
        batches: list[NDArray[np.float32]],
        labels: NDArray[np.int64],
    ) -> Passed:
        logits = batches[0] if len(batches) == 1 else np.concatenate(batches)
        return _finish(self._line, span, raw, logits, labels)


def _finish(
    line: Line,
    span: range,
    raw: NDArray[Any],
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Passed:
    """From the first level's logits of a block to what it passes on."""
    top2 = _top2(line, logits)
    proposed = _proposed(line, line.levels, raw, top2)
    rescored, checked, disagreement = 0, 0, 0.0
    if len(line.levels) > 1:
        quantised, single = line.levels
        on = proposed | checks_in(quantised, span) | checks_in(single, span)
        rows = np.flatnonzero(on)
        rescored, checked = int(proposed.sum()), len(rows) - int(proposed.sum())
        again = _rescored(line, single, raw[rows])
        disagreement = _disagreement(quantised, raw[rows], logits[rows], again)
        logits[rows] = again
        top2_again = _top2(line, again)
        top2 = _with_rows(top2, rows, top2_again)
        proposed[rows] = _proposed(line, (single,), raw[rows], top2_again)
    keep = proposed | checks_in(line.levels[-1], span)
    where = np.flatnonzero(keep)
    correct = 0
    if line.dataset.has_labels:
        # Of what isn't kept the margin is above 0, so that the largest logit is one class's.
        of_label = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], axis=1)[:, 0]
        correct = int(((of_label == top2.top) & (labels >= 0) & ~keep).sum())
    margin = np.asarray(top2.margin, dtype=np.float32)
    classes = np.empty((0, 2), dtype=np.int32)
    if top2.classes is not None:
        classes = np.where(np.isnan(margin)[:, None], NO_CLASS, top2.classes).astype(np.int32)
    return Passed(
        samples=len(span),
        kept=Kept(span.start + where, raw[where], logits[where], proposed[where]),
        margin_counts=count_margins(margin),
        correct=correct,
        rescored=rescored,
        checked=checked,
        margin=margin if line.options.keep_all else margin[:0],
        classes=classes,
        crc32=crc32(raw),
        disagreement=disagreement,
    )


def _logits(line: Line, level: Level, raw: NDArray[Any]) -> NDArray[np.float32]:
    logits = level.forward.logits(raw)
    expected = (len(raw), len(line.manifest.classes))
    if logits.shape != expected:
        raise BundleError(
            f"bundle {line.manifest.name!r}: the ONNX graph gives logits of shape {logits.shape}; "
            f"the manifest says {expected}. Export the model again"
        )
    return logits


def _top2(line: Line, logits: NDArray[np.float32]) -> Top2:
    with np.errstate(invalid="ignore", over="ignore"):
        return line.kernel(logits, classes=line.options.keep_all)


def _proposed(
    line: Line, levels: tuple[Level, ...], raw: NDArray[Any], top2: Top2
) -> NDArray[np.bool_]:
    """What the first of these levels proposes: margin below ε + guards, or odd data.

    Each graph may be off from the next one's by its own guard, the last from canonical by its own:
    the guards add up. NaN or infinity in the data is proposed, too: what a graph makes of it
    depends on the provider. Whatever the largest logit: of what is nearly tied, `min_logit` is
    decided in float64 as well.
    """
    with np.errstate(invalid="ignore"):
        reach = sum((level.guard.of(top2) for level in levels), np.float64(line.options.eps))
        near = np.asarray(~(top2.margin >= reach))
    return near | proposed_by_data(raw) | outside(raw, levels[0].raw_range)


def proposed_by_data(raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Which samples (n, …) hold NaN or infinity."""
    if raw.dtype.kind != "f" or np.isfinite(raw).all():
        return np.zeros(len(raw), dtype=bool)
    return np.asarray(~np.isfinite(raw).all(axis=tuple(range(1, raw.ndim))))


def outside(raw: NDArray[Any], bounds: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Which samples (n, …) hold a value outside of these bounds."""
    if bounds is None or (raw.min() >= bounds[0] and raw.max() <= bounds[1]):
        return np.zeros(len(raw), dtype=bool)
    flat = raw.reshape(len(raw), -1)
    return np.asarray((flat.min(axis=1) < bounds[0]) | (flat.max(axis=1) > bounds[1]))


def checks_in(level: Level, span: range) -> NDArray[np.bool_]:
    """Which samples of a span go on from a level though they aren't proposed."""
    first, last = np.searchsorted(level.checks, [span.start, span.stop])
    checks = np.zeros(len(span), dtype=bool)
    checks[level.checks[first:last] - span.start] = True
    return checks


def _rescored(line: Line, single: Level, raw: NDArray[Any]) -> NDArray[np.float32]:
    """Float32 logits of what the quantised graph passed on."""
    again = np.empty((len(raw), len(line.manifest.classes)), dtype=np.float32)
    size = line.batch_size.best
    for start in range(0, len(raw), size):
        again[start : start + size] = _logits(line, single, raw[start : start + size])
    return again


def _disagreement(
    quantised: Level, raw: NDArray[Any], logits: NDArray[np.float32], again: NDArray[np.float32]
) -> float:
    """Between both graphs' logits, at worst; the quantised one's guard must be no less."""
    # The others are proposed whatever the quantised graph makes of them.
    judged = ~(proposed_by_data(raw) | outside(raw, quantised.raw_range))
    return float(quantised.guard.disagreement(logits[judged], again[judged]).max(initial=0))


def _with_rows(top2: Top2, rows: NDArray[np.int64], other: Top2) -> Top2:
    """`top2` with the rows replaced by those of `other`."""
    top2.margin[rows], top2.top[rows] = other.margin, other.top
    if top2.classes is not None and other.classes is not None:
        top2.classes[rows] = other.classes
    return top2
