"""Findings files of nights that never were, with as many near ties as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
        no_gradients: Without gradients and distances.
        dataset: What differs in its record.
        bundle: What differs in its record.
        engine: What differs in its record.
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
    l2 = np.array([tie.l2 for tie in flagged], dtype=np.float64)
    none = np.empty(0)
    found = Found(
        scanned=scanned,
        index=np.array([tie.index for tie in flagged], dtype=np.int64),
        classes=np.array([(tie.a, tie.b) for tie in flagged], dtype=np.int64).reshape(-1, 2),
        logits=np.stack([margin, np.zeros_like(margin)], axis=1),
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
        scan_margin=np.empty(0, np.float32),
        scan_classes=np.empty((0, 2), np.int32),
    )
    layout = FindingsLayout(
        preprocess=p,
        classes=len(classes),
        bundle={
            "path": None,
            "manifest_sha256": None,
            "files": {},
            **describe_model("made", tuple(classes), p),
            "parity": PARITY,
        }
        | (bundle or {}),
        eps=eps,
        min_logit=min_logit,
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
        writer.finish(record | (dataset or {}), ENGINE | (engine or {}))
    return load_findings(out)
