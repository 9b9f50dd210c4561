"""What `audit` is measured against: other ways to the same result, each as good as its kind.

None reopens the dataset, copies without need or computes what it throws away.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime
import torch
from captum.attr import Saliency
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.models import Model

SESSION_BATCHES = (32, 64, 128, 256, 1024)
TORCH_BATCH = 1024


def onnx_from_model(model: Model) -> bytes:
    """The plain export of the network: preprocessed float32 in, logits out, any batch size."""
    channels, side = (3, 32) if model.name == "ResNet-18" else (1, 28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            model.network,
            (torch.zeros(3, channels, side, side),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def session(graph: bytes, provider: str = "CPUExecutionProvider") -> Any:
    """With ONNX Runtime's default options: all threads, all graph optimisations."""
    return onnxruntime.InferenceSession(graph, providers=[provider])


def onnxruntime_loop(
    graph: bytes, model: Model, path: Path, *, batch: int, eps: float
) -> NDArray[np.int64]:
    """Positions of the near ties: h5py, numpy, ONNX Runtime, numpy, a batch at a time."""
    run = session(graph)
    name = run.get_inputs()[0].name
    found = []
    with h5py.File(path) as file:
        images = file["images"]
        for start in range(0, len(images), batch):
            x = model.preprocessed(images[start : start + batch])
            (logits,) = run.run(None, {name: x})
            top2 = np.partition(logits, -2, axis=1)[:, -2:]
            found.append(np.flatnonzero(top2[:, 1] - top2[:, 0] < eps) + start)
    return np.concatenate(found)


def forward_alone(run: Any, x: NDArray[Any], *, batch: int) -> NDArray[np.float32]:
    """Logits of data in memory, by a session that is there already."""
    name = run.get_inputs()[0].name
    parts = [run.run(None, {name: x[i : i + batch]})[0] for i in range(0, len(x), batch)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Found:
    """Near ties and their gradients, float32 (M, 2, …)."""

    index: NDArray[np.int64]
    gradient: NDArray[np.float32]


def torch_pipeline(
    model: nn.Module, path: Path, out: Path, *, eps: float, device: str = "cpu"
) -> Found:
    """The whole audit by hand: reads, eager model, gradients of the flagged, HDF5 output.

    Args:
        model: Input space → logits, in evaluation mode, on the device.
        path: The dataset.
        out: Where to.
        eps: Near-tie threshold.
        device: cpu or cuda.
    """
    index, inputs, classes = [], [], []
    with h5py.File(path) as file:
        images = file["images"]
        aligned = images.chunks[0] if images.chunks else 1
        batch = max(1, TORCH_BATCH // aligned) * aligned
        for start in range(0, len(images), batch):
            raw = torch.from_numpy(images[start : start + batch]).to(device)
            x = _channels_first(raw).float() / 255
            with torch.inference_mode():
                top2 = model(x).topk(2)
            rows = torch.nonzero(top2.values[:, 0] - top2.values[:, 1] < eps)[:, 0]
            if len(rows):
                index.append(rows.cpu().numpy() + start)
                inputs.append(x[rows])
                classes.append(top2.indices[rows].clone())  # autograd refuses inference tensors
    gradient = _pair_gradients(model, torch.cat(inputs), torch.cat(classes))
    found = Found(np.concatenate(index), gradient)
    with h5py.File(out, "w") as file:
        file["index"], file["gradient"] = found.index, found.gradient
        file["classes"] = torch.cat(classes).cpu().numpy()
    return found


def _channels_first(raw: Tensor) -> Tensor:
    return raw.unsqueeze(1) if raw.ndim == 3 else raw.permute(0, 3, 1, 2)


def _pair_gradients(model: nn.Module, x: Tensor, classes: Tensor) -> NDArray[np.float32]:
    """One forward and two backward passes a batch, parameters frozen meanwhile."""
    parts = []
    with _frozen(model):
        for some, pair in zip(
            torch.split(x, TORCH_BATCH), torch.split(classes, TORCH_BATCH), strict=True
        ):
            inputs = some.clone().requires_grad_()
            a, b = model(inputs).gather(1, pair).sum(0)
            (of_a,) = torch.autograd.grad(a, inputs, retain_graph=True)
            (of_b,) = torch.autograd.grad(b, inputs)
            parts.append(torch.stack([of_a, of_b], 1).cpu().numpy())
    return np.concatenate(parts)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    learning = [each for each in model.parameters() if each.requires_grad]
    for each in learning:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in learning:
            each.requires_grad_(True)


def captum_batched(model: nn.Module, x: Tensor, classes: Tensor) -> NDArray[Any]:
    """`Saliency.attribute` of the whole batch, called for each of the two classes."""
    saliency = Saliency(model)
    inputs = x.clone().requires_grad_()
    pair = [
        saliency.attribute(inputs, target=classes[:, each], abs=False).detach() for each in (0, 1)
    ]
    return torch.stack(pair, 1).numpy()


def captum_one_at_a_time(model: nn.Module, x: Tensor, classes: Tensor) -> NDArray[Any]:
    """The same, sample by sample, as in Captum's own tutorials."""
    saliency = Saliency(model)
    parts = []
    for row, pair in enumerate(classes.tolist()):
        inputs = x[row : row + 1].clone().requires_grad_()
        both = [saliency.attribute(inputs, target=each, abs=False).detach() for each in pair]
        parts.append(torch.cat(both))
    return torch.stack(parts).numpy()
