"""A network → the bytes of its graphs: ONNX, TorchScript, torch.export."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from audit.errors import ModelError
from audit.forward import OUTPUT
from audit.torchscript import torchscript_from_module

OPSET = 20
NETWORK_INPUT = "network:input"  # a name that no parameter can have
EXAMPLE_BATCH = 3  # not 1: torch.export takes a size of 1 for a constant


def onnx_from_network(network: nn.Module, x: Tensor) -> bytes:
    """ONNX of the network alone, float32, batch size dynamic, in one file.

    Its input is called `NETWORK_INPUT`; what comes before it is for `audit.folding`.

    Args:
        network: In float32.
        x: float32 (N, *input_shape), N ≥ 3.

    Raises:
        ModelError: An operator or the control flow can't be exported.
    """
    try:
        with exporter_chatter_muted():
            program = torch.onnx.export(
                network.eval(),
                (x[:EXAMPLE_BATCH],),
                dynamo=True,
                opset_version=OPSET,
                input_names=[NETWORK_INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as exc:
        raise ModelError(f"the network can't be exported to ONNX: {_cause(exc)}") from exc
    assert program is not None
    proto = program.model_proto
    _strip_metadata(proto)
    data: bytes = proto.SerializeToString()
    return data


def _strip_metadata(proto: Any) -> None:
    """Stack traces with the exporting machine's paths don't belong into a shipped file."""
    graph = proto.graph
    for holder in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for initializer in graph.initializer:
        initializer.ClearField("metadata_props")


def torchscript_from_network(module: nn.Module, x: Tensor) -> bytes:
    """TorchScript of a float64 module from input space on.

    Raises:
        ModelError: It can't be traced.
    """
    try:
        return torchscript_from_module(module, x[:EXAMPLE_BATCH])
    except Exception as exc:
        raise ModelError(f"the network can't be exported to TorchScript: {_cause(exc)}") from exc


def pt2_from_module(module: nn.Module, x: Tensor) -> bytes:
    """A `torch.export` program of a module from input space on, float32.

    Raises:
        ModelError: It can't be exported.
    """
    buffer = io.BytesIO()
    try:
        with exporter_chatter_muted():
            program = torch.export.export(
                module.eval(),
                (x[:EXAMPLE_BATCH].float(),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            for node in program.graph.nodes:
                # Names the exporting machine's paths, which don't belong into a shipped file.
                node.meta.pop("stack_trace", None)
            torch.export.save(program, buffer)
    except Exception as exc:
        raise ModelError(f"the network can't be exported with --pt2: {_cause(exc)}") from exc
    return buffer.getvalue()


@contextmanager
def attention_without_fast_path() -> Iterator[None]:
    """Attention's fused inference kernel has no derivative, and is what tracing would record."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def exporter_chatter_muted() -> Iterator[None]:
    """The exporters warn of their own internals; what fails is raised."""
    torch_logger = logging.getLogger("torch")
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        # torch.export prints the graph that it got to.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_logger.setLevel(level)


def _cause(exc: BaseException) -> str:
    """The innermost reason on one line; torch wraps it in pages of advice."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    text = " ".join(str(exc).split())
    if "Could not export Python function call" in text:
        return (
            "custom backward passes (autograd.Function) can't be exported; write the forward pass "
            "so that its own derivative is the one you want"
        )
    if "Constraints violated" in text or "specialized" in text:
        return "it fixes the batch size; take it from x.shape[0] in forward"
    return text[:300] or type(exc).__name__
