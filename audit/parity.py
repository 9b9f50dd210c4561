"""Proof that the graphs agree: with the network in float64, sample by sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from audit.bundle import ONNX, Parity
from audit.errors import ParityError
from audit.folding import RawGraphs
from audit.forward import Forward, available_threads
from audit.gradients import Canonical
from audit.guard import Guard, margin
from audit.samples import Samples, default_batch_size

FIRST_BATCHES = (1, 2, 7)  # the exports must serve batch sizes that they weren't made with
# float32 networks were seen to disagree by 1e-7 to 1e-4 of their logits' size; beyond this the
# graph computes something else.
PARITY_TOLERANCE = 1e-3
# Of the logits, when float64 data is rounded to float32: 1e-7 to 1e-6 where features are centred.
ROUNDING_TOLERANCE = 1e-4
# A folded graph's guard, of the plain one's: 0.8 to 1.7 was seen for pixels and other data that is
# centred or nearly so, 2.3 where the mean is 3 standard deviations, 7 at 10, 80 at 100. A few times
# a guard of 1e-5 proposes no sample more; from there on digits are being lost.
FOLDED_GUARD = 4.0


def check_float32(single: nn.Module, double: nn.Module, samples: Samples) -> None:
    """Float32 must do for the network, and for its input.

    Raises:
        ParityError: The network's float32 and float64 logits differ, or those of the data before
            and after it is rounded to input space.
    """
    worst_network = worst_input = 0.0
    size = default_batch_size(math.prod(samples.preprocess.input_shape))
    for rows in _batches(len(samples.raw), size):
        x = torch.from_numpy(samples.preprocess.to_input_space(samples.raw[rows]))
        exact = torch.from_numpy(samples.preprocess.before_rounding(samples.raw[rows]))
        with torch.no_grad():
            expected = double(x.double()).numpy()
            worst_network = max(worst_network, _relative_error(single(x).numpy(), expected))
            worst_input = max(worst_input, _relative_error(expected, double(exact).numpy()))
    if worst_network > PARITY_TOLERANCE:
        raise ParityError(
            f"the network's own logits in float32 and float64 differ by {worst_network:.2g} of "
            "their size; create tensors in forward with dtype=x.dtype (a float32 attention mask "
            "is the usual cause), and avoid what float32 is too coarse for"
        )
    if worst_input > ROUNDING_TOLERANCE:
        raise ParityError(
            f"rounding the {samples.source} samples to float32, which input space is, moves the "
            f"logits by {worst_input:.2g} of their size; subtract what their features have in "
            "common (a time stamp's epoch) in the dataset, or with --offset, instead of --mean"
        )


class Proven(NamedTuple):
    """The graph from raw samples to logits that is used, and how far it is from canonical."""

    graph: bytes
    parity: Parity


def prove_parity(graphs: RawGraphs, canonical: Canonical, samples: Samples) -> Proven:
    """ONNX in float32 against the canonical evaluation, sample by sample.

    The folded graph is used where its guard is about as small as the plain one's.

    Raises:
        ParityError: The plain graph's logits differ by more than rounding explains.
    """
    exact = canonical.logits(samples.preprocess.to_input_space(samples.raw))
    plain = _parity(_logits(graphs.plain, samples), exact, samples)
    if graphs.folded is not None:
        fast = _logits(graphs.folded, samples)
        close = np.isfinite(fast).all() and _relative_error(fast, exact) <= PARITY_TOLERANCE
        if close:
            folded = _parity(fast, exact, samples)
            if folded.guard <= FOLDED_GUARD * plain.guard:
                return Proven(graphs.folded, folded)
    return Proven(graphs.plain, plain)


def _logits(graph: bytes, samples: Samples) -> NDArray[np.float32]:
    forward = Forward(graph, device="cpu", threads=available_threads(), source=ONNX)
    size = default_batch_size(math.prod(samples.preprocess.input_shape))
    batches = _batches(len(samples.raw), size)
    return np.concatenate([forward.logits(samples.raw[rows]) for rows in batches])


def _parity(fast: NDArray[np.float32], exact: NDArray[np.float64], samples: Samples) -> Parity:
    if not (np.isfinite(fast).all() and np.isfinite(exact).all()):
        raise ParityError(
            f"logits of {samples.source} samples are NaN or infinite; check --scale, --mean and "
            "--std against the data"
        )
    top1 = int((fast.argmax(axis=1) != exact.argmax(axis=1)).sum())
    error = _relative_error(fast, exact)
    if error > PARITY_TOLERANCE:
        raise ParityError(
            f"the ONNX graph's logits differ from the model's by up to {error:.3g} of their size "
            f"on {len(exact)} {samples.source} samples (top-1 differs in {top1}); expected at most "
            f"{PARITY_TOLERANCE:g}. The exporter or ONNX Runtime treats one of the network's "
            "operators differently"
        )
    guard = Guard.measured(fast, exact)
    return Parity(
        source=samples.source,
        samples=len(exact),
        max_logit_difference=float(np.abs(fast - exact).max()),
        max_margin_difference=float(np.abs(margin(fast) - margin(exact)).max()),
        top1_disagreements=top1,
        logit_scale=guard.logit_scale,
        guard=guard.value,
    )


def _batches(samples: int, largest: int) -> Iterator[slice]:
    start = 0
    for size in itertools.chain(FIRST_BATCHES, itertools.repeat(largest)):
        if start >= samples:
            return
        yield slice(start, start + size)
        start += size


def _relative_error(fast: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """Largest |Δlogit|, each relative to the largest of 1, its own size and its row's top-2.

    A class masked with -1e9 excuses no other; a small logit may be the difference of terms as
    large as the top-2.
    """
    top2 = np.abs(np.sort(exact, axis=1)[:, -2:]).max(axis=1, keepdims=True)
    size = np.maximum(np.maximum(1.0, np.abs(exact)), top2)
    return float((np.abs(fast - exact) / size).max())
