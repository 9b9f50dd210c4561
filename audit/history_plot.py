"""The picture of a history: rates over time, a line a series."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audit.findings_text import made_at
from audit.history import History, HistoryRow, Series
from audit.output_file import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (10.0, 5.4)  # inches
WAY_OUT = "; name another file with --plot"
# Okabe and Ito's colours, told apart by the colour-blind, without yellow, which is pale on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEGEND_ROWS = 12  # of series; more would leave no room for the rates
NAME_LIMIT = 40
LEVEL = 0.95


class _Point(NamedTuple):
    moment: datetime
    row: HistoryRow


def write_plot(history: History, path: Path) -> None:
    """Draw it; the suffix is the format.

    Raises:
        OutputError: It can't be written.
        InstallationError: matplotlib isn't installed.
    """
    from audit.figure import bytes_from_figure, plain_settings

    with plain_settings():
        sheet = _sheet(history)
    write_file(path, bytes_from_figure(sheet, path.suffix[1:]), WAY_OUT)


def _sheet(history: History) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(sheet)
    axes = sheet.add_subplot()
    series = _series(history)
    labels = _labels(history, series)
    for number, (key, points) in enumerate(series.items()):
        _draw(axes, points, number, labels[key] if number < LEGEND_ROWS else None)
    _finish(axes, [point.moment for points in series.values() for point in points])
    undated = len(history.rows) - sum(map(len, series.values()))
    notes = [f"bars: {LEVEL:.0%} interval of the rate (Clopper and Pearson)", "times are UTC"]
    if len(series) > LEGEND_ROWS:
        notes.append(f"{len(series) - LEGEND_ROWS} more series without a name here")
    if undated:
        notes.append(f"left out for want of a date: {undated}")
    sheet.supxlabel("; ".join(notes), fontsize=7.5, color="0.25")
    return sheet


def _series(history: History) -> dict[Series, list[_Point]]:
    """The dated rows of each series, in the order of time."""
    series: dict[Series, list[_Point]] = {}
    for row in history.rows:
        moment = made_at(row.created)
        if moment is not None:
            series.setdefault(row.series, []).append(_Point(moment, row))
    return series


def _labels(history: History, series: dict[Series, list[_Point]]) -> dict[Series, str]:
    from audit.figure_text import shown
    from audit.history_text import dataset_names, shown_threshold

    names = dataset_names(history)
    return {
        key: f"{shown(key.bundle, NAME_LIMIT)} on {shown(names[key.dataset], NAME_LIMIT)}, "
        f"ε = {shown_threshold(points[0].row)}"
        for key, points in series.items()
    }


def _draw(axes: Axes, points: list[_Point], number: int, label: str | None) -> None:
    from audit.gates.binomial import clopper_pearson

    rates = [point.row.rate for point in points]
    bounds = [clopper_pearson(point.row.flagged, point.row.scanned, LEVEL) for point in points]
    below = [rate - low for rate, (low, _) in zip(rates, bounds, strict=True)]
    above = [high - rate for rate, (_, high) in zip(rates, bounds, strict=True)]
    color = COLORS[number % len(COLORS)]
    axes.errorbar(
        [_day(point.moment) for point in points],
        rates,
        yerr=[below, above],
        color=color,
        ecolor=(color, 0.45),
        # Another one for each colour, and others when the colours come again.
        marker=MARKERS[(number + number // len(COLORS)) % len(MARKERS)],
        markersize=4.5,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def _finish(axes: Axes, moments: list[datetime]) -> None:
    from datetime import UTC

    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter

    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
    axes.set_ylabel("near ties, share of the samples scanned", fontsize=8)
    axes.grid(linewidth=0.3)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not moments:
        axes.set_xticks([])
        return
    slack = max((max(moments) - min(moments)) * 0.03, timedelta(hours=12))
    axes.set_xlim(_day(min(moments) - slack), _day(max(moments) + slack))
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=7.5, frameon=False)


def _day(moment: datetime) -> float:
    """As matplotlib counts time."""
    from matplotlib.dates import date2num

    return float(date2num(moment))  # type: ignore[no-untyped-call]
