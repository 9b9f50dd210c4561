"""The line from a trained model to a bundle.

samples → copy → preflight → graphs → same gradients → parity → int8 → written
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from audit import preflight
from audit.bundle import (
    MANIFEST,
    ONNX,
    ONNX_INT8,
    PT2,
    TORCHSCRIPT,
    Bundle,
    FileRecord,
    Manifest,
    load_bundle,
)
from audit.bundle_writer import check_target, write_bundle
from audit.errors import ModelError, TrustStoreError
from audit.folding import raw_graphs
from audit.forward import available_threads, import_onnxruntime
from audit.gradients import Canonical
from audit.graphs import (
    OPSET,
    attention_without_fast_path,
    exporter_chatter_muted,
    onnx_from_network,
    pt2_from_module,
    torchscript_from_network,
)
from audit.manifest import KNOWN_FILES
from audit.options import ExportOptions
from audit.parity import check_float32, prove_parity
from audit.preprocess import input_space_to_logits
from audit.quantization import quantise
from audit.samples import PREFLIGHT_SAMPLES, calibration_samples, parity_samples
from audit.signature import SIGNATURE, shared_key, sign
from audit.torchscript import module_from_torchscript, plain_execution, profiling_execution
from audit.trust import remember
from audit.weights import load_weights

logger = logging.getLogger("audit")


def export_bundle(
    model: nn.Module,
    weights: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    options: ExportOptions,
) -> Bundle:
    """See `audit.export`."""
    target = check_target(Path(out))
    key = shared_key()
    samples = parity_samples(options)
    preprocess = samples.preprocess
    calibration = (
        None
        if options.calibration is None
        else calibration_samples(options.calibration, preprocess, options.images)
    )
    network = _frozen_copy(model, weights)
    # Repeated where the parity data has fewer.
    few = np.resize(samples.raw[:PREFLIGHT_SAMPLES], (PREFLIGHT_SAMPLES, *samples.raw.shape[1:]))
    x = torch.from_numpy(preprocess.to_input_space(few))
    eager = input_space_to_logits(copy.deepcopy(network), preprocess).double().eval()
    with attention_without_fast_path():
        preflight.check_logits(eager, x.double(), options.classes)
        preflight.check_gradients(eager, x.double())
        check_float32(input_space_to_logits(network, preprocess).eval(), eager, samples)
        graphs = raw_graphs(onnx_from_network(copy.deepcopy(network), x), preprocess)
        files = {TORCHSCRIPT: torchscript_from_network(copy.deepcopy(eager), x.double())}
        if options.pt2:
            files[PT2] = pt2_from_module(
                input_space_to_logits(copy.deepcopy(network), preprocess), x
            )
        _check_gradients(files, eager, x.double())
    canonical = Canonical(
        files[TORCHSCRIPT], device="cpu", threads=available_threads(), source=TORCHSCRIPT
    )
    proven = prove_parity(graphs, canonical, samples)
    files[ONNX] = proven.graph
    int8 = None
    if calibration is not None:
        quantised = quantise(proven.graph, canonical, calibration)
        files[ONNX_INT8], int8 = quantised.graph, quantised.record
    manifest = Manifest(
        name=options.name or target.name,
        classes=options.classes or _numbered(eager, x.double()),
        preprocess=preprocess,
        opset=OPSET,
        producer=_producer(),
        files={
            name: FileRecord(sha256=hashlib.sha256(files[name]).hexdigest(), size=len(files[name]))
            for name in KNOWN_FILES
            if name in files
        },
        parity=proven.parity,
        int8=int8,
    )
    text = manifest.to_json().encode()
    signature = {} if key is None else {SIGNATURE: sign(hashlib.sha256(text).hexdigest(), key)}
    write_bundle(target, {**files, MANIFEST: text, **signature})
    bundle = load_bundle(target)
    try:
        remember(bundle)
    except TrustStoreError as exc:
        logger.warning("the bundle is written, but not trusted on this machine: %s", exc)
    return bundle


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


def _numbered(eager: nn.Module, x: Tensor) -> tuple[str, ...]:
    with torch.no_grad():
        return tuple(map(str, range(eager(x[:1]).shape[1])))
