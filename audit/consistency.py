"""Whether the numbers of a findings file fit each other, without the data that they are of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.findings import Findings
from audit.found import MARGIN_EDGES, count_margins

SLICE_BYTES = 16 * 2**20
# Gradients are stored as float32: what a distance loses by that, relative to their size.
FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = 1e-12  # the order of a sum over float64
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Compared(NamedTuple):
    """A comparison that is yet to be made.

    Attributes:
        name: Of what.
        size: How many are looked at.
        unit: One of them.
        problems: What differs, a line each, as it is found.
    """

    name: str
    size: int
    unit: str
    problems: Iterator[str]


def compare_findings(findings: Findings) -> Iterator[Compared]:
    """What a scan's findings must fulfil, whatever was scanned."""
    yield Compared("summary", findings.scanned, "sample", _summary(findings))
    yield Compared("rows", findings.flagged, "near tie", _rows(findings))
    if findings.degenerate is not None:
        yield Compared("distances", findings.flagged, "near tie", _distances(findings))
    if findings.kept_all:
        yield Compared("every sample", findings.scanned, "sample", _every_sample(findings))


def _summary(findings: Findings) -> Iterator[str]:
    index, nonfinite, pairs = findings.index, findings.nonfinite_index, findings.pairs
    classes = len(pairs)
    for name, positions in (("flagged", index), ("nonfinite", nonfinite)):
        if not ascending(positions, findings.scanned):
            yield f"/{name}/index isn't ascending, or beyond the {findings.scanned} scanned samples"
    if np.isin(nonfinite, index).any():
        yield "a sample is in both /flagged/index and /nonfinite/index"
    names = findings.bundle.get("classes")
    if pairs.shape != (classes, classes) or not isinstance(names, list) or len(names) != classes:
        yield f"/summary/pairs has shape {pairs.shape}, and the bundle's classes are others"
        return
    a, b = findings.classes.T
    if ((findings.classes < 0) | (findings.classes >= classes)).any() or (a == b).any():
        yield f"/flagged/classes holds what isn't two of {classes} classes"
        return
    counted = np.zeros_like(pairs)
    np.add.at(counted, (a, b), 1)
    if (counted != pairs).any():
        yield "/summary/pairs doesn't count /flagged/classes"
    yield from _label_problems(findings, classes)
    edges, counts = findings.margin_edges, findings.margin_counts
    if not np.array_equal(edges, MARGIN_EDGES) or len(counts) != len(edges) - 1:
        yield "/summary/margin_edges aren't those of every scan, or /summary/margin_counts too few"
    elif (counts < 0).any() or counts.sum() > findings.scanned:
        yield f"/summary/margin_counts counts more than the {findings.scanned} scanned samples"


def _label_problems(findings: Findings, classes: int) -> Iterator[str]:
    label, counts = findings.label, findings.label_counts
    if ((label < -1) | (label >= classes)).any():
        yield f"/flagged/label holds what is none of {classes} classes"
        return
    if len(counts) != classes or counts.sum() != findings.labelled:
        yield f"/summary/labels doesn't sum up to the {findings.labelled} labelled samples"
    elif (np.bincount(label[label >= 0], minlength=classes) > counts).any():
        yield "/summary/labels counts fewer of a class than /flagged/label has"
    if (label == findings.classes[:, 0]).sum() > findings.correct:
        yield f"more near ties are classified as labelled than all {findings.correct} samples"


def _rows(findings: Findings) -> Iterator[str]:
    (z_a, z_b), margin, (a, b) = findings.logits.T, findings.margin, findings.classes.T
    with np.errstate(invalid="ignore"):
        difference = z_a - z_b
    least = -np.inf if findings.min_logit is None else findings.min_logit
    for wrong, problem in (
        (~np.isfinite(findings.logits).all(axis=1), "a logit isn't finite"),
        (margin != difference, "the margin isn't the difference of the logits"),
        (~((margin >= 0) & (margin < findings.eps)), f"the margin isn't below ε = {findings.eps}"),
        (~(z_a > least), f"the largest logit isn't above min_logit = {least}"),
        ((margin == 0) & (a > b), "of equal logits the higher class number comes first"),
    ):
        for row in np.flatnonzero(wrong).tolist():
            yield f"sample {findings.index[row]}: {problem}"
    preprocess = findings.preprocess
    if preprocess is None or not findings.flagged:
        return
    stored = findings.rows("input", [0])
    if stored.shape[1:] != preprocess.raw_shape or str(stored.dtype) != preprocess.raw_dtype:
        yield f"/flagged/input isn't {preprocess.raw_dtype} {preprocess.raw_shape} a sample"
    if findings.degenerate is not None:
        shape = findings.rows("gradient", [0]).shape[2:]
        if shape != preprocess.input_shape:
            yield f"/flagged/gradient has shape {shape}, input space {preprocess.input_shape}"


def _distances(findings: Findings) -> Iterator[str]:
    """Distances against the stored gradients, as exactly as float32 has those."""
    undefined = int(np.isnan(findings.distance_l2).sum())
    if findings.degenerate is not None and findings.degenerate > undefined:
        yield f"{findings.degenerate} near ties are degenerate, and {undefined} have no distance"
    for rows in slices(findings.flagged, _gradient_bytes(findings)):
        gradient = findings.rows("gradient", range(rows.start, rows.stop)).astype(np.float64)
        flat = gradient.reshape(len(gradient), 2, math.prod(gradient.shape[2:]))
        for order, stored in ((2, findings.distance_l2), (1, findings.distance_linf)):
            wrong = _wrong_distances(flat, findings.margin[rows], stored[rows], order)
            for row in np.flatnonzero(wrong).tolist():
                yield (
                    f"sample {findings.index[rows.start + row]}: the distance in "
                    f"{'L2' if order == 2 else 'L∞'} isn't the margin divided by the length of the "
                    "gradients' difference"
                )


def _gradient_bytes(findings: Findings) -> int:
    """Of a pair of gradients as float64; none is read where there is none."""
    return 8 * findings.rows("gradient", [0]).size if findings.flagged else 0


def _wrong_distances(
    gradient: NDArray[np.float64],
    margin: NDArray[np.float64],
    distance: NDArray[np.float64],
    order: int,
) -> NDArray[np.bool_]:
    """Distances that no gradients have which round to these, bool (M,).

    Args:
        gradient: As stored, float64 (M, 2, F).
        margin: (M,).
        distance: (M,).
        order: Of the norm of the gradients' difference.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        length = np.linalg.norm(gradient[:, 0] - gradient[:, 1], order, axis=1)
        size = np.linalg.norm(gradient, order, axis=2).sum(axis=1)
        lost = FLOAT32 * size + FLOAT64 * length + SMALLEST * gradient.shape[2]
        shortest, longest = margin / (length + lost), margin / (length - lost)
        fits = (shortest <= distance) & (distance <= longest)
    # Nothing can be said where rounding may have taken all of the difference, or made it infinite.
    unknown = ~(length > lost) | ~np.isfinite(size)
    return np.asarray((distance < 0) | ~(fits | unknown))


def _every_sample(findings: Findings) -> Iterator[str]:
    classes, counts = len(findings.pairs), np.zeros_like(findings.margin_counts)
    for rows in slices(findings.scanned, 12):
        margin, top2 = findings.scan_rows(rows.start, rows.stop)
        unknown = np.isnan(margin)
        if (margin < 0).any() or ((top2 == -1).all(axis=1) != unknown).any():
            yield f"/scan: a margin or class from sample {rows.start} on can't be"
        if ((top2[~unknown] < 0) | (top2[~unknown] >= classes)).any():
            yield f"/scan/classes: a class from sample {rows.start} on that isn't one of {classes}"
        counts += count_margins(margin)
    if (counts != findings.margin_counts).any():
        yield "/summary/margin_counts doesn't count /scan/margin"


def ascending(positions: NDArray[np.int64], end: int) -> bool:
    """Whether each is above the one before, all of them from 0 to below `end`."""
    return bool(
        (np.diff(positions) > 0).all()
        and (len(positions) == 0 or (positions[0] >= 0 and positions[-1] < end))
    )


def slices(count: int, row_bytes: int) -> Iterator[slice]:
    """Consecutive rows of a bounded size together."""
    rows = max(1, SLICE_BYTES // max(1, row_bytes))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
