"""Train a digit classifier with the callback watching, and look at one sample before and after.

    python examples/mnist_callback.py mnist-train.h5 --network linear -o tutorial/linear

Writes TensorBoard logs with a figure of each near tie, `confused.h5` with all of them,
`before-after.png` and the trained weights, `weights.ckpt`. `docs/tutorial.md` goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import h5py
import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from audit.callback import ConfusedLogitCallback
from audit.gradients import pair_gradients

VALIDATION = 12  # one in so many images: 5,000 of 60,000
BATCH = 64
CANDIDATES = 5000  # images that the most undecided one is picked from


def linear() -> nn.Module:
    """784 pixels to 10 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def cnn() -> nn.Module:
    """Two convolutions with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 7 * 7, 10),
    )


NETWORKS = {"linear": linear, "cnn": cnn}


class LitClassifier(L.LightningModule):
    """The classifier of the original tutorial; nothing in it knows of the callback."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28) in [0, 1]."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        x, y = batch
        loss = functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the share of right answers."""
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with the tutorial's step."""
        return torch.optim.Adam(self.parameters(), lr=0.005)


def gradients_of(
    network: nn.Module, image: Tensor, classes: tuple[int, int]
) -> NDArray[np.float32]:
    """∂z_a/∂x and ∂z_b/∂x of one image (1, 28, 28), (2, 28, 28)."""
    network.eval()
    pair = pair_gradients(network, image[None], torch.tensor([classes]))
    return pair[0, :, 0].numpy()


def most_undecided(network: nn.Module, images: Tensor) -> tuple[int, tuple[int, int]]:
    """The image whose two largest logits are closest, and their classes."""
    with torch.no_grad():
        values, classes = network.eval()(images).topk(2)
    index = int((values[:, 0] - values[:, 1]).argmin())
    a, b = classes[index].tolist()
    return index, (a, b)


def before_after(
    image: Tensor,
    classes: tuple[int, int],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    title: str,
) -> Figure:
    """The image, and both gradients before and after training; each row has its own scale."""
    figure = Figure(figsize=(8.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    for row, (when, pair) in enumerate((("before training", before), ("after", after))):
        axes[row, 0].imshow(image[0], cmap="gray", vmin=0, vmax=1)
        axes[row, 0].set_title(when)
        size = float(np.abs(pair).max())
        for column, of_class in enumerate(classes):
            shown = axes[row, 1 + column].imshow(pair[column], cmap="RdBu_r", vmin=-size, vmax=size)
            axes[row, 1 + column].set_title(f"∂z({of_class})/∂x")
        figure.colorbar(shown, ax=axes[row, 1:], shrink=0.85)
    for each in axes.flat:
        each.set_xticks([])
        each.set_yticks([])
    figure.suptitle(title)
    return figure


def main() -> None:
    """Train, with the callback watching."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="HDF5 with images (N, 28, 28) uint8 and labels (N,)")
    parser.add_argument("--network", choices=NETWORKS, default="linear")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("tutorial"))
    options = parser.parse_args()

    L.seed_everything(options.seed)
    with h5py.File(options.dataset) as file:
        images = torch.from_numpy(file["images"][()]).unsqueeze(1) / 255
        labels = torch.from_numpy(file["labels"][()].astype(np.int64))
    training, validation = random_split(
        TensorDataset(images, labels),
        [len(images) - len(images) // VALIDATION, len(images) // VALIDATION],
    )

    network = NETWORKS[options.network]()
    untrained = NETWORKS[options.network]()
    untrained.load_state_dict(network.state_dict())

    options.out.mkdir(parents=True, exist_ok=True)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(options.out, name="tensorboard"),
        callbacks=[
            ConfusedLogitCallback(
                top_k=1, logging_batch_interval=5, save_to=options.out / "confused.h5"
            )
        ],
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )
    trainer.fit(
        LitClassifier(network),
        DataLoader(training, batch_size=BATCH, shuffle=True),
        DataLoader(validation, batch_size=BATCH),
    )
    trainer.save_checkpoint(options.out / "weights.ckpt")

    index, classes = most_undecided(network, images[:CANDIDATES])
    before = gradients_of(untrained, images[index], classes)
    after = gradients_of(network, images[index], classes)
    title = f"training image {index}, labelled {labels[index]}: {classes[0]} or {classes[1]}?"
    figure = before_after(images[index], classes, before, after, title)
    figure.savefig(options.out / "before-after.png", dpi=90)


if __name__ == "__main__":
    main()
