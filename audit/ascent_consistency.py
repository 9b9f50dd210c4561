"""Whether the numbers of an ascent file fit each other, without the network that they are of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from audit.ascent import OUTCOMES, REACHED, WHAT, Ascents
from audit.consistency import Compared, slices
from audit.errors import AscentError
from audit.hdf5_reader import ResultReader

TOLERANCE = 1e-9  # of a distance: the order of a sum over float64, and to spare


def compare_ascents(ascents: Ascents) -> Iterator[Compared]:
    """What every ascent file must fulfil."""
    yield Compared("rows", ascents.count, "ascent", _rows(ascents))
    yield Compared("paths", ascents.count, "ascent", _paths(ascents))
    yield Compared("distances", ascents.count, "ascent", _distances(ascents))


def _rows(ascents: Ascents) -> Iterator[str]:
    success = ascents.success
    if (np.diff(ascents.index) < 0).any():
        yield "/ascent/index isn't ascending"
    if success.sum() != ascents.succeeded:
        yield f"{success.sum()} ascents succeeded, and the file says {ascents.succeeded}"
    for wrong, problem in (
        ((ascents.outcome < 0) | (ascents.outcome >= len(OUTCOMES)), "an outcome that there isn't"),
        (success != (ascents.outcome == REACHED), "success and outcome contradict each other"),
        (success & (ascents.final_class != ascents.target), "reached, and of another class"),
        (ascents.survives_rounding & ~success, "survives rounding, and wasn't reached"),
    ):
        yield from _of_rows(ascents, wrong, problem)


def _paths(ascents: Ascents) -> Iterator[str]:
    path, frame = ascents.path_offset, ascents.frame_offset
    yield from _of_rows(ascents, np.diff(path) != ascents.steps + 1, "its path isn't steps + 1")
    yield from _of_rows(ascents, np.diff(frame) < 0, "its frames are fewer than none")
    if path[0] != 0 or frame[0] != 0:
        yield "an offset that doesn't begin with 0"
        return
    reader = ResultReader(ascents.path, AscentError, WHAT)
    with reader.open() as file:
        reader.checked(file, "path/margin", "float64", path[-1])
        reader.checked(file, "path/probability", "float64", path[-1], 2)
        reader.checked(file, "frame/step", "int64", frame[-1])
        reader.checked(file, "frame/input", "float32", frame[-1], ...)


def _distances(ascents: Ascents) -> Iterator[str]:
    preprocess = ascents.preprocess
    for rows in slices(ascents.count, 4 * 8 * math.prod(preprocess.input_shape)):
        raw = ascents.rows("input", rows.start, rows.stop)
        if raw.shape[1:] != preprocess.raw_shape:
            yield f"/ascent/input has shape {raw.shape[1:]}, a sample {preprocess.raw_shape}"
            return
        start = preprocess.to_input_space(raw).astype(np.float64)
        yield from _far(ascents, rows, start, "final", "distance")
        if ascents.minimised:
            yield from _far(ascents, rows, start, "minimal_input", "minimal_distance")


def _far(
    ascents: Ascents, rows: slice, start: NDArray[np.float64], end: str, distance: str
) -> Iterator[str]:
    """Where the distance of an end from the start isn't what is stored; NaN is NaN's."""
    there = ascents.rows(end, rows.start, rows.stop)
    if there.shape != start.shape:
        yield f"the {end} of an ascent has shape {there.shape[1:]}, the sample {start.shape[1:]}"
        return
    change = (there - start).reshape(len(start), -1)
    for norm, order in (("l2", 2), ("linf", np.inf)):
        stored = getattr(ascents, f"{distance}_{norm}")[rows]
        length = np.linalg.norm(change, order, axis=1)
        wrong = ~np.isclose(stored, length, rtol=TOLERANCE, atol=0, equal_nan=True)
        problem = f"{distance}_{norm} isn't how far the end is from the sample"
        for row in np.flatnonzero(wrong).tolist():
            yield f"ascent {rows.start + row}: {problem}"


def _of_rows(ascents: Ascents, wrong: NDArray[np.bool_], problem: str) -> Iterator[str]:
    for row in np.flatnonzero(wrong).tolist():
        yield f"ascent {row} of sample {ascents.index[row]}: {problem}"
