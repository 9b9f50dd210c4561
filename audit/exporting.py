"""The line from a trained model to a bundle; the one file that traces and exports.

samples → copy → preflight → graphs → same gradients → parity → written
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audit import preflight
from audit.bundle import (
    MANIFEST,
    ONNX,
    PT2,
    TORCHSCRIPT,
    Bundle,
    FileRecord,
    Manifest,
    Parity,
    load_bundle,
)
from audit.dataset import Dataset
from audit.errors import ModelError, OptionError, OutputError, ParityError
from audit.forward import INPUT, OUTPUT, Forward, available_threads
from audit.gradients import Canonical
from audit.guard import Guard
from audit.options import RAW_DTYPES, ExportOptions
from audit.preprocess import Preprocess, input_space_to_logits, plan_preprocess, raw_to_logits
from audit.torchscript import (
    module_from_torchscript,
    plain_execution,
    profiling_execution,
    torchscript_from_module,
)
from audit.weights import load_weights

OPSET = 20
EXAMPLE_BATCH = 3  # not 1: torch.export takes a size of 1 for a constant
RANDOM_SAMPLES = 256
PARITY_SAMPLES = 1024  # of parity data, evenly spaced
PREFLIGHT_SAMPLES = 16
FIRST_BATCHES = (1, 2, 7)  # the exports must serve batch sizes that they weren't made with
# float32 networks were seen to disagree by 1e-7 to 1e-4 of their logits' size; beyond this the
# graph computes something else.
PARITY_TOLERANCE = 1e-3
SEED = 0

logger = logging.getLogger("audit")


class Samples(NamedTuple):
    """What the proof runs on: raw (N, *raw_shape), where it came from, how it becomes input."""

    raw: NDArray[np.generic]
    source: str
    preprocess: Preprocess


def export_bundle(
    model: nn.Module,
    weights: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    options: ExportOptions,
) -> Bundle:
    """See `audit.export`."""
    target = _check_target(Path(out))
    samples = _samples(options)
    preprocess = samples.preprocess
    network = _frozen_copy(model, weights)
    x = torch.from_numpy(preprocess.to_input_space(samples.raw)).double()
    eager = input_space_to_logits(copy.deepcopy(network), preprocess).double().eval()
    with _attention_without_fast_path():
        _run_preflight(eager, x[:PREFLIGHT_SAMPLES], options)
        files = {
            ONNX: _onnx_from_module(raw_to_logits(copy.deepcopy(network), preprocess), samples),
            TORCHSCRIPT: _torchscript_from_module(copy.deepcopy(eager), x),
        }
        if options.pt2:
            files[PT2] = _pt2_from_module(
                input_space_to_logits(copy.deepcopy(network), preprocess), x
            )
        _check_gradients(files, eager, x[:PREFLIGHT_SAMPLES])
    parity = prove_parity(files, samples)
    manifest = Manifest(
        name=options.name or target.name,
        classes=options.classes or _numbered(eager, x),
        preprocess=preprocess,
        opset=OPSET,
        producer={
            name: version(name) for name in ("near-tie-audit", "torch", "onnx", "onnxscript")
        },
        files={
            name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
        },
        parity=parity,
    )
    _write(target, {**files, MANIFEST: manifest.to_json().encode()})
    return load_bundle(target)


def prove_parity(files: dict[str, bytes], samples: Samples) -> Parity:
    """ONNX in float32 against the canonical evaluation, sample by sample.

    Raises:
        ParityError: They differ by more than rounding explains.
    """
    threads = available_threads()
    forward = Forward(files[ONNX], device="cpu", threads=threads, source=ONNX)
    canonical = Canonical(files[TORCHSCRIPT], device="cpu", threads=threads, source=TORCHSCRIPT)
    fast = np.concatenate([forward.logits(samples.raw[rows]) for rows in _batches(samples.raw)])
    exact = canonical.logits(samples.preprocess.to_input_space(samples.raw))
    if not (np.isfinite(fast).all() and np.isfinite(exact).all()):
        raise ParityError(
            f"logits of {samples.source} samples are NaN or infinite; check --scale, --mean and "
            "--std against the data"
        )
    scale = max(1.0, float(np.abs(exact).max()))
    logit_difference = float(np.abs(fast - exact).max())
    margin_difference = float(np.abs(_margin(fast) - _margin(exact)).max())
    top1 = int((fast.argmax(axis=1) != exact.argmax(axis=1)).sum())
    if logit_difference > PARITY_TOLERANCE * scale:
        raise ParityError(
            f"the ONNX graph's logits differ from the model's by up to {logit_difference:.3g} on "
            f"{len(exact)} {samples.source} samples (logits up to {scale:.3g}, top-1 differs in "
            f"{top1}); expected at most {PARITY_TOLERANCE:g} of their size. The exporter or "
            "ONNX Runtime treats one of the network's operators differently"
        )
    guard = Guard.from_disagreement(max(logit_difference, margin_difference), scale)
    return Parity(
        source=samples.source,
        samples=len(exact),
        max_logit_difference=logit_difference,
        max_margin_difference=margin_difference,
        top1_disagreements=top1,
        logit_scale=guard.logit_scale,
        guard=guard.value,
    )


def _samples(options: ExportOptions) -> Samples:
    def planned(raw_shape: tuple[int, ...] | None, raw_dtype: str) -> Preprocess:
        return plan_preprocess(
            input_shape=options.input_shape,
            raw_shape=raw_shape,
            raw_dtype=raw_dtype,
            raw_layout=options.raw_layout,
            scale=options.scale,
            offset=options.offset,
            mean=options.mean,
            std=options.std,
        )

    if options.parity_data is None:
        preprocess = planned(None, options.raw_dtype or "float32")
        raw = preprocess.random_raw(RANDOM_SAMPLES, np.random.default_rng(SEED))
        return Samples(raw, "random", preprocess)
    with Dataset(options.parity_data) as data:
        preprocess = planned(data.sample_shape, _raw_dtype(options, data.dtype))
        spaced = np.linspace(0, data.stored - 1, min(PARITY_SAMPLES, data.stored))
        raw = data.samples(spaced.astype(np.int64)).astype(preprocess.raw_dtype)
    # The preflight compares batches of up to five.
    raw = np.resize(raw, (max(len(raw), PREFLIGHT_SAMPLES), *raw.shape[1:]))
    return Samples(raw, Path(options.parity_data).name, preprocess)


def _raw_dtype(options: ExportOptions, stored: np.dtype[Any]) -> str:
    raw_dtype = options.raw_dtype or str(stored)
    if raw_dtype not in RAW_DTYPES or not np.can_cast(stored, raw_dtype, "same_kind"):
        raise OptionError(
            f"the parity data's samples are {stored}, which can't stand for "
            f"{options.raw_dtype or 'any raw dtype'}; store them as one of "
            f"{', '.join(RAW_DTYPES)}, and name the same with --raw-dtype"
        )
    return raw_dtype


def _frozen_copy(model: nn.Module, weights: str | os.PathLike[str] | None) -> nn.Module:
    """A float32 copy on the CPU, in evaluation mode, without parameter gradients."""
    try:
        network = copy.deepcopy(model)
    except Exception as exc:
        raise ModelError(
            f"the model can't be copied ({exc}); pass the bare network, without trainer, hooks or "
            "tensors that carry gradients"
        ) from exc
    if weights is not None:
        load_weights(network, weights)
    if any(each.training for each in network.modules()):
        logger.info("the model is in training mode; it is exported in evaluation mode")
    network = network.cpu().float().eval().requires_grad_(False)
    preflight.check_evaluation_mode(network)
    preflight.check_weights(network)
    return network


def _run_preflight(eager: nn.Module, x: Tensor, options: ExportOptions) -> None:
    preflight.check_logits(eager, x, options.classes)
    preflight.check_gradients(eager, x)


def _check_gradients(files: dict[str, bytes], eager: nn.Module, x: Tensor) -> None:
    for execution in (plain_execution, profiling_execution):
        module = module_from_torchscript(files[TORCHSCRIPT], TORCHSCRIPT)
        with execution():
            preflight.check_same_gradients(module, eager, x, "TorchScript")
    if PT2 in files:
        with _exporter_chatter_muted():
            program = torch.export.load(io.BytesIO(files[PT2])).module()
            preflight.check_same_gradients(program.double(), eager, x, "torch.export")


def _onnx_from_module(module: nn.Module, samples: Samples) -> bytes:
    example = torch.from_numpy(np.ascontiguousarray(samples.raw[:EXAMPLE_BATCH]))
    try:
        with _exporter_chatter_muted():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
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
    onnx.checker.check_model(proto, full_check=True)
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


def _torchscript_from_module(module: nn.Module, x: Tensor) -> bytes:
    try:
        return torchscript_from_module(module, x[:EXAMPLE_BATCH])
    except Exception as exc:
        raise ModelError(f"the network can't be exported to TorchScript: {_cause(exc)}") from exc


def _pt2_from_module(module: nn.Module, x: Tensor) -> bytes:
    buffer = io.BytesIO()
    try:
        with _exporter_chatter_muted():
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


@contextlib.contextmanager
def _attention_without_fast_path() -> Iterator[None]:
    """Attention's fused inference kernel has no derivative, and is what tracing would record."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def _exporter_chatter_muted() -> Iterator[None]:
    """The exporters warn of their own internals; what fails is raised."""
    torch_logger = logging.getLogger("torch")
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        # torch.export prints the graph that it got to.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
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


def _batches(raw: NDArray[np.generic]) -> Iterator[slice]:
    start = 0
    for size in FIRST_BATCHES:
        yield slice(start, start + size)
        start += size
    yield slice(start, len(raw))


def _margin(logits: NDArray[Any]) -> NDArray[Any]:
    ordered = np.sort(logits, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _numbered(eager: nn.Module, x: Tensor) -> tuple[str, ...]:
    with torch.no_grad():
        return tuple(map(str, range(eager(x[:1]).shape[1])))


def _check_target(out: Path) -> Path:
    """The bundle's absolute path; only a bundle may be replaced.

    Raises:
        OutputError: Something else is there, or there is no folder to put it in.
    """
    target = out.absolute()
    if os.path.lexists(target) and not _is_bundle(target):
        raise OutputError(f"{out}: exists and is not a bundle; name another directory with -o")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent}: no such directory; create it, or name another with -o")
    return target


def _is_bundle(target: Path) -> bool:
    """Nothing but a bundle's files, damaged or not: it is deleted when it is replaced."""
    known = {MANIFEST, ONNX, TORCHSCRIPT, PT2}
    return (
        (target / MANIFEST).is_file()
        and {each.name for each in target.iterdir()} <= known
        and b'"audit-bundle/' in (target / MANIFEST).read_bytes()
    )


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Write beside the target, then rename: a bundle is there whole or not at all."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as exc:
        raise OutputError(f"{target}: can't be written ({exc.strerror})") from exc
    try:
        scratch.chmod(0o755)
        for name, data in files.items():
            with (scratch / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            old = scratch.with_name(f"{scratch.name}.old")
            target.rename(old)
            scratch.rename(target)
            shutil.rmtree(old)
        else:
            scratch.rename(target)
    except OSError as exc:
        raise OutputError(f"{target}: can't be written ({exc.strerror})") from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
