"""What is drawn of an ascent, taken from the figures and compared with the file's arrays."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image

import audit
from audit.ascent import OUTCOMES, Ascents
from audit.ascent_animation import LAST_MILLISECONDS, MILLISECONDS, gif_from_ascent
from audit.ascent_figure import ascent_figures
from audit.ascent_record import AscentRecord, record_of_ascent
from audit.ascent_sheet import sheet_from_ascent
from audit.bundle import Bundle
from audit.errors import AscentError, OptionError, OutputError
from audit.figure import plain_settings
from audit.figure_views import LINE_COLORS
from oracles import write_dataset

SHAPES = {"resnet": (3, 32, 32), "signal": (2, 64), "tabular": (12,), "sequence": (9, 6)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Ascents:
    """Images 3 and 18 of MNIST to all nine other classes."""
    out = tmp_path_factory.mktemp("digits") / "a.h5"
    return audit.ascend(
        mnist_h5, model="mnist", index=[3, 18], target="all", minimal=True, frames=4, out=out
    )


@pytest.fixture(scope="module")
def ascents_of(
    tmp_path_factory: pytest.TempPathFactory, network_bundle: Callable[[str], Bundle]
) -> Callable[..., Ascents]:
    """One ascent of a random sample of a seeded network."""

    def made(name: str, **options: Any) -> Ascents:
        folder = tmp_path_factory.mktemp(name)
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(3, *SHAPES[name])).astype(np.float32)
        data = write_dataset(folder / "d.h5", samples)
        model = network_bundle(name)
        return audit.ascend(data, model=model, index=[1], out=folder / "a.h5", **options)

    return made


def drawn(ascent: AscentRecord) -> Figure:
    with plain_settings():
        return sheet_from_ascent(ascent)


def fields(sheet: Figure) -> dict[str, Any]:
    sheet.canvas.draw()
    return {axes.get_title(): axes for axes in sheet.axes if axes.get_title()}


def image(axes: Any) -> NDArray[Any]:
    return np.asarray(axes.images[0].get_array())


def words(sheet: Figure) -> str:
    texts = [text.get_text() for axes in sheet.axes for text in axes.texts]
    return "\n".join([sheet.get_suptitle(), *texts, sheet.get_supxlabel()])


def curve(sheet: Figure, label: str) -> NDArray[Any]:
    (line,) = [
        line for axes in sheet.axes for line in axes.lines if str(line.get_label()).endswith(label)
    ]
    return np.asarray(line.get_ydata())


def test_sheet_of_a_digit(digits: Ascents) -> None:
    row = int(np.flatnonzero((digits.index == 18) & (digits.target == 8))[0])
    ascent = record_of_ascent(digits, row)
    sheet = drawn(ascent)
    shown = fields(sheet)
    with h5py.File(digits.path) as file:
        start = file["ascent/input"][row] / np.float64(255)
        final = file["ascent/final"][row][0]
        minimal = file["minimal/input"][row][0]
        span = slice(*file["path/offset"][row : row + 2])
        probability, margin = file["path/probability"][span], file["path/margin"][span]
    steps = int(digits.steps[row])
    assert_array_equal(image(shown["sample"]), start.astype(np.float32))
    assert_array_equal(image(shown[f"step {steps}"]), final)
    for name, expected in (("final - sample", final), ("minimal - sample", minimal)):
        assert_array_equal(image(shown[name]), expected - start.astype(np.float32))
    limits = {shown[name].images[0].get_clim() for name in ("final - sample", "minimal - sample")}
    ((low, high),) = limits
    assert low == -high < 0
    assert_array_equal(curve(sheet, "3 (start)"), probability[:, 0])
    assert_array_equal(curve(sheet, "8 (target)"), probability[:, 1])
    (of_margin,) = [axes for title, axes in shown.items() if title.startswith("margin")]
    assert_array_equal(of_margin.lines[-1].get_ydata(), margin)
    for text in ("sample 18: 3 → 8", "reached", f"{digits.distance_l2[row]:.3g}"):
        assert text in words(sheet)
    # At most the frames that were kept, the sample and the end among them.
    assert 2 <= sum(title.startswith("step") for title in shown) + 1 <= 4


def test_inputs_share_a_scale_that_holds_them(ascents_of: Callable[..., Ascents]) -> None:
    ascent = record_of_ascent(ascents_of("sequence", frames=3), 0)
    shown = fields(drawn(ascent))
    inputs = [axes for name, axes in shown.items() if name.startswith(("step ", "sample"))]
    assert len(inputs) == len(ascent.inputs)
    assert {axes.images[0].get_clim() for axes in inputs} == {
        (float(ascent.inputs.min()), float(ascent.inputs.max()))
    }


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_of_input(name: str, ascents_of: Callable[..., Ascents], tmp_path: Path) -> None:
    found = ascents_of(name, minimal=True)
    paths = ascent_figures(found, tmp_path / "out", format=["png", "svg", "pdf", "gif"])
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf", ".gif"]
    assert all(path.name.startswith(f"ascent-1-to-{found.target[0]}.") for path in paths)
    with Image.open(paths[0]) as png:
        colors = np.unique(np.asarray(png.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colors) > 50
    final = record_of_ascent(found, 0).changes[-1]
    axes = fields(drawn(record_of_ascent(found, 0)))["final - sample"]
    if name == "tabular":
        widths = [patch.get_width() for patch in axes.patches]
        np.testing.assert_allclose(widths, final, atol=1e-15)
    elif name == "signal":
        lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 64]
        assert_array_equal(lines, final)
    elif name == "resnet":
        largest = np.take_along_axis(final, np.abs(final).argmax(0)[None], 0)[0]
        assert_array_equal(image(axes), largest)
    else:
        assert_array_equal(image(axes), final)


def test_legend_names_the_channels_by_their_colours(ascents_of: Callable[..., Ascents]) -> None:
    sheet = drawn(record_of_ascent(ascents_of("signal"), 0))
    legend = fields(sheet)["final - sample"].get_legend()
    assert [line.get_color() for line in legend.get_lines()] == list(LINE_COLORS[:2])
    assert [text.get_text() for text in legend.get_texts()] == ["channel 0", "channel 1"]


def test_features_can_have_names(ascents_of: Callable[..., Ascents], tmp_path: Path) -> None:
    found = ascents_of("tabular")
    names = tuple(f"feature {letter}" for letter in "abcdefghijkl")
    axes = fields(drawn(record_of_ascent(found, 0, names)))["final - sample"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(names)
    with pytest.raises(OptionError, match="--feature-names: got 2 names for samples of shape"):
        ascent_figures(found, tmp_path, feature_names=["a", "b"])


def test_names_of_features_do_not_overlap(ascents_of: Callable[..., Ascents]) -> None:
    few = record_of_ascent(ascents_of("tabular"), 0)
    many = replace(few, inputs=np.tile(few.inputs, 2))
    for ascent in (few, many):
        sheet = drawn(ascent)
        named = 0
        for axes in fields(sheet).values():
            if axes.get_title().startswith("margin"):
                continue
            boxes = [
                label.get_window_extent()
                for label in axes.get_yticklabels()
                if label.get_visible() and label.get_text()
            ]
            named += bool(boxes)
            assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        assert named == (2 if ascent is few else 1)


def test_animation(digits: Ascents) -> None:
    row = int(np.flatnonzero((digits.index == 18) & (digits.target == 8))[0])
    ascent = record_of_ascent(digits, row)
    with plain_settings():
        content, again = gif_from_ascent(ascent), gif_from_ascent(ascent)
    assert content == again
    assert len(content) < 500_000
    with Image.open(io.BytesIO(content)) as gif:
        assert gif.n_frames == len(ascent.inputs)  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0
        frames, durations = [], []
        for number in range(len(ascent.inputs)):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    assert durations == [MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    for before, after in pairwise(frames):
        assert (before != after).any()
    for frame in frames:
        assert (frame == 255).all(axis=2).mean() > 0.3  # paper stays white
        assert (frame == 0).all(axis=2).mean() > 0.05  # black background stays black


def test_without_frames_the_ends_are_drawn(
    ascents_of: Callable[..., Ascents], tmp_path: Path
) -> None:
    found = ascents_of("tabular", frames=0)
    ascent = record_of_ascent(found, 0)
    assert ascent.input_steps == (0, int(found.steps[0]))
    assert {"sample", f"step {found.steps[0]}"} <= fields(drawn(ascent)).keys()
    assert len(ascent_figures(found, tmp_path)) == 2


def test_one_that_failed_says_so(ascents_of: Callable[..., Ascents]) -> None:
    found = ascents_of("tabular", max_steps=1, step=1e-9, minimal=True)
    assert found.succeeded == 0
    sheet = drawn(record_of_ascent(found, 0))
    assert "not reached (max steps)" in words(sheet)
    assert "minimal - sample" not in fields(sheet)


def test_one_without_steps(mnist_h5: Path, tmp_path: Path) -> None:
    found = audit.ascend(mnist_h5, model="mnist", index=[0], target=7, out=tmp_path / "a.h5")
    assert found.steps[0] == 0
    sheet = drawn(record_of_ascent(found, 0))
    assert "sample 0: 7 → 7" in words(sheet)
    (png, gif) = ascent_figures(found, tmp_path)
    assert (png.name, gif.name) == ("ascent-0-to-7.png", "ascent-0-to-7.gif")


def test_hostile_names_are_shown_as_they_are(digits: Ascents) -> None:
    names = ("$x_1$", "a\nb", "c\x1bd", "e" * 400, *"456789")
    for target in range(4):
        ascent = replace(
            record_of_ascent(digits, 0), class_names=names, target=target, final_class=target
        )
        sheet = drawn(ascent)
        sheet.canvas.draw()
        assert "\n" not in sheet.get_suptitle()
        assert "\x1b" not in words(sheet)
        if target == 0:
            assert "$x_1$" in words(sheet)


def test_index_and_default_rows(digits: Ascents, tmp_path: Path) -> None:
    assert len(ascent_figures(digits, tmp_path / "a", format="svg")) == 5
    of_3 = ascent_figures(digits, tmp_path / "b", index=[3, 3], format="svg")
    assert [path.stem for path in of_3] == [
        f"ascent-3-to-{target}" for target in digits.target[digits.index == 3]
    ]


def test_same_bytes_twice(ascents_of: Callable[..., Ascents], tmp_path: Path) -> None:
    found = ascents_of("sequence", minimal=True)
    every = ["png", "svg", "pdf", "gif"]
    drawings = [ascent_figures(found, tmp_path / name, format=every) for name in "ab"]
    assert [len(paths) for paths in drawings] == [4, 4]
    for one, other in zip(*drawings, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_a_user_can_get_wrong(digits: Ascents, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--index 4: .* has no ascent of it; it has those of 3"):
        ascent_figures(digits, tmp_path, index=[4])
    with pytest.raises(OptionError, match="--format bmp: expected of png, svg, pdf, gif"):
        ascent_figures(digits, tmp_path, format="bmp")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        ascent_figures(digits, tmp_path / "file", format="svg")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ascent/outcome", len(OUTCOMES), "outcome of row 0"),
        ("ascent/steps", 10_000, "steps and"),
    ],
)
def test_arrays_that_contradict_each_other(
    name: str, value: int, message: str, digits: Ascents, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(digits.path.read_bytes())
    with h5py.File(path, "r+") as file:
        file[name][0] = value
    with pytest.raises(AscentError, match=message):
        ascent_figures(audit.load_ascents(path), tmp_path)


def test_command_draws_ascents(digits: Ascents, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "audit", "figure", str(digits.path), "--index", "18"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    written = [Path(line) for line in done.stdout.splitlines()]
    assert len(written) == 18
    assert all((tmp_path / path).exists() for path in written)
    done = subprocess.run(
        [*command, "--closest", "2"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_without_matplotlib(digits: Ascents, tmp_path: Path) -> None:
    program = (
        "import json, sys; sys.modules['matplotlib'] = None\n"
        "from audit.cli import main\n"
        f"sys.argv = ['audit', 'figure', {json.dumps(str(digits.path))}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'near-tie-audit[plot]'" in done.stderr
