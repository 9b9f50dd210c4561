"""The contact sheet of one ascent: inputs along the way, what changed, and the curves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine

from audit.ascent import OUTCOMES
from audit.ascent_curves import draw_margin, draw_probability
from audit.ascent_record import AscentRecord
from audit.ascent_view import AscentView, name_in_figure, view_of_ascent
from audit.figure_sheet import wrapped
from audit.figure_text import shown, shown_number

SIZE = (11.0, 8.2)  # inches
MAX_INPUTS = 8
LEAST_COLUMNS = 6
MAX_NAMED = 14  # names of more features overlap beside an input; the change below has them all


class _Line(NamedTuple):
    """Of the table: a name and one cell, or one for each norm."""

    name: str
    cells: tuple[str, ...]


def sheet_from_ascent(ascent: AscentRecord) -> Figure:
    """Draw it with matplotlib's settings as they are; see `audit.ascent_figure`."""
    sheet = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(h_pad=0.09))
    FigureCanvasAgg(sheet)
    sheet.suptitle(title_of(ascent), fontsize=13)
    count = len(ascent.inputs)
    chosen = np.linspace(0, count - 1, min(count, MAX_INPUTS)).round().astype(int).tolist()
    view = _view(ascent, chosen)
    if len(chosen) < count:
        view.notes.append(f"{len(chosen)} of the {count} inputs that were kept.")
    grid = sheet.add_gridspec(3, 1, height_ratios=(2, 3.2, 3))
    _draw_inputs(sheet, grid[0], ascent, view, chosen)
    _draw_changes(sheet, grid[1], ascent, view, chosen)
    curves = grid[2].subgridspec(1, 2)
    draw_probability(sheet.add_subplot(curves[0]), ascent)
    draw_margin(sheet.add_subplot(curves[1]), ascent)
    sheet.supxlabel(wrapped(view.notes), fontsize=7.5, color="0.25")
    return sheet


def _view(ascent: AscentRecord, chosen: list[int]) -> AscentView:
    """Of the chosen inputs and the final change; the closest input and its change come last."""
    sample = ascent.inputs[0]
    inputs, changes = [*ascent.inputs[chosen]], [ascent.changes[-1]]
    if ascent.minimal is not None:
        inputs.append(ascent.minimal)
        changes.append(ascent.minimal - sample)
    return view_of_ascent(sample, np.stack(inputs), np.stack(changes), ascent.feature_names)


def title_of(ascent: AscentRecord) -> str:
    """Which sample, from which class to which, and whether it got there."""
    start, target = (name_in_figure(ascent, each) for each in (ascent.start_class, ascent.target))
    title = f"sample {ascent.index}: {start} → {target}"
    return shown(title, 80) + (
        "" if ascent.reached else f", not reached ({OUTCOMES[ascent.outcome]})"
    )


def _draw_inputs(
    sheet: Figure, place: SubplotSpec, ascent: AscentRecord, view: AscentView, chosen: list[int]
) -> None:
    """In the order of their steps."""
    columns = place.subgridspec(1, max(len(chosen), LEAST_COLUMNS))
    for number, which in enumerate(chosen):
        axes = sheet.add_subplot(columns[number])
        name = "sample" if which == 0 else f"step {ascent.input_steps[which]}"
        axes.set_title(name, fontsize=9)
        view.draw_input(axes, number)
        if number or view.features > MAX_NAMED:
            axes.tick_params(labelleft=False)


def _draw_changes(
    sheet: Figure, place: SubplotSpec, ascent: AscentRecord, view: AscentView, chosen: list[int]
) -> None:
    """What the ascent changed, the smallest change that was found, and the numbers."""
    minimal = ascent.minimal is not None
    columns = place.subgridspec(1, 4 if minimal else 3)
    changed = [sheet.add_subplot(columns[which]) for which in range(2 if minimal else 1)]
    for which, axes in enumerate(changed):
        axes.set_title(("final - sample", "minimal - sample")[which], fontsize=9)
        colored = view.draw_change(axes, which)
    view.draw_names(changed[0])
    changed[-1].tick_params(labelleft=len(changed) == 1)
    if colored is not None:
        bar = sheet.colorbar(colored, ax=changed, shrink=0.9, aspect=25)
        bar.ax.tick_params(labelsize=7)
    closest = sheet.add_subplot(columns[len(changed)])
    closest.set_title("minimal input" if minimal else "final input", fontsize=9)
    view.draw_input(closest, len(chosen) if minimal else len(chosen) - 1)
    closest.tick_params(labelleft=False)
    _draw_table(sheet.add_subplot(columns[-1]), ascent)


def _draw_table(axes: Axes, ascent: AscentRecord) -> None:
    axes.set_axis_off()
    lines = _lines(ascent)
    for number, line in enumerate(lines):
        y = 1 - (number + 0.5) / len(lines)
        axes.text(0, y, line.name, fontsize=8.5, va="center")
        for place, cell in zip((1.0, 0.72), reversed(line.cells), strict=False):
            axes.text(place, y, cell, fontsize=8.5, va="center", ha="right")


def _lines(ascent: AscentRecord) -> list[_Line]:
    unit = {"l2": "L2", "linf": "L∞"}.get(ascent.norm, ascent.norm)
    label = "unknown" if ascent.label < 0 else name_in_figure(ascent, ascent.label)
    lines = [
        _Line("outcome", (OUTCOMES[ascent.outcome],)),
        _Line("final class", (name_in_figure(ascent, ascent.final_class),)),
        _Line("label", (label,)),
        _Line("steps", (f"{ascent.steps:,}, each {_shown(ascent.step_size)} in {unit}",)),
        _Line("distance", ("L2", "L∞")),
        _Line("  final", tuple(map(_shown, ascent.distances.final))),
        _Line("  first order", tuple(map(_shown, ascent.distances.first_order))),
    ]
    if ascent.distances.minimal is not None:
        lines.append(_Line("  minimal", tuple(map(_shown, ascent.distances.minimal))))
    lines.append(_Line(f"final as {ascent.raw_dtype}", (_survival(ascent.survives_rounding),)))
    if ascent.minimal_survives_rounding is not None:
        survives = _survival(ascent.minimal_survives_rounding)
        lines.append(_Line(f"minimal as {ascent.raw_dtype}", (survives,)))
    return lines


def _survival(survives: bool) -> str:
    return "of the target class" if survives else "not of the target class"


def _shown(distance: float) -> str:
    return "-" if np.isnan(distance) else shown_number(distance, 3)
