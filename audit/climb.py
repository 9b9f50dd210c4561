"""Gradient ascent, batched: every row climbs until it is of its target class, or can't go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audit.ascent import MAX_STEPS, NO_GRADIENT, NONFINITE, REACHED, STUCK
from audit.decide import EQUAL, canonical_top2
from audit.options import AscendOptions
from audit.projection import Box

if TYPE_CHECKING:
    from audit.gradients import Canonical, Objective

GOES_ON = -1
CLEAR = 4 * EQUAL  # of the logits' size: a margin that no other batch's rounding takes away


@dataclass(frozen=True)
class Climbers:
    """R pairs of a sample and a class that it is to become.

    Attributes:
        start: The samples in input space, float64 (R, *input_shape).
        start_class: What they are, canonical, int64 (R,).
        target: What they are to become, int64 (R,).
        step: Length of a step, float64 (R,).
    """

    start: NDArray[np.float64]
    start_class: NDArray[np.int64]
    target: NDArray[np.int64]
    step: NDArray[np.float64]


@dataclass(frozen=True)
class Climbed:
    """How R rows climbed; ragged arrays hold one row's values after the other's.

    Attributes:
        outcome: See `audit.ascent.OUTCOMES`, int8 (R,).
        steps: Steps taken, int64 (R,).
        final: Where each ended, float64 (R, *input_shape).
        final_class: The class there, int64 (R,).
        path_length: Values in each row's path, steps + 1, int64 (R,).
        path_probability: Of start class and target, float64 (P, 2).
        path_margin: z_target - largest other, float64 (P,).
        frame_length: Frames of each row, int64 (R,).
        frame_step: Steps they are of, int64 (F,).
        frame_input: The inputs, float32 (F, *input_shape).
    """

    outcome: NDArray[np.int8]
    steps: NDArray[np.int64]
    final: NDArray[np.float64]
    final_class: NDArray[np.int64]
    path_length: NDArray[np.int64]
    path_probability: NDArray[np.float64]
    path_margin: NDArray[np.float64]
    frame_length: NDArray[np.int64]
    frame_step: NDArray[np.int64]
    frame_input: NDArray[np.float32]


class _PathPart(NamedTuple):
    """One step of the rows that took it."""

    rows: NDArray[np.int64]
    probability: NDArray[np.float64]
    margin: NDArray[np.float64]


def climb(canonical: Canonical, climbers: Climbers, options: AscendOptions, box: Box) -> Climbed:
    """Ascend each row's objective; rows that are done leave the batch.

    A step goes along the gradient (L2) or along its signs (L∞), then back into the box.

    Args:
        canonical: The network.
        climbers: Finite logits at the start.
        options: norm, objective, max_steps, frames.
        box: Every input stays within.
    """
    count = len(climbers.start)
    outcome = np.full(count, GOES_ON, dtype=np.int8)
    steps = np.zeros(count, dtype=np.int64)
    final, final_class = climbers.start.copy(), climbers.start_class.copy()
    path: list[_PathPart] = []
    frames = [_Frames(options.frames) for _ in range(count)]
    rows, x = np.arange(count), climbers.start
    for step in range(options.max_steps + 1):
        target = climbers.target[rows]
        logits, gradient = canonical.objective_gradient(x, OBJECTIVES[options.objective](target))
        finite = np.isfinite(logits).all(axis=1)
        seen = rows[finite]
        final[seen], steps[seen] = x[finite], step
        final_class[seen] = canonical_top2(logits[finite]).classes[:, 0]
        path.append(_path_part(climbers, seen, logits[finite]))
        for row, each in zip(seen.tolist(), x[finite], strict=True):
            frames[row].add(step, each)
        direction = _direction(gradient, options.norm)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = box.clip(x + per_row(climbers.step[rows], x) * direction)
        flat = (len(x), -1)
        ended = np.select(
            [
                ~finite,
                (final_class[rows] == target) & ((step == 0) | is_clear(logits, target)),
                np.full(len(rows), step == options.max_steps),
                ~np.isfinite(climbers.step[rows]) | ~direction.reshape(flat).any(axis=1),
                ~np.isfinite(moved.reshape(flat)).all(axis=1),
                (moved == x).reshape(flat).all(axis=1),
            ],
            [NONFINITE, REACHED, MAX_STEPS, NO_GRADIENT, NONFINITE, STUCK],
            GOES_ON,
        )
        outcome[rows] = ended
        rows, x = rows[ended == GOES_ON], moved[ended == GOES_ON]
        if len(rows) == 0:
            break
    return _climbed(outcome, steps, final, final_class, path, frames)


def _climbed(
    outcome: NDArray[np.int8],
    steps: NDArray[np.int64],
    final: NDArray[np.float64],
    final_class: NDArray[np.int64],
    path: list[_PathPart],
    frames: list[_Frames],
) -> Climbed:
    for row, kept in enumerate(frames):
        kept.end(int(steps[row]), final[row])
    order = np.argsort(np.concatenate([part.rows for part in path]), kind="stable")
    inputs = [each for kept in frames for each in kept.inputs]
    return Climbed(
        outcome=outcome,
        steps=steps,
        final=final,
        final_class=final_class,
        path_length=steps + 1,
        path_probability=np.concatenate([part.probability for part in path])[order],
        path_margin=np.concatenate([part.margin for part in path])[order],
        frame_length=np.array([len(kept.steps) for kept in frames], dtype=np.int64),
        frame_step=np.array([step for kept in frames for step in kept.steps], dtype=np.int64),
        frame_input=np.array(inputs, dtype=np.float32).reshape(-1, *final.shape[1:]),
    )


def _path_part(
    climbers: Climbers, rows: NDArray[np.int64], logits: NDArray[np.float64]
) -> _PathPart:
    target = climbers.target[rows]
    with np.errstate(over="ignore"):
        exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = exponential / exponential.sum(axis=1, keepdims=True)
    each = np.arange(len(rows))
    pair = np.stack([probability[each, climbers.start_class[rows]], probability[each, target]], 1)
    return _PathPart(rows, pair, target_margin(logits, target))


def target_margin(logits: NDArray[np.float64], target: NDArray[np.int64]) -> NDArray[np.float64]:
    """z_target - the largest other logit, (n,)."""
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, target] = -np.inf
    with np.errstate(over="ignore"):
        return np.asarray(logits[rows, target] - others.max(axis=1))


def is_clear(logits: NDArray[np.float64], target: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the target's logit is the largest by more than rounding, (n,)."""
    ahead, ours = target_margin(logits, target), logits[np.arange(len(logits)), target]
    with np.errstate(invalid="ignore"):
        size = np.maximum(1.0, np.maximum(np.abs(ours), np.abs(ours - ahead)))
        return np.asarray(ahead > CLEAR * size)


def _direction(gradient: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
    """The unit step of steepest ascent, (n, *input_shape); 0 where there is none, or NaN."""
    if norm == "linf":
        return np.sign(gradient)
    flat = gradient.reshape(len(gradient), -1)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    with np.errstate(invalid="ignore"):
        flat = flat / np.where(largest == 0, 1.0, largest)[:, None]  # so that squares don't vanish
        length = np.sqrt(np.einsum("ni,ni->n", flat, flat))
        return np.asarray(flat / np.where(length == 0, 1.0, length)[:, None]).reshape(
            gradient.shape
        )


def per_row(values: NDArray[Any], x: NDArray[np.float64]) -> NDArray[Any]:
    """(n,) with as many axes as `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


class _Frames:
    """At most so many inputs of one path, evenly spaced, and the first and the last."""

    def __init__(self, most: int) -> None:
        self.steps: list[int] = []
        self.inputs: list[NDArray[np.float32]] = []
        self._most = most
        self._every = 1

    def add(self, step: int, x: NDArray[np.float64]) -> None:
        """The next input; kept, or passed over."""
        if self._most and step % self._every == 0:
            self._append(step, x)
            if len(self.steps) > self._most:
                self._thin()

    def end(self, step: int, x: NDArray[np.float64]) -> None:
        """The last input, which is kept."""
        if self._most and self.steps[-1] != step:
            if len(self.steps) == self._most:
                self._thin()
            self._append(step, x)

    def _append(self, step: int, x: NDArray[np.float64]) -> None:
        self.steps.append(step)
        with np.errstate(over="ignore"):
            self.inputs.append(x.astype(np.float32))

    def _thin(self) -> None:
        self.steps, self.inputs = self.steps[::2], self.inputs[::2]
        self._every *= 2


def log_probability(target: NDArray[np.int64]) -> Objective:
    """The logarithm of p_target, whose gradient is along that of p_target but doesn't vanish."""
    wanted = torch.from_numpy(target)

    def objective(logits: Tensor, rows: slice) -> Tensor:
        return torch.log_softmax(logits, 1).gather(1, _column(wanted, logits, rows))[:, 0]

    return objective


def logit(target: NDArray[np.int64]) -> Objective:
    """z_target."""
    wanted = torch.from_numpy(target)

    def objective(logits: Tensor, rows: slice) -> Tensor:
        return logits.gather(1, _column(wanted, logits, rows))[:, 0]

    return objective


def margin(target: NDArray[np.int64]) -> Objective:
    """z_target - the largest other logit; of equal ones, that of the lowest class."""
    wanted = torch.from_numpy(target)

    def objective(logits: Tensor, rows: slice) -> Tensor:
        column = _column(wanted, logits, rows)
        others = logits.scatter(1, column, -torch.inf)
        return logits.gather(1, column)[:, 0] - others.max(dim=1).values

    return objective


def lead(target: NDArray[np.int64], rival: NDArray[np.int64]) -> Objective:
    """z_target - z_rival."""
    wanted, against = torch.from_numpy(target), torch.from_numpy(rival)

    def objective(logits: Tensor, rows: slice) -> Tensor:
        ours = logits.gather(1, _column(wanted, logits, rows))
        return (ours - logits.gather(1, _column(against, logits, rows)))[:, 0]

    return objective


def _column(wanted: Tensor, logits: Tensor, rows: slice) -> Tensor:
    return wanted[rows, None].to(logits.device)


OBJECTIVES: dict[str, Callable[[NDArray[np.int64]], Objective]] = {
    "prob": log_probability,
    "logit": logit,
    "margin": margin,
}
