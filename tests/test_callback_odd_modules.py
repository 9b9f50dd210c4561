"""Networks that change themselves when they are called: training is the same with the callback."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from audit import load_findings
from audit.callback import ConfusedLogitCallback
from lit import LIGHTNINGS_WARNINGS, Lit, Validated, assert_same_training, fit, random_data

pytestmark = pytest.mark.filterwarnings(*LIGHTNINGS_WARNINGS)
DATA = random_data((12,), 4, count=24, batch=6)


def watching(**options: Any) -> ConfusedLogitCallback:
    """Every second batch, all samples of which are near ties."""
    return ConfusedLogitCallback(
        1, min_logit_value=None, max_logit_difference=50.0, logging_batch_interval=2, **options
    )


class MaxNorm(nn.Module):
    """Keeps its weights small, as EEGNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.data = torch.renorm(self.layer.weight.data, 2, 0, 0.3)
        with torch.no_grad():
            self.layer.bias.clamp_(-0.1, 0.1)
        logits: Tensor = self.layer(x)
        return logits


class Checkpointed(nn.Module):
    """Runs a part again in the backward pass, which counts its calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))

    def part(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return torch.tanh(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(checkpoint(self.part, x, use_reentrant=False))
        return logits


class Registering(nn.Module):
    """Makes a buffer when it is first evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and "shift" not in self._buffers:
            self.register_buffer("shift", torch.ones(12))
        logits: Tensor = self.layer(x)
        return logits


class Remembering(nn.Module):
    """Keeps containers in containers, arrays, and generators that training draws from."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.by_name: dict[str, list[int]] = defaultdict(list)
        self.cache = [torch.zeros(4)]
        self.array = np.zeros(4)
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        self.by_name["a"].append(len(x))
        self.cache[0].add_(logits.detach().float().sum(0))
        self.array += 1
        noise = torch.rand((), generator=self.torch) + self.numpy.random()
        return logits * (1 + 0 * noise if not self.training else 1 + 0.01 * noise)


ODD = {"max norm": MaxNorm, "checkpoint": Checkpointed, "registers": Registering}


@pytest.mark.parametrize("name", ODD)
def test_training_is_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = Lit(ODD[name]())
    without = fit(copy.deepcopy(module), DATA)
    trained = fit(module, DATA, [watching(save_to=tmp_path / "c.h5")])
    findings = load_findings(tmp_path / "c.h5")
    assert findings.flagged > 0
    assert findings.engine["canonical"] == "float64"
    assert_same_training(trained, without)
    assert trained.module.state_dict().keys() == without.module.state_dict().keys()


def test_what_a_network_remembers_is_put_back(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = Lit(Remembering())
    without = fit(copy.deepcopy(module), DATA)
    trained = fit(module, DATA, [watching(save_to=tmp_path / "c.h5")])
    assert load_findings(tmp_path / "c.h5").flagged > 0
    assert_same_training(trained, without)
    ours, theirs = (each.module.get_submodule("network") for each in (trained, without))
    assert ours.by_name == theirs.by_name
    assert torch.equal(ours.cache[0], theirs.cache[0])  # type: ignore[index]
    assert np.array_equal(ours.array, theirs.array)  # type: ignore[arg-type]


class Scaled(Validated):
    """Has a plain tensor, and changes another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.scale = torch.full((12,), 2.0)
        self.total = torch.zeros(12)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.total += x.detach().float().sum(0)
        return super().forward(x / self.scale)


@pytest.mark.parametrize("run", [Trainer.fit, Trainer.validate], ids=lambda each: each.__name__)
def test_validation_in_inference_mode(run: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    trainer = Trainer(
        callbacks=[watching(save_to=tmp_path / "c.h5", watch="validation")],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loaders = [DATA.loader()] * (2 if run is Trainer.fit else 1)
    run(trainer, Scaled(nn.Linear(12, 4)), *loaders)
    assert load_findings(tmp_path / "c.h5").flagged > 0


def test_a_logger_that_fails_is_left_out(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="run", version="1")
    assert logger.experiment  # which makes its folder
    (tmp_path / "run" / "1" / "figures").touch()  # where the pictures would be
    with pytest.warns(UserWarning, match="CSVLogger: .*it gets no more pictures") as warned:
        trained = fit(
            Lit(nn.Linear(12, 4)), DATA, [watching(save_to=tmp_path / "c.h5")], logger=logger
        )
    assert sum("no more pictures" in str(each.message) for each in warned) == 1
    assert trained.trainer.global_step == 4 * (trained.trainer.max_epochs or 0)
    assert load_findings(tmp_path / "c.h5").flagged > 0


class Drawing(CSVLogger):
    """Draws a number whenever it is asked where it writes."""

    @property
    @override
    def log_dir(self) -> str:
        torch.rand(())
        np.random.random()
        return super().log_dir


def test_what_a_logger_draws_is_not_drawn_from_training(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = Lit(nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.5), nn.Linear(16, 4)))
    without = fit(copy.deepcopy(module), DATA, logger=Drawing(tmp_path / "a"))
    trained = fit(module, DATA, [watching()], logger=Drawing(tmp_path / "b"))
    assert list((tmp_path / "b").rglob("*.png"))
    assert_same_training(trained, without)
