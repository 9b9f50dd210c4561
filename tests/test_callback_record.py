"""The findings of a training: whole, true to an oracle, and readable by all that reads findings."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

import audit
from audit.callback import ConfusedLogitCallback
from audit.errors import ModelError, OptionError, OutputError
from audit.figure import figure
from audit.findings import Findings
from audit.info import info
from audit.summary import summary_from_findings, text_from_summary
from lit import LIGHTNINGS_WARNINGS, Data, Lit, Trained, Validated, fit, random_data
from oracles import Expected, expected_near_ties, relative_errors

pytestmark = pytest.mark.filterwarnings(*LIGHTNINGS_WARNINGS)

EPS, MIN_LOGIT = 0.2, 0.05
SHAPE, CLASSES = (1, 6, 6), 4
EVERY = 2  # batches
NAMES = ("cat", "dog", "eel", "fox")


def network() -> nn.Module:
    """What a mode or a moment changes: dropout, batch norm."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * 36, CLASSES),
    )


def callback(path: Path | None, **options: Any) -> ConfusedLogitCallback:
    given: dict[str, Any] = {
        "top_k": 1,
        "min_logit_value": MIN_LOGIT,
        "logging_batch_interval": EVERY,
        "max_logit_difference": EPS,
        "save_to": path,
    }
    return ConfusedLogitCallback(**given | options)


class Batches(Callback):
    """Keeps every training batch as the module got it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((batch[0].clone(), batch[1].clone()))


class Run:
    """A training of three epochs of four batches with the callback, and what it should find."""

    def __init__(self, path: Path) -> None:
        self.path = path
        batches = Batches()
        watching = callback(path, class_names=NAMES)
        self.trained = fit(
            Lit(network()),
            random_data(SHAPE, CLASSES),
            [watching, batches],
            weights=True,
            max_epochs=3,
        )
        self.looked = list(range(EVERY - 1, len(batches.seen), EVERY))
        self.batches = [batches.seen[place] for place in self.looked]
        self.expected: list[Expected] = []
        for place, (x, _) in zip(self.looked, self.batches, strict=True):
            # As it was after the step of this batch, in evaluation mode, float64.
            model = self.trained.weights[place]
            self.expected.append(expected_near_ties(model, x.numpy(), EPS, MIN_LOGIT))

    def joined(self, of: Callable[[Expected], Any]) -> Any:
        return np.concatenate([of(each) for each in self.expected])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run") / "confused.h5")


@pytest.fixture(scope="module")
def found(run: Run) -> Findings:
    return audit.load_findings(run.path)


def training(path: Path) -> dict[str, list[int]]:
    """The group that only a training's findings have."""
    with h5py.File(path) as file:
        return {name: each[()].tolist() for name, each in file["training"].items()}


def test_flags_are_the_oracles(run: Run, found: Findings) -> None:
    """Over all batches that were looked at, in their order."""
    starts = np.cumsum([0, *(len(x) for x, _ in run.batches[:-1])])
    index = np.concatenate([s + e.index for s, e in zip(starts, run.expected, strict=True)])
    assert 10 < len(index) < sum(len(x) for x, _ in run.batches) - 10
    np.testing.assert_array_equal(found.index, index)
    assert (np.diff(found.index) > 0).all()
    np.testing.assert_array_equal(found.classes, run.joined(lambda e: e.classes))
    np.testing.assert_allclose(found.margin, run.joined(lambda e: e.margin), atol=1e-12)
    np.testing.assert_array_equal(found.margin, found.logits[:, 0] - found.logits[:, 1])
    gradient = run.joined(lambda e: e.gradient)
    assert relative_errors(found.gradient, gradient).max() < 1e-6
    stream = torch.cat([x for x, _ in run.batches]).numpy()
    np.testing.assert_array_equal(found.input, stream[index])
    labels = torch.cat([y for _, y in run.batches]).numpy()
    np.testing.assert_array_equal(found.label, labels[index])


def test_flags_depend_on_the_moment(run: Run) -> None:
    """The oracle tells: by the weights of a batch before, other samples nearly tie."""
    others = [
        expected_near_ties(run.trained.weights[place - 1], x.numpy(), EPS, MIN_LOGIT).index
        for place, (x, _) in zip(run.looked, run.batches, strict=True)
    ]
    here = [each.index for each in run.expected]
    assert any(a.tolist() != b.tolist() for a, b in zip(others, here, strict=True))


def test_distances(found: Findings) -> None:
    difference = (found.gradient[:, 0] - found.gradient[:, 1]).astype(np.float64)
    flat = difference.reshape(len(difference), -1)
    np.testing.assert_allclose(
        found.distance_l2, found.margin / np.linalg.norm(flat, axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(found.distance_linf, found.margin / np.abs(flat).sum(1), rtol=1e-5)


def test_when_they_were_seen(run: Run, found: Findings) -> None:
    counts = [len(each.index) for each in run.expected]
    per_epoch = 4
    when = training(run.path)
    places = np.repeat(run.looked, counts)
    assert when["epoch"] == (places // per_epoch).tolist()
    assert when["batch"] == (places % per_epoch).tolist()
    assert when["step"] == (places + 1).tolist()
    assert when["row"] == run.joined(lambda e: e.index).tolist()
    assert when["stage"] == [0] * found.flagged


def test_counts(run: Run, found: Findings) -> None:
    logits = run.joined(lambda e: e.logits)
    labels = torch.cat([y for _, y in run.batches]).numpy()
    assert found.scanned == len(labels) == 6 * 16
    assert (found.eps, found.min_logit) == (EPS, MIN_LOGIT)
    assert (found.labelled, found.correct) == (len(labels), (logits.argmax(1) == labels).sum())
    assert found.nonfinite == found.degenerate == 0
    assert found.margin_counts.sum() == found.scanned
    assert found.pairs.sum() == found.flagged
    assert found.engine["looks"] == 6
    assert found.engine["ended"] == "completed"
    assert found.bundle["name"] == "Lit"
    assert found.bundle["classes"] == list(NAMES)


def test_preprocess_is_the_identity(found: Findings) -> None:
    assert found.preprocess is not None
    np.testing.assert_array_equal(found.preprocess.to_input_space(found.input), found.input)


def test_info_and_summary(run: Run, found: Findings) -> None:
    described = json.loads(json.dumps(info(run.path)))
    assert (described["kind"], described["flagged"]) == ("findings", found.flagged)
    summary = json.loads(json.dumps(summary_from_findings(found)))
    assert summary["closest"][0]["margin"] == found.margin.min()
    text = text_from_summary(summary)
    assert "None" not in text
    assert text.splitlines()[0] == "scanned   96 samples of a training's batches"
    assert text.splitlines()[1] == "model     Lit"


def test_info_on_the_command_line(run: Run, run_audit: Callable[..., Any]) -> None:
    done = run_audit("info", run.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "None" not in done.stdout


def test_figure(run: Run, found: Findings, tmp_path: Path) -> None:
    """`audit figure` draws them, though there is no bundle any more."""
    closest = int(found.index[found.margin.argmin()])
    assert figure(run.path, tmp_path, closest=1) == [tmp_path / f"near-tie-{closest}.png"]
    assert (tmp_path / f"near-tie-{closest}.png").stat().st_size > 10_000


def test_validation_is_recorded_as_such(tmp_path: Path) -> None:
    path = tmp_path / "found.h5"
    fit(
        Validated(network()),
        random_data(SHAPE, CLASSES),
        [callback(path, watch="validation", max_logit_difference=1e6, min_logit_value=None)],
        num_sanity_val_steps=-1,
    )
    found, when = audit.load_findings(path), training(path)
    assert found.scanned == found.flagged == 2 * 2 * 16
    assert set(when["stage"]) == {1}
    assert when["step"] == [4] * 32 + [8] * 32
    assert when["batch"] == ([1] * 16 + [3] * 16) * 2
    assert when["row"] == list(range(16)) * 4


class Mixing(Lit):
    """Trains with mixed labels, as mixup makes them."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def test_labels_that_name_no_class(tmp_path: Path) -> None:
    data = random_data(SHAPE, CLASSES)
    soft = torch.full((len(data.x), CLASSES), 1 / CLASSES)
    soft[::2] = torch.eye(CLASSES)[data.label[::2]]
    path = tmp_path / "found.h5"
    fit(
        Mixing(network()),
        Data(data.x, soft),
        [callback(path, max_logit_difference=1e6, min_logit_value=None)],
        max_epochs=1,
    )
    found = audit.load_findings(path)
    looked = [*range(16, 32), *range(48, 64)]
    expected = np.where(np.arange(64) % 2, -1, data.label.numpy())[looked]
    np.testing.assert_array_equal(found.label, expected)
    assert found.labelled == 16
    assert found.accuracy == found.correct / 16


class Unlearning(Lit):
    """Its weights stay finite, whatever it is given."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.stack([each.sum() for each in self.parameters()]).sum()


def test_nonfinite_samples(tmp_path: Path) -> None:
    """They are no near ties, and are told."""
    data = random_data(SHAPE, CLASSES)
    data.shuffle = False
    data.x[[17, 50]] = np.nan
    path = tmp_path / "found.h5"
    module = Unlearning(nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)))
    fit(module, data, [callback(path, min_logit_value=None)], max_epochs=1)
    found = audit.load_findings(path)
    assert found.nonfinite_index.tolist() == [1, 18]  # of those that were looked at
    assert found.scanned == 32


def test_shape_that_changes(tmp_path: Path) -> None:
    """Findings are of one shape; what else comes along is left out, with one warning."""
    small, large = torch.rand(4, 1, 6, 6), torch.rand(4, 1, 8, 8)
    batches: Any = [(x, torch.arange(4)) for x in (small, large, small, large, large)]
    pooled = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    path = tmp_path / "found.h5"
    watching = callback(
        path, max_logit_difference=1e6, min_logit_value=None, logging_batch_interval=1
    )
    trainer = quiet(watching)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Lit(pooled), DataLoader(batches, batch_size=None))
    (message,) = (str(each.message) for each in caught if "ConfusedLogit" in str(each.message))
    assert "float32 of shape (1, 8, 8), the first ones were float32 of shape (1, 6, 6)" in message
    found = audit.load_findings(path)
    assert found.scanned == found.flagged == 8
    assert training(path)["batch"] == [0] * 4 + [2] * 4
    np.testing.assert_array_equal(found.input, torch.cat([small, small]).numpy())


def quiet(*callbacks: Callback, **options: Any) -> Trainer:
    """As in `lit.fit`, for what isn't a fit from beginning to end."""
    return Trainer(
        callbacks=list(callbacks),
        **{
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            **options,
        },
    )


class Stopping(Callback):
    """Ends the training in its third batch."""

    def __init__(self, exception: BaseException) -> None:
        super().__init__()
        self._exception = exception

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            raise self._exception


@pytest.mark.parametrize(
    ("raised", "ends_with"),
    [(ZeroDivisionError("none"), ZeroDivisionError), (KeyboardInterrupt(), SystemExit)],
    ids=["exception", "Ctrl-C"],
)
def test_ended_before_its_end(
    raised: BaseException, ends_with: type[BaseException], tmp_path: Path
) -> None:
    """What was found until then is there, and says how it ended."""
    path = tmp_path / "found.h5"
    watching = callback(path, max_logit_difference=1e6, min_logit_value=None)
    with pytest.raises(ends_with):
        fit(Lit(network()), random_data(SHAPE, CLASSES), [watching, Stopping(raised)])
    found = audit.load_findings(path)
    assert found.engine["ended"] == type(raised).__name__
    assert found.scanned == found.flagged == 16
    assert found.gradient.shape == (16, 2, *SHAPE)
    assert [each.name for each in tmp_path.iterdir()] == ["found.h5"]


def test_failed_look_ends_the_training(tmp_path: Path) -> None:
    """An error of the user's is raised, with nothing left behind: nothing was recorded."""
    watching = callback(tmp_path / "found.h5", batch_fn=lambda batch: batch[0])
    with pytest.raises(ModelError, match="batch_fn returned Tensor"):
        fit(Lit(network()), random_data(SHAPE, CLASSES), [watching])
    assert not list(tmp_path.iterdir())


def train_once(path: Path) -> Trained:
    return fit(Lit(network()), random_data(SHAPE, CLASSES), [callback(path)], max_epochs=1)


@pytest.mark.parametrize("kind", ["no directory", "a directory", "something else", "unwritable"])
def test_path_that_cannot_be(kind: str, tmp_path: Path) -> None:
    """Said before the first batch, in one line that speaks of `save_to`."""
    path = tmp_path / "found.h5"
    if kind == "no directory":
        path = tmp_path / "nowhere" / "found.h5"
    elif kind == "unwritable":
        path = Path("/proc/found.h5")  # not even by root
    elif kind == "a directory":
        path.mkdir()
    else:
        path.write_text("precious")
    module = Lit(network())
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(OutputError) as caught:
        fit(module, random_data(SHAPE, CLASSES), [callback(path)])
    message = str(caught.value)
    assert str(path.parent) in message
    assert "save_to" in message
    assert "-o" not in message.split()
    assert "\n" not in message
    assert not module.losses
    assert all(torch.equal(before[name], each) for name, each in module.state_dict().items())
    if kind == "something else":
        assert path.read_text() == "precious"


def test_second_fit_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "found.h5"
    watching = callback(path)
    data = random_data(SHAPE, CLASSES)
    fit(Lit(network()), data, [watching], max_epochs=2)
    assert audit.load_findings(path).scanned == 4 * 16
    fit(Lit(network()), data, [watching], max_epochs=1)
    assert audit.load_findings(path).scanned == 2 * 16
    assert [each.name for each in tmp_path.iterdir()] == ["found.h5"]


def test_nothing_found(tmp_path: Path) -> None:
    """A file nevertheless: that there were none is a finding."""
    path = tmp_path / "found.h5"
    fit(
        Lit(network()),
        random_data(SHAPE, CLASSES),
        [callback(path, min_logit_value=1e9)],
        max_epochs=1,
    )
    found = audit.load_findings(path)
    assert (found.scanned, found.flagged) == (32, 0)
    assert "None" not in text_from_summary(summary_from_findings(found))
    assert figure(path, tmp_path / "figures") == []


@pytest.mark.parametrize("make", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies(make: Callable[[Any], Any], tmp_path: Path) -> None:
    """Before a fit, within one and after one: a copy is a callback of the same options."""
    path = tmp_path / "found.h5"
    original = callback(path)
    copies: list[ConfusedLogitCallback] = [make(original)]

    class Copying(Callback):
        @override
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            copies.append(make(original))

    fit(Lit(network()), random_data(SHAPE, CLASSES), [original, Copying()], max_epochs=1)
    copies.append(make(original))
    expected = path.read_bytes()
    for each in copies:
        assert each.options == original.options
        assert each.state_key == original.state_key
    path.unlink()
    fit(Lit(network()), random_data(SHAPE, CLASSES), [copies[1]], max_epochs=1)
    assert len(path.read_bytes()) == len(expected)


def test_two_callbacks(tmp_path: Path) -> None:
    """Each has its own options, its own file, and its own state in a checkpoint."""
    first = callback(tmp_path / "first.h5", max_logit_difference=1e6, min_logit_value=None)
    second = callback(tmp_path / "second.h5", logging_batch_interval=1, min_logit_value=1e9)
    assert first.state_key != second.state_key
    fit(Lit(network()), random_data(SHAPE, CLASSES), [first, second], max_epochs=1)
    one, two = (audit.load_findings(tmp_path / f"{name}.h5") for name in ("first", "second"))
    assert (one.scanned, one.flagged) == (32, 32)
    assert (two.scanned, two.flagged) == (64, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ("cat", "dog")}, "class_names: 2 names for 4 logits"),
        (
            {"feature_names": ("width",)},
            r"feature_names: 1 names for samples of shape \(1, 6, 6\)",
        ),
    ],
)
def test_names_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        fit(
            Lit(network()),
            random_data(SHAPE, CLASSES),
            [callback(tmp_path / "found.h5", **options)],
        )
    assert not list(tmp_path.iterdir())
