"""`top2_margin` in plain torch, for tensors on any device.

`topk` is not used: it doesn't say which of equal logits comes first. `argmax` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit_kernels.types import TensorTop2

WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
DTYPES = (*WIDER, torch.float32, torch.float64)


def checked(logits: Tensor) -> Tensor:
    """The logits without their gradient.

    Raises:
        TypeError: They are no float16, bfloat16, float32 or float64.
        ValueError: They aren't (N, C) with C ≥ 2.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape)
        raise ValueError(f"logits of shape {shape}; expected (rows, classes), 2 classes up")
    if logits.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(f"logits of dtype {logits.dtype}; expected one of {known}")
    return logits.detach()


def top2_margin(logits: Tensor, *, classes: bool) -> TensorTop2:
    """See `TensorKernel`."""
    logits = checked(logits)
    a = logits.argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, a, -torch.inf)
    b = rest.argmax(dim=1, keepdim=True)
    pair = torch.cat([a, b], dim=1)
    largest = logits.gather(1, pair).to(WIDER.get(logits.dtype, logits.dtype))
    margin = largest[:, 0] - largest[:, 1]
    margin.masked_fill_(~logits.isfinite().all(dim=1), torch.nan)
    return TensorTop2(margin, largest[:, 0].contiguous(), pair if classes else None)


def candidates(margin: Tensor, limit: Tensor) -> Tensor:
    """Where the margin isn't at least the limit, found where the margins are.

    Args:
        margin: Float (N,); NaN is below every limit.
        limit: The limit of each row (N,), or of all (), of the same dtype on the same device.

    Returns:
        Positions, int64 (M,), ascending.

    Raises:
        ValueError: Shapes, dtypes or devices differ.
    """
    check_limit(margin, limit)
    return torch.nonzero(~(margin >= limit))[:, 0]


def check_limit(margin: Tensor, limit: Tensor) -> None:
    """Raises what `candidates` says."""
    if margin.ndim != 1 or limit.shape not in ((), margin.shape):
        shapes = f"{tuple(margin.shape)} and {tuple(limit.shape)}"
        raise ValueError(f"margins and limits of shape {shapes}; expected (N,), and (N,) or ()")
    if limit.dtype != margin.dtype or limit.device != margin.device:
        raise ValueError(
            f"limits of {limit.dtype} on {limit.device}; expected {margin.dtype} on "
            f"{margin.device}, as the margins"
        )
