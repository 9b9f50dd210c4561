"""The line from a trained model to a bundle.

samples → copy → preflight → graphs → same gradients → parity → written
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import logging
import math
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
from audit.bundle_writer import check_target, write_bundle
from audit.dataset import Dataset
from audit.errors import ModelError, OptionError, ParityError
from audit.forward import Forward, available_threads, default_batch_size, import_onnxruntime
from audit.gradients import Canonical
from audit.graphs import (
    OPSET,
    attention_without_fast_path,
    exporter_chatter_muted,
    onnx_from_module,
    pt2_from_module,
    torchscript_from_network,
)
from audit.guard import Guard, margin
from audit.options import RAW_DTYPES, ExportOptions
from audit.preprocess import Preprocess, input_space_to_logits, plan_preprocess, raw_to_logits
from audit.torchscript import (
    module_from_torchscript,
    plain_execution,
    profiling_execution,
)
from audit.weights import load_weights

RANDOM_SAMPLES = 256
PARITY_SAMPLES = 1024  # of parity data, evenly spaced
PARITY_BYTES = 64 * 2**20  # of input space; of either, no more than fit in it
PREFLIGHT_SAMPLES = 16  # the preflight compares batches of up to five
FIRST_BATCHES = (1, 2, 7)  # the exports must serve batch sizes that they weren't made with
# float32 networks were seen to disagree by 1e-7 to 1e-4 of their logits' size; beyond this the
# graph computes something else.
PARITY_TOLERANCE = 1e-3
# Of the logits, when float64 data is rounded to float32: 1e-7 to 1e-6 where features are centred.
ROUNDING_TOLERANCE = 1e-4
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
    target = check_target(Path(out))
    samples = _samples(options)
    preprocess = samples.preprocess
    network = _frozen_copy(model, weights)
    # Repeated where the parity data has fewer.
    few = np.resize(samples.raw[:PREFLIGHT_SAMPLES], (PREFLIGHT_SAMPLES, *samples.raw.shape[1:]))
    raw = torch.from_numpy(np.ascontiguousarray(few))
    x = torch.from_numpy(preprocess.to_input_space(few)).double()
    eager = input_space_to_logits(copy.deepcopy(network), preprocess).double().eval()
    with attention_without_fast_path():
        preflight.check_logits(eager, x, options.classes)
        preflight.check_gradients(eager, x)
        _check_float32(input_space_to_logits(network, preprocess).eval(), eager, samples)
        files = {
            ONNX: onnx_from_module(raw_to_logits(copy.deepcopy(network), preprocess), raw),
            TORCHSCRIPT: torchscript_from_network(copy.deepcopy(eager), x),
        }
        if options.pt2:
            files[PT2] = pt2_from_module(
                input_space_to_logits(copy.deepcopy(network), preprocess), x
            )
        _check_gradients(files, eager, x)
    parity = prove_parity(files, samples)
    manifest = Manifest(
        name=options.name or target.name,
        classes=options.classes or _numbered(eager, x),
        preprocess=preprocess,
        opset=OPSET,
        producer=_producer(),
        files={
            name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
        },
        parity=parity,
    )
    write_bundle(target, {**files, MANIFEST: manifest.to_json().encode()})
    return load_bundle(target)


def prove_parity(files: dict[str, bytes], samples: Samples) -> Parity:
    """ONNX in float32 against the canonical evaluation, sample by sample.

    Raises:
        ParityError: They differ by more than rounding explains.
    """
    threads = available_threads()
    forward = Forward(files[ONNX], device="cpu", threads=threads, source=ONNX)
    canonical = Canonical(files[TORCHSCRIPT], device="cpu", threads=threads, source=TORCHSCRIPT)
    size = default_batch_size(math.prod(samples.preprocess.input_shape))
    batches = _batches(len(samples.raw), size)
    fast = np.concatenate([forward.logits(samples.raw[rows]) for rows in batches])
    exact = canonical.logits(samples.preprocess.to_input_space(samples.raw))
    if not (np.isfinite(fast).all() and np.isfinite(exact).all()):
        raise ParityError(
            f"logits of {samples.source} samples are NaN or infinite; check --scale, --mean and "
            "--std against the data"
        )
    logit_difference = float(np.abs(fast - exact).max())
    margin_difference = float(np.abs(margin(fast) - margin(exact)).max())
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

    fitting = max(PREFLIGHT_SAMPLES, PARITY_BYTES // (4 * math.prod(options.input_shape)))
    if options.parity_data is None:
        preprocess = planned(None, options.raw_dtype or "float32")
        raw = preprocess.random_raw(min(RANDOM_SAMPLES, fitting), np.random.default_rng(SEED))
        return Samples(raw, "random", preprocess)
    with Dataset(options.parity_data) as data:
        preprocess = planned(data.sample_shape, _raw_dtype(options, data.dtype))
        spaced = np.linspace(0, data.stored - 1, min(PARITY_SAMPLES, fitting, data.stored))
        raw = data.samples(spaced.astype(np.int64)).astype(preprocess.raw_dtype)
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
    if any(isinstance(each, torch.jit.ScriptModule) for each in model.modules()):
        raise ModelError(
            "the model is TorchScript already, which has no way to ONNX; give the nn.Module that "
            "it was made from"
        )
    try:
        network = copy.deepcopy(model)
    except Exception as exc:
        raise ModelError(
            f"the model can't be copied ({exc}); pass the bare network, without trainer, hooks or "
            "tensors that carry gradients"
        ) from exc
    if weights is not None:
        load_weights(network, weights)
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        raise ModelError(
            "the network has lazy layers without weights (LazyLinear, …); run one batch through it "
            "before it is exported, in the factory or before audit.export"
        )
    training = any(each.training for each in network.modules())
    network = network.cpu().float().eval().requires_grad_(False)
    preflight.check_evaluation_mode(network)
    preflight.check_weights(network)
    if training:
        logger.warning(
            "the model is in training mode; it is exported in evaluation mode, and its own flags "
            "stay as they are"
        )
    return network


def _check_float32(single: nn.Module, double: nn.Module, samples: Samples) -> None:
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


def _check_gradients(files: dict[str, bytes], eager: nn.Module, x: Tensor) -> None:
    for execution in (plain_execution, profiling_execution):
        module = module_from_torchscript(files[TORCHSCRIPT], TORCHSCRIPT)
        with execution():
            preflight.check_same_gradients(module, eager, x, "TorchScript")
    if PT2 in files:
        with exporter_chatter_muted():
            program = torch.export.load(io.BytesIO(files[PT2])).module()
            preflight.check_same_gradients(program.double(), eager, x, "torch.export")


def _producer() -> dict[str, str]:
    """Versions of what the exports and the numbers of the proof depend on."""
    names = ["near-tie-audit", "torch", "onnx", "onnxscript"]
    versions = {name: version(name) for name in names}
    runtime = import_onnxruntime()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
        return versions
    return {**versions, "onnxruntime": str(runtime.__version__)}  # built from source


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


def _numbered(eager: nn.Module, x: Tensor) -> tuple[str, ...]:
    with torch.no_grad():
        return tuple(map(str, range(eager(x[:1]).shape[1])))
