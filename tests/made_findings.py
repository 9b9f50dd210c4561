"""Findings files whose every number is chosen, by the program's own writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from audit.findings_writer import FindingsLayout, FindingsWriter
from audit.found import MARGIN_EDGES, Found
from audit.preprocess import Preprocess

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
PREPROCESS = Preprocess(
    raw_shape=(2,),
    raw_dtype="float32",
    raw_layout="F",
    input_shape=(2,),
    scale=1.0,
    offset=0.0,
    mean=(0.0,),
    std=(1.0,),
)


@dataclass(frozen=True)
class Tie:
    """One flagged sample."""

    index: int
    classes: tuple[int, int] = (0, 1)
    margin: float = 0.05
    largest: float = 2.0
    label: int = 0
    distance: float = 0.5


class EveryMargin(NamedTuple):
    """What `--keep-all` records: margin (N,) and top-2 (N, 2)."""

    margin: NDArray[np.float32]
    classes: NDArray[np.int32]


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
    count = len(ties)
    classes = np.array([tie.classes for tie in ties], np.int64).reshape(count, 2)
    margin = np.array([tie.margin for tie in ties])
    largest = np.array([tie.largest for tie in ties])
    distance = np.array([tie.distance for tie in ties])
    found = Found(
        scanned=scanned,
        index=np.array([tie.index for tie in ties], np.int64),
        classes=classes,
        logits=np.stack([largest, largest - margin], axis=1),
        margin=margin,
        label=np.array([tie.label for tie in ties], np.int64),
        input=np.zeros((count, 2), np.float32),
        gradient=np.zeros((count, 2, 2), np.float32),
        distance_l2=distance,
        distance_linf=distance / 4,
        degenerate=0,
        nonfinite_index=np.array(nonfinite, np.int64),
        margin_counts=np.zeros(len(MARGIN_EDGES) - 1, np.int64),
        label_counts=np.array([scanned, 0, 0, 0]),
        correct=scanned - 1,
        scan_margin=np.empty(0, np.float32) if every is None else every.margin,
        scan_classes=np.empty((0, 2), np.int32) if every is None else every.classes,
    )
    layout = FindingsLayout(
        preprocess=PREPROCESS,
        classes=len(CLASSES),
        bundle={**BUNDLE, "classes": list(CLASSES), **bundle},
        eps=eps,
        min_logit=min_logit,
        keep_all=every is not None,
        no_gradients=not gradients,
    )
    with FindingsWriter(path, layout) as writer:
        writer.append(found)
        writer.finish(
            DATASET if dataset is None else dataset, {"guard": 0.001} if engine is None else engine
        )
    if created is not None:
        with h5py.File(path, "r+") as file:
            file.attrs["created"] = created
    return path
