"""What a sample, a gradient and a projection look like, by the kind of the input.

Each view draws three kinds of field. It is made from a near tie and its projections as a whole,
since fields that are compared share one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.ticker import MaxNLocator

from audit.figure_images import ImageView
from audit.figure_scale import (
    MAX_DRAWN,
    MISSING,
    NEGATIVE,
    POSITIVE,
    Fields,
    Limits,
    Values,
    drawable,
    limits_of,
    symmetric_limit,
)
from audit.figure_text import shown, shown_number
from audit.near_tie import NearTie

MAX_FEATURES = 24
MAX_LINES = 6
MAX_POINTS = 2000  # of a line: several times the pixels that a field is wide
LINE_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000")


class View(Protocol):
    """Draws the fields of one near tie.

    Attributes:
        notes: What a reader must know of it, a sentence each.
    """

    notes: list[str]

    def draw_sample(self, axes: Axes) -> None:
        """The sample as it is."""

    def draw_gradient(self, axes: Axes, which: int) -> ScalarMappable | None:
        """Of a (0) or b (1); what a colour bar explains, if it takes colours to read it."""

    def draw_projection(self, axes: Axes, which: int) -> None:
        """Of a (0) or b (1)."""


def view_of(tie: NearTie, factor: float, feature_names: Sequence[str] | None) -> View:
    """The view for the shape of its input."""
    sample, gradient = drawable(tie.x), drawable(tie.gradient)
    projections = drawable(tie.projections(factor))
    fields = Fields(sample, gradient, projections, factor, clipped=True)
    view = view_of_fields(fields, feature_names)
    if not np.any(gradient):  # NaN is something
        view.notes.append("Both gradients are zero.")
    missing = sum(int(np.isnan(each).sum()) for each in (sample, gradient))
    if missing:
        view.notes.append(
            f"{missing} values, not finite or beyond {MAX_DRAWN:g}, are left out (magenta)."
        )
    return view


def view_of_fields(fields: Fields, feature_names: Sequence[str] | None) -> View:
    """The view for the shape of these; there may be any number of gradients and projections."""
    shape = fields.sample.shape
    if len(shape) == 2 and shape[0] <= MAX_LINES:
        view: View = LineView(fields)
    elif len(shape) in (2, 3, 4):
        view = ImageView(fields)
    else:
        view = BarView(fields, feature_names)
    return view


class BarView:
    """Features: a bar each."""

    def __init__(self, fields: Fields, names: Sequence[str] | None) -> None:
        count = fields.sample.size
        gradient = fields.gradient.reshape(-1, count)
        self.notes: list[str] = []
        # What isn't finite must not hide: it counts as large.
        size = np.nan_to_num(np.abs(gradient), nan=np.inf).max(axis=0)
        rows = np.arange(count)
        if count > MAX_FEATURES:
            rows = np.argsort(-size, kind="stable")[:MAX_FEATURES]
            self.notes.append(
                f"The {MAX_FEATURES} of {count:,} features with the largest gradients."
            )
        self._sample = fields.sample.reshape(count)[rows]
        self._gradient = gradient[:, rows]
        self._projections = fields.projections.reshape(-1, count)[:, rows]
        self._bound = symmetric_limit(self._gradient)
        self._limits = _with_zero(limits_of(self._sample, self._projections))
        self._labels = [
            f"{_feature_name(names, row, fields.sample.shape)}  "
            f"{shown_number(value, 3) if np.isfinite(value) else '?'}"
            for row, value in zip(rows.tolist(), self._sample.tolist(), strict=True)
        ]
        self.notes += [
            "Both gradients on one scale.",
            f"Projections: k = {shown_number(fields.factor)}, on the sample's scale; the black "
            "tick is the sample.",
        ]

    def draw_sample(self, axes: Axes) -> None:
        """A bar a feature, its value beside its name."""
        self._draw(axes, self._sample, self._limits)
        axes.set_yticks(range(len(self._labels)), self._labels, fontsize=7)

    def draw_gradient(self, axes: Axes, which: int) -> None:
        """A bar a feature."""
        self._draw(axes, self._gradient[which], Limits(-self._bound, self._bound))

    def draw_projection(self, axes: Axes, which: int) -> None:
        """A bar a feature, and a tick where the sample is."""
        self._draw(axes, self._projections[which], self._limits)
        rows = np.arange(len(self._labels))
        axes.vlines(self._sample, rows - 0.4, rows + 0.4, colors="black", linewidth=1)
        if which == 0:
            self.draw_names(axes)

    def draw_names(self, axes: Axes) -> None:
        """Each feature's at its bar."""
        names = [each.rsplit("  ", 1)[0] for each in self._labels]
        axes.set_yticks(range(len(names)), names, fontsize=7)

    def _draw(self, axes: Axes, values: Values, limits: Limits) -> None:
        colors = [POSITIVE if value > 0 else NEGATIVE for value in values.tolist()]
        axes.barh(np.arange(len(values)), np.nan_to_num(values), height=0.8, color=colors)
        for row in np.flatnonzero(np.isnan(values)).tolist():
            axes.axhspan(row - 0.4, row + 0.4, color=MISSING, linewidth=0)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_ylim(len(values) - 0.5, -0.5)
        slack = (limits.high - limits.low) * 0.03
        axes.set_xlim(limits.low - slack, limits.high + slack)
        axes.set_yticks(range(len(values)), [])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)


class LineView:
    """A signal of few channels: a line each."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._limits = limits_of(fields.sample, fields.projections)
        self._bound = symmetric_limit(fields.gradient)
        self.notes = [
            "Both gradients on one scale.",
            f"Projections: k = {shown_number(fields.factor)}, on the sample's scale; the sample in "
            "grey.",
        ]

    def draw_sample(self, axes: Axes) -> None:
        """A line a channel."""
        for channel, color in zip(self._fields.sample, LINE_COLORS, strict=False):
            _draw_line(axes, channel, color)
        self._finish(axes, self._limits)
        if len(self._fields.sample) > 1:
            names = [f"channel {number}" for number in range(len(self._fields.sample))]
            axes.legend(axes.lines, names, fontsize=6, framealpha=0.7, borderpad=0.3)

    def draw_gradient(self, axes: Axes, which: int) -> None:
        """Filled from zero: of one channel by the sign, of more in the channel's colour."""
        # Before the channels, which a legend takes for the last lines.
        axes.axhline(0, color="black", linewidth=0.6)
        channels = self._fields.gradient[which]
        for channel, color in zip(channels, LINE_COLORS, strict=False):
            line = _thinned(channel)
            if len(channels) == 1:
                for sign, fill in ((line.values > 0, POSITIVE), (line.values < 0, NEGATIVE)):
                    part = np.where(sign | np.isnan(line.values), line.values, 0.0)
                    axes.fill_between(line.at, part, color=fill, alpha=0.6, linewidth=0)
                color = "black"
            else:
                axes.fill_between(line.at, line.values, color=color, alpha=0.3, linewidth=0)
            _draw_line(axes, channel, color)
        self._finish(axes, Limits(-self._bound, self._bound))

    def draw_projection(self, axes: Axes, which: int) -> None:
        """A line a channel, above the sample's."""
        for channel in self._fields.sample:
            _draw_line(axes, channel, "0.75")
        for channel, color in zip(self._fields.projections[which], LINE_COLORS, strict=False):
            _draw_line(axes, channel, color)
        self._finish(axes, self._limits)

    def _finish(self, axes: Axes, limits: Limits) -> None:
        slack = (limits.high - limits.low) * 0.05
        axes.set_ylim(limits.low - slack, limits.high + slack)
        last = self._fields.sample.shape[1] - 1
        axes.set_xlim(-0.02 * last - 0.1, 1.02 * last + 0.1)
        axes.tick_params(labelsize=7)
        axes.grid(linewidth=0.3)


class _Line(NamedTuple):
    at: Values
    values: Values


def _thinned(values: Values) -> _Line:
    """Of a long line, the smallest and largest value of each stretch: it looks the same."""
    if len(values) <= MAX_POINTS:
        return _Line(np.arange(len(values), dtype=np.float64), values)
    starts = np.linspace(0, len(values), MAX_POINTS // 2, endpoint=False).astype(np.int64)
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return _Line(np.repeat(starts, 2).astype(np.float64), np.stack((low, high), 1).ravel())


def _draw_line(axes: Axes, values: Values, color: str) -> None:
    line = _thinned(values)
    marker = "." if len(values) < 40 else ""  # a short signal is points, one alone has no line
    axes.plot(line.at, line.values, color=color, linewidth=0.9, marker=marker, markersize=3)


def _with_zero(limits: Limits) -> Limits:
    """Bars start at zero."""
    return Limits(min(limits.low, 0.0), max(limits.high, 0.0))


def _feature_name(names: Sequence[str] | None, row: int, shape: tuple[int, ...]) -> str:
    if names is not None:
        return shown(names[row], 22)
    if len(shape) == 1:
        return str(row)
    return ",".join(map(str, np.unravel_index(row, shape)))
