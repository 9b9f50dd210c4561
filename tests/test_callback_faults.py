"""Each fault of the public ancestor, absent here: every check passes on ours and fails on that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ancestor import Ancestor
from audit.callback import ConfusedLogitCallback
from audit.callback.pictures import png_of
from audit.near_tie import NearTie
from lit import (
    LIGHTNINGS_WARNINGS,
    Data,
    Keeping,
    Lit,
    Plot,
    Trained,
    assert_same,
    fit,
    random_data,
)

pytestmark = pytest.mark.filterwarnings(
    *LIGHTNINGS_WARNINGS,
    "ignore:.*in eval mode at the start of training",  # frozen on purpose
)

EPS = 0.5


class Ours:
    """The callback, with what its figures are made from."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.plots: list[Plot] = []

        def seen(tie: NearTie, *args: Any) -> bytes:
            self.plots.append(
                Plot(
                    x=tie.x.astype(np.float64),
                    gradient=tie.gradient.astype(np.float64),
                    classes=tie.classes,
                    label=tie.label,
                )
            )
            return png_of(tie, *args)

        patch.setattr("audit.callback.session.png_of", seen)

    def callback(self, **options: Any) -> Callback:
        return ConfusedLogitCallback(**options)


class Theirs:
    """The ancestor."""

    def __init__(self, _: pytest.MonkeyPatch) -> None:
        self._made: list[Ancestor] = []

    @property
    def plots(self) -> list[Plot]:
        return [plot for each in self._made for plot in each.plots]

    def callback(self, **options: Any) -> Callback:
        self._made.append(Ancestor(**options))
        return self._made[-1]


@dataclass
class Subject:
    """One of the two, and where its logger writes.

    Attributes:
        who: Ours or the ancestor.
        out: An empty folder.
    """

    who: Ours | Theirs
    out: Path

    def fit(
        self,
        module: Lit,
        data: Data,
        *,
        trainer: dict[str, Any] | None = None,
        logger: type[Logger] = TensorBoardLogger,
        **options: Any,
    ) -> Trained:
        """Train with the callback on every batch."""
        defaults: dict[str, Any] = {
            "top_k": 2,
            "logging_batch_interval": 1,
            "max_logit_difference": EPS,
            "min_logit_value": -100.0,
        }
        made: Any = logger
        return fit(
            module,
            data,
            [self.who.callback(**defaults | options)],
            weights=True,
            **{"max_epochs": 1, "logger": made(self.out, name="run", version="")} | (trainer or {}),
        )

    def published(self) -> list[tuple[str, int, bytes]]:
        """Tag, step and PNG of every picture that TensorBoard has."""
        events = EventAccumulator(str(self.out / "run"), {"images": 0})
        events.Reload()
        return [
            (tag, event.step, event.encoded_image_string)
            for tag in events.Tags()["images"]
            for event in events.Images(tag)
        ]


class Truth(NamedTuple):
    """Of one sample, from the eager network alone, float64."""

    logits: NDArray[np.float64]
    margin: float
    gradient: NDArray[np.float64]


def truth(module: nn.Module, x: NDArray[np.float64], classes: tuple[int, int]) -> Truth:
    """Logits of the module as it was, in evaluation mode, and both gradients of this sample."""
    leaf = torch.from_numpy(x)[None].clone().requires_grad_()
    logits = module(leaf)
    gradients = [
        torch.autograd.grad(logits[0, each], leaf, retain_graph=True)[0][0] for each in classes
    ]
    top = logits[0].detach().topk(2).values
    return Truth(logits[0].detach().numpy(), float(top[0] - top[1]), torch.stack(gradients).numpy())


def flagged(module: nn.Module, x: Tensor) -> NDArray[np.float64]:
    """Margins of the near ties of a batch, in its order."""
    with torch.no_grad():
        top = module(x.double()).topk(2).values
    margin = (top[:, 0] - top[:, 1]).numpy()
    return np.asarray(margin[margin < EPS])


def pixels(values: Any, *, classes: int = 4) -> tuple[Lit, Data]:
    """A network whose logits are the four pixels, which no step changes, and one batch."""
    x = torch.tensor(values, dtype=torch.float32).view(-1, 1, 2, 2)
    layer = nn.Linear(4, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
        layer.bias.zero_()
    return (
        Keeping(nn.Sequential(nn.Flatten(), layer), rate=0.0),
        Data(x, torch.arange(len(x)) % classes, batch=len(x)),
    )


def dense(*between: nn.Module, rate: float = 0.0) -> Lit:
    """Of 1 x 6 x 6 pixels; two nonlinear layers, so that gradients differ between samples."""
    torch.manual_seed(2)
    layers = (nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), *between, nn.Linear(24, 5))
    return Keeping(nn.Sequential(*layers), rate=rate)


IMAGES = random_data((1, 6, 6), 5, count=6, batch=6)
DOUBLE = {"precision": "64-true"}


def in_double(data: Data) -> Data:
    return Data(data.x.double(), data.label, data.batch)


def check_gradients(subject: Subject) -> None:
    trained = subject.fit(dense(), in_double(IMAGES), trainer=DOUBLE, top_k=6)
    assert len(subject.who.plots) > 2
    for plot in subject.who.plots:
        assert_gradient(plot, trained.weights[0])


def assert_gradient(plot: Plot, module: nn.Module) -> None:
    expected = truth(module, plot.x, plot.classes).gradient
    error = np.linalg.norm(plot.gradient - expected) / np.linalg.norm(expected)
    assert error < 1e-10, f"relative error {error:.1e}"


def check_top_k_of_classes(subject: Subject) -> None:
    # The first is the closest, too.
    module, data = pixels([[9.0, 8.9, 0, 0], [0, 0, 7.0, 6.8], [0, 5.7, 5.4, 0]])
    subject.fit(module, data, top_k=1)
    (plot,) = subject.who.plots
    a, b = plot.gradient.reshape(2, 4)
    assert a.tolist() == [1, 0, 0, 0]
    assert b.tolist() == [0, 1, 0, 0]


def check_closest(subject: Subject) -> None:
    module, data = pixels([[9.0, 8.6, 0, 0], [0, 9, 0, 8.9], [0, 0, 8.0, 8.2]])
    subject.fit(module, data, top_k=2)
    shown = [plot.classes for plot in subject.who.plots]
    assert shown == [(1, 3), (3, 2)]


def check_shape(subject: Subject, shape: tuple[int, ...]) -> None:
    data = random_data(shape, 3, count=6, batch=6)
    features = int(np.prod(shape))
    torch.manual_seed(0)
    module = Keeping(nn.Sequential(nn.Flatten(), nn.Linear(features, 3)), rate=0.0)
    trained = subject.fit(module, data, top_k=1, max_logit_difference=10.0)
    (plot,) = subject.who.plots
    assert plot.x.shape == shape
    assert plot.gradient.shape == (2, *shape)
    expected = truth(trained.weights[0], plot.x, plot.classes).gradient
    np.testing.assert_allclose(plot.gradient, expected, rtol=1e-6)


def check_opinion(subject: Subject) -> None:
    # One has an opinion and no tie, one both, one a tie and no opinion.
    module, data = pixels([[20.0, 0, 0, 0], [0, 0, 6.0, 5.9], [0, 1.0, 0.9, 0]])
    subject.fit(module, data, min_logit_value=5.0)
    assert [plot.classes for plot in subject.who.plots] == [(2, 3)]


def check_moment(subject: Subject) -> None:
    """What is plotted nearly ties for the network that the gradients are of."""
    module = dense(nn.Dropout(0.5), rate=0.3)
    eps = 0.2
    trained = subject.fit(module, IMAGES, top_k=6, max_logit_difference=eps)
    assert subject.who.plots
    right = [truth(trained.weights[0], plot.x, plot.classes) for plot in subject.who.plots]
    assert max(each.margin for each in right) < eps, "no tie at the moment of the gradients"
    for plot, each in zip(subject.who.plots, right, strict=True):
        assert each.logits.argsort()[:-3:-1].tolist() == list(plot.classes)


def check_flags(subject: Subject) -> None:
    network = dense(nn.BatchNorm1d(24), nn.Sequential(nn.Dropout(0.5), nn.Identity()))
    for each in (network.network[3], network.network[4]):  # type: ignore[index]
        each.eval()
    without = fit(copy.deepcopy(network), IMAGES, max_epochs=1)
    trained = subject.fit(network, IMAGES)
    assert subject.who.plots
    assert_same(trained.after[-1]["training"], without.after[-1]["training"], "training")


def check_grad(subject: Subject) -> None:
    """Halfway to a step of the optimizer."""
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "max_epochs": 1}
    data = random_data((1, 6, 6), 5, count=12, batch=6)
    without = fit(dense(), data, **options)
    trained = subject.fit(dense(), data, trainer=options)
    assert subject.who.plots
    assert_same(trained.after[0]["grad"], without.after[0]["grad"], "grad")


class Drawing(nn.Module):
    """Draws a number that changes nothing of what comes out."""

    def forward(self, x: Tensor) -> Tensor:
        return x if torch.rand(()) < 2 else -x


def check_random(subject: Subject) -> None:
    without = fit(dense(Drawing()), IMAGES, max_epochs=1)
    trained = subject.fit(dense(Drawing()), IMAGES)
    assert subject.who.plots
    assert_same(trained.after[0]["torch"], without.after[0]["torch"], "torch")


def check_autocast(subject: Subject) -> None:
    """Under bf16 the ties are the network's, not those of bf16's eight bits."""
    module = dense()
    module.network[-1].bias.data += 40.0  # type: ignore[index]
    trained = subject.fit(module, IMAGES, top_k=6, trainer={"precision": "bf16-mixed"})
    margins = [truth(trained.weights[0], p.x, p.classes).margin for p in subject.who.plots]
    expected = flagged(trained.weights[0], IMAGES.x)
    assert len(margins) == len(expected) > 2, "flagged by the rounding of bf16"
    np.testing.assert_allclose(np.sort(margins), np.sort(expected), atol=1e-12)


def check_tags(subject: Subject) -> None:
    subject.fit(dense(), IMAGES)
    published = subject.published()
    assert len(published) == len(subject.who.plots) == 2
    assert len({(tag, step) for tag, step, _ in published}) == 2, "not distinct"


def check_logger(subject: Subject) -> None:
    subject.fit(dense(), IMAGES, logger=CSVLogger)
    assert len(list(subject.out.glob("**/*.png"))) == len(subject.who.plots) == 2


def check_plain_module(subject: Subject) -> None:
    module = dense()
    subject.fit(Lit(module.network, rate=0.0), IMAGES)
    assert len(subject.who.plots) == 2


def check_projection_factor(subject: Subject) -> None:
    for name, factor in ("few", 3), ("many", 300):
        each = Subject(subject.who, subject.out / name)
        each.fit(dense(), IMAGES, top_k=1, projection_factor=factor)
    few, many = (Subject(subject.who, subject.out / name).published() for name in ("few", "many"))
    assert len(few) == len(many) == 1
    assert few[0][2] != many[0][2], "the same picture"


Check = Callable[[Subject], None]


def _of_shape(shape: tuple[int, ...]) -> Check:
    return lambda subject: check_shape(subject, shape)


class Fault(NamedTuple):
    """One of the ancestor's.

    Attributes:
        check: Passes without it.
        error: What the ancestor fails with.
    """

    check: Check
    error: type[Exception]
    message: str


FAULTS = {
    "gradients mixed across samples": Fault(check_gradients, AssertionError, "relative error"),
    "top_k not applied to the classes": Fault(
        check_top_k_of_classes, AssertionError, r"\[1.0, 1.0, 1.0, 0.0\]"
    ),
    "first instead of closest": Fault(check_closest, AssertionError, r"\[\(0, 1\), \(1, 3\)\]"),
    "flat samples": Fault(_of_shape((36,)), ValueError, "unpack"),
    "RGB": Fault(_of_shape((3, 6, 6)), RuntimeError, "invalid for input"),
    "signals": Fault(_of_shape((2, 9)), ValueError, "unpack"),
    "volumes": Fault(_of_shape((1, 3, 4, 5)), ValueError, "unpack"),
    "opinion of the batch": Fault(check_opinion, AssertionError, r"\[\(2, 3\), \(1, 2\)\]"),
    "flags before, gradients after the step": Fault(check_moment, AssertionError, "moment"),
    "train() for all": Fault(check_flags, AssertionError, "training"),
    "grad polluted": Fault(check_grad, AssertionError, "grad"),
    "random numbers disturbed": Fault(check_random, AssertionError, "torch"),
    "ties of autocast": Fault(check_autocast, AssertionError, "bf16"),
    "one tag and step": Fault(check_tags, AssertionError, "distinct"),
    "TensorBoard only": Fault(check_logger, AttributeError, "add_figure"),
    "last_logits needed": Fault(check_plain_module, AttributeError, "last_logits"),
    "projection_factor ignored": Fault(check_projection_factor, AssertionError, "the same picture"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_absent(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name].check(Subject(Ours(monkeypatch), tmp_path))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    with pytest.raises(fault.error, match=fault.message):
        fault.check(Subject(Theirs(monkeypatch), tmp_path))


def test_ancestor_is_right_about_a_sample_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is the mixing that `check_gradients` tells, not the float64 or the oracle."""
    alone = Data(IMAGES.x[:1].double(), IMAGES.label[:1], batch=1)
    subject = Subject(Theirs(monkeypatch), tmp_path)
    trained = subject.fit(dense(), alone, trainer=DOUBLE, max_logit_difference=10.0)
    (plot,) = subject.who.plots
    assert_gradient(plot, trained.weights[0])


def test_gradients_are_those_of_float64_under_every_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision in ("32-true", "bf16-mixed"):
        subject = Subject(Ours(monkeypatch), tmp_path / precision)
        trained = subject.fit(
            dense(nn.Dropout(0.5), rate=0.1), IMAGES, trainer={"precision": precision}
        )
        assert len(subject.who.plots) == 2
        for plot in subject.who.plots:
            assert_gradient(plot, trained.weights[0])
