"""Everything that touches `torch.jit`, which warns at each entry that it is deprecated."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution
from torch.jit._trace import TracerWarning

from audit.errors import BundleError, last_line

NAMESPACES = ("aten", "prim")
# What reads or writes files, or calls what the graph doesn't show.
REFUSED = {
    "aten::save",
    "aten::from_file",
    "prim::CallFunction",
    "prim::CallMethod",
    "prim::PythonOp",
    "prim::rpc_async",
    "prim::rpc_remote",
    "prim::rpc_sync",
}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip file knows


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
    return _without_debug_records(buffer)


def _without_debug_records(archive: io.BytesIO) -> bytes:
    """Where each line came from is the exporting machine's affair: its paths aren't shipped."""
    result = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name, EPOCH), old.read(name))
    return result.getvalue()


def module_from_torchscript(data: bytes, source: str, device: str = "cpu") -> nn.Module:
    """Load, in float64, parameters frozen.

    A module that names an operator for files, or one that isn't torch's own, is refused before its
    first call. That is no sandbox: torch runs `__setstate__` while it loads, before the check, and
    its reader and kernels take sizes and indices as they come. Load only bundles that you trust.

    Raises:
        BundleError: It isn't TorchScript, this torch can't read it, or it is refused.
    """
    try:
        # Tensors made in the caller's inference mode could never carry a gradient.
        with profiling_execution(), torch.inference_mode(False):
            module: nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(data), map_location=device
            )
            _check_operators(module, source)
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            return module.double().eval()
    except RuntimeError as exc:
        raise BundleError(f"{source}: torch can't load it: {last_line(exc)}") from exc


def _check_operators(module: nn.Module, source: str) -> None:
    for kind in sorted(_operators(module)):
        if kind.split("::")[0] not in NAMESPACES or kind in REFUSED:
            raise BundleError(
                f"{source}: uses {kind}, which no exported network needs; don't trust this bundle, "
                "and export the model again with 'audit export'"
            )


def _operators(module: nn.Module) -> set[str]:
    """Kinds of all nodes of all methods and hooks of all submodules, calls inlined."""
    kinds: set[str] = set()
    for each in module.modules():
        compiled: Any = each._c
        functions = [compiled._get_method(name) for name in compiled._method_names()]
        for function in (
            *functions,
            *compiled._get_forward_hooks(),
            *compiled._get_forward_pre_hooks(),
        ):
            graph = function.graph.copy()
            torch._C._jit_pass_inline(graph)
            kinds |= _kinds(graph)
    return kinds


def _kinds(block: Any) -> set[str]:
    kinds = set()
    for node in block.nodes():
        kinds.add(node.kind())
        for inner in node.blocks():
            kinds |= _kinds(inner)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":  # of a fork or closure
                kinds |= _kinds(node.g(name))
            elif node.kindOf(name) == "gs":
                for graph in node.gs(name):
                    kinds |= _kinds(graph)
    return kinds


@contextmanager
def plain_execution() -> Iterator[None]:
    """Run TorchScript operator by operator, without its profiling executor, on this thread.

    The profiling executor rewrites a graph after its first calls and splits its autograd off into
    pieces of its own; operator by operator the gradients are eager PyTorch's from the first call.
    """
    with profiling_execution(), operator_by_operator():
        yield


@contextmanager
def operator_by_operator() -> Iterator[None]:
    """As `plain_execution`, but leaves warnings alone, whose filters all threads share."""
    with optimized_execution(False):
        yield
