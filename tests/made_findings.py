"""Findings of pets: nights of few samples, every number of which is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import nights
from nights import EveryMargin, write_night

CLASSES = ("ant", "bee", "cat", "dog")
DATASET = {
    "path": "/data/pets.h5",
    "images": "images",
    "labels": "labels",
    "samples": 100,
    "shape": [2],
    "dtype": "float32",
    "fingerprint": "f00d" * 16,
}
BUNDLE = {"path": "/models/pets", "name": "pets", "manifest_sha256": "ab" * 32}


@dataclass(frozen=True)
class Tie:
    """One flagged sample."""

    index: int
    classes: tuple[int, int] = (0, 1)
    margin: float = 0.05
    largest: float = 2.0
    label: int = 0
    distance: float = 0.5


def every_margin(scanned: int, margin: float = 5.0, classes: tuple[int, int] = (0, 1)) -> Any:
    """The same for every sample, to be changed by the test."""
    return EveryMargin(
        np.full(scanned, margin, np.float32), np.tile(np.array(classes, np.int32), (scanned, 1))
    )


def write_findings(
    path: Path,
    ties: Sequence[Tie] = (),
    *,
    scanned: int = 100,
    eps: float = 0.1,
    min_logit: float | None = None,
    nonfinite: Sequence[int] = (),
    every: EveryMargin | None = None,
    gradients: bool = True,
    created: str | None = None,
    engine: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    **bundle: Any,
) -> Path:
    """Write findings with these ties; keywords that are left over replace what BUNDLE says."""
    write_night(
        path,
        [
            nights.Tie(
                index=tie.index,
                a=tie.classes[0],
                b=tie.classes[1],
                label=tie.label,
                margin=tie.margin,
                l2=tie.distance,
                linf=tie.distance / 4,
                largest=tie.largest,
            )
            for tie in ties
        ],
        scanned=scanned,
        classes=CLASSES,
        eps=eps,
        min_logit=min_logit,
        label_counts=[scanned, 0, 0, 0],
        correct=scanned - 1,
        nonfinite=nonfinite,
        every=every,
        no_gradients=not gradients,
        dataset=DATASET if dataset is None else dataset,
        bundle={**BUNDLE, **bundle},
        engine={"guard": 0.001} if engine is None else engine,
    )
    if created is not None:
        with h5py.File(path, "r+") as file:
            file.attrs["created"] = created
    return path
