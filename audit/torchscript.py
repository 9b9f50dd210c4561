"""Everything that touches `torch.jit`, which warns at each entry that it is deprecated."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution
from torch.jit._trace import TracerWarning

from audit.errors import BundleError, last_line


@contextmanager
def profiling_execution() -> Iterator[None]:
    """Run TorchScript as it comes, without its deprecation warnings.

    The bundle format fixes TorchScript; `model.pt2` is what will outlive it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield


def torchscript_from_module(module: nn.Module, example: Tensor) -> bytes:
    """Trace `module` on `example` in float64 and serialise it with float32 parameters.

    Tracing freezes every dtype that the network's code mentions, `y.to(x.dtype)` for one. Frozen
    as float64 the canonical evaluation is exact; frozen as float32 it would be rounded.
    """
    with profiling_execution():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.double(), example.double(), check_trace=False
        )
        traced.float()
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return buffer.getvalue()


def module_from_torchscript(data: bytes, source: str, device: str = "cpu") -> nn.Module:
    """Load, in float64, parameters frozen.

    Raises:
        BundleError: It isn't TorchScript, or this torch can't read it.
    """
    try:
        # Tensors made in the caller's inference mode could never carry a gradient.
        with profiling_execution(), torch.inference_mode(False):
            module: nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location=device
            )
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            return module.double().eval()
    except RuntimeError as exc:
        raise BundleError(f"{source}: torch can't load it: {last_line(exc)}") from exc


@contextmanager
def plain_execution() -> Iterator[None]:
    """Run TorchScript operator by operator, without its profiling executor.

    The profiling executor rewrites a graph after its first calls and splits its autograd off into
    pieces of its own; operator by operator the gradients are eager PyTorch's from the first call.
    """
    with profiling_execution(), optimized_execution(False):
        yield
