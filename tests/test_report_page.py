"""The report in a real browser: what it says first, and that it needs nothing but itself."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from browser import Browser
from report_reader import Reader
from reported import HOSTILE_CLASSES, Reports

pytest_plugins = ["report_fixtures"]
pytestmark = pytest.mark.browser

NAMES = (
    "grey", "bare", "none", "nightly", "rgb", "signal", "rows", "tabular", "hostile", "missing",
)  # fmt: skip
CONTROLS = {*map(chr, (0, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF))}
INJECTED = """
const script = document.createElement("script");
script.textContent = "document.documentElement.dataset.injected = 1";
document.body.append(script);
const frame = document.createElement("iframe");
frame.src = "data:text/html,<p>x";
document.body.append(frame);
const image = new Image();
image.src = "https://example.com/x.png";
document.body.append(image);
fetch("https://example.com/").catch(() => undefined);
return [document.documentElement.dataset.injected ?? null];
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_quietly_and_asks_for_nothing(
    name: str, browser: Browser, reported: Reports
) -> None:
    report = reported[name]
    reader = Reader(browser, report)
    assert sorted(reader.indexes()) == report.findings.index.tolist()
    for index in reader.indexes()[:2]:
        reader.open_sample(index)
        reader.close()
    assert browser.requests() == [report.page.as_uri()]


def test_what_is_injected_is_refused(browser: Browser, reported: Reports) -> None:
    Reader(browser, reported["grey"])
    assert browser.complaints() == []
    assert browser.script(INJECTED) == [None]
    time.sleep(0.3)
    refused = " ".join(browser.complaints())
    for what in ("inline script", "Framing", "example.com/x.png", "Connecting to"):
        assert what in refused
    policy = browser.find('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    browser.requests()


@pytest.mark.parametrize("name", ["nightly", "none", "hostile"])
def test_headline(name: str, browser: Browser, reported: Reports) -> None:
    report = reported[name]
    findings = report.findings
    facts = Reader(browser, report).facts("#headline")
    assert f"{findings.scanned:,} scanned" in facts["flagged"]
    assert first_number(facts["flagged"]) == findings.flagged
    assert percentage(facts["rate"]) == pytest.approx(findings.rate, abs=5e-6)
    assert findings.accuracy is not None
    assert percentage(facts["accuracy"]) == pytest.approx(findings.accuracy, abs=5e-5)
    if findings.flagged:
        right = float((findings.label == findings.classes[:, 0]).mean())
        assert percentage(facts["accuracy_flagged"]) == pytest.approx(right, abs=5e-5)
    assert first_number(facts["eps"]) == findings.eps
    assert findings.bundle["name"].split("\u2028")[0][:10] in facts["model"]
    assert facts["created"].startswith(findings.created[:10])
    if report.baseline is not None:
        old = report.baseline.index
        assert first_number(facts["newly"]) == len(np.setdiff1d(findings.index, old))
        assert first_number(facts["left"]) == len(np.setdiff1d(old, findings.index))
        assert first_number(facts["still"]) == len(np.intersect1d(old, findings.index))


def test_histogram_in_words_and_numbers(browser: Browser, reported: Reports) -> None:
    findings = reported["grey"].findings
    reader = Reader(browser, reported["grey"])
    label = browser.find("#margin-plot").get_attribute("aria-label")
    assert label
    assert f"{findings.scanned:,} samples" in label
    assert f"{findings.flagged} " in label
    browser.find("#margin-table summary").click()
    rows: list[list[str]] = browser.script(
        """return [...document.querySelectorAll("#margin-table tbody tr")].map(
          (row) => [...row.cells].map((cell) => cell.innerText))"""
    )
    held = np.flatnonzero(findings.margin_counts)
    assert [first_number(row[-1]) for row in rows] == findings.margin_counts[held].tolist()
    lows = [first_number(row[0]) for row in rows]
    assert lows == pytest.approx(findings.margin_edges[held], rel=0.01)
    assert reader.browser.seen("#margin-plot canvas")


def test_what_is_below_the_threshold_is_red(browser: Browser, reported: Reports) -> None:
    """And what isn't is not, in the bin that ε cuts as well."""
    Reader(browser, reported["grey"])
    left, right, bottom = browser.script(
        """const [{ bbox, valToPos }] = plots, { edges } = report.histogram;
        const cut = edges.findLastIndex((edge) => edge <= report.eps);
        const at = (margin) => valToPos(Math.log10(margin), "x", true);
        const between = (one, other) => Math.round((at(one) + at(other)) / 2);
        return [between(edges[cut], report.eps), between(report.eps, edges[cut + 1]),
          Math.round(bbox.top + bbox.height) - 3]"""
    )
    pixels = browser.pixels(browser.find("#margin-plot canvas")).astype(int)
    below, above = pixels[bottom, left, :3], pixels[bottom, right, :3]
    assert left + 2 < right
    assert below[0] > 2 * below[2]
    assert above[0] < above[2]


def test_gates_are_those_of_audit_check(browser: Browser, reported: Reports) -> None:
    import audit

    report = reported["nightly"]
    Reader(browser, report)
    shown = {
        str(row.get_attribute("data-gate")): str(row.get_attribute("data-status"))
        for row in browser.seen("#gates tr[data-gate]")
    }
    checked = audit.check(report.findings, baseline=report.baseline)
    assert shown == {gate.name: gate.status for gate in checked.results}
    assert shown
    for row in browser.seen("#gates tr[data-gate]"):  # not in colour alone
        assert str(row.get_attribute("data-status")).lower() in row.text.lower()


def test_without_scripts_the_numbers_are_there(browser: Browser, reported: Reports) -> None:
    report = reported["grey"]
    browser.open(report.page, scripts=False)
    try:
        text = browser.find("body").text
        assert f"{report.findings.flagged} " in text
        rows = browser.find("#flagged-table").find_elements("css selector", "tbody tr")
        first = [int(first_number(row.text.split()[0])) for row in rows]
        assert sorted(first) == report.findings.index.tolist()
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
    Reader(browser, report)
    assert not browser.seen("#flagged-table")


def test_names_that_attack_are_text(browser: Browser, reported: Reports) -> None:
    report = reported["hostile"]
    reader = Reader(browser, report)
    row = int(report.findings.margin.argmin())
    reader.open_sample(int(report.findings.index[row]))
    title = str(browser.find("#detail-title").get_property("textContent"))
    for name in (HOSTILE_CLASSES[each] for each in report.findings.classes[row]):
        assert name.strip("\u202e")[:12] in title
    assert "attacked" not in browser.script("return Object.keys(document.documentElement.dataset)")
    elements = "return [...document.querySelectorAll('script, img, iframe, svg')].map((e) => e.id)"
    there = browser.script(elements)
    # Nor does a name turn round what stands after it.
    said = str(browser.script("return document.body.textContent + document.title"))
    assert not set(said) & CONTROLS
    Reader(browser, reported["grey"])
    assert there == browser.script(elements)


def test_the_library_comes_with_its_licence(reported: Reports) -> None:
    content = reported["grey"].page.read_text(encoding="utf-8")
    assert "Leon Sorokin" in content
    assert "Permission is hereby granted" in content


def test_five_hundred_samples_are_small_and_quick(browser: Browser, reported: Reports) -> None:
    report = reported["many"]
    assert report.findings.flagged > 500
    assert report.page.stat().st_size <= 10e6
    started = time.perf_counter()
    reader = Reader(browser, report)
    ready = time.perf_counter() - started
    assert ready < 5  # about one second on two cores
    # The closest are shown, and the page says that they aren't all.
    closest = report.findings.index[np.argsort(report.findings.margin, kind="stable")[:500]]
    assert sorted(reader.indexes()) == sorted(closest.tolist())
    assert f"{report.findings.flagged}" in browser.find("#gallery").text
    started = time.perf_counter()
    reader.open_sample(int(closest[-1]))
    assert time.perf_counter() - started < 2
    reader.close()


def first_number(text: str) -> float:
    found = re.search(r"[\d,]*\.?\d+(?:e[+-]?\d+)?", text.replace("\N{MINUS SIGN}", "-"))
    assert found is not None, text
    return float(found[0].replace(",", ""))


def percentage(text: str) -> float:
    found = re.search(r"([\d.]+)\s*%", text)
    assert found is not None, text
    return float(found[1]) / 100
