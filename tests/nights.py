"""Findings files of nights that never were, with as many near ties as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.findings import Findings, load_findings
from audit.findings_writer import FindingsLayout, FindingsWriter
from audit.found import MARGIN_EDGES, Found
from audit.manifest import describe_model
from audit.preprocess import Preprocess

FEATURES = 2
DIGITS = tuple("0123456789")
ENGINE = {"device": "cpu", "guard": 1e-5, "rescans": 0, "max_disagreement": 3e-6}
PARITY = {"max_margin_difference": 2e-6}
FINGERPRINT = "5" * 64


@dataclass(frozen=True)
class Tie:
    """A flagged sample."""

    index: int
    a: int = 4
    b: int = 9
    label: int = 4
    margin: float = 0.05
    l2: float = 0.5
    linf: float = 0.02
    largest: float | None = None  # logit; None: the margin, the other one is 0


class EveryMargin(NamedTuple):
    """What `--keep-all` records: margin (N,) and top-2 (N, 2)."""

    margin: NDArray[np.float32]
    classes: NDArray[np.int32]


NOTHING_KEPT = EveryMargin(np.empty(0, np.float32), np.empty((0, 2), np.int32))


def ties(*indices: int, **values: Any) -> list[Tie]:
    """Of these positions, alike but for them."""
    return [Tie(index, **values) for index in indices]


def write_night(
    out: Path,
    flagged: Sequence[Tie] = (),
    *,
    scanned: int = 10_000,
    classes: Sequence[str] = DIGITS,
    eps: float = 0.1,
    min_logit: float | None = None,
    label_counts: Sequence[int] | None = None,
    correct: int | None = None,
    nonfinite: Sequence[int] = (),
    every: EveryMargin | None = None,
    no_gradients: bool = False,
    dataset: dict[str, Any] | None = None,
    bundle: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
) -> Findings:
    """The findings of a scan that found that.

    Args:
        out: Where.
        flagged: Near ties, of ascending index.
        scanned: Samples.
        classes: Their names.
        eps: Threshold.
        min_logit: The other one.
        label_counts: Scanned samples a class; None: all are spread evenly.
        correct: Of the labelled; None: all.
        nonfinite: Positions.
        every: Of all samples, with `--keep-all`.
        no_gradients: Without gradients and distances.
        dataset: What differs in its record; `...`: it has no such entry.
        bundle: As `dataset`.
        engine: As `dataset`.
    """
    p = Preprocess(
        raw_shape=(FEATURES,),
        raw_dtype="float32",
        raw_layout="F",
        input_shape=(FEATURES,),
        scale=1.0,
        offset=0.0,
        mean=(0.0,),
        std=(1.0,),
    )
    counts = np.array(
        [len(each) for each in np.array_split(np.arange(scanned), len(classes))]
        if label_counts is None
        else label_counts,
        dtype=np.int64,
    )
    margin = np.array([tie.margin for tie in flagged], dtype=np.float64)
    largest = np.array([tie.margin if tie.largest is None else tie.largest for tie in flagged])
    kept = NOTHING_KEPT if every is None else every
    l2 = np.array([tie.l2 for tie in flagged], dtype=np.float64)
    none = np.empty(0)
    found = Found(
        scanned=scanned,
        index=np.array([tie.index for tie in flagged], dtype=np.int64),
        classes=np.array([(tie.a, tie.b) for tie in flagged], dtype=np.int64).reshape(-1, 2),
        logits=np.stack([largest, largest - margin], axis=1),
        margin=margin,
        label=np.array([tie.label for tie in flagged], dtype=np.int64),
        input=np.zeros((len(flagged), FEATURES), np.float32),
        gradient=np.zeros((len(flagged), 2, FEATURES), np.float32),
        distance_l2=none if no_gradients else l2,
        distance_linf=none if no_gradients else np.array([tie.linf for tie in flagged]),
        degenerate=0 if no_gradients else int(np.isnan(l2).sum()),
        nonfinite_index=np.array(nonfinite, dtype=np.int64),
        margin_counts=np.zeros(len(MARGIN_EDGES) - 1, np.int64),
        label_counts=counts,
        correct=int(counts.sum()) if correct is None else correct,
        scan_margin=kept.margin,
        scan_classes=kept.classes,
    )
    layout = FindingsLayout(
        preprocess=p,
        classes=len(classes),
        bundle=_changed(
            {
                "path": None,
                "manifest_sha256": None,
                "files": {},
                **describe_model("made", tuple(classes), p),
                "parity": PARITY,
            },
            bundle,
        ),
        eps=eps,
        min_logit=min_logit,
        keep_all=every is not None,
        no_gradients=no_gradients,
    )
    record = {
        "path": "/data/night.h5",
        "images": "images",
        "labels": "labels" if counts.any() else None,
        "samples": scanned,
        "shape": [FEATURES],
        "dtype": "float32",
        "fingerprint": FINGERPRINT,
    }
    with FindingsWriter(out, layout) as writer:
        writer.append(found)
        writer.finish(_changed(record, dataset), _changed(ENGINE, engine))
    return load_findings(out)


def _changed(record: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    changed = record | (changes or {})
    return {name: value for name, value in changed.items() if value is not ...}
