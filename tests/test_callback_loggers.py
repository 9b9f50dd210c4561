"""Where the pictures go: every logger's own store, read back."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.loggers.logger import DummyLogger
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from audit.callback import ConfusedLogitCallback
from audit.errors import OptionError
from lit import LIGHTNINGS_WARNINGS, Lit, Validated, fit, random_data

pytestmark = [
    pytest.mark.filterwarnings(*LIGHTNINGS_WARNINGS),
    # wandb's, of its own settings; MLflow's, of its file store: theirs to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(wandb|mlflow|pydantic).*"),
]

FEATURES, CLASSES, PER_EPOCH, TOP = 6, 3, 4, 2


class Key(NamedTuple):
    """Of a picture."""

    tag: str
    step: int


Pixels = NDArray[np.uint8]


class Shown(NamedTuple):
    """A picture, RGB (height, width, 3)."""

    key: Key
    pixels: Pixels


def callback(**options: Any) -> ConfusedLogitCallback:
    """Every sample of every second batch is a near tie."""
    given: dict[str, Any] = {
        "top_k": TOP,
        "min_logit_value": None,
        "logging_batch_interval": 2,
        "max_logit_difference": 1e6,
    }
    return ConfusedLogitCallback(**given | options)


def train(
    logger: Logger | Sequence[Logger] | bool, *callbacks: ConfusedLogitCallback, **options: Any
) -> None:
    """An epoch of four batches, of which the second and fourth are looked at."""
    fit(
        Lit(nn.Linear(FEATURES, CLASSES)),
        random_data((FEATURES,), CLASSES),
        callbacks or (callback(),),
        logger=logger,
        max_epochs=1,
        **options,
    )


# Of `train`: the closest and the second closest of the batches that are looked at.
EXPECTED = {Key(f"near_ties/train/{k}", step) for k in (1, 2) for step in (2, 4)}


def of_tensorboard(folder: str | Path) -> list[Shown]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    read = []
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            pixels = decoded(event.encoded_image_string)
            assert pixels.shape == (event.height, event.width, 3)
            read.append(Shown(Key(tag, event.step), pixels))
    return read


def of_files(folder: Path) -> dict[Key, Pixels]:
    """Of what names its files as `Picture.file` does."""
    return {
        Key(str(path.parent.relative_to(folder)), int(path.stem.removeprefix("step_"))): decoded(
            path.read_bytes()
        )
        for path in folder.rglob("*.png")
    }


def decoded(png: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def assert_drawn(pixels: Pixels) -> None:
    """A sheet of six fields: each third of it has something on white, in colour as well."""
    height, width, _ = pixels.shape
    assert min(height, width) > 400
    for part in (*np.array_split(pixels, 2), *np.array_split(pixels, 3, axis=1)):
        ink = (part != 255).any(2).mean()
        assert 0.005 < ink < 0.9
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 50
    assert (np.ptp(pixels.astype(int), axis=2) > 60).any()


class Published(NamedTuple):
    """What every logger of one fit was given.

    Attributes:
        tensorboard, csv, mlflow: By tag and step.
        wandb: Folder of the run.
    """

    tensorboard: list[Shown]
    csv: dict[Key, Pixels]
    mlflow: dict[Key, Pixels]
    wandb: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """All four loggers at once."""
    import wandb

    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as environment:
        environment.chdir(folder)  # MLflow leaves a folder there
        environment.setenv("WANDB_MODE", "offline")
        environment.setenv("WANDB_SILENT", "true")
        # The other local store, SQLite, isn't in mlflow-skinny.
        environment.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        tensorboard = TensorBoardLogger(folder)
        csv = CSVLogger(folder, name="csv")
        mlflow = MLFlowLogger(tracking_uri=(folder / "runs").as_uri())
        train([tensorboard, WandbLogger(save_dir=folder), mlflow, csv])
        wandb.finish()
        copied = folder / "copied"
        copied.mkdir()
        mlflow.experiment.download_artifacts(str(mlflow.run_id), "near_ties", str(copied))
    (run,) = (folder / "wandb").glob("offline-run-*")
    return Published(
        tensorboard=of_tensorboard(tensorboard.log_dir),
        csv=of_files(Path(csv.log_dir) / "figures"),
        mlflow=of_files(copied),
        wandb=run,
    )


def test_tensorboard(published: Published) -> None:
    assert sorted(each.key for each in published.tensorboard) == sorted(EXPECTED)
    for each in published.tensorboard:
        assert_drawn(each.pixels)
    different = {each.pixels.tobytes() for each in published.tensorboard}
    assert len(different) == len(EXPECTED)


@pytest.mark.parametrize("logger", ["csv", "mlflow"])
def test_files(published: Published, logger: str) -> None:
    """The same pixels as TensorBoard's."""
    read = getattr(published, logger)
    assert set(read) == EXPECTED
    for key, pixels in published.tensorboard:
        np.testing.assert_array_equal(read[key], pixels)


def test_wandb(published: Published) -> None:
    """Offline, a run's media are in its folder, and what it would send is beside them."""
    media = published.wandb / "files/media/images"
    files = list(media.rglob("*.png"))
    tags = Counter(str(path.relative_to(media)).rsplit("_", 2)[0] for path in files)
    assert tags == Counter(key.tag for key in EXPECTED)
    shown = {decoded(path.read_bytes()).tobytes() for path in files}
    assert shown == {each.pixels.tobytes() for each in published.tensorboard}
    (log,) = published.wandb.glob("*.wandb")
    content = log.read_bytes()
    assert all(key.tag.encode() in content for key in EXPECTED)


def test_subclass_of_a_logger(tmp_path: Path) -> None:
    class Own(CSVLogger):
        pass

    logger = Own(tmp_path)
    train(logger)
    assert set(of_files(Path(logger.log_dir) / "figures")) == EXPECTED


def test_accumulated_batches_of_a_step(tmp_path: Path) -> None:
    """Several looks at one step, but no two pictures of one tag and step, and few tags."""
    logger = TensorBoardLogger(tmp_path)
    train(logger, callback(top_k=1, logging_batch_interval=1), accumulate_grad_batches=3)
    keys = [each.key for each in of_tensorboard(logger.log_dir)]
    assert sorted(keys) == [
        Key("near_ties/train/1", 0),
        Key("near_ties/train/1", 1),
        Key("near_ties/train/1", 2),
        Key("near_ties/train/look_2/1", 0),
    ]


class Unstepped(Lit):
    """Optimizes by hand, rarely: Lightning's step stays where it is for epochs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.automatic_optimization = False


def test_step_that_stands_still(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(
        Unstepped(nn.Linear(FEATURES, CLASSES)),
        random_data((FEATURES,), CLASSES),
        [callback(top_k=1)],
        logger=logger,
        max_epochs=2,
    )
    keys = [each.key for each in of_tensorboard(logger.log_dir)]
    assert sorted(keys) == [
        Key("near_ties/train/1", 0),
        *(Key(f"near_ties/train/look_{look}/1", 0) for look in (2, 3, 4)),
    ]


class TwiceValidated(Validated):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return super().validation_step(batch, batch_idx)


def test_several_validation_loaders(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    data = random_data((FEATURES,), CLASSES)
    trainer = Trainer(
        callbacks=[callback(top_k=1, logging_batch_interval=4, watch=("train", "validation"))],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        log_every_n_steps=1,
        num_sanity_val_steps=-1,
    )
    loaders = [data.loader(), data.loader()]
    trainer.fit(TwiceValidated(nn.Linear(FEATURES, CLASSES)), data.loader(), loaders)
    keys = [each.key for each in of_tensorboard(logger.log_dir)]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {
        *(Key("near_ties/train/1", step) for step in (4, 8)),
        *(
            Key(f"near_ties/validation/{loader}batch_3/1", step)
            for loader in ("", "loader_1/")
            for step in (4, 8)
        ),
    }


def test_two_callbacks(tmp_path: Path) -> None:
    """Each has tags of its own."""
    logger = TensorBoardLogger(tmp_path)
    train(logger, callback(), callback(top_k=1, logging_batch_interval=4))
    keys = [each.key for each in of_tensorboard(logger.log_dir)]
    assert sorted(keys) == sorted(EXPECTED | {Key("near_ties_2/train/1", 4)})


def test_two_callbacks_with_one_file(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    with pytest.raises(OptionError, match="two callbacks write it; give each its own"):
        train(False, callback(save_to=path), callback(top_k=1, save_to=path))
    assert not list(tmp_path.iterdir())


def messages(run: Callable[[], None]) -> list[str]:
    """The callback's warnings while it runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(each.message) for each in caught if "ConfusedLogit" in str(each.message)]


def test_unknown_logger(tmp_path: Path) -> None:
    """Named once; the others get their pictures."""
    known = CSVLogger(tmp_path)
    assert messages(lambda: train([DummyLogger(), known, DummyLogger()])) == [
        "ConfusedLogitCallback: DummyLogger takes no pictures from here; near ties aren't plotted "
        "there"
    ]
    assert set(of_files(Path(known.log_dir) / "figures")) == EXPECTED


def test_namesake_of_a_logger(tmp_path: Path) -> None:
    """A class of that name that isn't Lightning's has another way of taking pictures."""

    class CSVLogger(DummyLogger):
        pass

    (message,) = messages(lambda: train(CSVLogger(), callback(save_to=tmp_path / "some.h5")))
    assert "CSVLogger takes no pictures from here" in message
    assert (tmp_path / "some.h5").exists()


def test_nowhere_to_write_to() -> None:
    (message,) = messages(lambda: train(False))
    assert "no logger takes pictures and there is no save_to: no batch is looked at" in message


def test_nothing_to_warn_of(tmp_path: Path) -> None:
    """The same without the fault."""
    assert messages(lambda: train(False, callback(save_to=tmp_path / "some.h5"))) == []
    assert messages(lambda: train(CSVLogger(tmp_path))) == []


def test_interval_that_no_batch_reaches(tmp_path: Path) -> None:
    (message,) = messages(
        lambda: train(CSVLogger(tmp_path), callback(logging_batch_interval=PER_EPOCH + 1))
    )
    assert "an epoch of train has 4 batches, of which logging_batch_interval=5 looks at none" in (
        message
    )


SHAPES = {
    "features": (7,),
    "signal": (2, 16),
    "grey": (1, 8, 8),
    "RGB": (3, 8, 8),
    "five channels": (5, 8, 8),
    "volume": (2, 3, 4, 5),
}


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, torch.float32) for kind in SHAPES), ("RGB", torch.uint8)]
)
def test_samples_of_any_shape(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """What the ancestor refused has a picture, and a record."""
    shape = SHAPES[kind]
    data = random_data(shape, CLASSES)
    if dtype == torch.uint8:
        data.x = (data.x * 255).to(dtype)
    logger = CSVLogger(tmp_path)
    fit(
        Lit(nn.Sequential(AsFloat(), nn.Flatten(), nn.Linear(int(np.prod(shape)), CLASSES))),
        data,
        [callback(top_k=1, logging_batch_interval=4, save_to=tmp_path / "found.h5")],
        logger=logger,
        max_epochs=1,
    )
    (pixels,) = of_files(Path(logger.log_dir) / "figures").values()
    assert_drawn(pixels)
    from audit import load_findings

    found = load_findings(tmp_path / "found.h5")
    assert found.input.dtype == str(dtype).removeprefix("torch.")
    assert found.input.shape == (16, *shape)
    assert found.gradient.shape == (16, 2, *shape)


class AsFloat(nn.Module):
    """What a module does that takes bytes."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_floating_point() else x.float() / 255
