"""Findings written during training: `docs/findings.md`, with one more group.

`/training` says when each flagged sample was seen, in the order of the rows of `/flagged`: `epoch`,
`step`, `batch`, `row` and `stage`, each int64 (M,). `/flagged/index` is a sample's place in the
stream of those that were looked at and recorded.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audit.callback.look import GUARD, Look
from audit.callback.options import STAGES, CallbackOptions
from audit.callback.precision import Precision
from audit.findings_writer import FindingsLayout, FindingsWriter
from audit.found import Found
from audit.hdf5_writer import create_rows, extend
from audit.manifest import describe_model
from audit.preprocess import Preprocess

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

COLUMNS = ("epoch", "step", "batch", "row", "stage")
SOURCE = "training callback"


class TrainingWriter(FindingsWriter):
    """Appends what each look found."""

    def __init__(self, out: Path, layout: FindingsLayout) -> None:
        """As of `FindingsWriter`."""
        super().__init__(out, layout)
        self._looks = 0
        self._disagreement = 0.0

    @property
    def samples(self) -> int:
        """Looked at so far."""
        return self._totals.scanned

    def append(self, found: Found) -> None:
        """As of `FindingsWriter`; what has no rows costs next to nothing."""
        assert isinstance(found, Look)
        self._looks += 1
        self._disagreement = max(self._disagreement, found.disagreement)
        if not (len(found.index) or len(found.nonfinite_index)):
            self._totals.add(found)
            return
        super().append(found)
        with self.disk_errors():
            training = self.file["training"]
            extend(training["row"], found.row)
            for name, value in asdict(found.moment).items():
                extend(training[name], np.full(len(found.row), value, dtype=np.int64))

    def finish_training(self, engine: dict[str, Any]) -> None:
        """As `finish`, with what only the writer knows."""
        p, totals = self._layout.preprocess, self._totals
        dataset = {
            "path": None,
            "images": "batches",
            "labels": "labels" if totals.label_counts.any() else None,
            "samples": totals.scanned,
            "shape": p.raw_shape,
            "dtype": p.raw_dtype,
            "fingerprint": None,
        }
        counted = {"looks": self._looks, "max_disagreement": self._disagreement}
        self.finish(dataset, engine | counted)

    def _create(self) -> None:
        super()._create()
        training = self.file.create_group("training")
        training.attrs["NX_class"] = "NXcollection"
        for name in COLUMNS:
            create_rows(training, name, np.dtype(np.int64), ())
        training["stage"].attrs["names"] = list(STAGES)


def describe_module(
    module: LightningModule, class_names: tuple[str, ...], preprocess: Preprocess
) -> dict[str, Any]:
    """What the network was, for the findings' attribute `bundle`: none that could be loaded."""
    return {
        "path": None,
        "manifest_sha256": None,
        "files": {},
        **describe_model(type(module).__name__, class_names, preprocess),
    }


def describe_engine(
    trainer: Trainer, options: CallbackOptions, precision: Precision, how: str
) -> dict[str, Any]:
    """How it was looked, for the findings' attribute `engine`."""
    package = type(trainer).__module__.split(".")[0]
    return {
        "source": SOURCE,
        "ended": how,
        "device": trainer.strategy.root_device.type,
        "precision": str(precision.fast).removeprefix("torch."),
        "canonical": str(precision.canonical).removeprefix("torch."),
        "logging_batch_interval": options.logging_batch_interval,
        "top_k": options.top_k,
        "watch": options.watch,
        "guard": GUARD.value,
        "guard_logit_scale": GUARD.logit_scale,
        "rescans": 0,
        "checked": 0,
        "miss_rate_bound": None,
        "versions": {
            **{name: version(name) for name in ("torch", "numpy", "h5py")},
            package: getattr(sys.modules.get(package), "__version__", None),
        },
    }
