"""The report's gallery in a real browser: order, filters and links show what numpy says."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.findings import Findings
from browser import DESKTOP, Browser
from report_reader import Reader
from reported import Report, Reports

pytest_plugins = ["report_fixtures"]
pytestmark = pytest.mark.browser

Mask = NDArray[np.bool_]


def of_pair(findings: Findings, a: int, b: int) -> Mask:
    mask: Mask = (np.sort(findings.classes, axis=1) == sorted((a, b))).all(axis=1)
    return mask


def of_class(findings: Findings, number: int) -> Mask:
    tied: Mask = (findings.classes == number).any(axis=1)
    mask: Mask = tied | (findings.label == number)
    return mask


def of_label(findings: Findings, agreement: str) -> Mask:
    a, b = findings.classes.T
    label = findings.label
    masks: dict[str, Mask] = {
        "right": label == a,
        "second": label == b,
        "neither": (label >= 0) & (label != a) & (label != b),
        "unknown": label < 0,
    }
    return masks[agreement]


def samples(findings: Findings, mask: Mask) -> list[int]:
    """In order of margin."""
    rows = np.argsort(findings.margin, kind="stable")
    return [int(index) for index in findings.index[rows[mask[rows]]]]


def commonest_pair(findings: Findings) -> tuple[int, int]:
    pairs = findings.pairs + findings.pairs.T
    a, b = divmod(int(np.triu(pairs).argmax()), len(pairs))
    return a, b


@pytest.fixture
def nightly(browser: Browser, reported: Reports) -> Reader:
    return Reader(browser, reported["nightly"])


@pytest.mark.parametrize("name", ["nightly", "missing", "bare"])
def test_order(name: str, browser: Browser, reported: Reports) -> None:
    findings = reported[name].findings
    reader = Reader(browser, reported[name])
    assert reader.indexes() == findings.index[np.argsort(findings.margin, kind="stable")].tolist()
    values: dict[str, NDArray[Any]] = {"index": findings.index, "margin": findings.margin}
    if name != "bare":  # which has no distances
        values |= {"l2": findings.distance_l2, "linf": findings.distance_linf}
    offered = [each.get_attribute("value") for each in browser.all("#sort option:enabled")]
    assert sorted(map(str, offered)) == sorted(values)
    for key, of_rows in values.items():
        reader.choose("sort", key)
        order = np.argsort(of_rows, kind="stable")  # NaN, which has no distance, comes last
        assert reader.indexes() == findings.index[order].tolist()


def test_the_matrix_counts_and_filters(nightly: Reader) -> None:
    findings, browser = nightly.findings, nightly.browser
    both = findings.pairs + findings.pairs.T
    shown = {
        str(cell.get_attribute("data-pair")): int(cell.text or 0)
        for cell in browser.all("#pair-matrix td[data-pair]")
    }
    for pair, count in shown.items():
        a, b = map(int, pair.split("-"))
        assert a < b
        assert count == both[a, b]
    assert sum(shown.values()) == findings.flagged
    a, b = commonest_pair(findings)
    button = browser.find(f'td[data-pair="{a}-{b}"] button')
    button.click()
    expected = samples(findings, of_pair(findings, a, b))
    assert 0 < len(expected) < findings.flagged
    assert nightly.indexes() == expected
    assert button.get_attribute("aria-pressed") == "true"
    assert browser.find("#filter-pair").get_property("value") == f"{a}-{b}"
    button.click()
    assert len(nightly.indexes()) == findings.flagged
    assert button.get_attribute("aria-pressed") == "false"


def test_of_many_classes_the_pairs_are_a_list(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["crowd"])
    findings = reader.findings
    assert not browser.all("#pair-matrix")
    first = browser.find("#pair-list td[data-pair]")
    a, b = map(int, str(first.get_attribute("data-pair")).split("-"))
    both = findings.pairs + findings.pairs.T
    assert int(first.text) == both[a, b] == both.max()
    first.find_element("css selector", "button").click()
    assert reader.indexes() == samples(findings, of_pair(findings, a, b))


def test_long_names_lie_over_nothing(browser: Browser, reported: Reports) -> None:
    """Not over the histogram, nor over each other in a table's head or among the logits."""
    reader = Reader(browser, reported["crowd"])
    plot, pairs = (browser.find(each).rect for each in ("#margin-plot", "#pairs"))
    assert plot["width"] >= 300
    assert plot["x"] + plot["width"] <= pairs["x"]
    reader.open_sample(reader.indexes()[0])
    cut = """return [...document.querySelectorAll("#detail-features thead th, #logit-list .name")]
      .filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.innerText)"""
    assert browser.script(cut) == []


def test_class(nightly: Reader) -> None:
    for number in range(10):
        nightly.choose("filter-class", str(number))
        assert nightly.indexes() == samples(nightly.findings, of_class(nightly.findings, number))


@pytest.mark.parametrize("agreement", ["right", "second", "neither", "unknown"])
def test_label_agreement(agreement: str, nightly: Reader) -> None:
    expected = samples(nightly.findings, of_label(nightly.findings, agreement))
    offered = {each.get_attribute("value") for each in nightly.browser.all("#filter-label option")}
    if agreement not in offered:
        assert not expected
        return
    nightly.choose("filter-label", agreement)
    assert nightly.indexes() == expected


def is_new(report: Report) -> Mask:
    assert report.baseline is not None
    return ~np.isin(report.findings.index, report.baseline.index)


def test_what_has_no_label_is_not_wrong(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["unlabelled"])
    reader.choose("filter-label", "unknown")
    assert sorted(reader.indexes()) == reader.findings.index.tolist()
    assert "label unknown" in reader.card(reader.indexes()[0]).text
    assert not browser.all(".card .wrong")
    Reader(browser, reported["nightly"])
    wrong = ~of_label(reported["nightly"].findings, "right")
    assert len(browser.all(".card .wrong")) == wrong.sum() > 0


def test_new(nightly: Reader) -> None:
    new = is_new(nightly.report)
    assert 0 < new.sum() < len(new)
    marked = [
        int(str(card.get_attribute("data-index")))
        for card in nightly.browser.all(".card:has(.badge-new)")
    ]
    assert marked == samples(nightly.findings, new)
    nightly.browser.find("#filter-new").click()
    assert nightly.indexes() == samples(nightly.findings, new)


def test_there_is_no_filter_of_new_ones_without_a_baseline(
    browser: Browser, reported: Reports
) -> None:
    Reader(browser, reported["grey"])
    assert not browser.seen("#filter-new")
    assert not browser.all(".badge-new")


def test_text(nightly: Reader) -> None:
    findings = nightly.findings
    index = int(findings.index[7])
    nightly.search(str(index))
    assert index in nightly.indexes()
    assert len(nightly.indexes()) < findings.flagged
    nightly.search("no such words")
    assert nightly.indexes() == []
    assert nightly.browser.find("#no-results").is_displayed()
    assert "0 of" in nightly.count() or "No " in nightly.count()
    nightly.search("")
    assert len(nightly.indexes()) == findings.flagged


def test_text_finds_class_names_of_any_script(browser: Browser, reported: Reports) -> None:
    """Words in any order, in any case."""
    report = reported["hostile"]
    reader = Reader(browser, report)
    reader.search("LEFT right")
    assert reader.indexes() == samples(report.findings, of_class(report.findings, 2))
    reader.search("<img")
    assert reader.indexes() == samples(report.findings, of_class(report.findings, 0))


def test_filters_are_and_ed_and_counted(nightly: Reader) -> None:
    """Every pair of filters leaves what both leave, all four of them what all leave."""
    findings = nightly.findings
    a, b = commonest_pair(findings)
    new = is_new(nightly.report)
    for pair, number, agreement, only_new in product(
        (False, True), (None, a), ("", "right", "second"), (False, True)
    ):
        mask = np.ones(findings.flagged, bool)
        nightly.choose("filter-pair", f"{a}-{b}" if pair else "")
        mask &= of_pair(findings, a, b) if pair else True
        nightly.choose("filter-class", "" if number is None else str(number))
        mask &= True if number is None else of_class(findings, number)
        nightly.choose("filter-label", agreement)
        mask &= of_label(findings, agreement) if agreement else True
        box = nightly.browser.find("#filter-new")
        if box.is_selected() != only_new:
            box.click()
        mask &= new if only_new else True
        assert nightly.indexes() == samples(findings, mask)
        many = f"{int(mask.sum())} of {findings.flagged} samples"
        assert nightly.count().startswith(f"{len(mask)} samples" if mask.all() else many)
    assert nightly.browser.find("#result-count").get_attribute("role") == "status"
    nightly.browser.find("#filter-clear").click()
    assert len(nightly.indexes()) == findings.flagged
    assert nightly.fragment() == {}


def test_the_fragment_holds_the_filters(nightly: Reader) -> None:
    findings = nightly.findings
    a, b = commonest_pair(findings)
    nightly.choose("filter-pair", f"{a}-{b}")
    nightly.choose("sort", "l2")
    nightly.choose("filter-label", "right")
    nightly.browser.find("#filter-new").click()
    left = nightly.indexes()
    assert nightly.fragment() == {"pair": f"{a}-{b}", "sort": "l2", "label": "right", "new": "1"}
    where = str(nightly.browser.script("return location.hash.slice(1)"))
    again = Reader(nightly.browser, nightly.report, where)
    assert again.indexes() == left
    nightly.search("ü & = #")
    assert nightly.fragment()["q"] == "ü & = #"


@pytest.mark.parametrize("name", ["grey", "signal", "tabular"])
def test_a_link_opens_a_sample(name: str, browser: Browser, reported: Reports) -> None:
    report = reported[name]
    index = int(report.findings.index[-1])
    reader = Reader(browser, report, f"sample={index}")
    reader.shows(index)
    assert reader.facts("#detail-facts")["index"].replace(",", "") == str(index)
    browser.driver.refresh()
    reader.settle()
    reader.shows(index)
    reader.close()
    assert "sample" not in reader.fragment()


def test_back_and_forward(nightly: Reader) -> None:
    driver = nightly.browser.driver
    first, second = nightly.indexes()[:2]
    nightly.open_sample(first)
    nightly.close()
    nightly.open_sample(second)
    assert nightly.fragment()["sample"] == str(second)
    driver.back()
    nightly.browser.wait('return !document.querySelector("#detail").open')
    driver.forward()
    nightly.shows(second)
    nightly.browser.script("location.hash = arguments[0]", f"#sample={first}")
    nightly.shows(first)
    driver.back()
    nightly.shows(second)


@pytest.mark.parametrize("wrong", ["999999999", "-1", "x", "", "%00"])
def test_an_unknown_sample_is_said(wrong: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"], f"sample={wrong}")
    assert not reader.is_open()
    assert len(reader.indexes()) == reader.findings.flagged
    if wrong in ("", "%00"):
        return
    assert f"Sample {wrong} isn't" in reader.count()
    top = browser.script(
        "return document.querySelector('#result-count').getBoundingClientRect().top"
    )
    assert 0 <= top < DESKTOP[1]
    reader.choose("sort", "index")
    assert "isn't" not in reader.count()


def test_a_link_to_a_sample_that_its_filters_leave_out(nightly: Reader) -> None:
    findings = nightly.findings
    row = int(np.flatnonzero(of_label(findings, "right"))[0])
    index = int(findings.index[row])
    reader = Reader(nightly.browser, nightly.report, f"sample={index}&label=second")
    reader.shows(index)
    reader.close()
    assert reader.indexes() == samples(findings, of_label(findings, "second"))


@pytest.mark.parametrize(
    "fragment", ["sort=x&pair=9-4-1&class=77&label=maybe&new=2&k=nan", "%", "&&==", "pair=0-0"]
)
def test_nonsense_in_a_link_is_passed_over(
    fragment: str, browser: Browser, reported: Reports
) -> None:
    reader = Reader(browser, reported["nightly"], fragment)
    assert len(reader.indexes()) == reader.findings.flagged


def test_next_and_previous_follow_the_gallery(nightly: Reader) -> None:
    nightly.choose("sort", "l2")
    nightly.choose("filter-label", "right")
    order = nightly.indexes()
    assert len(order) > 3
    nightly.open_sample(order[0])
    for position, index in enumerate(order[1:4], start=2):
        nightly.browser.find("#detail-next").click()
        nightly.shows(index)
        assert nightly.browser.find("#detail-position").text == f"{position} of {len(order)}"
        assert nightly.fragment()["sample"] == str(index)
    nightly.browser.find("#detail-previous").click()
    nightly.shows(order[2])


def test_nothing_flagged_is_said(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["none"])
    assert reader.indexes() == []
    assert "nothing is tied" in browser.find("main").text.lower()
