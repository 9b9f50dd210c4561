"""In which dtypes a network can be evaluated, and whether what it gives are logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audit.callback.frozen import WAY_OUT, FrozenNetwork
from audit.callback.options import LogitsFunction
from audit.decide import GuardBroken
from audit.errors import ModelError
from audit.preflight import check_unnormalised

# Of two evaluations that should be equal, relative to the row's largest logit.
SAME, SAME_IN_SINGLE = 1e-9, 1e-2
HALF = (torch.float16, torch.bfloat16)


class Precision(NamedTuple):
    """Of a network's evaluation.

    Attributes:
        fast: dtype that near ties are proposed in.
        canonical: dtype that they are decided and explained in.
        reason: Why that isn't float64; None: it is.
        classes: Number of logits C.
    """

    fast: torch.dtype
    canonical: torch.dtype
    reason: str | None
    classes: int


def find_precision(module: nn.Module, logits_fn: LogitsFunction | None, x: Tensor) -> Precision:
    """The most exact dtypes in which these samples (N, …) have logits and gradients.

    A network that casts within `forward` runs in its own only. Called inside `untouched`.

    Args:
        module: The user's.
        logits_fn: The user's, or None.
        x: A few samples.

    Raises:
        ModelError: In no dtype.
        GuardBroken: They mix the samples, or are random.
    """
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    fast = torch.float32 if own in HALF else own
    network = FrozenNetwork(module, logits_fn)
    try:
        logits = network.evaluated(x, fast)
    except ModelError:
        if fast == own:
            raise
        fast = own
        logits = network.evaluated(x, fast)
    _check_logits(logits, len(x))
    try:
        if network.evaluated(x, torch.float64).dtype != torch.float64:
            raise ModelError("forward casts to a dtype of its own")
        _check_gradients(module, logits_fn, x, torch.float64)
    except ModelError as exc:
        _check_gradients(module, logits_fn, x, fast)
        precision = Precision(fast, fast, str(exc), logits.shape[1])
    else:
        precision = Precision(fast, torch.float64, None, logits.shape[1])
    _check_alone(network, x, precision.canonical)
    return precision


def _check_gradients(
    module: nn.Module, logits_fn: LogitsFunction | None, x: Tensor, dtype: torch.dtype
) -> None:
    network = FrozenNetwork(module, logits_fn, canonical=dtype)
    pair = np.tile(np.array([0, 1]), (len(x), 1))
    network.pair_gradients(x.detach().float().cpu().numpy(), pair, np.zeros(len(x)))


def _check_alone(network: FrozenNetwork, x: Tensor, dtype: torch.dtype) -> None:
    """No sample's logits may depend on its neighbours, or on chance: its gradient would, too."""
    together = network.evaluated(x, dtype)
    try:
        alone = torch.cat([network.evaluated(x[i : i + 1], dtype) for i in range(len(x))])
    except ModelError as exc:  # batch statistics of one sample, for one
        raise GuardBroken(str(dtype), math.inf) from exc
    size = together.abs().amax(1, keepdim=True).clamp(min=1.0)
    off = ((alone - together).abs() / size).nan_to_num(0.0)  # not finite: not this check's affair
    if float(off.max()) > (SAME if dtype == torch.float64 else SAME_IN_SINGLE):
        raise GuardBroken(str(dtype), float(off.max()))


def _check_logits(logits: object, samples: int) -> None:
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the module returns {type(logits).__name__}; expected one tensor of logits: {WAY_OUT}"
        )
    if logits.ndim != 2 or len(logits) != samples or logits.shape[1] < 2:
        raise ModelError(
            f"the module returns shape {tuple(logits.shape)} for {samples} samples; expected "
            f"logits (N, C), one row a sample and 2 classes up: {WAY_OUT}"
        )
    if not logits.is_floating_point():
        raise ModelError(f"the module returns {logits.dtype}; expected logits: {WAY_OUT}")
    check_unnormalised(logits.double(), f", or {WAY_OUT}")
