"""One segment, from stored samples to findings: read, forward, propose, decide, explain.

The fast pass may be off by the guard and still not lose a near tie: it only proposes. What is
flagged, and with which classes, the canonical evaluation decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.bundle import Manifest
from audit.dataset import Dataset
from audit.decide import Decided, Kept, decide
from audit.errors import BundleError
from audit.forward import Forward
from audit.guard import Guard
from audit.options import ScanOptions
from audit.prefetch import prefetch
from audit_kernels import Kernel
from audit_kernels import get as get_kernel

if TYPE_CHECKING:
    from audit.gradients import Canonical

# Of float32 input space and logits: what a segment keeps, were all of it proposed. Gradients are
# twice the input space, were all of it flagged.
SEGMENT_BYTES = 32 * 2**20
ROWS_AT_ONCE = 1024  # samples explained at once: gradients are float64 before they are stored
NO_CLASS = -1  # of samples whose logits aren't finite
# 0, then ten bins a decade: wide enough for any logits, and the same for every scan, so that
# histograms of two nights can be subtracted.
MARGIN_EDGES = np.concatenate([[0.0], np.logspace(-6, 6, 121)])


@dataclass(frozen=True)
class Segment:
    """Samples `start` to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Line:
    """What every segment passes through; the same for all of a scan.

    Attributes:
        dataset: Where samples come from.
        manifest: What the bundle says of its input and classes.
        forward: The fast path.
        canonical: Gives the canonical path; loaded when first called.
        guard: How far the fast path may be off.
        checks: Ascending positions of samples that are decided even if they aren't proposed, so
            that a guard that doesn't hold is seen, int64.
        batch_size: Samples a forward call.
        options: The scan's options.
        progress: Called with the number of samples that passed the fast path.
    """

    dataset: Dataset
    manifest: Manifest
    forward: Forward
    canonical: Callable[[], Canonical]
    guard: Guard
    checks: NDArray[np.int64]
    batch_size: int
    options: ScanOptions
    progress: Callable[[int], None]


@dataclass(frozen=True)
class FastPass:
    """What the fast pass knows of a segment.

    Attributes:
        kept: What goes on to the canonical evaluation.
        margin_counts: Histogram of all finite margins over `MARGIN_EDGES`, int64.
        correct: Labelled samples that aren't kept and are classified as labelled.
        margin: Every sample's margin, float32; empty without `keep_all`.
        classes: Every sample's top-2, int32; empty without `keep_all`.
    """

    kept: Kept
    margin_counts: NDArray[np.int64]
    correct: int
    margin: NDArray[np.float32]
    classes: NDArray[np.int32]


@dataclass(frozen=True)
class SegmentFindings:
    """A segment's part of the findings; arrays as in `docs/findings.md`, M flagged samples."""

    scanned: int
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    logits: NDArray[np.float64]
    margin: NDArray[np.float64]
    label: NDArray[np.int64]
    input: NDArray[Any]
    gradient: NDArray[np.float32]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]
    degenerate: int
    nonfinite_index: NDArray[np.int64]
    margin_counts: NDArray[np.int64]
    labelled: int
    correct: int
    scan_margin: NDArray[np.float32]
    scan_classes: NDArray[np.int32]
    checked: int
    disagreement: float


def plan_segments(samples: int, block_rows: int, sample_size: int) -> Iterator[Segment]:
    """Segments of whole blocks, about `SEGMENT_BYTES` each.

    Args:
        samples: To scan.
        block_rows: Samples that are read at once.
        sample_size: Numbers that are kept of a proposed sample: of its input space and logits.
    """
    rows = max(1, SEGMENT_BYTES // (4 * sample_size * block_rows)) * block_rows
    for start in range(0, samples, rows):
        yield Segment(start, min(start + rows, samples))


def scan_segment(line: Line, segment: Segment) -> SegmentFindings:
    """The findings of one segment.

    Raises:
        GuardBroken: The guard doesn't hold; scan again with a wider one.
        DatasetError: The stored bytes are damaged.
        BundleError: A graph of the bundle fails on the data.
    """
    labels = line.dataset.labels(segment.start, segment.stop)
    fast = _fast_pass(line, segment, labels)
    kept_labels = labels[fast.kept.index - segment.start]
    preprocess, options = line.manifest.preprocess, line.options
    decided = decide(line.canonical, preprocess, line.guard, options, fast.kept)
    return _explain(line, segment, labels, kept_labels, fast, decided)


def _fast_pass(line: Line, segment: Segment, labels: NDArray[np.int64]) -> FastPass:
    """Read, forward, margin, propose."""
    kernel = get_kernel("cpu")
    checks = np.zeros(segment.stop - segment.start, dtype=bool)
    inside = (line.checks >= segment.start) & (line.checks < segment.stop)
    checks[line.checks[inside] - segment.start] = True
    parts: list[Kept] = []
    margins: list[NDArray[np.float32]] = []
    classes: list[NDArray[np.int32]] = []
    counts = np.zeros(len(MARGIN_EDGES) - 1, dtype=np.int64)
    correct = 0
    for start, raw in _batches(line, segment):
        rows = slice(start - segment.start, start - segment.start + len(raw))
        logits = _logits(line, raw)
        margin, proposed, top2 = _propose(line, kernel, raw, logits)
        keep = proposed | checks[rows]
        counts += np.histogram(np.minimum(margin, MARGIN_EDGES[-1]), MARGIN_EDGES)[0]
        if line.dataset.has_labels:
            known_right = (logits.argmax(axis=1) == labels[rows]) & ~keep
            correct += int(known_right.sum())
        if line.options.keep_all:
            margins.append(margin)
            classes.append(top2.astype(np.int32))
        if keep.any():
            where = np.flatnonzero(keep)
            parts.append(Kept(start + where, raw[where], logits[where], proposed[where]))
        line.progress(len(raw))
    raw_shape = line.manifest.preprocess.raw_shape
    kept = Kept(
        index=_joined([part.index for part in parts], np.int64),
        raw=_joined([part.raw for part in parts], line.dataset.dtype, raw_shape),
        fast=_joined([part.fast for part in parts], np.float32, (len(line.manifest.classes),)),
        proposed=_joined([part.proposed for part in parts], np.bool_),
    )
    return FastPass(
        kept, counts, correct, _joined(margins, np.float32), _joined(classes, np.int32, (2,))
    )


def _batches(line: Line, segment: Segment) -> Iterator[tuple[int, NDArray[Any]]]:
    """Positions and raw samples, up to `batch_size` at a time; reading runs ahead.

    Blocks that are smaller than a batch are joined; of a larger one the last batch is smaller.
    """
    size = line.batch_size
    waiting: list[NDArray[Any]] = []
    for block in prefetch(line.dataset.blocks(segment.start, segment.stop)):
        waiting.append(block.raw)
        count = sum(map(len, waiting))
        if count < size and block.stop < segment.stop:
            continue
        raw = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        carried = count % size if len(block.raw) < size and block.stop < segment.stop else 0
        for start in range(0, count - carried, size):
            yield block.stop - count + start, raw[start : min(start + size, count - carried)]
        waiting = [raw[count - carried :]] if carried else []


def _logits(line: Line, raw: NDArray[Any]) -> NDArray[np.float32]:
    logits = line.forward.logits(raw)
    expected = (len(raw), len(line.manifest.classes))
    if logits.shape != expected:
        raise BundleError(
            f"bundle {line.manifest.name!r}: the ONNX graph gives logits of shape {logits.shape}; "
            f"the manifest says {expected}. Export the model again"
        )
    return logits


def _propose(
    line: Line, kernel: Kernel, raw: NDArray[Any], logits: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Margins, what is proposed, and (with `keep_all`) classes, of one batch.

    Samples with NaN or infinity are proposed, be it in their logits, whose margin then is NaN, or
    just in the data: what a graph makes of it depends on the provider.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        top2 = kernel(logits, classes=line.options.keep_all)
    # Whatever its largest logit: of what is nearly tied, min_logit is decided in float64 as well.
    proposed = top2.margin < line.options.eps + line.guard.of(logits)
    margin = np.asarray(top2.margin, dtype=np.float32)
    classes = np.empty((0, 2), dtype=np.int64) if top2.classes is None else top2.classes
    if not np.isfinite(logits).all():
        broken = np.asarray(~np.isfinite(logits).all(axis=1))
        margin = np.where(broken, np.float32(np.nan), margin)
        classes = np.where(broken[:, None], NO_CLASS, classes) if len(classes) else classes
        proposed |= broken
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        each_sample = tuple(range(1, raw.ndim))
        proposed |= ~np.all(np.isfinite(raw), axis=each_sample)
    return margin, proposed, classes


def _explain(
    line: Line,
    segment: Segment,
    labels: NDArray[np.int64],
    kept_labels: NDArray[np.int64],
    fast: FastPass,
    decided: Decided,
) -> SegmentFindings:
    """Pair gradients and distances of the flagged samples, and the segment's counts."""
    kept, flagged = fast.kept, decided.flagged
    raw, classes, logits = kept.raw[flagged], decided.classes[flagged], decided.logits[flagged]
    margin = logits[:, 0] - logits[:, 1]
    explained = 0 if line.options.no_gradients else len(raw)
    shape = line.manifest.preprocess.input_shape
    gradient = np.empty((explained, 2, *shape), dtype=np.float32)
    distance_l2, distance_linf = np.empty(explained), np.empty(explained)
    degenerate = 0
    for start in range(0, explained, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        x = line.manifest.preprocess.to_input_space(raw[rows])
        pair = line.canonical().pair_gradients(x, classes[rows], margin[rows])
        with np.errstate(over="ignore"):
            gradient[rows] = pair.gradient
        distance_l2[rows], distance_linf[rows] = pair.distance_l2, pair.distance_linf
        degenerate += int(pair.degenerate.sum())
    right = decided.finite & (decided.classes[:, 0] == kept_labels)
    return SegmentFindings(
        scanned=segment.stop - segment.start,
        index=kept.index[flagged],
        classes=classes,
        logits=logits,
        margin=margin,
        label=kept_labels[flagged],
        input=raw,
        gradient=gradient,
        distance_l2=distance_l2,
        distance_linf=distance_linf,
        degenerate=degenerate,
        nonfinite_index=kept.index[~decided.finite],
        margin_counts=fast.margin_counts,
        labelled=int((labels >= 0).sum()),
        correct=fast.correct + int(right.sum()),
        scan_margin=fast.margin,
        scan_classes=fast.classes,
        checked=int((~kept.proposed).sum()),
        disagreement=decided.disagreement,
    )


def _joined(parts: list[Any], dtype: Any, row: tuple[int, ...] = ()) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty((0, *row), dtype=dtype)
