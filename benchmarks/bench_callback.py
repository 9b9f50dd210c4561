"""What the callback costs a training that it finds nothing in, against the same without it.

Both train the same network on the same batches, by Lightning's loop: the weights must be equal, bit
for bit. Every twentieth batch is looked at, the default; the gate is set so high that no sample is
ever explained or plotted, which is what the goal of 2 % is about. Timed are the steps after the
first look, which opens the file and finds out what the network is, once a training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from audit.callback import ConfusedLogitCallback
from audit.findings import load_findings
from benchmarks import data
from benchmarks.contest import Claim, Contest

BATCH, INTERVAL = 64, 20
EPOCH = 7 * INTERVAL  # steps: as many looks in each
AT_MOST = 1.02  # of a training without the callback
NEVER = 1e9  # no logit is that large

pytestmark = [
    # Lightning's own, of data that is in memory, and of torch 2.13.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


class Work(NamedTuple):
    """A network to train.

    Attributes:
        make: The network.
        steps: Of a training that is measured.
    """

    make: Callable[[], nn.Module]
    steps: int


def linear() -> nn.Module:
    """784 pixels to 10 logits, as in the tutorial."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def convolutions(width: int) -> nn.Module:
    """Two convolutions with batch norm and dropout, as in the tutorial where `width` is 16."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * width * 7 * 7, 10),
    )


WORKS = {
    "linear 784 → 10": Work(linear, 10 * EPOCH),
    "small CNN (16, 32 channels)": Work(lambda: convolutions(16), EPOCH),
    "larger CNN (64, 128 channels)": Work(lambda: convolutions(64), 3 * INTERVAL),
}


class Classifier(LightningModule):
    """The tutorial's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.005)


class Trained(NamedTuple):
    """What a training left.

    Attributes:
        weights: By name.
        seconds: A step took, on average over those after the first look.
    """

    weights: dict[str, Tensor]
    seconds: float


class Clock(Callback):
    """Last of a Trainer's callbacks: its batch ends when the others have had theirs."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """See `Trained`."""
        timed = self._ends[INTERVAL - 1 :]
        return (timed[-1] - timed[0]) / (len(timed) - 1)


class Training:
    """One that can be repeated: with the callback and without."""

    def __init__(self, work: Work, steps: int) -> None:
        digits = data.shipped().part(0, EPOCH * BATCH)
        self._images = torch.from_numpy(digits.images).unsqueeze(1) / 255
        self._labels = torch.from_numpy(digits.labels)
        self._make = work.make
        self._steps = steps

    def run(self, *callbacks: Callback) -> Trained:
        torch.manual_seed(0)
        clock = Clock()
        module = Classifier(self._make())
        trainer = Trainer(
            callbacks=[*callbacks, clock],
            max_steps=self._steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        batches: DataLoader[Any] = DataLoader(
            TensorDataset(self._images, self._labels), BATCH, shuffle=True
        )
        trainer.fit(module, batches)
        assert trainer.global_step == self._steps
        return Trained(dict(module.state_dict()), clock.seconds)


def watching(out: Path) -> ConfusedLogitCallback:
    """Looks, and finds nothing."""
    return ConfusedLogitCallback(
        top_k=1, min_logit_value=NEVER, logging_batch_interval=INTERVAL, save_to=out
    )


def assert_same_weights(ours: Trained, theirs: Trained) -> None:
    assert ours.weights.keys() == theirs.weights.keys()
    for name, each in ours.weights.items():
        assert torch.equal(each, theirs.weights[name]), name


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", WORKS)
def test_training(contest: Contest, name: str, tmp_path: Path) -> None:
    work = WORKS[name]
    steps = work.steps if contest.enabled else 2 * INTERVAL
    training = Training(work, steps)
    out = tmp_path / "confused.h5"
    assert_same_weights(training.run(watching(out)), training.run())
    found = load_findings(out)
    assert (found.scanned, found.flagged) == (steps // INTERVAL * BATCH, 0)
    claim = Claim(
        work=f"a training step, batch {BATCH}, {name}",
        against=f"the same without the callback (mean over {steps - INTERVAL:,} steps)",
        at_most=AT_MOST,
    )
    contest.run_costs(
        claim, lambda: training.run(watching(out)).seconds, lambda: training.run().seconds
    )
