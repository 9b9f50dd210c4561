"""The smallest perturbation that reaches a class: a walk along the boundary, batched, in float64.

The step is that of FAB, Croce & Hein 2020, "Minimally distorted adversarial examples with a fast
adaptive boundary attack" (https://arxiv.org/abs/1907.02044, section 3): linearise the margin where
the walk stands, project the sample onto that plane within the box, and go a part of the way from
where it stands to that projection (the paper's bias alpha). Three things differ. Where a step ends
in a third class, that class's plane is taken in as well. Each point is brought back to the boundary
at once, by the paper's final search along the line to the sample, so that the walk follows the
boundary, as in Brendel et al. 2019 (https://arxiv.org/abs/1907.01003). And alpha isn't bounded by
0.1 but adapted: it grows with each step that brought the point closer and halves with each that
didn't, which then isn't taken. Nothing is random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.climb import is_clear, lead, margin, target_margin
from audit.decide import canonical_top2
from audit.projection import Box, Planes, to_both, to_half_space

if TYPE_CHECKING:
    from audit.gradients import Canonical

PASSES = 24
FIRST_BIAS = 0.25
GROWTH = 1.5
LEAST_BIAS = 0.03
SEARCHES = 64


class _Effort(NamedTuple):
    """How exact a step is.

    Attributes:
        overshoot: Where the search for the boundary starts, times the distance stepped to.
        planes: Taken in, beside that of the class faced at the start.
        better: Of the distance, what a step must leave at most.
        tolerance: Of the search for the boundary, relative to the distance.
        searches: Points looked at in it, at most.
    """

    overshoot: float
    planes: int
    better: float
    tolerance: float
    searches: int


TIGHT = 1e-9
ON_THE_WAY = _Effort(overshoot=1.03, planes=3, better=1 - 1e-4, tolerance=1e-3, searches=4)
AT_THE_END = _Effort(overshoot=1 + 1e-6, planes=12, better=1.0, tolerance=TIGHT, searches=SEARCHES)


class _Hits(NamedTuple):
    """How inputs (n, D) stand to their targets.

    Attributes:
        margin: z_target - largest other, (n,).
        hit: Whether they are of the target class, clear of rounding, bool (n,).
        rival: The class with the largest other logit, int64 (n,).
    """

    margin: NDArray[np.float64]
    hit: NDArray[np.bool_]
    rival: NDArray[np.int64]


class _Faced(NamedTuple):
    """The plane between each point's target and another class, as seen from its sample.

    Attributes:
        planes: The half-spaces of the target's side, n of them.
        rival: The other class, int64 (n,).
    """

    planes: Planes
    rival: NDArray[np.int64]


class _Step(NamedTuple):
    """Where a step leads.

    Attributes:
        x: (n, D).
        hits: How these stand to their targets.
    """

    x: NDArray[np.float64]
    hits: _Hits


class Boundary:
    """n samples and the boundaries around their targets' regions.

    Points are flat, (n, D); `rows` says of which samples they are.
    """

    def __init__(
        self,
        canonical: Canonical,
        origin: NDArray[np.float64],
        target: NDArray[np.int64],
        norm: str,
        box: Box,
    ) -> None:
        """Take in the samples, (n, *input_shape), none of which is of its target class."""
        self._canonical = canonical
        self._shape = origin.shape[1:]
        self._target = target
        self._norm = norm
        self._box = box
        self.origin = origin.reshape(len(origin), -1)
        self._below = self._hits(self.origin, np.arange(len(origin))).margin

    def smallest(self, reached: NDArray[np.float64]) -> NDArray[np.float64]:
        """The closest input of the target class found, (n, *input_shape).

        Never farther than where the line from the sample to `reached` crosses the boundary.

        Args:
            reached: An input of the target class for each, (n, *input_shape).
        """
        every = np.arange(len(reached))
        flat = reached.reshape(len(reached), -1)
        best = self.crossing(flat, self._hits(flat, every).margin, every, TIGHT)
        bias = np.full(len(best), FIRST_BIAS)
        for _ in range(PASSES):
            rows = np.flatnonzero(bias > LEAST_BIAS)
            if len(rows) == 0:
                break
            closer = self._advance(best, rows, bias[rows], ON_THE_WAY)
            won, lost = rows[closer], rows[~closer]
            bias[won] = np.minimum(1.0, bias[won] * GROWTH)
            bias[lost] /= 2
        best = self.crossing(best, self._hits(best, every).margin, every, TIGHT)
        # Where the boundary is flat, this ends exactly.
        self._advance(best, every, np.ones(len(best)), AT_THE_END)
        return best.reshape(reached.shape)

    def distance(self, x: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of points from their samples, (n,)."""
        difference = x - self.origin[rows]
        if self._norm == "linf":
            return np.asarray(np.abs(difference).max(axis=1, initial=0.0))
        return np.asarray(np.sqrt(np.einsum("ni,ni->n", difference, difference)))

    def _advance(
        self,
        best: NDArray[np.float64],
        rows: NDArray[np.int64],
        bias: NDArray[np.float64],
        effort: _Effort,
    ) -> NDArray[np.bool_]:
        """Step from `best`, changed in place where that came closer; which that were, (n,)."""
        ahead, there = self._step(best[rows], rows, bias, effort)
        # Only what is of the target class still where it would be closer is worth the search.
        before, origin = self.distance(best[rows], rows), self.origin[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.minimum(1.0, effort.better * before / self.distance(ahead, rows))
        hit = np.flatnonzero(there.hit & (share < 1))
        nearer = self._box.clip(origin[hit] + share[hit, None] * (ahead[hit] - origin[hit]))
        ahead[hit], there.margin[hit], there.hit[hit], _ = nearer, *self._hits(nearer, rows[hit])
        won = np.flatnonzero(there.hit)
        ahead[won] = self.crossing(
            ahead[won], there.margin[won], rows[won], effort.tolerance, effort.searches
        )
        closer = there.hit & (self.distance(ahead, rows) < before)
        best[rows[closer]] = ahead[closer]
        return closer

    def _step(
        self,
        x: NDArray[np.float64],
        rows: NDArray[np.int64],
        bias: NDArray[np.float64],
        effort: _Effort,
    ) -> _Step:
        """Some way from `x` to where the sample enters what is the target's to first order at `x`.

        Of the planes around it, those are looked at that the step turns out to cross.
        """
        origin = self.origin[rows]

        def ahead_of(way: NDArray[np.float64], at: NDArray[np.int64]) -> NDArray[np.float64]:
            stepped = x[at] - origin[at] + bias[at, None] * (origin[at] + way - x[at])
            return self._box.clip(origin[at] + effort.overshoot * stepped)

        planes, rival = self._planes(x, rows, None)
        way = to_half_space(origin, planes, self._norm, self._box)
        ahead = ahead_of(way, np.arange(len(x)))
        there = self._hits(ahead, rows)
        for _ in range(effort.planes):
            at = np.flatnonzero(~there.hit & (there.rival != rival))
            if len(at) == 0:
                break
            rival[at] = there.rival[at]
            others, _ = self._planes(x[at], rows[at], rival[at])
            meeting = to_both(origin[at], planes.of(at), others, way[at], self._norm, self._box)
            way[at], planes.normal[at], planes.value[at] = meeting.d, *meeting.planes
            ahead[at] = ahead_of(way[at], at)
            for known, new in zip(there, self._hits(ahead[at], rows[at]), strict=True):
                known[at] = new
        return _Step(ahead, there)

    def _planes(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], rival: NDArray[np.int64] | None
    ) -> _Faced:
        """Where the target's logit is above the rival's, to first order at `x`.

        `rival` None: the largest other at `x`.
        """
        target, each = self._target[rows], np.arange(len(x))
        objective = margin(target) if rival is None else lead(target, rival)
        logits, gradient = self._canonical.objective_gradient(self._shaped(x), objective)
        if rival is None:
            rival = rival_class(logits, target)
        normal = gradient.reshape(len(x), -1)
        at_x = logits[each, target] - logits[each, rival]
        value = at_x + np.einsum("ni,ni->n", normal, self.origin[rows] - x)
        return _Faced(Planes(normal, value), rival)

    def crossing(
        self,
        x: NDArray[np.float64],
        above: NDArray[np.float64],
        rows: NDArray[np.int64],
        tolerance: float,
        searches: int = SEARCHES,
    ) -> NDArray[np.float64]:
        """Where the line from the sample to `x` crosses the boundary, on the target's side.

        By the Illinois variant of regula falsi, and each fourth time by halving the interval: a
        margin needn't be smooth.

        Args:
            x: Inputs of the target class, (n, D).
            above: Their margins.
            rows: Of which samples they are.
            tolerance: Of the distance, relative.
            searches: Points looked at for each, at most.
        """
        origin, way = self.origin[rows], x - self.origin[rows]
        low, high = np.zeros(len(x)), np.ones(len(x))
        below, above = self._below[rows].copy(), above.copy()
        last = np.zeros(len(x))  # 1: the last point was hit, -1: it wasn't
        found = x.copy()
        for pass_ in range(searches):
            at = np.flatnonzero(high - low > tolerance * high)
            if len(at) == 0:
                break
            a, b = low[at], high[at]
            middle = (a + b) / 2
            if pass_ % 4 != 3:
                rise = above[at] - below[at]
                secant = (a * above[at] - b * below[at]) / np.where(rise > 0, rise, 1.0)
                middle = np.where(rise > 0, secant, middle)
            near = tolerance * b / 2  # so that the other side comes as close
            middle = np.clip(middle, a + near, b - near)
            point = self._box.clip(origin[at] + middle[:, None] * way[at])
            there = self._hits(point, rows[at])
            hit, missed = at[there.hit], at[~there.hit]
            found[hit], high[hit], low[missed] = (
                point[there.hit],
                middle[there.hit],
                middle[~there.hit],
            )
            above[hit] = there.margin[there.hit]
            below[missed] = there.margin[~there.hit]
            below[hit] = np.where(last[hit] > 0, below[hit] / 2, below[hit])
            above[missed] = np.where(last[missed] < 0, above[missed] / 2, above[missed])
            last[hit], last[missed] = 1, -1
        return found

    def _hits(self, x: NDArray[np.float64], rows: NDArray[np.int64]) -> _Hits:
        if len(x) == 0:
            return _Hits(np.empty(0), np.empty(0, dtype=bool), np.empty(0, dtype=np.int64))
        logits, target = self._canonical.logits(self._shaped(x)), self._target[rows]
        finite = np.isfinite(logits).all(axis=1)
        clear = is_clear(logits, target)
        return _Hits(target_margin(logits, target), finite & clear, rival_class(logits, target))

    def _shaped(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x.reshape(len(x), *self._shape)


def rival_class(logits: NDArray[np.float64], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class with the largest logit but the target's, int64 (n,); the lowest of equal ones."""
    others = logits.copy()
    others[np.arange(len(logits)), target] = -np.inf
    return np.asarray(others.argmax(axis=1))


def is_class(logits: NDArray[np.float64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row is of that class, canonical; never where logits aren't finite."""
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    top = canonical_top2(np.where(finite[:, None], logits, 0.0)).classes[:, 0]
    return np.asarray(finite & (top == wanted))
