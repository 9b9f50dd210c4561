"""One ascent, with all that is said and drawn of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audit.ascent import OUTCOMES, REACHED
from audit.errors import AscentError
from audit.near_tie import name_of_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from audit.ascent import AscentPath, Ascents, Frames


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How far it is to the target class, in both norms; NaN: not known.

    Attributes:
        final: Of the ascent's end.
        first_order: What the start's logits and gradients make of it.
        minimal: Of the closest input found; None: none was looked for.
    """

    final: tuple[float, float]
    first_order: tuple[float, float]
    minimal: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class AscentRecord:
    """One ascent.

    Attributes:
        index: The sample's position in the dataset.
        label: Its true class; -1: unknown.
        start_class: The class that it was of.
        target: The class that it was to become.
        final_class: The class that it is of in the end.
        outcome: How the ascent ended, of `OUTCOMES`.
        steps: Steps taken.
        step_size: Length of one, in `norm`.
        norm: l2 or linf.
        inputs: Kept along the way in input space, float64 (F, *input_shape): the sample first, the
            ascent's end last. F is 1 where no step was taken.
        input_steps: Which steps these are of, ascending.
        probability: Of the start class and of the target at each step, float64 (T, 2).
        margin: z_target - the largest other logit at each step, float64 (T,).
        minimal: The closest input of the target class, float64 (*input_shape); None: not looked
            for, or not reached.
        distances: Of the end, and what there is to compare them with.
        raw_dtype: What the sample is stored as.
        survives_rounding: Whether the end is of the target when it is stored so.
        minimal_survives_rounding: Whether the closest one is; None: not looked for.
        class_names: One a class.
        feature_names: Of a tabular sample, one a feature; None: their numbers.
    """

    index: int
    label: int
    start_class: int
    target: int
    final_class: int
    outcome: int
    steps: int
    step_size: float
    norm: str
    inputs: NDArray[np.float64]
    input_steps: tuple[int, ...]
    probability: NDArray[np.float64]
    margin: NDArray[np.float64]
    minimal: NDArray[np.float64] | None
    distances: Distances
    raw_dtype: str
    survives_rounding: bool
    minimal_survives_rounding: bool | None
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None = None

    @property
    def reached(self) -> bool:
        """Whether it ended in the target class."""
        return self.outcome == REACHED

    @property
    def changes(self) -> NDArray[np.float64]:
        """Each input less the sample, float64 (F, *input_shape)."""
        return np.asarray(self.inputs - self.inputs[0])

    def name(self, class_index: int) -> str:
        """That class's name; of one that has none, its number."""
        return name_of_class(self.class_names, class_index)


def record_of_ascent(
    ascents: Ascents, row: int, feature_names: tuple[str, ...] | None = None
) -> AscentRecord:
    """Read one row of an ascent file.

    Raises:
        AscentError: The arrays don't fit each other.
    """
    path, frames = ascents.path_of(row), ascents.frames_of(row)
    steps, outcome = int(ascents.steps[row]), int(ascents.outcome[row])
    start, final = _ends(ascents, row)
    _check(ascents, row, steps, outcome, path, frames)
    inputs, input_steps = _inputs(start, final, steps, frames)
    minimised, reached = ascents.minimised, outcome == REACHED
    minimal = _row(ascents, "minimal_input", row) if minimised and reached else None
    return AscentRecord(
        index=int(ascents.index[row]),
        label=int(ascents.label[row]),
        start_class=int(ascents.start_class[row]),
        target=int(ascents.target[row]),
        final_class=int(ascents.final_class[row]),
        outcome=outcome,
        steps=steps,
        step_size=float(ascents.step_size[row]),
        norm=str(ascents.options.get("norm", "l2")),
        inputs=inputs,
        input_steps=input_steps,
        probability=path.probability,
        margin=path.margin,
        minimal=minimal,
        distances=Distances(
            final=(float(ascents.distance_l2[row]), float(ascents.distance_linf[row])),
            first_order=(float(ascents.first_order_l2[row]), float(ascents.first_order_linf[row])),
            minimal=(
                (float(ascents.minimal_distance_l2[row]), float(ascents.minimal_distance_linf[row]))
                if minimised
                else None
            ),
        ),
        raw_dtype=ascents.preprocess.raw_dtype,
        survives_rounding=bool(ascents.survives_rounding[row]),
        minimal_survives_rounding=(
            bool(ascents.minimal_survives_rounding[row]) if minimised else None
        ),
        class_names=ascents.class_names,
        feature_names=feature_names,
    )


def _ends(ascents: Ascents, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sample in input space, and where the ascent ended."""
    preprocess = ascents.preprocess
    raw = ascents.rows("input", row, row + 1)
    _check_shape(ascents, "ascent/input", raw.shape[1:], preprocess.raw_shape)
    if str(raw.dtype) != preprocess.raw_dtype:
        raise AscentError(
            f"{ascents.path}: /ascent/input is {raw.dtype}; expected {preprocess.raw_dtype}, as "
            "the bundle takes it"
        )
    return preprocess.to_input_space(raw)[0].astype(np.float64), _row(ascents, "final", row)


def _inputs(
    start: NDArray[np.float64], final: NDArray[np.float64], steps: int, frames: Frames
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """What was kept between the ends, and the ends, which are known even where nothing was."""
    if steps == 0:
        return start[None], (0,)
    between = (frames.step > 0) & (frames.step < steps)
    inputs = np.stack([start, *frames.input[between].astype(np.float64), final])
    return inputs, (0, *frames.step[between].tolist(), steps)


def _row(ascents: Ascents, name: str, row: int) -> NDArray[np.float64]:
    values: NDArray[np.float64] = ascents.rows(name, row, row + 1)[0]
    _check_shape(ascents, name, values.shape, ascents.preprocess.input_shape)
    return values


def _check(
    ascents: Ascents, row: int, steps: int, outcome: int, path: AscentPath, frames: Frames
) -> None:
    if not 0 <= outcome < len(OUTCOMES):
        raise AscentError(
            f"{ascents.path}: /ascent/outcome of row {row} is {outcome}; expected 0 to "
            f"{len(OUTCOMES) - 1}"
        )
    if len(path.margin) != steps + 1:
        raise AscentError(
            f"{ascents.path}: row {row} has {steps} steps and {len(path.margin)} points of its "
            f"path; expected {steps + 1}"
        )
    _check_shape(ascents, "frame/input", frames.input.shape[1:], ascents.preprocess.input_shape)


def _check_shape(
    ascents: Ascents, name: str, actual: Sequence[int], expected: Sequence[int]
) -> None:
    if tuple(actual) != tuple(expected):
        raise AscentError(
            f"{ascents.path}: a row of /{name} has shape {tuple(actual)}; expected "
            f"{tuple(expected)}"
        )
