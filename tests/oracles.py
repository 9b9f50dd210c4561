"""What a scan must find, computed without any of its code: eager PyTorch in float64."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from audit.bundle import MANIFEST, Bundle, load_bundle
from audit.dataset import Dataset
from audit.trust import remember

ART = Path(__file__).parent / "data" / "art"
BATCH = 500


@dataclass(frozen=True)
class Expected:
    """The near ties of a dataset."""

    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    margin: NDArray[np.float64]
    gradient: NDArray[np.float64]
    logits: NDArray[np.float64] = field(repr=False)


def expected_near_ties(
    model: nn.Module, x: NDArray[Any], eps: float, min_logit: float = -np.inf
) -> Expected:
    """Of a float64 model in evaluation mode, over inputs (N, …) in input space.

    Gradients are computed one sample and one logit at a time: nothing can be mixed.
    """
    logits = all_logits(model, x)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    pair = np.take_along_axis(logits, order, axis=1)
    margin = pair[:, 0] - pair[:, 1]
    index = np.flatnonzero((margin < eps) & (pair[:, 0] > min_logit))
    gradient = [[one_gradient(model, x[i], int(c)) for c in order[i]] for i in index]
    return Expected(index, order[index], margin[index], np.array(gradient), logits)


def all_logits(model: nn.Module, x: NDArray[Any]) -> NDArray[np.float64]:
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(x[i : i + BATCH].astype(np.float64))).numpy()
            for i in range(0, len(x), BATCH)
        ]
    return np.concatenate(parts)


def one_gradient(model: nn.Module, x: NDArray[Any], label: int) -> NDArray[np.float64]:
    inputs = torch.from_numpy(x[None].astype(np.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs)[0, label], inputs)
    return gradient[0].numpy()


def relative_errors(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """L2 error of each sample's pair of gradients relative to its size."""
    got = got.reshape(len(got), -1).astype(np.float64)
    expected = expected.reshape(len(expected), -1)
    error = np.linalg.norm(got - expected, axis=1)
    return np.asarray(error / np.linalg.norm(expected, axis=1))


def write_dataset(path: Path, images: NDArray[Any], labels: NDArray[Any] | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file["images"] = images
        if labels is not None:
            file["labels"] = labels
    return path


def write_first(path: Path, mnist_h5: Path, count: int) -> Path:
    """The first so many images, with their labels."""
    with h5py.File(mnist_h5) as file:
        return write_dataset(path, file["images"][:count], file["labels"][:count])


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every dataset of an HDF5 file by name."""
    found: dict[str, NDArray[Any]] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: (
                found.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
            )
        )
    return found


def array_bytes(path: Path) -> dict[str, bytes]:
    """Every dataset of an HDF5 file by name, so that NaN equals NaN and nothing else does."""
    return {name: values.tobytes() for name, values in arrays(path).items()}


def art_network() -> nn.Module:
    """The Adversarial Robustness Toolbox's MNIST network with its published weights."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, 7), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(25, 10)
    )
    conv, dense = model[0], model[4]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(dense, nn.Linear)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.load(ART / "W_CONV2D_MNIST.npy")).reshape(1, 1, 7, 7))
        assert conv.bias is not None
        conv.bias.copy_(torch.from_numpy(np.load(ART / "B_CONV2D_MNIST.npy")))
        dense.weight.copy_(torch.from_numpy(np.load(ART / "W_DENSE_MNIST.npy")).T)
        dense.bias.copy_(torch.from_numpy(np.load(ART / "B_DENSE_MNIST.npy")))
    return model.eval()


def with_onnx(
    bundle: Bundle, out: Path, onnx_bytes: bytes, file: str = "model.onnx", **changes: Any
) -> Bundle:
    """A trusted copy of the bundle with another ONNX file that its manifest vouches for."""
    out.mkdir()
    manifest = bundle.manifest
    record = replace(
        manifest.files[file],
        sha256=hashlib.sha256(onnx_bytes).hexdigest(),
        size=len(onnx_bytes),
    )
    changed = replace(manifest, files={**manifest.files, file: record}, **changes)
    for name in manifest.files:
        (out / name).write_bytes(onnx_bytes if name == file else bundle.read(name))
    (out / MANIFEST).write_text(changed.to_json())
    copied = load_bundle(out)
    remember(copied)
    return copied


def read(dataset: Dataset, span: range) -> NDArray[Any]:
    """These samples, the way that a scan reads them."""
    out = np.empty((len(span), *dataset.sample_shape), dtype=dataset.dtype)
    dataset.read_into(out, span.start)
    return out
