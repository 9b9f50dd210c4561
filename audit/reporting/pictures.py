"""Samples and gradients as the page embeds them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from audit.errors import FindingsError
from audit.reporting.ladder import Encoding, first_spatial
from audit.strict_json import finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.findings import Findings
    from audit.preprocess import Preprocess

CHUNK_BYTES = 32 * 2**20  # read at a time
NOT_FINITE = -128  # of an int8 gradient
LARGEST = 127


class Gradients(NamedTuple):
    """Both of a sample, encoded."""

    data: str
    scale: list[float] | None  # of a and of b, where they are int8
    # g_a·g_a, g_a·g_b and g_b·g_b of the gradients as recorded: with them the page says what the
    # margin becomes along either, exactly to first order, whatever the pictures were rounded to.
    products: list[float | None]


class Picture(NamedTuple):
    """What is embedded of one sample."""

    sample: str
    gradients: Gradients | None


def pictures_of(
    findings: Findings, rows: Sequence[int], preprocess: Preprocess, encoding: Encoding
) -> Iterator[Picture]:
    """Encode the samples of these rows, in their order; a few are in memory at a time.

    Raises:
        FindingsError: The arrays don't fit what is recorded of the input.
    """
    values = 8 * int(np.prod(preprocess.input_shape)) * (1 if encoding.gradient is None else 3)
    step = max(1, CHUNK_BYTES // values)
    for start in range(0, len(rows), step):
        yield from _encoded(findings, rows[start : start + step], preprocess, encoding)


def _encoded(
    findings: Findings, rows: Sequence[int], preprocess: Preprocess, encoding: Encoding
) -> Iterator[Picture]:
    raw = findings.rows("input", rows)
    _check(findings, "input", raw, preprocess.raw_shape, preprocess.raw_dtype)
    axes = (0, *(axis + 1 for axis in preprocess.axes))
    samples = raw.transpose(axes).reshape(-1, *preprocess.input_shape)
    if encoding.gradient is None:
        for sample in samples:
            yield Picture(_sample(sample, encoding), None)
        return
    gradients = findings.rows("gradient", rows)
    _check(findings, "gradient", gradients, (2, *preprocess.input_shape), "float32")
    for sample, pair in zip(samples, gradients, strict=True):
        yield Picture(_sample(sample, encoding), _gradients(pair, encoding))


def _sample(sample: NDArray[Any], encoding: Encoding) -> str:
    values = block_means(sample, encoding.factor)
    if encoding.dtype == "uint8":
        values = np.rint(values)
    with np.errstate(over="ignore"):
        return _text(values.astype(encoding.dtype))


def _gradients(pair: NDArray[np.float32], encoding: Encoding) -> Gradients:
    products = _products(pair)
    means = [block_means(each, encoding.factor) for each in pair]
    if encoding.gradient == "float32":
        return Gradients(_text(np.stack(means).astype(np.float32)), None, products)
    quantised = [quantise(each) for each in means]
    data = _text(np.stack([each.values for each in quantised]))
    return Gradients(data, [each.scale for each in quantised], products)


def _products(pair: NDArray[np.float32]) -> list[float | None]:
    a, b = pair.reshape(2, -1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return [finite(float(one @ other)) for one, other in ((a, a), (a, b), (b, b))]


class Quantised(NamedTuple):
    """int8 values of which each stands for values · scale; `NOT_FINITE`: not finite."""

    values: NDArray[np.int8]
    scale: float


def quantise(gradient: NDArray[Any]) -> Quantised:
    """Round to 255 steps that reach from minus to plus the largest size."""
    wide = gradient.astype(np.float64)
    known = np.isfinite(wide)
    largest = float(np.abs(wide, where=known, out=np.zeros_like(wide)).max(initial=0.0))
    scale = largest / LARGEST
    steps = np.zeros_like(wide)
    np.divide(wide, scale, where=known & (scale > 0), out=steps)
    values = np.where(known, np.rint(steps), NOT_FINITE).astype(np.int8)
    return Quantised(values, scale)


def block_means(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means over blocks of `factor` along each axis but channels; those at the end are narrower."""
    if factor == 1:
        return values
    means = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis in range(first_spatial(values.shape), values.ndim):
            starts = np.arange(0, values.shape[axis], factor)
            widths = np.diff(starts, append=values.shape[axis])
            column = widths.reshape(-1, *(1,) * (values.ndim - axis - 1))
            means = np.add.reduceat(means, starts, axis=axis) / column
    return means


def _text(values: NDArray[Any]) -> str:
    """Base64 of little-endian values in C order."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


def _check(
    findings: Findings, name: str, values: NDArray[Any], shape: tuple[int, ...], dtype: str
) -> None:
    if values.shape[1:] != shape or str(values.dtype) != dtype:
        raise FindingsError(
            f"{findings.path}: a row of /flagged/{name} is {values.dtype} {values.shape[1:]}; "
            f"expected {dtype} {shape}, as the bundle's record says"
        )
