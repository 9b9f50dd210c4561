"""The fast pass on a GPU: logits stay there, and only candidates leave.

Raw batches are copied from pinned buffers on a stream of the thread's own, so that one thread's
copy overlaps with another's computing. ONNX Runtime reads and writes torch's memory (IO binding);
margins, their histogram and the candidates are computed where the logits are. It all runs on the
CPU as well, where the tests compare it with `audit.fast_pass`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audit.crc32 import crc32
from audit.decide import Kept
from audit.fast_pass import NO_CLASS, Line, Passed, checks_in, proposed_by_data
from audit.forward import INPUT, OUTPUT, Forward
from audit.found import MARGIN_EDGES
from audit_kernels import get as get_kernel
from audit_kernels import torch as plain

if TYPE_CHECKING:
    from audit_kernels import TensorKernel


class DevicePass:
    """What `audit.fast_pass` does with a block, for logits on a device."""

    def __init__(self, line: Line, device: str) -> None:
        """`device` is torch's: cuda or, for tests, cpu."""
        self._line = line
        self._device = device
        self._forward: Forward = line.levels[-1].forward
        self._own = threading.local()
        self._edges = torch.from_numpy(MARGIN_EDGES[1:-1]).to(device)
        # torch's CUDA packages bring Triton.
        on_gpu = device == "cuda" and importlib.util.find_spec("triton") is not None
        self._kernel: TensorKernel = get_kernel("triton") if on_gpu else get_kernel("torch")
        if on_gpu:
            from audit_kernels import triton

            self._candidates = triton.candidates
        else:
            self._candidates = plain.candidates

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A buffer that a block is read into; pinned, so that copies to the device overlap."""
        if self._device == "cpu":
            return np.empty(shape, dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return pinned.numpy().view(dtype).reshape(shape)

    def forward(self, raw: NDArray[Any]) -> Tensor:
        """Logits (n, C) float32, on the device, of a raw batch."""
        classes = len(self._line.manifest.classes)
        with self._stream(), self._forward.failures_mapped():
            there = torch.from_numpy(raw).to(self._device, non_blocking=True)
            logits = torch.empty((len(raw), classes), dtype=torch.float32, device=self._device)
            binding = self._forward.session.io_binding()
            binding.bind_input(
                INPUT, self._device, 0, raw.dtype.type, tuple(raw.shape), there.data_ptr()
            )
            binding.bind_output(
                OUTPUT, self._device, 0, np.float32, tuple(logits.shape), logits.data_ptr()
            )
            self._wait()  # ONNX Runtime computes on a stream of its own
            self._forward.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return logits

    def finish(
        self, span: range, raw: NDArray[Any], batches: list[Tensor], labels: NDArray[np.int64]
    ) -> Passed:
        """From a block's logits to what it passes on."""
        line, level = self._line, self._line.levels[-1]
        keep_all = line.options.keep_all
        with self._stream():
            logits = torch.cat(batches)
            top2 = self._kernel(logits, classes=keep_all)
            below = self._candidates(top2.margin, self._limit(top2.margin, top2.top))
            proposed = np.zeros(len(span), dtype=bool)
            proposed[below.cpu().numpy()] = True
            proposed |= proposed_by_data(raw)
            keep = proposed | checks_in(level, span)
            where = np.flatnonzero(keep)
            known = top2.margin[~top2.margin.isnan()].double()
            bins = torch.bucketize(known, self._edges, right=True)
            counts = torch.bincount(bins, minlength=len(MARGIN_EDGES) - 1).cpu().numpy()
            correct = 0
            if line.dataset.has_labels:
                label = torch.from_numpy(labels).to(self._device)
                passed = torch.from_numpy(~keep).to(self._device)
                of_label = logits.gather(1, label.clamp(min=0)[:, None])[:, 0]
                correct = int(((of_label == top2.top) & (label >= 0) & passed).sum())
            margin, classes = np.empty(0, np.float32), np.empty((0, 2), np.int32)
            if top2.classes is not None:
                margin = top2.margin.cpu().numpy()
                classes = np.where(
                    np.isnan(margin)[:, None], NO_CLASS, top2.classes.cpu().numpy()
                ).astype(np.int32)
            kept = logits[torch.from_numpy(where).to(self._device)].cpu().numpy()
        return Passed(
            samples=len(span),
            kept=Kept(span.start + where, raw[where], kept, proposed[where]),
            margin_counts=counts,
            correct=correct,
            rescored=0,
            checked=0,
            margin=margin,
            classes=classes,
            crc32=crc32(raw),
        )

    def _limit(self, margin: Tensor, top: Tensor) -> Tensor:
        """ε + guard of each row, float32 and not below: see `Guard.of`."""
        guard = self._line.levels[-1].guard
        size = torch.maximum(top.abs(), (top - margin).abs()).double()
        growth = (size / guard.logit_scale).nan_to_num(1.0, posinf=1.0).clamp(min=1.0)
        limit = self._line.options.eps + guard.value * growth
        return torch.nextafter(limit.float(), torch.full_like(margin, torch.inf))

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        if self._device == "cpu":
            yield
            return
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._own.stream):
            yield

    def _wait(self) -> None:
        if self._device != "cpu":
            torch.cuda.current_stream().synchronize()
