"""Train the classifier behind the shipped ``mnist`` bundle: minutes on two cores, seeded.

    audit data mnist --from DIR --split train -o mnist-train.h5
    python datasets/train_mnist.py mnist-train.h5 -o mnist.safetensors

``audit export`` then turns the weights into the bundle; ``datasets/README.md`` has the whole line.
"""

from __future__ import annotations

import argparse

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = 0.1307, 0.3081


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch norm, dropout and one linear layer; 29,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._stage(1, 16),
            *self._stage(16, 32),
            *self._stage(32, 64),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * 3 * 3, 10))

    @staticmethod
    def _stage(channels_in: int, channels_out: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            # Not max: on a black background its windows hold equal values, and which of them gets
            # the gradient would hang on rounding.
            nn.AvgPool2d(2),
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of normalised images (N, 1, 28, 28)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def shifted(x: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """The batch moved by one random offset of up to ``reach`` pixels a side, filled with black."""
    down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = functional.pad(x, (reach, reach, reach, reach))
    return padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]


def train(images: Tensor, labels: Tensor, *, epochs: int, batch: int, seed: int) -> SmallCNN:
    """Fit ``SmallCNN`` to ``images`` (N, 1, 28, 28) in [0, 1] and ``labels`` (N,) int64."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SmallCNN()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch + 1, batch):
            rows = order[start : start + batch]
            x = (shifted(images[rows], generator) - MEAN) / STD
            loss = functional.cross_entropy(model(x), labels[rows], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)
    return model


def main() -> None:
    """Read the training split, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="HDF5 file with images (N, 28, 28) uint8 and labels (N,)")
    parser.add_argument("-o", "--out", default="mnist.safetensors")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with h5py.File(options.dataset, "r") as file:
        images = torch.from_numpy(file["images"][()].astype(np.float32) / 255).unsqueeze(1)
        labels = torch.from_numpy(file["labels"][()].astype(np.int64))
    model = train(images, labels, epochs=options.epochs, batch=options.batch, seed=options.seed)
    save_file(model.state_dict(), options.out)


if __name__ == "__main__":
    main()
