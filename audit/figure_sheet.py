"""The sheet of a near tie: two rows of three fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from audit.figure_text import MINUS, shown, shown_class, shown_number
from audit.figure_views import view_of
from audit.near_tie import NearTie

SIZE = (11.0, 7.4)  # inches
TITLE_LIMIT = 24
BAR_LIMIT = 16
TOP_CLASSES = 8
# Of a and b; neither is a colour that stands for a sign in the other fields.
CLASS_COLORS = ("#00785a", "#9b3d78")
OTHER_COLOR = "#b0b0b0"


def sheet_from_near_tie(
    tie: NearTie, factor: float, feature_names: Sequence[str] | None, title: str | None
) -> Figure:
    """Draw it with matplotlib's settings as they are; see `audit.figure.near_tie_figure`."""
    sheet = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(sheet)
    grid = sheet.add_gridspec(2, 3)
    view = view_of(tie, factor, feature_names)
    names = [shown_class(tie, each, TITLE_LIMIT) for each in tie.classes]
    if title is None:
        title = f"sample {tie.index}: {names[0]} or {names[1]}?"
    sheet.suptitle(shown(title, 100), fontsize=13)

    sample = sheet.add_subplot(grid[0, 0])
    sample.set_title("sample", fontsize=10)
    view.draw_sample(sample)
    gradients = []
    for which in (0, 1):
        axes = sheet.add_subplot(grid[0, 1 + which])
        axes.set_title(f"∂z/∂x of {names[which]}", fontsize=10, color=CLASS_COLORS[which])
        colored = view.draw_gradient(axes, which)
        gradients.append(axes)
    if colored is not None:
        bar = sheet.colorbar(colored, ax=gradients, shrink=0.9, aspect=30)
        bar.ax.tick_params(labelsize=7)
    for which in (0, 1):
        axes = sheet.add_subplot(grid[1, which])
        formula = f"x + {factor:g} · ∂z/∂x of {names[which]}".replace("+ -", f"{MINUS} ")
        axes.set_title(formula, fontsize=10, color=CLASS_COLORS[which])
        view.draw_projection(axes, which)
    _draw_numbers(sheet, grid[1, 2], tie)
    if tie.all_logits is None:
        view.notes.append("The other classes' logits are not known: the bundle is not at hand.")
    sheet.supxlabel(wrapped(view.notes), fontsize=7.5, color="0.25")
    return sheet


def _draw_numbers(sheet: Figure, place: SubplotSpec, tie: NearTie) -> None:
    """The sixth field: the numbers above, the top classes as bars below."""
    halves = place.subgridspec(2, 1, height_ratios=(2, 3))
    table = sheet.add_subplot(halves[0])
    table.set_axis_off()
    lines = [
        (shown_class(tie, each, TITLE_LIMIT), f"z = {shown_number(logit)}", color)
        for each, logit, color in zip(tie.classes, tie.logits, CLASS_COLORS, strict=True)
    ]
    lines += [
        ("margin", shown_number(tie.margin), "black"),
        ("label", _label(tie), "black"),
        ("distance L2", _distance(tie.distance_l2), "black"),
        ("distance L∞", _distance(tie.distance_linf), "black"),
    ]
    for number, (name, value, color) in enumerate(lines):
        y = 1 - number / len(lines)
        weight = "bold" if number < 2 else "normal"
        table.text(0, y, name, fontsize=8.5, color=color, va="top", weight=weight)
        table.text(1, y, value, fontsize=8.5, color=color, va="top", ha="right")
    _draw_bars(sheet.add_subplot(halves[1]), tie)


def _draw_bars(axes: Axes, tie: NearTie) -> None:
    """Logits of the largest classes, and of the label's where it isn't one of them."""
    known = dict(zip(tie.classes, tie.logits, strict=True))
    if tie.all_logits is not None:
        top = np.argsort(-tie.all_logits, kind="stable")[:TOP_CLASSES].tolist()
        if 0 <= tie.label < len(tie.all_logits) and tie.label not in top:
            top[-1] = tie.label
        known |= {each: float(tie.all_logits[each]) for each in top if each not in known}
    classes = [*known]
    rows = range(len(classes))
    values = [value if np.isfinite(value) else 0.0 for value in known.values()]
    colors = [*CLASS_COLORS, *[OTHER_COLOR] * (len(classes) - 2)]
    axes.barh(rows, values, height=0.75, color=colors)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    names = [
        shown_class(tie, each, BAR_LIMIT) + (" (label)" if each == tie.label else "")
        for each in classes
    ]
    axes.set_yticks(rows, names, fontsize=7.5)
    low, high = min(0.0, *values), max(0.0, *values)
    slack = 0.03 * ((high - low) or 1.0)
    axes.set_xlim(low - slack, high + slack)
    beside = axes.get_yaxis_transform()  # in a column: beside its bar, a number meets other bars
    for row, logit in enumerate(known.values()):
        axes.text(1.02, row, shown_number(logit), transform=beside, fontsize=7, va="center")
    axes.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("logit", fontsize=7.5)


def _label(tie: NearTie) -> str:
    if tie.label < 0:
        return "unknown"
    name = shown_class(tie, tie.label, TITLE_LIMIT)
    return name if tie.label in tie.classes else f"{name} (neither)"


def _distance(value: float) -> str:
    return "none (degenerate)" if np.isnan(value) else shown_number(value, 3)


def wrapped(notes: list[str], width: int = 170) -> str:
    """Whole sentences on as few lines as they need."""
    lines = [""]
    for note in notes:
        joined = f"{lines[-1]} {note}".strip()
        if len(joined) > width:
            lines.append(note)
        else:
            lines[-1] = joined
    return "\n".join(lines)
