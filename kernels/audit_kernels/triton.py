"""`top2_margin` for CUDA tensors, and the candidates among its margins; in Triton.

A program reads each logit of its rows once. Every lane keeps the largest and second largest of the
columns it meets; at the end the row's are found among the lanes'. A lane meets its columns in
ascending order and changes its mind for larger logits only, and among lanes the lowest class wins.

With TRITON_INTERPRET=1, set before this is imported, it runs on CPU tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from audit_kernels.torch import WIDER, check_limit, checked
from audit_kernels.types import TensorTop2

LANES = 1024  # logits that a program looks at at once
WIDEST = 4096  # of them, where they are all of one row
POSITIONS = 1024  # margins that a program looks at

_device_of: Any = torch.cuda.device_of  # does nothing for CPU tensors


def top2_margin(logits: Tensor, *, classes: bool) -> TensorTop2:
    """See `TensorKernel`."""
    logits = _on_device(checked(logits))
    count, width = logits.shape
    dtype = WIDER.get(logits.dtype, logits.dtype)
    margin = logits.new_empty(count, dtype=dtype)
    top = torch.empty_like(margin)
    pairs = logits.new_empty((count if classes else 0, 2), dtype=torch.int64)
    columns = min(triton.next_power_of_2(width), WIDEST)
    rows = max(1, LANES // columns)
    if count:
        with _device_of(logits):
            _top2[(triton.cdiv(count, rows),)](
                logits,
                *logits.stride(),
                margin,
                top,
                pairs,
                count,
                width,
                ROWS=rows,
                COLUMNS=columns,
                CLASSES=classes,
                num_warps=8 if columns == WIDEST else 4,
                enable_fp_fusion=False,
            )
    return TensorTop2(margin, top, pairs if classes else None)


def candidates(margin: Tensor, limit: Tensor) -> Tensor:
    """See `audit_kernels.torch.candidates`."""
    check_limit(margin, limit)
    margin, limit = _on_device(margin).contiguous(), limit.contiguous()
    count = len(margin)
    if not count:
        return margin.new_empty(0, dtype=torch.int64)
    programs = triton.cdiv(count, POSITIONS)
    found = margin.new_empty(programs, dtype=torch.int64)
    shared = {"EACH": limit.ndim == 1, "BLOCK": POSITIONS, "enable_fp_fusion": False}
    with _device_of(margin):
        _count[(programs,)](margin, limit, found, count, **shared)
        stops = found.cumsum(0)
        positions = margin.new_empty(int(stops[-1]), dtype=torch.int64)
        _write[(programs,)](margin, limit, stops, positions, count, **shared)
    return positions


def _on_device(tensor: Tensor) -> Tensor:
    """The tensor.

    Raises:
        ValueError: Triton can't compute where it is.
    """
    interpreted = not isinstance(_top2, triton.JITFunction)
    if not (tensor.is_cuda or interpreted):
        raise ValueError(
            f"a tensor on {tensor.device}; kernel 'triton' takes CUDA tensors. Set "
            "TRITON_INTERPRET=1 before it is imported to have it interpreted"
        )
    return tensor


@triton.jit  # type: ignore[untyped-decorator]
def _top2(
    logits: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    margin: tl.tensor,
    top: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CLASSES: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = rows < count
    lanes = tl.arange(0, COLUMNS)
    wide = margin.dtype.element_ty
    largest = tl.full((ROWS, COLUMNS), float("-inf"), wide)
    second = largest
    largest_at = tl.full((ROWS, COLUMNS), 0, tl.int32)
    second_at = largest_at
    broken = largest_at
    for start in range(0, width, COLUMNS):
        columns = start + lanes
        inside = in_rows[:, None] & (columns < width)[None, :]
        places = rows[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
        value = tl.load(logits + places, mask=inside, other=float("-inf")).to(wide)
        broken |= (inside & ~(tl.abs(value) < float("inf"))).to(tl.int32)
        above = value > largest
        between = value > second
        second = tl.where(above, largest, tl.where(between, value, second))
        second_at = tl.where(above, largest_at, tl.where(between, columns[None, :], second_at))
        largest = tl.where(above, value, largest)
        largest_at = tl.where(above, columns[None, :], largest_at)
    a_value = tl.max(largest, axis=1)
    a = tl.min(tl.where(largest == a_value[:, None], largest_at, width - 1), axis=1)
    # The lane of a offers its second.
    taken = (largest_at == a[:, None]) & (largest == a_value[:, None])
    rest = tl.where(taken, second, largest)
    b_value = tl.max(rest, axis=1)
    finite = tl.max(broken, axis=1) == 0
    tl.store(margin + rows, tl.where(finite, a_value - b_value, float("nan")), mask=in_rows)
    tl.store(top + rows, a_value, mask=in_rows)
    if CLASSES:
        rest_at = tl.where(taken, second_at, largest_at)
        b = tl.min(tl.where(rest == b_value[:, None], rest_at, width - 1), axis=1)
        tl.store(pairs + 2 * rows, a.to(tl.int64), mask=in_rows)
        tl.store(pairs + 2 * rows + 1, b.to(tl.int64), mask=in_rows)


@triton.jit  # type: ignore[untyped-decorator]
def _below(
    margin: tl.tensor, limit: tl.tensor, places: tl.tensor, count: tl.tensor, EACH: tl.constexpr
) -> tl.tensor:
    """1 where the margin at a place isn't at least the limit, 0 elsewhere."""
    inside = places < count
    value = tl.load(margin + places, mask=inside, other=0.0)
    bound = tl.load(limit + places, mask=inside, other=0.0) if EACH else tl.load(limit)
    return (inside & ~(value >= bound)).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _count(
    margin: tl.tensor,
    limit: tl.tensor,
    found: tl.tensor,
    count: tl.tensor,
    EACH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    places = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(found + program, tl.sum(_below(margin, limit, places, count, EACH), axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _write(
    margin: tl.tensor,
    limit: tl.tensor,
    stops: tl.tensor,
    positions: tl.tensor,
    count: tl.tensor,
    EACH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    places = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    below = _below(margin, limit, places, count, EACH)
    stop = tl.load(stops + program)
    place = stop - tl.sum(below, axis=0) + tl.cumsum(below, axis=0) - 1
    tl.store(positions + place, places, mask=below != 0)
