"""The closest near ties of a look, as pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audit.callback.look import Look
from audit.callback.options import CallbackOptions
from audit.figure import bytes_from_figure, near_tie_figure
from audit.near_tie import NearTie
from audit.preprocess import Preprocess


def rows_of_closest(found: Look, count: int) -> NDArray[np.int64]:
    """Rows of the flagged samples with the smallest margins, smallest first."""
    return found.margin.argsort(kind="stable")[:count]


def near_tie_from(
    found: Look,
    row: int,
    logits: NDArray[np.float64],
    preprocess: Preprocess,
    class_names: tuple[str, ...],
) -> NearTie:
    """One flagged sample.

    Args:
        found: Where it is.
        row: Its place there.
        logits: All its logits, (C,).
        preprocess: From the batch to input space.
        class_names: One a class.
    """
    a, b = found.classes[row].tolist()
    z_a, z_b = found.logits[row].tolist()
    logits[[a, b]] = z_a, z_b  # equal where only rounding tells them apart
    return NearTie(
        index=int(found.row[row]),
        x=preprocess.to_input_space(found.input[row : row + 1])[0],
        gradient=found.gradient[row],
        classes=(a, b),
        logits=(z_a, z_b),
        margin=float(found.margin[row]),
        label=int(found.label[row]),
        distance_l2=float(found.distance_l2[row]),
        distance_linf=float(found.distance_linf[row]),
        class_names=class_names,
        all_logits=logits,
    )


def png_of(tie: NearTie, options: CallbackOptions, when: str) -> bytes:
    """The sheet of a near tie as a PNG file.

    Args:
        tie: The near tie; its index is its place in the batch.
        options: How to draw it.
        when: It was seen, for the title.
    """
    a, b = map(tie.name, tie.classes)
    sheet = near_tie_figure(
        tie,
        projection_factor=options.projection_factor,
        feature_names=options.feature_names,
        title=f"{when}, sample {tie.index}: {a} or {b}?",
    )
    return bytes_from_figure(sheet, "png")
