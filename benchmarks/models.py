"""The networks that scan: as their user has them, and as bundles."""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import audit
from audit.bundle import PT2, Bundle, load_bundle
from audit.trust import remember
from benchmarks import resnet18
from benchmarks.data import Images, Scale, rgb, write
from train_mnist import MEAN, STD, SmallCNN

CACHE = Path(__file__).parents[1] / ".benchmarks"  # git ignores it
EPOCHS, BATCH = 3, 100


@dataclass(frozen=True)
class Model:
    """A trained network and what it takes.

    Attributes:
        name: For tables.
        network: In evaluation mode, parameters not frozen: as training leaves it.
        mean: The network's input is (x - mean) / std, x in [0, 1].
        std: See `mean`.
    """

    name: str
    network: nn.Module
    mean: float
    std: float

    def preprocessed(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Stored images as the network takes them, as a user of numpy would."""
        x = (raw.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(x[:, None] if raw.ndim == 3 else x.transpose(0, 3, 1, 2))

    def input_space(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Stored images in [0, 1], channels first, rounded to float32 once."""
        x = (raw.astype(np.float64) * (1 / 255)).astype(np.float32)
        return np.ascontiguousarray(x[:, None] if raw.ndim == 3 else x.transpose(0, 3, 1, 2))

    def from_input_space(self) -> nn.Module:
        """Input space → logits."""
        return FromInputSpace(self)


class FromInputSpace(nn.Module):
    """The network with its normalisation in front."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self._mean, self._std = model.mean, model.std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self._mean) / self._std)
        return logits


def linear(train: Images) -> Model:
    """One linear layer, trained for seconds: its margins are meaningful, not its accuracy."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
        model = Model("linear", network, MEAN, STD)
        x = torch.from_numpy(model.preprocessed(train.images))
        labels = torch.from_numpy(train.labels)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(EPOCHS):
            for rows in torch.split(torch.randperm(len(x)), BATCH):
                loss = nn.functional.cross_entropy(network(x[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    network.eval()
    return model


def small_cnn(bundle: Bundle) -> Model:
    """The network of the shipped bundle."""
    program = torch.export.load(io.BytesIO(bundle.read(PT2)))
    network, prefix = SmallCNN(), "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in program.state_dict.items() if k.startswith(prefix)}
    )
    return Model("small CNN", network.eval(), MEAN, STD)


def resnet(train: Images, scale: Scale) -> Model:
    """ResNet-18, fitted once and kept."""
    kept = cached(f"resnet18-{digest(_sources(resnet18.__file__), train.images, scale.width)}.pt")
    if kept.exists():
        network = resnet18.ResNet18(scale.width)
        network.load_state_dict(torch.load(kept, weights_only=True))
        network.eval()
    else:
        network = resnet18.fitted(train.images, train.labels, scale.width)
        torch.save(network.state_dict(), kept)
    return Model("ResNet-18", network, resnet18.MEAN, resnet18.STD)


def exported(model: Model, samples: Images, scale: Scale, *, int8: bool) -> Bundle:
    """The model's bundle, exported once and kept until weights, samples or `audit` change.

    Args:
        model: What to export.
        samples: The first of them prove parity, all calibrate the quantised graph.
        scale: How many prove parity.
        int8: Whether to make one.
    """
    sources = _sources(*map(str, sorted(Path(audit.__file__).parent.glob("*.py"))))
    out = cached(f"bundle-{digest(sources, fingerprint(model), samples.images, scale, int8)}")
    if out.exists():
        kept = load_bundle(out)
        remember(kept)  # whose own store may be gone: that of the tests is temporary
        return kept
    with tempfile.TemporaryDirectory() as folder:
        parity = samples.part(0, scale.parity)
        calibration = write(Path(folder) / "calibration.h5", samples, "contiguous")
        return audit.export(
            model.network,
            out,
            input_shape=(1, 28, 28) if samples.images.ndim == 3 else (3, 32, 32),
            raw_dtype="uint8",
            mean=model.mean,
            std=model.std,
            parity_data=write(Path(folder) / "parity.h5", parity, "contiguous"),
            int8=int8,
            calibration=calibration if int8 else None,
        )


class RgbImages(NamedTuple):
    """Images to fit a network to, and others to scan."""

    fit: Images
    scanned: Images


def rgb_images(digits: Images, scale: Scale) -> RgbImages:
    """The first shipped digits in colour."""
    some = digits.part(0, scale.rgb_fit + scale.rgb)
    every = Images(rgb(some.images), some.labels)
    return RgbImages(every.part(0, scale.rgb_fit), every.part(scale.rgb_fit, len(every.images)))


def cached(name: str) -> Path:
    """Where to keep what takes long to make; its name holds a digest of what it was made from."""
    CACHE.mkdir(exist_ok=True)
    return CACHE / name


def fingerprint(model: Model) -> str:
    """Of the weights and the normalisation."""
    weights = [(name, value.numpy()) for name, value in model.network.state_dict().items()]
    return digest(model.mean, model.std, *(part for pair in weights for part in pair))


def digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()[:16]


def _sources(*files: str) -> str:
    return "".join(Path(each).read_text() for each in files)
