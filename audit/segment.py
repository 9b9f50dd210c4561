"""One segment, from stored samples to findings: the fast pass proposes, decide, explain.

What is flagged, and with which classes, the canonical evaluation decides; or, without gradients and
where nobody vouches for the bundle's TorchScript, the ONNX graph, as far as it can. It comes after
the fast pass of the whole segment, unless too much is kept: torch and ONNX Runtime slow each other
down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audit.bundle import Manifest
from audit.crc32 import combined
from audit.decide import Decided, Kept, decide
from audit.fast_pass import Line, Passed, Segment, fast_pass
from audit.found import Found, count_labels
from audit.graph_logits import GraphLogits, undecided
from audit.portions import portions

if TYPE_CHECKING:
    from audit.gradients import Canonical

# What an interruption can cost: seconds of the fastest scan, minutes of the slowest. To seal and
# join a segment takes a tenth of a second.
SEGMENT_BYTES = 2**29  # of stored samples
SEGMENT_SAMPLES = 2**19
# Of float32 input space and logits: from here on what was kept is decided and explained, while the
# fast pass works a few blocks ahead. Gradients are twice the input space, were all of it flagged.
KEPT_BYTES = 32 * 2**20
ROWS_AT_ONCE = 1024  # samples explained at once: gradients are float64 before they are stored


@dataclass(frozen=True, kw_only=True)
class SegmentFindings(Found):
    """What consecutive samples of a segment add to the findings, and how they were found.

    `passed_on` and `checked` are the samples that each level of the cascade proposed, and those
    that went on though it hadn't; `disagreement` is the fast pass's, at worst; `crc32` that of the
    samples as stored. `undecided` samples may be wrong, where the ONNX graph alone decided.
    """

    passed_on: tuple[int, ...]
    checked: tuple[int, ...]
    disagreement: float
    crc32: int
    undecided: int


class Tally:
    """How samples were found, counted over consecutive parts.

    Attributes:
        samples: Counted so far.
        disagreement: Of the fast pass, at worst.
        passed_on: Samples that each level of the cascade proposed.
        checked: Those that went on though it hadn't.
        crc32: Of the samples as stored.
        undecided: Samples that may be wrong, where the ONNX graph alone decided.
    """

    def __init__(self, levels: int, sample_bytes: int) -> None:
        """Nothing is counted yet; the cascade has so many levels."""
        self._sample_bytes = sample_bytes
        self.samples = 0
        self.disagreement = 0.0
        self.passed_on = [0] * levels
        self.checked = [0] * levels
        self.crc32 = 0
        self.undecided = 0

    def add(self, part: SegmentFindings) -> None:
        """Count in a part of a segment."""
        self._count(part.scanned, part)

    def merge(self, other: Tally) -> None:
        """Count in what was counted apart, of the samples that follow."""
        self._count(other.samples, other)

    def _count(self, samples: int, found: SegmentFindings | Tally) -> None:
        self.samples += samples
        self.disagreement = max(self.disagreement, found.disagreement)
        self.passed_on = [a + b for a, b in zip(self.passed_on, found.passed_on, strict=True)]
        self.checked = [a + b for a, b in zip(self.checked, found.checked, strict=True)]
        self.crc32 = combined(self.crc32, found.crc32, samples * self._sample_bytes)
        self.undecided += found.undecided


def plan_segments(
    samples: int, block_rows: int, sample_bytes: int, given: int | None = None
) -> list[Segment]:
    """Segments of whole blocks.

    Args:
        samples: To scan.
        block_rows: Samples that are read at once.
        sample_bytes: Of a sample as stored.
        given: Samples of a segment that the user chose, rounded up to whole blocks.
    """
    if given:
        rows = -(-given // block_rows) * block_rows
    else:
        most = max(1, min(SEGMENT_SAMPLES, SEGMENT_BYTES // sample_bytes))
        rows = max(1, most // block_rows) * block_rows
    return [Segment(start, min(start + rows, samples)) for start in range(0, samples, rows)]


def kept_rows(manifest: Manifest) -> int:
    """Samples that are decided and explained at once, of those that were kept."""
    input_size = int(np.prod(manifest.preprocess.input_shape))
    return max(1, KEPT_BYTES // (4 * (input_size + len(manifest.classes))))


def scan_segment(
    line: Line, canonical: Callable[[], Canonical], segment: Segment
) -> Iterator[SegmentFindings]:
    """The findings of one segment, in one part or several.

    Args:
        line: What every segment passes through.
        canonical: Gives the canonical path; waits for it when first called.
        segment: Which samples.

    Raises:
        GuardBroken: A guard doesn't hold; scan again with a wider one.
        DatasetError: The stored bytes are damaged.
        BundleError: A graph of the bundle fails on the data.
    """
    labels = line.dataset.labels(segment.start, segment.stop)
    blocks = fast_pass(line, segment, labels)
    for portion in portions(blocks, segment, kept_rows(line.manifest)):
        own = labels[portion.start - segment.start : portion.stop - segment.start]
        yield _settled(line, canonical, portion.blocks, portion.start, own)


def _settled(
    line: Line,
    canonical: Callable[[], Canonical],
    blocks: list[Passed],
    start: int,
    labels: NDArray[np.int64],
) -> SegmentFindings:
    """Decide and explain what was kept of these blocks, the first of which begins at `start`."""
    kept = Kept(
        index=np.concatenate([each.kept.index for each in blocks]),
        raw=np.concatenate([each.kept.raw for each in blocks]),
        fast=np.concatenate([each.kept.fast for each in blocks]),
        proposed=np.concatenate([each.kept.proposed for each in blocks]),
    )
    kept_labels = labels[kept.index - start]
    single, to_input = line.levels[-1], line.manifest.preprocess.to_input_space
    if line.by_graph:
        graph = GraphLogits(single.forward)
        decided = decide(lambda: graph, _as_stored, single.guard, line.options, kept)
    else:
        decided = decide(canonical, to_input, single.guard, line.options, kept)
    explained = _explain(line, canonical, kept, decided)
    right = decided.finite & (decided.classes[:, 0] == kept_labels)
    passed_on, checked = [int(kept.proposed.sum())], [int((~kept.proposed).sum())]
    if len(line.levels) > 1:
        passed_on.insert(0, sum(each.rescored for each in blocks))
        checked.insert(0, sum(each.checked for each in blocks))
    return SegmentFindings(
        scanned=len(labels),
        index=kept.index[decided.flagged],
        classes=decided.classes[decided.flagged],
        logits=decided.logits[decided.flagged],
        margin=explained.margin,
        label=kept_labels[decided.flagged],
        input=kept.raw[decided.flagged],
        gradient=explained.gradient,
        distance_l2=explained.distance_l2,
        distance_linf=explained.distance_linf,
        degenerate=explained.degenerate,
        nonfinite_index=kept.index[~decided.finite],
        margin_counts=np.sum([each.margin_counts for each in blocks], axis=0),
        label_counts=count_labels(labels, len(line.manifest.classes)),
        correct=sum(each.correct for each in blocks) + int(right.sum()),
        scan_margin=np.concatenate([each.margin for each in blocks]),
        scan_classes=np.concatenate([each.classes for each in blocks]),
        passed_on=tuple(passed_on),
        checked=tuple(checked),
        disagreement=decided.disagreement,
        crc32=_crc32_of(blocks, line.dataset.sample_bytes),
        undecided=undecided(decided, single.guard, line.options) if line.by_graph else 0,
    )


def _as_stored(raw: NDArray[Any]) -> NDArray[Any]:
    """The graph's input is the raw sample."""
    return raw


def _crc32_of(blocks: list[Passed], sample_bytes: int) -> int:
    crc = 0
    for block in blocks:
        crc = combined(crc, block.crc32, block.samples * sample_bytes)
    return crc


@dataclass(frozen=True)
class _Explained:
    """Of the flagged samples; arrays of length 0 but for the margin without gradients."""

    margin: NDArray[np.float64]
    gradient: NDArray[np.float32]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]
    degenerate: int


def _explain(
    line: Line, canonical: Callable[[], Canonical], kept: Kept, decided: Decided
) -> _Explained:
    """Pair gradients and distances of the flagged samples."""
    flagged = decided.flagged
    raw, classes, logits = kept.raw[flagged], decided.classes[flagged], decided.logits[flagged]
    margin = logits[:, 0] - logits[:, 1]
    count = 0 if line.options.no_gradients else len(raw)
    shape = line.manifest.preprocess.input_shape
    gradient = np.empty((count, 2, *shape), dtype=np.float32)
    distance_l2, distance_linf = np.empty(count), np.empty(count)
    degenerate = 0
    for start in range(0, count, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        x = line.manifest.preprocess.to_input_space(raw[rows])
        pair = canonical().pair_gradients(x, classes[rows], margin[rows])
        with np.errstate(over="ignore"):
            gradient[rows] = pair.gradient
        distance_l2[rows], distance_linf[rows] = pair.distance_l2, pair.distance_linf
        degenerate += int(pair.degenerate.sum())
    return _Explained(margin, gradient, distance_l2, distance_linf, degenerate)
