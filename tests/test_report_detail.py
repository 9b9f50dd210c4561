"""The report's detail view in a real browser: pixels and numbers are those of the findings."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from browser import Browser
from report_reader import Reader, input_space
from reported import FEATURES, Reports

pytest_plugins = ["report_fixtures"]
pytestmark = pytest.mark.browser

MISSING = (0xC5, 0x1B, 0x8A)
DIGITS = 5.1e-3  # three of them are shown
FACTORS = (-2.5, -0.04, 0.0, 0.3, 1.0, 40.0)
IMAGES = ("grey", "rgb", "missing")
GRADIENTS, PROJECTIONS = ("gradient-a", "gradient-b"), ("projection-a", "projection-b")

Values = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]


def levels(values: Values, low: float, high: float) -> Pixels:
    """(C, H, W) → uint8 (H, W, 3), what isn't finite in magenta."""
    with np.errstate(invalid="ignore"):
        share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    shown = np.moveaxis(np.round(np.nan_to_num(share) * 255), 0, -1).astype(np.uint8)
    shown = np.repeat(shown, 3 // shown.shape[-1], axis=-1)
    shown[~np.isfinite(values).all(axis=0)] = MISSING
    return shown


def limits(x: Values) -> tuple[float, float]:
    finite = x[np.isfinite(x)].astype(np.float64)
    if finite.min() >= 0 and finite.max() <= 1:
        return 0.0, 1.0
    return float(finite.min()), float(finite.max())


def strongest(gradient: Values) -> Values:
    """(C, H, W) → (H, W): the channel's value of largest size."""
    chosen = np.abs(gradient).argmax(axis=0)
    values: Values = np.take_along_axis(gradient, chosen[None], axis=0)[0]
    return values


def difference(one: Pixels, other: Pixels) -> NDArray[np.int64]:
    return np.abs(one.astype(np.int64) - other.astype(np.int64))


def some_rows(reader: Reader, count: int = 3) -> list[int]:
    return [int(row) for row in np.linspace(0, reader.findings.flagged - 1, count)]


def opened(browser: Browser, reported: Reports, name: str, row: int) -> Reader:
    report = reported[name]
    index = int(report.findings.index[row])
    reader = Reader(browser, report, f"sample={index}")
    reader.shows(index)
    return reader


@pytest.mark.parametrize("name", ["grey", "rgb"])
def test_a_sample_is_its_stored_bytes(name: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported[name])
    for row in some_rows(reader):
        stored = reader.findings.rows("input", [row])[0]
        assert stored.dtype == np.uint8
        reader.open_sample(int(reader.findings.index[row]))
        shown = reader.picture("sample")
        colored = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=-1)
        assert_array_equal(shown[..., :3], colored)
        assert (shown[..., 3] == 255).all()
        reader.close()


def test_a_card_shows_its_own_sample(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"])
    reader.choose("sort", "l2")
    for index in reader.indexes()[:5]:
        card = reader.card(index)
        browser.script('arguments[0].scrollIntoView({block: "center"})', card)
        thumb = card.find_element("css selector", "canvas.thumb")
        browser.wait('return arguments[0].dataset.drawn === "true"', thumb)
        stored = reader.findings.rows("input", [reader.row(index)])[0]
        assert_array_equal(browser.pixels(thumb)[..., 0], stored)


def test_floating_point_samples_and_what_is_not_finite(browser: Browser, reported: Reports) -> None:
    findings = reported["missing"].findings
    spoiled = np.flatnonzero(~np.isfinite(findings.input).all(axis=(1, 2)))
    whole = np.flatnonzero(np.isfinite(findings.input).all(axis=(1, 2)))
    assert spoiled.size
    assert whole.size
    for row in (*spoiled[:2], whole[0]):
        reader = opened(browser, reported, "missing", int(row))
        x = input_space(findings, int(row))
        expected = levels(x, *limits(x))
        shown = reader.picture("sample")[..., :3]
        assert difference(shown, expected).max() <= 1
        missing = ~np.isfinite(x[0])
        assert_array_equal((shown == MISSING).all(axis=-1), missing)
        notes = str(browser.find("#detail-notes").get_property("textContent")).lower()
        assert ("not finite" in notes or "nan" in notes) == bool(missing.any())


@pytest.mark.parametrize("name", IMAGES)
def test_gradients_are_red_above_zero_and_blue_below_on_one_scale(
    name: str, browser: Browser, reported: Reports
) -> None:
    reader = Reader(browser, reported[name])
    colors = (colormaps["RdBu_r"](np.arange(256))[:, :3] * 255).round()
    for row in some_rows(reader):
        reader.open_sample(int(reader.findings.index[row]))
        gradients = reader.findings.rows("gradient", [row])[0].astype(np.float64)
        drawn = np.stack([strongest(each) for each in gradients])
        most = np.abs(drawn).max()
        shown = [reader.picture(field)[..., :3].astype(np.int64) for field in GRADIENTS]
        for values, pixels in zip(drawn, shown, strict=True):
            place = np.clip(np.floor(256 * (values + most) / (2 * most)), 0, 255).astype(int)
            off = np.abs(pixels - colors[place])
            assert off.max() <= 8  # one step of the colour map, where a value lies between two
            assert (off.max(axis=-1) > 1).mean() < 0.01
            # And, whatever the map: sign, and darker the farther from zero.
            warm = pixels[..., 0] - pixels[..., 2]
            clear = np.abs(values) > most / 16
            assert_array_equal(np.sign(warm[clear]), np.sign(values[clear]))
            assert np.abs(warm[values == 0]).max(initial=0) < 8
        # One scale: the same value has the same colour in both.
        peak = [pixels[np.abs(values) == most] for values, pixels in zip(drawn, shown, strict=True)]
        assert sum(map(len, peak)) >= 1
        assert min(np.concatenate(peak).min(axis=-1)) < 70
        scale = browser.find("#colour-low").text, browser.find("#colour-high").text
        assert [number(each) for each in scale] == pytest.approx([-most, most], rel=0.01)
        reader.close()


@pytest.mark.parametrize("name", IMAGES)
def test_projections_at_a_k_that_is_typed(name: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported[name])
    for row in some_rows(reader, 2):
        reader.open_sample(int(reader.findings.index[row]))
        for k in FACTORS:
            reader.type_k(str(k))
            assert reader.k() == k
            assert_projected(reader, row, k)
        reader.close()


@pytest.mark.parametrize("name", IMAGES)
def test_projections_at_the_k_of_the_slider(name: str, browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, name, 1)
    seen = []
    for position in (-1000, -700, -350, 0, 420, 777, 1000):
        k = reader.slide(position)
        seen.append(k)
        assert_projected(reader, 1, k)
    assert seen == sorted(seen)  # further right is more
    assert seen[3] == 0
    assert seen[0] == -seen[-1]
    assert len(set(seen)) == len(seen)


def test_large_images_are_averaged_and_that_is_said(browser: Browser, reported: Reports) -> None:
    report = reported["large"]
    assert report.page.stat().st_size <= 10e6
    row = int(np.argsort(report.findings.margin)[3])
    reader = opened(browser, reported, "large", row)
    x = report.findings.rows("input", [row])[0].astype(np.float64) / 255
    shown = reader.picture("sample")[..., 0]
    factor = 112 // len(shown)
    assert factor > 1
    assert str(factor) in browser.find("#detail-notes").text

    def means(values: Values) -> Values:
        blocks: Values = values.reshape(112 // factor, factor, -1, factor).mean(axis=(1, 3))
        return blocks

    assert np.abs(shown - 255 * means(x)).max() <= 1
    gradients = report.findings.rows("gradient", [row])[0, :, 0].astype(np.float64)
    for k in (0.0, -3.0, 12.0):
        reader.type_k(str(k))
        for field, gradient in zip(PROJECTIONS, gradients, strict=True):
            step = np.abs(means(gradient)).max() / 127  # of int8
            off = reader.picture(field)[..., 0] - 255 * means(x + k * gradient).clip(0, 1)
            assert np.abs(off).max() <= 1.5 + 255 * abs(k) * step / 2


def assert_projected(reader: Reader, row: int, k: float) -> None:
    x = input_space(reader.findings, row)
    gradients = reader.findings.rows("gradient", [row])[0]
    low, high = limits(x)
    for field, gradient in zip(PROJECTIONS, gradients, strict=True):
        shown = reader.picture(field)
        with np.errstate(invalid="ignore"):
            values = x.astype(np.float64) + k * gradient.astype(np.float64)
        off = difference(shown[..., :3], levels(values, low, high))
        assert off.max() <= 1  # 1/255 of the scale
        assert (off > 0).mean() < 0.01
        if k == 0:
            assert_array_equal(shown, reader.picture("sample"))


def test_the_slider_answers_to_keys_and_both_controls_agree(
    browser: Browser, reported: Reports
) -> None:
    reader = opened(browser, reported, "grey", 0)
    slider = browser.find("#k-slider")
    reader.slide(0)
    slider.send_keys("\ue014" * 5)  # arrow right
    assert reader.k() > 0
    assert_projected(reader, 0, reader.k())
    reader.type_k("0")
    assert int(str(slider.get_property("value"))) == 0
    reader.type_k("-1")
    assert int(str(slider.get_property("value"))) < 0
    assert slider.get_attribute("aria-valuetext")
    browser.find("#k-reset").click()
    start = opened(browser, reported, "grey", 0).k()
    reader.type_k("7")
    browser.find("#k-reset").click()
    assert reader.k() == start


@pytest.mark.parametrize("text", ["", "-", "e", "1e999"])
def test_what_is_no_number_changes_nothing(text: str, browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "grey", 0)
    reader.type_k("2")
    reader.type_k(text)
    assert_projected(reader, 0, reader.k())
    if text != "1e999":  # of which 1, 1e9 and 1e99 are numbers
        assert reader.k() == 2


def test_k_stays_from_sample_to_sample_and_in_the_link(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "grey", 0)
    reader.type_k("1.5")
    assert reader.fragment()["k"] == "1.5"
    where = str(browser.script("return location.hash.slice(1)"))
    again = Reader(browser, reader.report, where)
    again.shows(int(again.findings.index[0]))
    assert again.k() == 1.5
    assert_projected(again, 0, 1.5)


def test_the_k_at_which_it_ties(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "grey", 2)
    a, b = reader.findings.rows("gradient", [2])[0].astype(np.float64).reshape(2, -1)
    margin = float(reader.findings.margin[2])
    tie = margin / (b @ b - a @ b)
    browser.find("#k-tie").click()
    assert reader.k() == pytest.approx(tie, rel=1e-3)
    assert number(reader.facts("#detail-facts")["tie_k"]) == pytest.approx(tie, rel=1e-2)
    k = 0.25
    reader.type_k(str(k))
    x = input_space(reader.findings, 2).astype(np.float64).ravel()
    for which, gradient in (("a", a), ("b", b)):
        low, high, new_margin = numbers(browser.find(f"#reach-{which}").text)
        moved = x + k * gradient
        assert low == pytest.approx(moved.min(), abs=0.01)
        assert high == pytest.approx(moved.max(), abs=0.01)
        assert new_margin == pytest.approx(margin + k * ((a - b) @ gradient), rel=0.02)


@pytest.mark.parametrize("name", ["grey", "bare", "tabular", "missing"])
def test_facts(name: str, browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, name, 1)
    findings = reader.findings
    facts = reader.facts("#detail-facts")
    names = findings.bundle["classes"]
    a, b = findings.classes[1].tolist()
    assert number(facts["index"]) == findings.index[1]
    assert names[int(findings.label[1])] in facts["label"]
    for fact, value in (
        ("margin", findings.margin[1]),
        ("logit_a", findings.logits[1, 0]),
        ("logit_b", findings.logits[1, 1]),
    ):
        assert number(facts[fact]) == pytest.approx(float(value), rel=DIGITS, abs=1e-6)
    if name == "bare":
        assert not {"distance_l2", "distance_linf"} & facts.keys()
        assert not browser.seen("[data-field^=gradient], [data-field^=projection], #k-slider")
        assert "gradients" in browser.find("#detail-notes").text
    else:
        assert number(facts["distance_l2"]) == pytest.approx(findings.distance_l2[1], rel=DIGITS)
        assert number(facts["distance_linf"]) == pytest.approx(
            findings.distance_linf[1], rel=DIGITS
        )
    title = browser.find("#detail-title").text
    assert names[a] in title
    assert names[b] in title


def test_a_distance_that_is_infinite(browser: Browser, reported: Reports) -> None:
    """No ReLU is on, both gradients are zero: that isn't a degenerate tie."""
    findings = reported["rgb"].findings
    assert findings.degenerate == 0
    row = int(np.flatnonzero(np.isinf(findings.distance_l2))[0])
    facts = opened(browser, reported, "rgb", row).facts("#detail-facts")
    assert facts["distance_l2"] == facts["distance_linf"] == "∞ (equal gradients)"


def test_all_logits_where_the_bundle_is_there(browser: Browser, reported: Reports) -> None:
    from audit.near_tie import near_ties_from_findings

    reader = opened(browser, reported, "grey", 3)
    (tie,) = near_ties_from_findings(reader.findings, [3])
    assert tie.all_logits is not None
    shown = {
        int(str(each.get_attribute("data-class"))): numbers(each.text)[-1]
        for each in browser.all("#logit-list li")
    }
    a, b = tie.classes
    assert {a, b} <= shown.keys()
    for each, value in shown.items():
        assert value == pytest.approx(float(tie.all_logits[each]), abs=0.01)


def test_a_signal_says_what_it_draws(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "signal", 0)
    x = input_space(reader.findings, 0)
    gradients = reader.findings.rows("gradient", [0])[0]
    for k in (0.0, -3.0, 10.0):
        reader.type_k(str(k))
        fields = {
            "sample": x,
            "gradient-a": gradients[0],
            "gradient-b": gradients[1],
            "projection-a": x + k * gradients[0],
            "projection-b": x + k * gradients[1],
        }
        for field, values in fields.items():
            assert browser.seen(f'[data-field="{field}"] .uplot canvas')
            drawn = browser.script(
                """const figure = document.querySelector(arguments[0]);
                const plot = [...plots].find((each) => figure.contains(each.root));
                return plot.data.filter(
                  (_, i) => i === 0 || plot.series[i].channel !== undefined)""",
                f'[data-field="{field}"]',
            )
            assert_allclose(np.array(drawn[1:], float), values, rtol=1e-5, atol=1e-6)


def test_a_table_of_features_holds_the_values(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "tabular", 0)
    findings = reader.findings
    x, gradients = input_space(findings, 0), findings.rows("gradient", [0])[0]
    for k in (0.0, -3.0, 10.0):
        reader.type_k(str(k))
        columns = [x, gradients[0], gradients[1], x + k * gradients[0], x + k * gradients[1]]
        rows: list[list[str]] = browser.script(
            """return [...document.querySelectorAll("#detail-features tbody tr")].map(
              (row) => [...row.cells].map((cell) => cell.innerText))"""
        )
        assert sorted(row[0] for row in rows) == sorted(FEATURES)
        for row in rows:
            feature = FEATURES.index(row[0])
            expected = [float(column[feature]) for column in columns]
            assert [number(cell) for cell in row[1:6]] == pytest.approx(
                expected, rel=2e-3, abs=1e-5
            )


def test_a_table_of_features_shows_what_is_no_number(browser: Browser, reported: Reports) -> None:
    findings = reported["hostile"].findings
    row = int(np.flatnonzero(np.isnan(findings.input).any(axis=1))[0])
    opened(browser, reported, "hostile", row)
    text = browser.find("#detail-features").text
    assert "not finite" in text


def test_two_axes_are_drawn_as_they_lie(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "rows", 0)
    assert reader.picture("sample").shape[:2] == (9, 6)
    assert reader.picture("gradient-b").shape[:2] == (9, 6)


def test_an_image_has_words(browser: Browser, reported: Reports) -> None:
    reader = opened(browser, reported, "grey", 0)
    labels = [str(each.get_attribute("aria-label")) for each in browser.seen("canvas.picture")]
    assert len(labels) == 5
    assert len(set(labels)) == 5
    reader.type_k("2")
    assert "2" in str(
        browser.find('[data-field="projection-a"] canvas').get_attribute("aria-label")
    )


def numbers(text: str) -> list[float]:
    plain = text.replace("\N{MINUS SIGN}", "-").replace("\u202f", "")
    found = re.findall(r"-?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?", plain)
    return [float(each.replace(",", "")) for each in found]


def number(text: str) -> float:
    return numbers(text)[0]
