"""The canonical path: float64 logits and pair gradients through the TorchScript module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audit.errors import BundleError, DeviceError, last_line
from audit.torchscript import module_from_torchscript, plain_execution

BATCH_BYTES = 2 * 2**20  # of float64 input; activations are many times that
MAX_BATCH = 256
# Gradients this close, relative to their own size, differ by rounding alone.
SAME_GRADIENT = 1e-12


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


class Canonical:
    """A TorchScript module, evaluated in float64.

    Every sample's result is its own: no gradient is mixed across the batch, and nothing outside
    (parameters' `.grad`, torch's thread count, grad mode, autocast) is changed.
    """

    def __init__(self, model: bytes, *, device: str, threads: int, source: str) -> None:
        """Load the module.

        Args:
            model: The TorchScript file.
            device: Where gradients are computed: cpu, cuda or tensorrt (then cuda, too).
            threads: Threads within an operator.
            source: Where the model came from, for messages.

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
        self._module = module_from_torchscript(model, source, self._device)
        self._alone = (
            self._module if self._device == "cpu" else module_from_torchscript(model, source, "cpu")
        )

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (N, C) float64 of input-space samples (N, *input_shape)."""
        parts = [self._forward(self._module, x[rows], self._device) for rows in _batches(x)]
        return np.concatenate(parts)

    def logits_alone(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """As `logits`, each sample by itself on one thread of the CPU.

        What a batch, a thread count or a device does to the order of sums can't reach it, so
        that exact ties come out the same everywhere.
        """
        threads, self._threads = self._threads, 1
        try:
            parts = [self._forward(self._alone, x[i : i + 1], "cpu") for i in range(len(x))]
        finally:
            self._threads = threads
        return np.concatenate(parts)

    def pair_gradients(
        self, x: NDArray[np.float32], classes: NDArray[np.int64], margin: NDArray[np.float64]
    ) -> PairGradients:
        """Gradients of both tied logits, and the boundary distances that follow from them.

        Boundary distance: the first-order step in the dual norm, as DeepFool takes it
        (Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599, eq. 8 and section 2.3).

        Args:
            x: Samples (M, *input_shape) in input space.
            classes: The tied classes a, b of each, (M, 2).
            margin: z_a - z_b of each, (M,).
        """
        gradient = np.empty((len(x), 2, *x.shape[1:]))
        for rows in _batches(x):
            gradient[rows] = self._pair(x[rows], classes[rows])
        flat = gradient.reshape(len(x), 2, -1)
        difference = flat[:, 0] - flat[:, 1]
        size = np.linalg.norm(flat, axis=2).sum(axis=1)
        same = np.linalg.norm(difference, axis=1) <= SAME_GRADIENT * size
        l2 = np.where(same, 0.0, np.linalg.norm(difference, axis=1))
        l1 = np.where(same, 0.0, np.abs(difference).sum(axis=1))
        degenerate = same & (margin == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance_l2 = np.where(degenerate, np.nan, margin / l2)
            distance_linf = np.where(degenerate, np.nan, margin / l1)
        return PairGradients(gradient, distance_l2, distance_linf, degenerate)

    def _forward(
        self, module: nn.Module, x: NDArray[np.float32], device: str
    ) -> NDArray[np.float64]:
        with self._own_settings(), torch.no_grad():
            return self._call(module, _tensor(x, device)).cpu().numpy()

    def _pair(self, x: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float64]:
        with self._own_settings(), torch.enable_grad():
            inputs = _tensor(x, self._device).requires_grad_()
            logits = self._call(self._module, inputs)
            pair = torch.from_numpy(classes).to(inputs.device)
            # Each row's logit depends on that row alone, so the gradient of the sum over rows
            # holds every row's own gradient.
            first, second = logits.gather(1, pair).sum(0)
            (of_a,) = torch.autograd.grad(first, inputs, retain_graph=True)
            (of_b,) = torch.autograd.grad(second, inputs)
            return torch.stack([of_a, of_b], 1).cpu().numpy()

    def _call(self, module: nn.Module, x: Tensor) -> Tensor:
        try:
            logits: Tensor = module(x)
        except RuntimeError as exc:
            raise BundleError(f"{self._source}: torch failed: {last_line(exc)}") from exc
        return logits

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Ours inside, the caller's again afterwards."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with (
                torch.inference_mode(False),
                torch.autocast(self._device, enabled=False),
                plain_execution(),
            ):
                yield
        finally:
            torch.set_num_threads(threads)


def _tensor(x: NDArray[np.float32], device: str) -> Tensor:
    return torch.from_numpy(x).to(device, torch.float64)


def _batches(x: NDArray[np.float32]) -> Iterator[slice]:
    size = max(1, min(MAX_BATCH, BATCH_BYTES // (8 * max(1, x[:1].size))))
    for start in range(0, len(x), size):
        yield slice(start, start + size)
