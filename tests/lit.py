"""Training with Lightning, for tests of the callback: modules, data, and all that a fit leaves."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

# Lightning's own: for `pytest.mark.filterwarnings(*LIGHTNINGS_WARNINGS)`.
LIGHTNINGS_WARNINGS = (
    "ignore:.*does not have many workers",  # the tests' data is in memory
    "ignore:.*LeafSpec:FutureWarning",  # it uses what torch 2.13 calls by another name
)


class Plot(NamedTuple):
    """What one figure shows.

    Attributes:
        x: The sample, float64.
        gradient: ∂z_a/∂x and ∂z_b/∂x, float64 (2, *x.shape).
        classes: a, b.
        label: True class.
    """

    x: NDArray[np.float64]
    gradient: NDArray[np.float64]
    classes: tuple[int, int]
    label: int


class Lit(LightningModule):
    """A classifier that keeps nothing of its calls.

    Attributes:
        losses: Of every training step.
    """

    def __init__(self, network: nn.Module, *, rate: float = 0.05) -> None:
        super().__init__()
        self.network = network
        self.losses: list[Tensor] = []
        self._rate = rate

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def training_logits(self, x: Tensor) -> Tensor:
        """What the loss is of."""
        logits: Tensor = self(x)
        return logits

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, label = batch
        loss = functional.cross_entropy(self.training_logits(x), label)
        self.losses.append(loss.detach().clone())
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self._rate, momentum=0.9)


class Validated(Lit):
    """Validated on what it is trained on."""

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])


class Keeping(Lit):
    """Keeps its last logits, as the ancestor asks for."""

    last_logits: Tensor

    @override
    def training_logits(self, x: Tensor) -> Tensor:
        self.last_logits = super().training_logits(x)
        return self.last_logits


@dataclass
class Data:
    """Of a fit.

    Attributes:
        x: Samples (N, …).
        label: Classes (N,).
        batch: Samples a batch.
        shuffle: By torch's own generator.
    """

    x: Tensor
    label: Tensor
    batch: int = 16
    shuffle: bool = False

    def loader(self, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        """Its batches."""
        return DataLoader(TensorDataset(self.x, self.label), self.batch, shuffle=shuffle)


def random_data(shape: Sequence[int], classes: int, count: int = 64, batch: int = 16) -> Data:
    """Noise, shuffled each epoch."""
    made = torch.Generator().manual_seed(3)
    x = torch.rand(count, *shape, generator=made)
    return Data(x, torch.randint(classes, (count,), generator=made), batch, shuffle=True)


@dataclass
class Trained:
    """All that a fit leaves, and left after every batch.

    Attributes:
        module: As it ended.
        trainer: Whose fit it was.
        after: One a training batch: gradients, flags, random states and so on.
        weights: One a training batch: the module as it was then.
        end: Weights, buffers, optimizers, losses.
    """

    module: LightningModule
    trainer: Trainer
    after: list[dict[str, Any]]
    weights: list[LightningModule]
    end: dict[str, Any] = field(default_factory=dict)


class Witness(Callback):
    """Writes down how things stand when all callbacks before it had a batch."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.after: list[dict[str, Any]] = []
        self.weights: list[LightningModule] = []
        self._keeps_weights = weights

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.after.append(_state(pl_module))
        if self._keeps_weights:
            self.weights.append(_copy(pl_module))


def fit(
    module: Lit,
    data: Data,
    callbacks: Sequence[Callback] = (),
    *,
    weights: bool = False,
    **options: Any,
) -> Trained:
    """Train on the CPU with nothing else switched on, and say what came of it.

    Args:
        module: To train, changed by it.
        data: To train on.
        callbacks: The subject.
        weights: Whether to keep the module as it was after each batch.
        options: Of the Trainer.
    """
    torch.manual_seed(1)
    np.random.seed(1)  # the legacy global state is among what must not change
    random.seed(1)
    witness = Witness(weights=weights)
    plain: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    trainer = Trainer(callbacks=[*callbacks, witness], **plain | options)
    validation = data.loader() if isinstance(module, Validated) else None
    trainer.fit(module, data.loader(shuffle=data.shuffle), validation)
    end = _state(module) | {
        "weights": dict(module.state_dict()),
        "optimizers": [each.state_dict() for each in trainer.optimizers],
        "losses": module.losses,
        "metrics": trainer.callback_metrics,
    }
    return Trained(module, trainer, witness.after, witness.weights, end)


def assert_same(got: Any, expected: Any, where: str = "fit") -> None:
    """Bit by bit."""
    assert type(got) is type(expected), where
    if isinstance(expected, Tensor):
        assert got.dtype == expected.dtype, where
        assert got.shape == expected.shape, where
        assert _bits(got) == _bits(expected), f"{where} differs"
    elif isinstance(expected, np.ndarray):
        assert got.tobytes() == expected.tobytes(), f"{where} differs"
    elif isinstance(expected, dict):
        assert list(got) == list(expected), where
        for name in expected:
            assert_same(got[name], expected[name], f"{where}[{name!r}]")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), where
        for place, (one, other) in enumerate(zip(got, expected, strict=True)):
            assert_same(one, other, f"{where}[{place}]")
    else:
        assert got == expected, where


def assert_same_training(got: Trained, expected: Trained) -> None:
    """After every batch and at the end."""
    assert_same(got.after, expected.after, "after batch")
    assert_same(got.end, expected.end, "end")


def _state(module: LightningModule) -> dict[str, Any]:
    named = dict(module.named_modules())
    parameters = dict(module.named_parameters())
    last = vars(module).get("last_logits")
    return {
        "weights": {name: each.detach().clone() for name, each in module.state_dict().items()},
        "grad": {
            name: None if each.grad is None else each.grad.clone()
            for name, each in parameters.items()
        },
        "requires_grad": {name: each.requires_grad for name, each in parameters.items()},
        "training": {name: each.training for name, each in named.items()},
        "attributes": {name: sorted(vars(each)) for name, each in named.items()},
        "last_logits": None if last is None else last.detach().clone(),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "random": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
        "inference_mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default_dtype": str(torch.get_default_dtype()),
    }


def _bits(value: Tensor) -> bytes:
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _copy(module: LightningModule) -> LightningModule:
    trainer, module._trainer = module._trainer, None
    last = vars(module).pop("last_logits", None)  # not a leaf: can't be copied
    made = copy.deepcopy(module)
    module._trainer = trainer
    if last is not None:
        module.last_logits = last
    return made.double().eval()
