"""The shortest way to one or two half-spaces within a box, in L2 or L∞."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SEARCHES = 32
EXACT = 1e-12  # of a share, and of the distances that are compared by it


class Box(NamedTuple):
    """Least and greatest value of every input element; infinite: unbounded."""

    low: float
    high: float

    def clip(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest point within, in every norm."""
        return np.clip(x, self.low, self.high)


class Planes(NamedTuple):
    """n half-spaces, each as seen from a point of its own: normal · d + value ≥ 0.

    Attributes:
        normal: (n, D).
        value: At the point itself, (n,).
    """

    normal: NDArray[np.float64]
    value: NDArray[np.float64]

    def at(self, d: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far d from the point is on the inner side, (n,)."""
        return np.asarray(self.value + np.einsum("ni,ni->n", self.normal, d))

    def scaled(self) -> Planes:
        """The same with largest elements of size 1."""
        size = np.abs(self.normal).max(axis=1, initial=0.0)
        size = np.where(size > 0, size, 1.0)
        return Planes(self.normal / size[:, None], self.value / size)

    def mixed(self, other: Planes, share: NDArray[np.float64]) -> Planes:
        """(1 - share) of this and share of the other: it holds what both hold."""
        mine, its = 1 - share, share
        return Planes(
            mine[:, None] * self.normal + its[:, None] * other.normal,
            mine * self.value + its * other.value,
        )

    def of(self, rows: NDArray[Any]) -> Planes:
        """Some of them."""
        return Planes(self.normal[rows], self.value[rows])


class Meeting(NamedTuple):
    """Where two half-spaces meet closest to a point.

    Attributes:
        d: The way there, (n, D).
        planes: The mixtures of both whose own projection that is.
    """

    d: NDArray[np.float64]
    planes: Planes


def to_both(
    z: NDArray[np.float64],
    first: Planes,
    second: Planes,
    d: NDArray[np.float64],
    norm: str,
    box: Box,
) -> Meeting:
    """The smallest d that leads into both half-spaces; `d` is that into the first.

    By duality it is that into a mixture of both, the one farthest away. Its share is found by
    regula falsi: beyond it, d is within the second and not the first, before it the other way
    round. In L∞ d jumps there, and what both sides' ends are mixed to is as short and in both.
    """
    first, second = first.scaled(), second.scaled()
    low, high = np.zeros(len(z)), np.ones(len(z))
    left, right = d, to_half_space(z, second, norm, box)
    before, beyond = second.at(left) - first.at(left), second.at(right) - first.at(right)
    # Where one of the two projections is in both, it is the solution.
    low[beyond <= 0], high[before >= 0] = 1.0, 0.0
    last = np.zeros(len(z))
    left, right = left.copy(), right.copy()
    left[beyond <= 0] = right[beyond <= 0]
    right[before >= 0] = left[before >= 0]
    for search in range(SEARCHES):
        open_ = np.flatnonzero(high - low > EXACT)
        if len(open_) == 0:
            break
        a, b, f, g = low[open_], high[open_], before[open_], beyond[open_]
        middle = (a + b) / 2 if search % 2 else (a * g - b * f) / (g - f)
        there = to_half_space(z[open_], first.of(open_).mixed(second.of(open_), middle), norm, box)
        value = second.of(open_).at(there) - first.of(open_).at(there)
        done = np.abs(value) <= EXACT * (np.abs(first.value) + np.abs(second.value))[open_]
        low[open_[done]], left[open_[done]] = middle[done], there[done]
        high[open_[done]], right[open_[done]] = middle[done], there[done]
        open_, middle, there, value = open_[~done], middle[~done], there[~done], value[~done]
        over, under = open_[value >= 0], open_[value < 0]
        high[over], right[over] = middle[value >= 0], there[value >= 0]
        low[under], left[under] = middle[value < 0], there[value < 0]
        beyond[over], before[under] = value[value >= 0], value[value < 0]
        before[over] = np.where(last[over] > 0, before[over] / 2, before[over])
        beyond[under] = np.where(last[under] < 0, beyond[under] / 2, beyond[under])
        last[over], last[under] = 1, -1
    f = second.at(left) - first.at(left)
    g = second.at(right) - first.at(right)
    part = np.where(g > f, -f / np.where(g > f, g - f, 1.0), 0.0).clip(0, 1)
    return Meeting(
        left + part[:, None] * (right - left),
        first.mixed(second, low + part * (high - low)),
    )


def to_half_space(
    z: NDArray[np.float64], planes: Planes, norm: str, box: Box
) -> NDArray[np.float64]:
    """The smallest d into each half-space, (n, D); 0 from within."""
    return to_hyperplane(z, planes.normal, np.minimum(planes.value, 0.0), norm, box)


def to_hyperplane(
    z: NDArray[np.float64],
    normal: NDArray[np.float64],
    value: NDArray[np.float64],
    norm: str,
    box: Box,
) -> NDArray[np.float64]:
    """The smallest d with normal · d = -value and z + d within the box; d float64 (n, D).

    Croce & Hein 2020 (https://arxiv.org/abs/1907.02044, section 3.1): each element moves towards
    the plane at the same speed (L∞), or at |normal_i| (L2), until it reaches its bound, and
    time λ solves Σ |normal_i| · min(λ · speed_i, room_i) = |value|. The left side is concave and
    piecewise linear in λ, so that Newton's method from 0 ends with the solution itself. Where the
    box doesn't reach the plane, d leads to the box's corner that is nearest to it.

    Args:
        z: Points within the box, (n, D).
        normal: Normals of the planes, (n, D).
        value: normal · z + offset, (n,): how far each point is on its plane's positive side.
        norm: l2 or linf.
        box: The bounds.
    """
    size = np.abs(normal)
    scale = size.max(axis=1, initial=0.0)
    scale[scale == 0] = 1.0
    size /= scale[:, None]  # so that squares don't underflow
    needed = np.abs(value) / scale
    direction = -np.sign(value)[:, None] * np.sign(normal)
    moves = size > 0
    speed = size if norm == "l2" else moves.astype(np.float64)
    room = np.where(direction > 0, box.high - z, z - box.low)
    room = np.where(moves, np.maximum(room, 0.0), 0.0)
    free = room > 0
    while True:
        stopped = np.where(free, 0.0, size * room).sum(axis=1)
        slope = np.where(free, size * speed, 0.0).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            time = np.where(slope > 0, (needed - stopped) / slope, np.inf)
        with np.errstate(invalid="ignore"):
            way = np.where(moves, time[:, None] * speed, 0.0)
        still = free & (room > way)
        if np.array_equal(still, free):
            return np.asarray(direction * np.minimum(way, room))
        free = still
