"""The canonical path: float64 logits and pair gradients through the TorchScript module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audit.errors import BundleError, DeviceError, last_line
from audit.torchscript import (
    module_from_torchscript,
    operator_by_operator,
    profiling_execution,
)

# Of float64 input; activations are many times that, and are to stay in the cache: a small CNN's
# logits take 1.7 times as long with batches that are eight times as large.
BATCH_BYTES = 2**18
MAX_BATCH = 256
# Gradients this close, relative to their own size, differ by rounding alone.
SAME_GRADIENT = 1e-12

T = TypeVar("T")
Objective = Callable[[Tensor, slice], Tensor]


class PairGradients(NamedTuple):
    """Of M samples.

    Attributes:
        gradient: ∂z_a/∂x and ∂z_b/∂x, float64 (M, 2, *input_shape).
        distance_l2: margin ÷ ‖∂z_a/∂x - ∂z_b/∂x‖₂, float64 (M,).
        distance_linf: margin ÷ ‖∂z_a/∂x - ∂z_b/∂x‖₁, float64 (M,).
        degenerate: Equal logits and no gradient difference: no direction tips them. Their
            distances are NaN. bool (M,).
    """

    gradient: NDArray[np.float64]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]
    degenerate: NDArray[np.bool_]


class Distances(NamedTuple):
    """Boundary distances of M samples, as in `PairGradients`."""

    l2: NDArray[np.float64]
    linf: NDArray[np.float64]
    degenerate: NDArray[np.bool_]


class ObjectiveGradient(NamedTuple):
    """Of N samples.

    Attributes:
        logits: float64 (N, C).
        gradient: Of each sample's objective, float64 (N, *input_shape).
    """

    logits: NDArray[np.float64]
    gradient: NDArray[np.float64]


class Canonical:
    """A TorchScript module, evaluated in float64.

    Every sample's result is its own: no gradient is mixed across the batch, and nothing outside
    (parameters' `.grad`, torch's thread count, grad mode, autocast) is changed.
    """

    def __init__(
        self,
        model: bytes,
        *,
        device: str,
        threads: int,
        source: str,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Load the module.

        Args:
            model: The TorchScript file.
            device: Where gradients are computed: cpu, cuda or tensorrt (then cuda, too).
            threads: Batches computed at once on the CPU.
            source: Where the model came from, for messages.
            between: Called after each batch, from the caller's thread; what it raises ends the
                computation.

        Raises:
            BundleError: It isn't TorchScript that this torch can run.
            DeviceError: The device can't be had.
        """
        self._device = "cpu" if device == "cpu" else "cuda"
        if self._device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                f"--device {device}: this torch has no CUDA device; install torch with CUDA, or "
                "use --device cpu"
            )
        self._threads = threads
        self._source = source
        self._between = between
        self._module = module_from_torchscript(model, source, self._device)
        self._alone = (
            self._module if self._device == "cpu" else module_from_torchscript(model, source, "cpu")
        )

    def logits(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logits (N, C) float64 of input-space samples (N, *input_shape), float32 or float64."""

        def compute(rows: slice) -> NDArray[np.float64]:
            return self._forward(self._module, x[rows], self._device)

        return np.concatenate(self._map(compute, _batches(x), self._device))

    def logits_alone(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """As `logits`, each sample by itself on one thread of the CPU.

        What a batch or a device does to the order of sums can't reach it, so that exact ties come
        out the same everywhere.
        """

        def compute(rows: slice) -> NDArray[np.float64]:
            return self._forward(self._alone, x[rows], "cpu")

        return np.concatenate(self._map(compute, _batches(x, most=1), "cpu"))

    def pair_gradients(
        self, x: NDArray[np.float32], classes: NDArray[np.int64], margin: NDArray[np.float64]
    ) -> PairGradients:
        """Gradients of both tied logits, and the boundary distances that follow from them.

        Args:
            x: Samples (M, *input_shape) in input space.
            classes: The tied classes a, b of each, (M, 2).
            margin: z_a - z_b of each, (M,).
        """
        gradient = np.empty((len(x), 2, *x.shape[1:]))
        distance_l2, distance_linf = np.empty(len(x)), np.empty(len(x))
        degenerate = np.empty(len(x), dtype=bool)

        def compute(rows: slice) -> None:
            inputs = _tensor(x[rows], self._device)
            pair = torch.from_numpy(classes[rows]).to(inputs.device)
            gradient[rows] = pair_gradients(self._call, inputs, pair).cpu().numpy()
            distances = boundary_distances(gradient[rows], margin[rows])
            distance_l2[rows], distance_linf[rows], degenerate[rows] = distances

        self._map(compute, _batches(x), self._device)
        return PairGradients(gradient, distance_l2, distance_linf, degenerate)

    def objective_gradient(self, x: NDArray[np.float64], objective: Objective) -> ObjectiveGradient:
        """Gradient of one number a sample that is computed from its logits.

        Args:
            x: Samples (N, *input_shape) in input space.
            objective: From logits (n, C) of the samples `rows`, a slice, to values (n,); called
                from several threads.
        """
        gradient = np.empty(x.shape)

        def compute(rows: slice) -> NDArray[np.float64]:
            with torch.enable_grad():
                inputs = _tensor(x[rows], self._device).requires_grad_()
                logits = self._call(inputs)
                (of_inputs,) = torch.autograd.grad(objective(logits, rows).sum(), inputs)
            gradient[rows] = of_inputs.cpu().numpy()
            return logits.detach().cpu().numpy()

        logits = np.concatenate(self._map(compute, _batches(x), self._device))
        return ObjectiveGradient(logits, gradient)

    def _forward(
        self, module: nn.Module, x: NDArray[np.floating], device: str
    ) -> NDArray[np.float64]:
        with torch.no_grad():
            return self._call(_tensor(x, device), module).cpu().numpy()

    def _call(self, x: Tensor, module: nn.Module | None = None) -> Tensor:
        try:
            logits: Tensor = (self._module if module is None else module)(x)
        except RuntimeError as exc:
            raise BundleError(f"{self._source}: torch failed: {last_line(exc)}") from exc
        return logits

    def _map(self, compute: Callable[[slice], T], batches: Iterable[slice], device: str) -> list[T]:
        """`compute` of each batch; on the CPU as many at once as there are threads.

        Threads within an operator would wait for each other after each one: beside another busy
        process that was seen to take a hundred times as long.
        """

        def alone(rows: slice) -> T:
            # What a thread must not take over from whoever started it.
            with (
                torch.inference_mode(False),
                torch.autocast(device, enabled=False),
                operator_by_operator(),
            ):
                return compute(rows)

        def watched(results: Iterable[T]) -> Iterator[T]:
            for result in results:
                self._between()
                yield result

        before = torch.get_num_threads()
        try:
            with profiling_execution():
                if device != "cpu":
                    return list(watched(map(alone, batches)))
                pool = ThreadPoolExecutor(self._threads, initializer=_one_thread)
                try:
                    return list(watched(pool.map(alone, batches)))
                finally:
                    pool.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(before)


def pair_gradients(network: Callable[[Tensor], Tensor], x: Tensor, classes: Tensor) -> Tensor:
    """∂z_a/∂x and ∂z_b/∂x of each sample, (N, 2, *input_shape) in the dtype of `x`.

    Args:
        network: Samples (N, *input_shape) to logits (N, C), each row of which depends on that
            sample alone.
        x: The samples; nothing flows back into what made them.
        classes: a and b of each, int64 (N, 2).
    """
    with torch.enable_grad():
        inputs = x.detach().requires_grad_()
        # Each row's logit depends on that row alone, so the gradient of the sum over rows holds
        # every row's own gradient.
        first, second = network(inputs).gather(1, classes).sum(0)
        (of_a,) = torch.autograd.grad(first, inputs, retain_graph=True)
        (of_b,) = torch.autograd.grad(second, inputs)
        return torch.stack([of_a, of_b], 1)


def boundary_distances(gradient: NDArray[np.float64], margin: NDArray[np.float64]) -> Distances:
    """First-order distance to the a/b boundary: margin ÷ ‖∂z_a/∂x - ∂z_b/∂x‖ in the dual norm.

    As DeepFool steps (Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599, eq. 8 and
    section 2.3).

    Args:
        gradient: Pair gradients, (M, 2, *input_shape).
        margin: z_a - z_b, (M,).
    """
    flat = gradient.reshape(len(gradient), 2, math.prod(gradient.shape[2:]))
    size = np.sqrt(np.einsum("mki,mki->mk", flat, flat)).sum(axis=1)
    difference = flat[:, 0] - flat[:, 1]
    length = np.sqrt(np.einsum("mi,mi->m", difference, difference))
    absolute = np.abs(difference, out=difference).sum(axis=1)
    same = length <= SAME_GRADIENT * size
    degenerate = same & (margin == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        l2 = np.where(degenerate, np.nan, margin / np.where(same, 0.0, length))
        linf = np.where(degenerate, np.nan, margin / np.where(same, 0.0, absolute))
    return Distances(l2, linf, degenerate)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _tensor(x: NDArray[np.floating], device: str) -> Tensor:
    return torch.from_numpy(x).to(device, torch.float64)


def batch_rows(input_size: int) -> int:
    """Samples of a batch, for so many numbers in the network's input."""
    return max(1, min(MAX_BATCH, BATCH_BYTES // (8 * max(1, input_size))))


def _batches(x: NDArray[np.floating], most: int = MAX_BATCH) -> Iterator[slice]:
    """Equal parts, so that no thread is left with a larger one."""
    size = min(most, batch_rows(x[:1].size))
    count = -(-len(x) // size)
    for part in range(count):
        yield slice(len(x) * part // count, len(x) * (part + 1) // count)
