"""The picture of a history: what is drawn is what the rows say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.dates import num2date
from matplotlib.image import imread
from scipy.stats import beta

import audit
from audit import history_plot
from audit.figure import plain_settings
from conftest import Run
from made_findings import Tie, write_findings

START = datetime(2026, 9, 1, 3, tzinfo=UTC)


def nights(folder: Path, count: int, **changes: Any) -> None:
    for day in range(count):
        write_findings(
            folder / f"{changes.get('name', 'pets')}-{day:02}.h5",
            [Tie(i) for i in range((7 * day) % 10)],
            created=(START + timedelta(days=day)).isoformat(),
            **changes,
        )


def drawn(history: audit.History) -> Any:
    with plain_settings():
        sheet = history_plot._sheet(history)
        sheet.draw_without_rendering()
    return sheet.axes[0]


@pytest.mark.parametrize("count", [1, 2, 60])
def test_every_night_is_a_point_with_its_interval(count: int, tmp_path: Path) -> None:
    nights(tmp_path, count)
    history = audit.history(tmp_path)
    axes = drawn(history)
    (container,) = axes.containers
    line, _, (bars,) = container
    assert line.get_ydata().tolist() == [row.rate for row in history.rows]
    assert [num2date(x) for x in line.get_xdata()] == [  # type: ignore[no-untyped-call]
        START + timedelta(days=day) for day in range(count)
    ]
    for row, segment in zip(history.rows, bars.get_segments(), strict=True):
        k, n = row.flagged, row.scanned
        low = beta.ppf(0.025, k, n - k + 1) if k else 0
        high = beta.ppf(0.975, k + 1, n - k)
        np.testing.assert_allclose(segment[:, 1], [low, high], atol=1e-12)
    low, high = axes.get_xlim()
    assert low < min(line.get_xdata())
    assert high > max(line.get_xdata())
    assert axes.get_ylim()[0] == 0
    labels = [tick.get_text() for tick in axes.get_xticklabels() if tick.get_text()]
    assert 2 <= len(labels) <= 12


def test_a_line_a_series(tmp_path: Path) -> None:
    nights(tmp_path, 3)
    nights(tmp_path, 2, name="two")
    (tmp_path / "narrow").mkdir()
    nights(tmp_path / "narrow", 2, eps=0.05)
    axes = drawn(audit.history(tmp_path))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "pets on pets.h5, ε = 0.05",
        "pets on pets.h5, ε = 0.1",
        "two on pets.h5, ε = 0.1",
    ]
    assert [len(each[0].get_xdata()) for each in axes.containers] == [2, 3, 2]
    looks = {(each[0].get_color(), each[0].get_marker()) for each in axes.containers}
    assert len(looks) == 3


def test_many_series_leave_room_and_say_so(tmp_path: Path) -> None:
    for number in range(30):
        nights(tmp_path, 1, name=f"model {number} with a name of some length, $x_1$" + "y" * 100)
    axes = drawn(audit.history(tmp_path))
    assert len(axes.get_legend().get_texts()) == history_plot.LEGEND_ROWS
    looks = {(each[0].get_color(), each[0].get_marker()) for each in axes.containers}
    assert len(looks) == 30
    assert "18 more series without a name here" in axes.figure.get_supxlabel()
    inside = axes.get_window_extent()
    whole = axes.figure.bbox
    assert inside.height > whole.height / 2
    legend = axes.get_legend().get_window_extent()
    assert legend.x1 <= whole.x1
    assert legend.y1 <= whole.y1


def test_what_has_no_date_is_left_out_and_counted(tmp_path: Path) -> None:
    nights(tmp_path, 2)
    for name in ("a", "b"):
        write_findings(tmp_path / f"{name}.h5", created="once upon a time", name=name)
    axes = drawn(audit.history(tmp_path))
    assert len(axes.containers) == 1
    assert "left out for want of a date: 2" in axes.figure.get_supxlabel()
    (tmp_path / "none").mkdir()
    write_findings(tmp_path / "none" / "a.h5", created="")
    assert not drawn(audit.history(tmp_path / "none")).containers


@pytest.mark.parametrize(
    ("created", "points"),
    [
        ("0001-01-01T00:00:00+00:00", 1),
        ("9999-12-31T23:59:59+00:00", 1),
        ("1970-01-01T00:00:00+00:00", 2),
        ("2999-12-31T23:59:59+00:00", 2),
    ],
)
def test_the_ends_of_time(created: str, points: int, tmp_path: Path) -> None:
    write_findings(tmp_path / "a.h5", created=created)
    write_findings(tmp_path / "b.h5", created=START.isoformat())
    history = audit.history(tmp_path, plot=tmp_path / "h.png")
    assert imread(tmp_path / "h.png").std() > 0
    assert len(drawn(history).containers[0][0].get_xdata()) == points


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_bytes_are_the_same_whatever_the_users_settings(suffix: str, tmp_path: Path) -> None:
    nights(tmp_path, 3)
    contents = []
    settings: tuple[dict[Any, Any], ...]
    settings = ({}, {"lines.linewidth": 9, "timezone": "Asia/Tokyo", "savefig.dpi": 30})
    for rc in settings:
        with matplotlib.rc_context(rc):
            out = tmp_path / f"h.{suffix}"
            assert audit.history(tmp_path, plot=out).plot == out
            contents.append(out.read_bytes())
    assert contents[0] == contents[1]


def test_command_names_the_picture(run_audit: Run, tmp_path: Path) -> None:
    nights(tmp_path, 2)
    done = run_audit("history", ".", "--plot", "h.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("plot      h.svg\n")
    assert (tmp_path / "h.svg").read_text().startswith("<?xml")
