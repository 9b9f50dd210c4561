"""Pictures to the loggers of a Trainer: one small function each.

A logger is known by the name of its class, or of one that it inherits from, in either Lightning
package: nothing is imported that the user hasn't.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit.errors import last_line
from audit.output_file import make_directory, write_file

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGES = ("lightning", "pytorch_lightning")


class Picture(NamedTuple):
    """What is published.

    Attributes:
        tag: Where it belongs, e.g. near_ties/train/1.
        step: The optimizer's, Lightning's `global_step`.
        png: The picture as a PNG file.
    """

    tag: str
    step: int
    png: bytes

    @property
    def file(self) -> str:
        """A name that no other has."""
        return f"{self.tag}/step_{self.step:08d}.png"

    def image(self) -> Image:
        """The picture, RGB."""
        from PIL import Image  # matplotlib brings it

        return Image.open(io.BytesIO(self.png)).convert("RGB")


Adapter = Callable[[Any, Picture], None]


def to_tensorboard(logger: Any, picture: Picture) -> None:
    """Under Images, with a slider over the steps."""
    import numpy as np

    pixels = np.asarray(picture.image())
    logger.experiment.add_image(picture.tag, pixels, global_step=picture.step, dataformats="HWC")


def to_wandb(logger: Any, picture: Picture) -> None:
    """As an image of the run."""
    logger.log_image(picture.tag, [picture.image()], step=picture.step)


def to_mlflow(logger: Any, picture: Picture) -> None:
    """As an artifact of the run."""
    logger.experiment.log_image(logger.run_id, picture.image(), picture.file)


def to_files(logger: Any, picture: Picture) -> None:
    """Into a folder beside the table of a logger that keeps tables only."""
    path = Path(logger.log_dir) / "figures" / picture.file
    make_directory(path.parent)
    write_file(path, picture.png)


ADAPTERS: dict[str, Adapter] = {
    "TensorBoardLogger": to_tensorboard,
    "WandbLogger": to_wandb,
    "MLFlowLogger": to_mlflow,
    "CSVLogger": to_files,
}


class Publisher:
    """The loggers of a Trainer that take pictures.

    Attributes:
        unknown: Class names of those that don't.
    """

    def __init__(self, loggers: Iterable[Any]) -> None:
        self._served: list[tuple[Any, Adapter]] = []
        self.unknown: list[str] = []
        for logger in loggers:
            adapter = _adapter(logger)
            if adapter is None:
                self.unknown.append(type(logger).__name__)
            else:
                self._served.append((logger, adapter))

    def __bool__(self) -> bool:
        return bool(self._served)

    def publish(self, picture: Picture) -> list[str]:
        """To all of them.

        Returns:
            What was wrong with those that failed, in words; they get no more pictures.
        """
        failures = []
        for served in list(self._served):
            logger, adapter = served
            try:
                adapter(logger, picture)
            except Exception as exc:  # whatever a logger's server, disk or client raises
                self._served.remove(served)
                failures.append(f"{type(logger).__name__}: {type(exc).__name__}: {last_line(exc)}")
        return failures


def _adapter(logger: Any) -> Adapter | None:
    for kind in type(logger).__mro__:
        if kind.__module__.split(".")[0] in PACKAGES and kind.__name__ in ADAPTERS:
            return ADAPTERS[kind.__name__]
    return None
