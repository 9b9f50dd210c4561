"""`top2_margin` in plain numpy, with nothing to import or compile: for small work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audit_kernels.arrays import as_logits
from audit_kernels.types import Top2

# Classes up to which minima and maxima column by column are fastest, and then numpy's partition;
# beyond, two passes for the maximum of each row.
NARROW = 32
MIDDLE = 128
BLOCK_BYTES = 2**18  # of logits: what the second pass finds in the cache


def top2_margin(logits: NDArray[np.floating], *, classes: bool, threads: int = 1) -> Top2:
    """See `Kernel`; on one thread."""
    logits = as_logits(logits)
    count, width = logits.shape
    margin, top = np.empty(count, logits.dtype), np.empty(count, logits.dtype)
    pairs = np.empty((count, 2), np.int64) if classes else None
    rows = max(1, BLOCK_BYTES // (width * logits.itemsize))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            block = logits[part]
            if pairs is not None:
                _with_classes(block, margin[part], top[part], pairs[part])
            elif width <= NARROW:
                _by_columns(block, margin[part], top[part])
            elif width <= MIDDLE:
                _by_partition(block, margin[part], top[part])
            else:
                _by_rows(block, margin[part], top[part])
            finite = np.isfinite(block)
            if not finite.all():
                margin[part][~finite.all(axis=1)] = np.nan
    return Top2(margin, top, pairs)


def _by_columns(
    block: NDArray[np.floating], margin: NDArray[np.floating], top: NDArray[np.floating]
) -> None:
    columns = np.ascontiguousarray(block.T)
    np.maximum(columns[0], columns[1], out=top)
    second = np.minimum(columns[0], columns[1])
    smaller = np.empty_like(second)
    for column in columns[2:]:
        np.minimum(top, column, out=smaller)
        np.maximum(top, column, out=top)
        np.maximum(second, smaller, out=second)
    np.subtract(top, second, out=margin)


def _by_partition(
    block: NDArray[np.floating], margin: NDArray[np.floating], top: NDArray[np.floating]
) -> None:
    largest = np.partition(block, block.shape[1] - 2, axis=1)
    top[:] = largest[:, -1]
    np.subtract(top, largest[:, -2], out=margin)


def _by_rows(
    block: NDArray[np.floating], margin: NDArray[np.floating], top: NDArray[np.floating]
) -> None:
    rows = np.arange(len(block))
    rest = block.copy()
    a = rest.argmax(axis=1)
    top[:] = rest[rows, a]
    rest[rows, a] = -np.inf
    np.subtract(top, rest.max(axis=1), out=margin)


def _with_classes(
    block: NDArray[np.floating],
    margin: NDArray[np.floating],
    top: NDArray[np.floating],
    pairs: NDArray[np.int64],
) -> None:
    rows = np.arange(len(block))
    rest = block.copy()
    a = rest.argmax(axis=1)
    top[:] = rest[rows, a]
    rest[rows, a] = -np.inf
    b = rest.argmax(axis=1)
    np.subtract(top, rest[rows, b], out=margin)
    pairs[:, 0], pairs[:, 1] = a, b
