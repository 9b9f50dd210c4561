"""The sheet of a near tie: what is drawn is what the numbers say, whatever the input's shape."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import matplotlib
import numpy as np
import pytest
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from audit.errors import OptionError
from audit.figure import METADATA, near_tie_figure, plain_settings, save_figure
from audit.figure_scale import MISSING, NEGATIVE, POSITIVE
from near_ties import CLASSES, LOGITS, near_tie

SAMPLE, GRADIENT, OTHER_GRADIENT = "sample", "∂z/∂x of three", "∂z/∂x of seven"
PROJECTION, OTHER_PROJECTION = "x + 3 · ∂z/∂x of three", "x + 3 · ∂z/∂x of seven"
FIELDS = (SAMPLE, GRADIENT, OTHER_GRADIENT, PROJECTION, OTHER_PROJECTION)
RGB, FIVE, SIGNAL, ROWS, VOLUME = (3, 8, 8), (5, 6, 6), (1, 30), (40, 25), (2, 5, 6, 7)


def fields_of(sheet: Figure) -> dict[str, Axes]:
    """Axes by title; those of the sixth field have none."""
    return {axes.get_title(): axes for axes in sheet.axes if axes.get_title()}


def image(axes: Axes) -> NDArray[Any]:
    values: NDArray[Any] = np.ma.filled(np.ma.asarray(axes.images[0].get_array(), float), np.nan)
    return values


def norm(axes: Axes) -> tuple[float, float]:
    scale = axes.images[0].norm
    assert isinstance(scale, Normalize)
    assert scale.vmin is not None
    assert scale.vmax is not None
    return float(scale.vmin), float(scale.vmax)


def widths(axes: Axes) -> list[float]:
    (bars,) = axes.containers
    assert isinstance(bars, BarContainer)
    return [bar.get_width() for bar in bars.patches]


def tick_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def notes(sheet: Figure) -> str:
    return str(sheet.get_supxlabel())


def texts(sheet: Figure) -> list[str]:
    """Every text on the sheet."""
    from matplotlib.text import Text

    return [each.get_text() for each in sheet.findobj(Text)]


def png(sheet: Figure) -> bytes:
    """Small: what is drawn counts, not how finely."""
    content = io.BytesIO()
    with plain_settings():
        sheet.savefig(content, format="png", dpi=50)
    return content.getvalue()


def test_six_fields_and_a_title() -> None:
    sheet = near_tie_figure(near_tie((1, 8, 8)))
    assert tuple(fields_of(sheet)) == FIELDS
    assert sheet.get_suptitle() == "sample 41: three or seven?"
    assert near_tie_figure(near_tie((4,)), title="epoch 3").get_suptitle() == "epoch 3"


def test_grey() -> None:
    tie = near_tie((1, 8, 8))
    fields = fields_of(near_tie_figure(tie))
    assert_array_equal(image(fields[SAMPLE]), tie.x[0])
    assert_array_equal(image(fields[GRADIENT]), tie.gradient[0, 0])
    assert_array_equal(image(fields[OTHER_GRADIENT]), tie.gradient[1, 0])
    x, gradient = tie.x.astype(float), tie.gradient.astype(float)
    assert_array_equal(image(fields[PROJECTION]), (x + 3 * gradient[0])[0])
    assert_array_equal(image(fields[OTHER_PROJECTION]), (x + 3 * gradient[1])[0])
    assert norm(fields[SAMPLE]) == (tie.x.min(), tie.x.max())
    # Beyond the sample's own range a projection saturates.
    assert norm(fields[PROJECTION]) == norm(fields[OTHER_PROJECTION]) == norm(fields[SAMPLE])


def test_pixels_between_0_and_1_keep_that_scale() -> None:
    tie = near_tie((1, 8, 8), x=np.full((1, 8, 8), 0.5, np.float32))
    assert norm(fields_of(near_tie_figure(tie))[SAMPLE]) == (0, 1)


@pytest.mark.parametrize("shape", [(1, 8, 8), RGB, FIVE, ROWS, VOLUME])
def test_gradients_share_one_symmetric_scale_white_at_zero(shape: tuple[int, ...]) -> None:
    tie = near_tie(shape)
    tie.gradient[1] *= 4
    fields = fields_of(near_tie_figure(tie))
    seen = np.stack([image(fields[GRADIENT]), image(fields[OTHER_GRADIENT])])
    bound = np.nanmax(np.abs(seen))
    assert norm(fields[GRADIENT]) == norm(fields[OTHER_GRADIENT]) == (-bound, bound)
    colors = fields[GRADIENT].images[0].cmap
    low, zero, high = colors(0.0), colors(0.5), colors(1.0)
    assert min(zero[:3]) > 0.95
    assert (low[2] > low[0], high[0] > high[2]) == (True, True)


def test_rgb() -> None:
    tie = near_tie(RGB)
    sheet = near_tie_figure(tie)
    fields = fields_of(sheet)
    scale = (tie.x - tie.x.min()) / (tie.x.max() - tie.x.min())
    np.testing.assert_allclose(image(fields[SAMPLE]), np.moveaxis(scale, 0, -1), atol=1e-6)
    for which, name in enumerate((GRADIENT, OTHER_GRADIENT)):
        gradient = tie.gradient[which]
        for row, column in np.ndindex(8, 8):
            pixel = gradient[:, row, column]
            assert image(fields[name])[row, column] == max(pixel.tolist(), key=abs)
    scaled = (tie.projections(3) - tie.x.min()) / (tie.x.max() - tie.x.min())
    for shown, expected in zip((PROJECTION, OTHER_PROJECTION), scaled.clip(0, 1), strict=True):
        np.testing.assert_allclose(image(fields[shown]), np.moveaxis(expected, 0, -1), atol=1e-12)
    assert "of the three channels the value of largest size" in notes(sheet)


def test_five_channels_are_a_mosaic() -> None:
    tie = near_tie(FIVE)
    sheet = near_tie_figure(tie)
    fields = fields_of(sheet)
    for name, values in (
        (SAMPLE, tie.x),
        (GRADIENT, tie.gradient[0]),
        (OTHER_PROJECTION, tie.projections(3)[1]),
    ):
        mosaic = image(fields[name])
        assert mosaic.shape == (20, 13)  # 3 rows of 2, a pixel between them
        for channel in range(5):
            row, column = 7 * (channel // 2), 7 * (channel % 2)
            tile = mosaic[row : row + 6, column : column + 6]
            assert_array_equal(tile, values[channel])
        assert np.isfinite(mosaic).sum() == 5 * 36
        assert len(fields[name].images) == 1  # between them nothing is missing
    assert [text.get_text() for text in fields[SAMPLE].texts] == list("01234")
    assert "5 channels" in notes(sheet)


def test_of_many_channels_some_are_shown_and_it_says_so() -> None:
    sheet = near_tie_figure(near_tie((40, 4, 4)))
    numbers = [int(text.get_text()) for text in fields_of(sheet)[SAMPLE].texts]
    assert (len(numbers), numbers[0], numbers[-1]) == (16, 0, 39)
    assert "16 of 40 channels, evenly spaced; 24 left out" in notes(sheet)


def test_volumes_are_slices_of_the_channel_with_the_largest_gradient() -> None:
    tie = near_tie(VOLUME)
    tie.gradient[1, 1, 2, 3, 4] = 9
    sheet = near_tie_figure(tie)
    mosaic = image(fields_of(sheet)[SAMPLE])
    assert_array_equal(mosaic[:6, :7], tie.x[1, 0])
    assert np.isfinite(mosaic).sum() == 5 * 6 * 7
    assert "Channel 1 of 2, which has the largest gradient. 5 slices." in notes(sheet)


def test_many_rows_are_a_heat_map() -> None:
    tie = near_tie(ROWS)
    fields = fields_of(near_tie_figure(tie))
    assert_array_equal(image(fields[SAMPLE]), tie.x)
    assert_array_equal(image(fields[OTHER_GRADIENT]), tie.gradient[1])
    assert_array_equal(image(fields[PROJECTION]), tie.projections(3)[0])
    assert fields[SAMPLE].images[0].get_cmap().name == "viridis"


def test_pixels_are_shown_as_they_are() -> None:
    for axes in fields_of(near_tie_figure(near_tie((1, 28, 28)))).values():
        assert axes.images[0].get_interpolation() == "nearest"


@pytest.mark.parametrize("channels", [1, 3])
def test_signals_are_lines(channels: int) -> None:
    tie = near_tie((channels, 30))
    fields = fields_of(near_tie_figure(tie))

    def lines(name: str) -> list[NDArray[Any]]:
        return [np.asarray(line.get_ydata(), float) for line in fields[name].lines]

    assert_array_equal(lines(SAMPLE), tie.x)
    for which, name in enumerate((GRADIENT, OTHER_GRADIENT)):
        assert_array_equal(lines(name)[1:], tie.gradient[which])
        assert_array_equal(lines(name)[0], [0, 0])
    for which, name in enumerate((PROJECTION, OTHER_PROJECTION)):
        assert_array_equal(lines(name)[:channels], tie.x)
        assert_array_equal(lines(name)[channels:], tie.projections(3)[which])
    low, high = fields[GRADIENT].get_ylim()
    assert fields[OTHER_GRADIENT].get_ylim() == (low, high) == (-high, high)
    assert high >= np.abs(tie.gradient).max()
    assert fields[SAMPLE].get_ylim() == fields[PROJECTION].get_ylim()
    assert (fields[SAMPLE].get_legend() is None) == (channels == 1)


def test_a_spike_of_a_long_signal_is_seen() -> None:
    x = np.zeros((1, 300_000), np.float32)
    x[0, 123_457] = 5
    (line,) = fields_of(near_tie_figure(near_tie(x.shape, x=x)))[SAMPLE].lines
    at, values = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert len(values) <= 2000
    assert values.max() == 5
    assert abs(at[values.argmax()] - 123_457) < 301


def test_features_are_bars_with_names() -> None:
    tie = near_tie((5,))
    names = ["age", "income", "debt", "years", "children"]
    sheet = near_tie_figure(tie, feature_names=names)
    fields = fields_of(sheet)
    assert_array_equal(widths(fields[SAMPLE]), tie.x)
    assert_array_equal(widths(fields[GRADIENT]), tie.gradient[0])
    assert_array_equal(widths(fields[OTHER_GRADIENT]), tie.gradient[1])
    assert_array_equal(widths(fields[PROJECTION]), tie.projections(3)[0])
    assert_array_equal(widths(fields[OTHER_PROJECTION]), tie.projections(3)[1])
    assert [label.split()[0] for label in tick_labels(fields[SAMPLE])] == names
    assert tick_labels(fields[PROJECTION]) == names
    low, high = fields[GRADIENT].get_xlim()
    assert fields[OTHER_GRADIENT].get_xlim() == (low, high) == (-high, high)
    for axes in fields.values():
        (bars,) = axes.containers
        assert isinstance(bars, BarContainer)
        for bar in bars.patches:
            sign = POSITIVE if bar.get_width() > 0 else NEGATIVE
            assert bar.get_facecolor() == to_rgba(sign)


def test_of_many_features_those_with_the_largest_gradients() -> None:
    tie = near_tie((60,))
    names = [f"f{number}" for number in range(60)]
    sheet = near_tie_figure(tie, feature_names=names)
    largest = np.abs(tie.gradient).max(axis=0)
    expected = sorted(range(60), key=lambda row: -largest[row])[:24]
    assert tick_labels(fields_of(sheet)[PROJECTION]) == [f"f{row}" for row in expected]
    assert_array_equal(widths(fields_of(sheet)[GRADIENT]), tie.gradient[0, expected])
    assert "The 24 of 60 features with the largest gradients" in notes(sheet)


def test_features_without_names_are_numbered() -> None:
    assert tick_labels(fields_of(near_tie_figure(near_tie((3,))))[PROJECTION]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("shape", "names", "words"),
    [
        ((5,), ["a", "b"], "got 2 names for samples of shape (5,); expected 5"),
        ((1, 8, 8), ["a"], "expected none, they are for samples of one axis"),
    ],
)
def test_feature_names_that_do_not_fit(
    shape: tuple[int, ...], names: Sequence[str], words: str
) -> None:
    with pytest.raises(OptionError, match="--feature-names") as caught:
        near_tie_figure(near_tie(shape), feature_names=names)
    assert words in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 9), (6,), (10, 4)])
@pytest.mark.parametrize("factor", [-0.5, 3.0, 1000.0])
def test_projections_are_x_and_k_times_the_gradient(shape: tuple[int, ...], factor: float) -> None:
    tie = near_tie(shape)
    shown = fields_of(near_tie_figure(tie, projection_factor=factor))
    sign = "+ " if factor >= 0 else "\N{MINUS SIGN} "
    for which, name in enumerate(("three", "seven")):
        axes = shown[f"x {sign}{abs(factor):g} · ∂z/∂x of {name}"]
        expected = tie.x.astype(float) + factor * tie.gradient[which].astype(float)
        if len(shape) == 1:
            assert_array_equal(widths(axes), expected)
        elif shape == (1, 9):
            assert_array_equal(np.asarray(axes.lines[-1].get_ydata()), expected[0])
        else:
            assert_array_equal(image(axes), expected.reshape(image(axes).shape))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_k_must_be_finite(factor: float) -> None:
    with pytest.raises(OptionError, match="--projection-factor"):
        near_tie_figure(near_tie((3,)), projection_factor=factor)


def sixth_field(sheet: Figure) -> tuple[dict[str, str], Axes]:
    """What is written above, name → value, and the axes with the bars."""
    table, bars = [axes for axes in sheet.axes if not axes.get_title() and axes.texts]
    words = [text.get_text() for text in table.texts]
    return dict(zip(words[::2], words[1::2], strict=True)), bars


def test_the_sixth_field() -> None:
    numbers, bars = sixth_field(near_tie_figure(near_tie((1, 8, 8))))
    assert numbers == {
        "three": "z = 7.5",
        "seven": "z = 7.438",
        "margin": "0.0625",
        "label": "seven",
        "distance L2": "0.125",
        "distance L∞": "0.0156",
    }
    largest = np.argsort(-LOGITS)[:8]
    assert_array_equal(widths(bars), LOGITS[largest])
    expected = [CLASSES[each] for each in largest]
    expected[1] += " (label)"
    assert tick_labels(bars) == expected
    beside = [text.get_text() for text in bars.texts]
    assert beside[:2] == ["7.5", "7.438"]
    assert beside[-1] == "\N{MINUS SIGN}0.5"
    colors = [each.get_facecolor() for each in bars.patches]
    assert len(set(colors[:2])) == 2
    assert len(set(colors)) == 3


def test_a_label_beyond_the_top_classes_has_a_bar() -> None:
    numbers, bars = sixth_field(near_tie_figure(near_tie((3,), label=4)))
    assert numbers["label"] == "four (neither)"
    assert len(widths(bars)) == 8
    assert (tick_labels(bars)[-1], widths(bars)[-1]) == ("four (label)", -3.0)


@pytest.mark.parametrize(
    ("label", "shown"), [(-1, "unknown"), (10, "class 10 (neither)"), (2**62, f"class {2**62}")]
)
def test_a_label_that_is_none_of_the_classes(label: int, shown: str) -> None:
    numbers, bars = sixth_field(near_tie_figure(near_tie((3,), label=label)))
    assert numbers["label"].startswith(shown[:8])
    assert not any("(label)" in each for each in tick_labels(bars))


def test_other_logits_that_are_not_known() -> None:
    known = near_tie_figure(near_tie((3,)))
    unknown = near_tie_figure(near_tie((3,), all_logits=None))
    assert "logits are not known" not in notes(known)
    assert "The other classes' logits are not known" in notes(unknown)
    _, bars = sixth_field(unknown)
    assert widths(bars) == [7.5, 7.4375]
    assert tick_labels(bars) == ["three", "seven (label)"]


HOSTILE = {
    "$x_1$ \\frac{": "$x_1$ \\frac{",
    "$\\frac{$": "$\\frac{$",  # fails where it is taken for a formula
    "a\nb\tc": "a b c",
    "a\x1b[31m\u202eb": "a�[31m�b",
    "שלום": "שלום",
    "中文": "class 3",
    "\u0378": "class 3",
    "": "class 3",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_one_line_of_text(name: str) -> None:
    tie = near_tie((3,), class_names=("zero", "one", "two", name, *CLASSES[4:]))
    sheet = near_tie_figure(tie, feature_names=[name, "b", "c"])
    assert sheet.get_suptitle() == f"sample 41: {HOSTILE[name]} or seven?"
    assert not any("\n" in each for each in texts(sheet) if each != notes(sheet))
    assert all(each.replace("\n", "").isprintable() for each in texts(sheet))


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_hostile_names_are_drawn(format: str, tmp_path: Path) -> None:
    """Warnings, as of a character that the font lacks, are errors here."""
    names = [*HOSTILE, "a", "b"]
    sheet = near_tie_figure(near_tie((10,), class_names=tuple(names)), feature_names=names)
    save_figure(sheet, tmp_path / f"a.{format}")
    assert (tmp_path / f"a.{format}").stat().st_size > 1000


def test_long_names_keep_both_ends() -> None:
    name = "n01440764 " + "x" * 100_000 + " tench"
    sheet = near_tie_figure(near_tie((3,), class_names=(name,) * 10, label=-1))
    numbers, bars = sixth_field(sheet)
    assert max(map(len, texts(sheet))) < 400
    shown = tick_labels(bars)[0]
    assert (shown[:9], shown[-5:]) == ("n01440764", "tench")
    assert "…" in shown
    assert len(shown) <= 16
    assert numbers["margin"] == "0.0625"


def test_what_is_not_finite_is_marked_and_counted() -> None:
    tie = near_tie((1, 8, 8))
    tie.gradient[0, 0, 2, 3] = np.nan
    tie.gradient[0, 0, 4, 5] = -np.inf
    tie.x[0, 6, 7] = np.inf
    sheet = near_tie_figure(tie)
    fields = fields_of(sheet)
    for name, marked in (
        (SAMPLE, [(6, 7)]),
        (GRADIENT, [(2, 3), (4, 5)]),
        (OTHER_GRADIENT, []),
        (PROJECTION, [(2, 3), (4, 5), (6, 7)]),
    ):
        marks = fields[name].images[1:]
        seen = [np.argwhere(np.asarray(each.get_array())[..., 3] > 0).tolist() for each in marks]
        assert seen == ([[list(each) for each in marked]] if marked else [])
        for each in marks:
            pixel = np.asarray(each.get_array())[marked[0]]
            assert tuple(pixel) == to_rgba(MISSING)
    finite = tie.gradient[np.isfinite(tie.gradient)]
    assert norm(fields[GRADIENT])[1] == np.abs(finite).max()
    assert "3 values, not finite or beyond 1e+30, are left out (magenta)." in notes(sheet)
    assert to_pixels(sheet, MISSING) > 0


def to_pixels(sheet: Figure, color: str) -> int:
    """How many pixels of the drawn sheet have this colour."""
    import PIL.Image

    drawn = np.asarray(PIL.Image.open(io.BytesIO(png(sheet))).convert("RGB"))
    return int((drawn == np.round(np.multiply(to_rgba(color)[:3], 255))).all(axis=-1).sum())


@pytest.mark.parametrize("shape", [(1, 30), (3, 30), RGB, FIVE, ROWS, VOLUME, (2,) * 5])
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_nothing_breaks_where_all_is(shape: tuple[int, ...], value: float) -> None:
    assert_drawable(shape, value)


@pytest.mark.parametrize("value", [np.inf, -3e38, 9.9e29, 1e-42])
def test_nothing_breaks_at_the_edge_of_float32(value: float) -> None:
    assert_drawable((5,), value)
    assert_drawable((1, 8, 8), value)


def assert_drawable(shape: tuple[int, ...], value: float) -> None:
    x, gradient = np.full(shape, value, np.float32), np.full((2, *shape), value, np.float32)
    tie = near_tie(shape, x=x, gradient=gradient, logits=(np.nan, np.inf), margin=np.nan)
    sheet = near_tie_figure(tie)
    assert ("Both gradients are zero." in notes(sheet)) == (value == 0)
    assert png(sheet)
    for axes in sheet.axes:
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_a_degenerate_tie() -> None:
    same = np.ones((2, 1, 8, 8), np.float32)
    tie = near_tie(
        (1, 8, 8), gradient=same, margin=0.0, logits=(7.5, 7.5), distance_l2=np.nan,
        distance_linf=np.nan,
    )  # fmt: skip
    numbers, _ = sixth_field(near_tie_figure(tie))
    assert numbers["margin"] == "0"
    assert numbers["distance L2"] == numbers["distance L∞"] == "none (degenerate)"


def test_logits_that_are_not_finite() -> None:
    logits = LOGITS.copy()
    logits[[1, 2, 8]] = np.nan, np.inf, -np.inf
    _, bars = sixth_field(near_tie_figure(near_tie((3,), all_logits=logits, label=8)))
    words = {
        name: text.get_text() for name, text in zip(tick_labels(bars), bars.texts, strict=True)
    }
    assert words["two"] == "∞"
    assert words["eight (label)"] == "\N{MINUS SIGN}∞"
    assert np.isfinite(widths(bars)).all()


@pytest.fixture
def user_settings() -> Any:
    """A user's own rcParams, for one test."""
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {"lines.linewidth": 9, "image.cmap": "jet", "font.size": 30, "figure.dpi": 30,
             "text.parse_math": True, "svg.fonttype": "none", "svg.hashsalt": None,
             "savefig.facecolor": "red", "axes.prop_cycle": cycler(color=["k"])}
        )  # fmt: skip
        yield


def written(directory: Path) -> dict[str, bytes]:
    """An image in every format, and bars."""
    for format in METADATA:
        save_figure(near_tie_figure(near_tie((1, 8, 8))), directory / f"image.{format}")
    save_figure(near_tie_figure(near_tie((8,))), directory / "bars.svg")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written(tmp_path_factory.mktemp("first"))


def test_the_same_bytes_again(first: dict[str, bytes], tmp_path: Path) -> None:
    assert written(tmp_path) == first
    assert set(first) == {"image.png", "image.svg", "image.pdf", "bars.svg"}


def test_the_same_bytes_in_another_process(first: dict[str, bytes], tmp_path: Path) -> None:
    code = "import sys, pathlib, test_figure; test_figure.written(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


@pytest.mark.usefixtures("user_settings")
def test_a_users_settings_stay_outside_and_as_they_were(
    first: dict[str, bytes], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams.copy())
    assert written(tmp_path) == first
    assert dict(matplotlib.rcParams.copy()) == before


def test_that_test_can_fail(user_settings: None, first: dict[str, bytes], tmp_path: Path) -> None:
    """Without `plain_settings`, those settings are seen."""
    sheet = near_tie_figure(near_tie((1, 8, 8)))
    sheet.savefig(tmp_path / "image.svg", metadata=METADATA["svg"])
    assert (tmp_path / "image.svg").read_bytes() != first["image.svg"]


def test_settings_are_restored_after_an_error() -> None:
    before = dict(matplotlib.rcParams.copy())
    with pytest.raises(ZeroDivisionError), plain_settings():
        matplotlib.rcParams["lines.linewidth"] = 1 / 0
    with pytest.raises(OptionError):
        near_tie_figure(near_tie((3,)), feature_names=["a"])
    assert dict(matplotlib.rcParams.copy()) == before


def test_pyplot_is_not_imported_and_no_backend_chosen(tmp_path: Path) -> None:
    code = """
import sys, pathlib, matplotlib
backend = dict.get(matplotlib.rcParams, "backend")
import test_figure
test_figure.written(pathlib.Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
assert dict.get(matplotlib.rcParams, "backend") is backend
"""
    subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent)},
    )


def test_threads_draw_the_same(first: dict[str, bytes], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams.copy())
    directories = [tmp_path / str(number) for number in range(2)]
    for directory in directories:
        directory.mkdir()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(written, directories)) == [first] * 2
    assert dict(matplotlib.rcParams.copy()) == before


def test_settings_of_two_threads_do_not_interleave() -> None:
    inside = Event()

    def enter() -> None:
        with plain_settings():
            inside.set()

    thread = Thread(target=enter)
    with plain_settings():
        thread.start()
        assert not inside.wait(0.2)
    thread.join(10)
    assert inside.is_set()
