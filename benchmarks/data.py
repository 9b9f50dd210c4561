"""What is scanned: images, and the files that they lie in."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from audit.mnist import write_mnist

MNIST = "AUDIT_MNIST"  # names the HDF5 file of the real 70,000 images
TIMES = 7
SEED = 0
STORAGES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip": {"compression": "gzip", "compression_opts": 4},  # in the chunks that h5py chooses
    "gzip 256": {"compression": "gzip", "compression_opts": 4, "chunks": (256, 28, 28)},
}


class Scale(NamedTuple):
    """How much there is to do: in full, or as a plain test.

    Attributes:
        images: MNIST images to scan.
        rgb: RGB images to scan.
        rgb_fit: Other ones, to fit the network to and calibrate by.
        width: Channels of ResNet's first stage.
        parity: Samples that prove an export equal, which takes a float64 pass over them.
        gradients: Samples whose gradients are taken, of MNIST.
        rgb_gradients: The same of RGB images.
        memory: Images of the smaller file of two.
    """

    images: int
    rgb: int
    rgb_fit: int
    width: int
    parity: int
    gradients: int
    rgb_gradients: int
    memory: int


FULL = Scale(
    images=70_000,
    rgb=10_000,
    rgb_fit=2000,
    width=64,
    parity=256,
    gradients=1000,
    rgb_gradients=50,
    memory=40_000,
)
SMALL = Scale(
    images=2000,
    rgb=200,
    rgb_fit=1200,
    width=4,
    parity=32,
    gradients=20,
    rgb_gradients=8,
    memory=2000,
)


@dataclass(frozen=True)
class Images:
    """Images as stored, uint8 (N, …), and their classes, int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, start: int, stop: int) -> Images:
        """Those from `start` to `stop`."""
        return Images(self.images[start:stop], self.labels[start:stop])

    def repeated(self, times: int) -> Images:
        """So many times over."""
        images, labels = ([each] * times for each in (self.images, self.labels))
        return Images(np.concatenate(images), np.concatenate(labels))


def shipped() -> Images:
    """The 10,000 images that ship."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.h5"
        write_mnist(path)
        return load(path)


def mnist(count: int) -> Images:
    """So many MNIST images: the real ones where `AUDIT_MNIST` names them, else 7 x what ships."""
    named = os.environ.get(MNIST)
    every = load(Path(named)) if named else shipped().repeated(TIMES)
    return every.part(0, count)


def load(path: Path) -> Images:
    """Images and labels of an HDF5 file."""
    with h5py.File(path) as file:
        return Images(file["images"][()], file["labels"][()].astype(np.int64))


def rgb(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digits (N, 28, 28) as (N, 32, 32, 3), enlarged, each in a colour of its own."""
    large = functional.interpolate(
        torch.from_numpy(digits)[:, None].float(), (32, 32), mode="bilinear", align_corners=False
    )
    colours = np.random.default_rng(SEED).uniform(0.5, 1, (len(digits), 1, 1, 3))
    return np.rint(large.numpy().transpose(0, 2, 3, 1) * colours).astype(np.uint8)


def write(path: Path, data: Images, storage: str) -> Path:
    """Into a file, stored in one of the `STORAGES`."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=data.images, **STORAGES[storage])
        file.create_dataset("labels", data=data.labels)
    return path
