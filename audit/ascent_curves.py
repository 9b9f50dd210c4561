"""The curves of one ascent over its steps: probabilities and margin."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from audit.ascent_record import AscentRecord
from audit.ascent_view import name_in_figure
from audit.figure_scale import drawable
from audit.figure_sheet import CLASS_COLORS

LEGEND_LIMIT = 18
POINTS = 40  # with so few steps, each is a point


def draw_probability(axes: Axes, ascent: AscentRecord, until: int | None = None) -> None:
    """Of the start class and of the target, from 0 to 1, up to and with step `until`."""
    stop = len(ascent.margin) if until is None else until + 1
    marker = "." if ascent.steps <= POINTS else ""
    for which, each in enumerate((ascent.start_class, ascent.target)):
        if which and ascent.target == ascent.start_class:
            break
        axes.plot(
            drawable(ascent.probability[:stop, which]),
            color=CLASS_COLORS[which],
            marker=marker,
            markersize=4,
            linewidth=1.2,
            label=f"{name_in_figure(ascent, each, LEGEND_LIMIT)} ({('start', 'target')[which]})",
        )
    axes.set_ylim(-0.03, 1.03)
    _finish(axes, ascent)
    axes.set_ylabel("probability", fontsize=8)
    # Above the axes: nothing in them can be hidden, and in an animation nothing moves.
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        fontsize=7.5,
        frameon=False,
        borderaxespad=0.2,
    )


def draw_margin(axes: Axes, ascent: AscentRecord) -> None:
    """z_target - the largest other logit: the target's where it is above zero."""
    marker = "." if ascent.steps <= POINTS else ""
    axes.axhline(0, color="0.4", linewidth=0.8, linestyle="--")
    axes.plot(drawable(ascent.margin), color="black", marker=marker, markersize=4, linewidth=1.2)
    _finish(axes, ascent)
    axes.set_title("margin: z of the target - largest other z", fontsize=9)


def _finish(axes: Axes, ascent: AscentRecord) -> None:
    last = max(ascent.steps, 1)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)
    axes.grid(linewidth=0.3)
    axes.set_xlabel("step", fontsize=7.5)
