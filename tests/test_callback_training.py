"""Training is, bit for bit, what it is without the callback; and what the callback asks of it."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from typing_extensions import override

from audit import load_findings
from audit.callback import ConfusedLogitCallback
from audit.errors import ModelError
from audit.findings import Findings
from lit import (
    LIGHTNINGS_WARNINGS,
    Data,
    Keeping,
    Lit,
    Trained,
    Validated,
    assert_same,
    assert_same_training,
    fit,
    random_data,
)
from networks import ConvNet

pytestmark = pytest.mark.filterwarnings(
    *LIGHTNINGS_WARNINGS,
    "ignore:.*in eval mode at the start of training",  # frozen on purpose
)

FLAT = random_data((12,), 4, count=24, batch=6)


def watched(out: Path, **options: Any) -> ConfusedLogitCallback:
    """Finds near ties in every second batch, and explains them."""
    defaults: dict[str, Any] = {
        "min_logit_value": None,
        "max_logit_difference": 0.5,
        "logging_batch_interval": 2,
    }
    return ConfusedLogitCallback(1, save_to=out, **defaults | options)


def fit_both(module: Lit, data: Data, tmp_path: Path, **options: Any) -> Trained:
    """Fit with and without the callback, which has near ties to explain, and compare."""
    without = fit(copy.deepcopy(module), data, **options)
    out = tmp_path / "confused.h5"
    watch = ("train", "validation") if isinstance(module, Validated) else "train"
    trained = fit(module, data, [watched(out, watch=watch)], **options)
    findings = load_findings(out)
    assert findings.engine["looks"] > 0
    assert len(findings.margin) > 0
    assert_same_training(trained, without)
    return trained


def fit_and_find(
    module: Lit,
    data: Data,
    tmp_path: Path,
    *,
    trainer: dict[str, Any] | None = None,
    **options: Any,
) -> Findings:
    """What is found when nothing but the callback is asked for."""
    out = tmp_path / "confused.h5"
    fit(module, data, [watched(out, **options)], **trainer or {})
    return load_findings(out)


def column(findings: Findings, name: str) -> list[int]:
    """Of the group /training."""
    with h5py.File(findings.path) as file:
        values: list[int] = file["training"][name][:].tolist()
    return values


class Tied(nn.Module):
    """One layer used twice, and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)
        self.other = nn.Linear(12, 4, bias=False)
        self.other.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(torch.tanh(self.inner(x)))
        logits: Tensor = self.head(x) + self.other(x)
        return logits


class Counting(nn.Module):
    """Changes buffers, attributes, and what attributes hold, in any mode."""

    seen: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(12))
        self.calls = 0
        self.sizes: list[int] = []
        self.total = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.calls += 1
        self.sizes.append(len(x))
        logits: Tensor = self.layer(x - self.mean)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0).float()
        self.total += logits.detach().sum(0)
        return logits


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True, num_layers=2, dropout=0.3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(x.view(len(x), 4, 3))[0][:, -1])
        return logits


class Drawing(nn.Module):
    """Draws from all three generators, for nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * (torch.rand(()) + np.random.random() + random.random())


class InPlace(nn.Module):
    """Changes what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5)


class Logging(Lit):
    """Logs from `forward`."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        self.log("largest", logits.max(), on_step=True, on_epoch=True)
        self.log_dict({"smallest": logits.min()}, on_epoch=True)
        return logits


def mlp(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), *between, nn.Linear(16, 4))


def partly_frozen() -> Lit:
    """A BatchNorm that stays in evaluation mode, and a layer that learns nothing."""
    module = Lit(mlp(nn.BatchNorm1d(16), nn.Dropout(0.5)))
    module.network.get_submodule("2").eval()
    module.network.get_submodule("0").requires_grad_(False)
    return module


def regular() -> nn.Sequential:
    """With all that differs between training and evaluation."""
    return mlp(nn.BatchNorm1d(16), nn.Dropout(0.5))


CASES: dict[str, tuple[Callable[[], Lit], dict[str, Any]]] = {
    "accumulation": (lambda: Lit(regular()), {"accumulate_grad_batches": 3}),
    "clipping": (lambda: Lit(regular()), {"gradient_clip_val": 0.1}),
    "bf16-mixed": (
        lambda: Lit(regular()),
        {"precision": "bf16-mixed", "accumulate_grad_batches": 3},
    ),
    "bf16-true": (lambda: Lit(regular()), {"precision": "bf16-true"}),
    "64-true": (lambda: Lit(regular()), {"precision": "64-true"}),
    "partly frozen": (partly_frozen, {}),
    "last logits kept": (lambda: Keeping(regular()), {}),
    "validated": (lambda: Validated(regular()), {"num_sanity_val_steps": 2}),
    "validated, no_grad": (lambda: Validated(regular()), {"inference_mode": False}),
    "tied": (lambda: Lit(Tied()), {}),
    "weight norm": (lambda: Lit(mlp(parametrizations.weight_norm(nn.Linear(16, 16)))), {}),
    "spectral norm": (lambda: Lit(mlp(parametrizations.spectral_norm(nn.Linear(16, 16)))), {}),
    "counting": (lambda: Lit(Counting()), {}),
    "recurrent": (lambda: Lit(Recurrent()), {}),
    "drawing": (lambda: Lit(mlp(Drawing())), {}),
    "in place": (lambda: Lit(nn.Sequential(InPlace(), nn.Linear(12, 4))), {}),
    "logging": (lambda: Logging(regular()), {}),
    "anomalies": (lambda: Lit(regular()), {"detect_anomaly": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_training_is_as_without(name: str, tmp_path: Path) -> None:
    factory, options = CASES[name]
    torch.manual_seed(0)
    fit_both(factory(), FLAT, tmp_path, **options)


def test_a_convolutional_network(tmp_path: Path) -> None:
    trained = fit_both(Lit(ConvNet(4)), random_data((1, 28, 28), 4), tmp_path)
    assert len(trained.after) == 8


def test_a_fit_that_is_changed_is_told() -> None:
    one = fit(Lit(mlp(nn.Dropout(0.5))), FLAT)

    class Extra(Callback):
        @override
        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(())

    other = fit(Lit(mlp(nn.Dropout(0.5))), FLAT, [Extra()])
    with pytest.raises(AssertionError, match="differs"):
        assert_same_training(other, one)


def test_what_forward_keeps_is_training_s(tmp_path: Path) -> None:
    network = Counting()
    without = copy.deepcopy(network)
    fit(Lit(without), FLAT)
    fit_and_find(Lit(network), FLAT, tmp_path)
    assert network.calls == without.calls == 8
    assert network.sizes == without.sizes
    assert network.total.equal(without.total)


def test_validation_alone_is_watched_in_inference_mode(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Mode(Callback):
        @override
        def on_validation_batch_end(self, *_: Any) -> None:
            seen.append(torch.is_inference_mode_enabled())

    out = tmp_path / "confused.h5"
    module = Validated(regular())
    trainer = Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=1,
        callbacks=[watched(out, watch="validation"), Mode()],
    )
    trainer.validate(module, FLAT.loader(), verbose=False)
    assert seen == [True] * 4
    assert len(load_findings(out).margin) > 0
    assert all(each.training for each in module.modules())
    assert all(each.grad is None for each in module.parameters())


def test_validation_of_a_fit_is_watched(tmp_path: Path) -> None:
    module = Validated(regular())
    findings = fit_and_find(
        module,
        FLAT,
        tmp_path,
        trainer={"inference_mode": True, "num_sanity_val_steps": 2, "max_epochs": 1},
        watch="validation",
    )
    assert set(column(findings, "batch")) == {1, 3}
    assert set(column(findings, "step")) == {4}  # none of the sanity check, at step 0
    assert set(column(findings, "stage")) == {1}
    assert findings.engine["looks"] == 2


def test_interval_counts_batches_of_each_epoch(tmp_path: Path) -> None:
    data = random_data((12,), 4, count=42, batch=6)
    findings = fit_and_find(
        Lit(regular()),
        data,
        tmp_path,
        logging_batch_interval=3,
        max_logit_difference=1000.0,
    )
    looks = [(0, 2), (0, 5), (1, 2), (1, 5)]
    expected = [look for look in looks for _ in range(6)]
    found = zip(column(findings, "epoch"), column(findings, "batch"), strict=True)
    assert list(found) == expected
    assert column(findings, "row") == list(range(6)) * 4
    assert column(findings, "step") == [3] * 6 + [6] * 6 + [10] * 6 + [13] * 6
    assert findings.index.tolist() == list(range(24))


def test_fast_dev_run_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "confused.h5"
    fit(Validated(regular()), FLAT, [watched(out, logging_batch_interval=1)], fast_dev_run=True)
    assert not out.exists()


def test_sanity_check_alone_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "confused.h5"
    callback = watched(out, logging_batch_interval=1, watch="validation")
    fit(
        Validated(regular()),
        FLAT,
        [callback],
        num_sanity_val_steps=2,
        max_epochs=1,
        check_val_every_n_epoch=2,
    )
    assert not out.exists()


def test_none_flagged(tmp_path: Path) -> None:
    findings = fit_and_find(Lit(regular()), FLAT, tmp_path, min_logit_value=1e6)
    assert len(findings.margin) == 0
    assert findings.engine["looks"] == 4
    assert findings.scanned == 24


class Elsewhere(Lit):
    """Its `forward` gives a dict, its logits are to be had from `network`."""

    @override
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.network(x)}

    @override
    def training_logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self(x)["logits"]
        return logits


class Kept(Elsewhere):
    """Its `forward` leaves its logits behind."""

    last_logits: Tensor

    @override
    def forward(self, x: Tensor) -> Any:
        self.last_logits = self.network(x)
        return {"logits": self.last_logits}


class Normalised(Lit):
    """Its `forward` gives what a softmax made."""

    def __init__(self, network: nn.Module, softmax: Callable[..., Tensor]) -> None:
        super().__init__(network)
        self._softmax = softmax

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._softmax(super().forward(x), dim=1)


def test_logits_come_from_where_they_are(tmp_path: Path) -> None:
    expected = fit_and_find(Lit(mlp()), FLAT, tmp_path)

    def of_network(module: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = module.get_submodule("network")(x)
        return logits

    ways: dict[str, tuple[Lit, dict[str, Any]]] = {
        "logits_fn": (Elsewhere(mlp()), {"logits_fn": of_network}),
        "last_logits": (Kept(mlp()), {}),
    }
    for name, (module, options) in ways.items():
        (tmp_path / name).mkdir()
        findings = fit_and_find(module, FLAT, tmp_path / name, **options)
        np.testing.assert_array_equal(findings.logits, expected.logits)
        np.testing.assert_array_equal(findings.gradient, expected.gradient)
        assert len(findings.margin) > 0


def refusal(module: Lit, tmp_path: Path, **options: Any) -> str:
    """The one line that a fit ends with."""
    with pytest.raises(ModelError) as caught:
        fit_and_find(module, FLAT, tmp_path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "logits_fn" in message  # the way out
    return message


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    assert "returns dict" in refusal(Elsewhere(mlp()), tmp_path)
    assert "are probabilities" in refusal(Normalised(mlp(), functional.softmax), tmp_path)
    assert "log-probabilities" in refusal(Normalised(mlp(), functional.log_softmax), tmp_path)


def test_what_fails_in_evaluation_mode_is_told(tmp_path: Path) -> None:
    class TrainingOnly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise ValueError("no evaluation\nat all")
            return x

    message = refusal(Lit(mlp(TrainingOnly())), tmp_path)
    assert message.startswith("Lit fails on samples of shape (2, 12), torch.float32, in evaluation")


def test_what_has_no_gradient_is_told(tmp_path: Path) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    module = Lit(nn.Sequential(Detached(), mlp()))
    assert "no gradient" in refusal(module, tmp_path)


def warned(module: Lit, data: Data, callback: ConfusedLogitCallback) -> list[str]:
    """What the callback warns of during a fit; nothing else does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        for each in LIGHTNINGS_WARNINGS:
            warnings.filterwarnings("ignore", message=each.split(":")[1])
        warnings.filterwarnings("always", message="ConfusedLogitCallback")
        fit(module, data, [callback])
    return [str(each.message) for each in caught]


class Single(nn.Module):
    """Casts."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def test_network_that_casts_is_evaluated_as_it_can_be(tmp_path: Path) -> None:
    out = tmp_path / "confused.h5"
    (message,) = warned(Lit(nn.Sequential(Single(), mlp())), FLAT, watched(out))
    assert "can't be evaluated in float64" in message
    assert message.endswith("near ties are decided in float32")
    findings = load_findings(out)
    assert findings.engine["canonical"] == "float32"
    assert findings.engine["looks"] == 4
    assert len(findings.margin) > 0


class Mixing(nn.Module):
    """By the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.1)


@pytest.mark.parametrize(
    "layer", [Mixing(), nn.BatchNorm1d(16, track_running_stats=False), Noisy()], ids=str
)
def test_what_samples_do_not_decide_alone_is_left_out(layer: nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "confused.h5"
    # All are flagged: the block that is decided is the batch that was proposed from.
    callback = watched(out, max_logit_difference=1000.0)
    (message,) = warned(Lit(mlp(layer)), FLAT, callback)
    assert "random in evaluation mode, or mixes the samples" in message
    assert not out.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of what its compiler imports
@pytest.mark.parametrize("whole", [False, True], ids=["network", "module"])
def test_compiled(whole: bool, tmp_path: Path) -> None:
    def made() -> Any:
        if whole:
            return torch.compile(Lit(regular()), backend="eager")
        return Lit(torch.compile(regular(), backend="eager"))  # type: ignore[arg-type]

    torch.compiler.reset()
    without = fit(made(), FLAT)
    torch.compiler.reset()
    out = tmp_path / "confused.h5"
    trained = fit(made(), FLAT, [watched(out)])
    assert len(load_findings(out).margin) > 0
    assert_same_training(trained, without)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # on its way out of torch
def test_scripted(tmp_path: Path) -> None:
    """Its flags are no attributes of Python's.

    They are compared alone: its compiler rounds otherwise from one fit to the next by itself.
    """
    without = fit(Lit(torch.jit.script(regular())), FLAT)
    out = tmp_path / "confused.h5"
    trained = fit(Lit(torch.jit.script(regular())), FLAT, [watched(out)])
    assert len(load_findings(out).margin) > 0
    for name in ("training", "torch", "requires_grad"):
        assert_same(
            [each[name] for each in trained.after], [each[name] for each in without.after], name
        )


def test_every_hook_is_lightnings_and_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = [
        name
        for name, each in vars(ConfusedLogitCallback).items()
        if callable(each) and not name.startswith("_")
    ]
    calls: Counter[str] = Counter()

    def counted(name: str, hook: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return hook(*args, **kwargs)

        return call

    for name in hooks:
        hook = vars(ConfusedLogitCallback)[name]
        assert hook.__override__, name
        assert hasattr(Callback, name), name
        monkeypatch.setattr(ConfusedLogitCallback, name, counted(name, hook))
    out = tmp_path / "confused.h5"
    watch = ("train", "validation")
    fit(Validated(regular()), FLAT, [watched(out, watch=watch)], num_sanity_val_steps=1)
    assert calls == {
        "setup": 1,
        "on_train_start": 1,
        "on_train_batch_end": 8,
        "on_validation_start": 3,  # one of them is the sanity check's
        "on_validation_batch_end": 9,
        "teardown": 1,
    }

    class Failing(Callback):
        @override
        def on_train_epoch_end(self, *_: Any) -> None:
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fit(Validated(regular()), FLAT, [watched(out), Failing()])
    assert calls["on_exception"] == 1
    assert sorted(calls) == sorted(hooks)
    assert load_findings(out).engine["ended"] == "KeyError"


def test_logged_values_are_trainings(tmp_path: Path) -> None:
    """In the table of the logger, too."""
    tables = []
    for name in ("without", "with"):
        callbacks = [watched(tmp_path / "confused.h5")] if name == "with" else []
        logger = CSVLogger(tmp_path, name=name, version="")
        fit(Logging(regular()), FLAT, callbacks, logger=logger)
        tables.append((tmp_path / name / "metrics.csv").read_text())
    assert tables[0] == tables[1]
    assert tables[0].count("\n") > 8
