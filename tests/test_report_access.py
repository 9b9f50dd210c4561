"""The report for everybody: keyboard, screen reader, small screens, dark rooms, weak eyes."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from browser import PHONE, Browser
from report_reader import Reader
from reported import Reports

pytest_plugins = ["report_fixtures"]
pytestmark = pytest.mark.browser

KINDS = ("nightly", "signal", "tabular", "crowd", "none", "hostile")  # whose elements differ
FOCUS = """
const element = document.activeElement;
const style = getComputedStyle(element);
const box = element.getBoundingClientRect();
return {
  seen: (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1)
    || style.boxShadow !== "none",
  inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  what: `${element.tagName}#${element.id}.${element.className}`,
};
"""
UNNAMED = """
const controls = document.querySelectorAll(
  "button, input, select, textarea, summary, a[href], [role=button], [tabindex], canvas[role]");
const name = (each) => (each.getAttribute("aria-label")
  || (each.getAttribute("aria-labelledby") || "").split(" ")
    .map((id) => document.getElementById(id)?.textContent ?? "").join(" ")
  || [...(each.labels ?? [])].map((label) => label.textContent).join(" ")
  || each.textContent).trim();
return [...controls].filter((each) => each.tabIndex >= 0 || each.hasAttribute("role"))
  .filter((each) => !name(each)).map((each) => each.outerHTML.slice(0, 200));
"""
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
  .then((found) => done(found.violations.flatMap((rule) => rule.nodes.map(
    (node) => `${rule.id}: ${node.html.slice(0, 160)}: ${node.failureSummary.slice(0, 300)}`))))
  .catch((error) => done([String(error)]));
"""
WIDTHS = """
const most = document.documentElement.clientWidth;
return [document.documentElement.scrollWidth, most];
"""


def axe_violations(browser: Browser) -> list[str]:
    """By the rules of axe-core, which Deque keeps; put in past the page's own CSP."""
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    browser.script(f"{script}; return 0")
    found: list[str] = browser.driver.execute_async_script(AXE)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_text_stands_out(name: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported[name])
    if reader.indexes():
        reader.open_sample(reader.indexes()[0])
    texts = browser.texts()
    light = len(texts)
    assert light > 20
    browser.prefer(dark=True)
    texts += browser.texts()
    assert len(texts) == 2 * light
    assert {each["contrast"] for each in texts[:light]} != {
        each["contrast"] for each in texts[light:]
    }
    faint = [
        f"{each['contrast']:.2f} of {each['needed']}: {each['text']!r} in {each['element']}"
        for each in texts
        if each["contrast"] < each["needed"] - 0.005
    ]
    assert faint == []


def test_dark_is_dark_and_a_choice_outlasts_it(browser: Browser, reported: Reports) -> None:
    def brightness() -> int:
        color = browser.script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, str(color).strip("rgb()").split(",")))

    Reader(browser, reported["grey"])
    assert brightness() > 600
    browser.prefer(dark=True)
    assert brightness() < 200
    browser.find("#theme-toggle").click()
    assert brightness() > 600
    browser.find("#theme-toggle").click()
    assert brightness() < 200


@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_nothing(name: str, browser: Browser, reported: Reports) -> None:
    """Nor is there a control without a name."""
    reader = Reader(browser, reported[name])
    assert axe_violations(browser) == []
    assert browser.script(UNNAMED) == []
    if reader.indexes():
        reader.open_sample(reader.indexes()[0])
        assert axe_violations(browser) == []
        assert browser.script(UNNAMED) == []


@pytest.mark.parametrize("name", ["nightly", "tabular"])
def test_axe_finds_nothing_on_a_dark_phone(name: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported[name], size=PHONE, dark=True)
    assert axe_violations(browser) == []
    reader.open_sample(reader.indexes()[0])
    assert axe_violations(browser) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_phone_scrolls_one_way_only(name: str, browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported[name], size=PHONE)
    width, most = browser.script(WIDTHS)
    assert width <= most == PHONE[0]
    if not reader.indexes():
        return
    reader.open_sample(reader.indexes()[0])
    width, most = browser.script(WIDTHS)
    assert width <= most
    dialog = browser.find("#detail")
    assert dialog.get_property("scrollWidth") <= dialog.get_property("clientWidth") + 1  # type: ignore[operator]
    for each in browser.seen("#detail button, #detail input"):
        assert each.rect["x"] >= 0
        assert each.rect["x"] + each.rect["width"] <= PHONE[0]
        assert each.rect["height"] >= 24  # WCAG 2.2, 2.5.8


def test_a_wide_screen_scrolls_one_way_only(browser: Browser, reported: Reports) -> None:
    for size in ((768, 900), (1280, 900), (1920, 1000)):
        Reader(browser, reported["nightly"], size=size)
        width, most = browser.script(WIDTHS)
        assert width <= most


def test_with_the_keyboard_alone(browser: Browser, reported: Reports) -> None:
    """From the top of the page to a sample, to the next, the slider, and back to where it was."""
    reader = Reader(browser, reported["grey"])
    order = reader.indexes()
    browser.press(Keys.TAB)
    assert "skip" in str(browser.focused().get_attribute("class"))
    assert_focus_is_seen(browser)
    browser.press(Keys.ENTER)
    for _ in range(30):
        browser.press(Keys.TAB)
        assert_focus_is_seen(browser)
        if browser.focused().get_attribute("data-index"):
            break
    assert browser.focused().get_attribute("data-index") == str(order[0])
    browser.press(Keys.ARROW_RIGHT)
    assert browser.focused().get_attribute("data-index") == str(order[1])
    assert_focus_is_seen(browser)
    browser.press(Keys.ENTER)
    reader.shows(order[1])
    inside = "return document.querySelector('#detail').contains(document.activeElement)"
    assert browser.script(inside)
    browser.press("j")
    reader.shows(order[2])
    browser.press(Keys.ARROW_RIGHT)
    reader.shows(order[3])
    browser.press("k")
    reader.shows(order[2])
    before = reader.k()
    for _ in range(30):
        browser.press(Keys.TAB)
        assert_focus_is_seen(browser)
        if browser.focused().get_attribute("id") == "k-slider":
            break
    browser.press(*[Keys.ARROW_RIGHT] * 40)
    assert reader.k() > before
    reader.shows(order[2])  # the slider's arrows don't turn the page
    browser.press(Keys.ESCAPE)
    browser.wait('return !document.querySelector("#detail").open')
    assert browser.focused().get_attribute("data-index") == str(order[2])
    assert_focus_is_seen(browser)


def test_focus_returns_to_the_card(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"])
    index = reader.indexes()[5]
    reader.open_sample(index)
    reader.close()
    assert browser.focused().get_attribute("data-index") == str(index)


def test_arrows_move_by_what_is_seen(browser: Browser, reported: Reports) -> None:
    """Down goes to a card below."""
    reader = Reader(browser, reported["grey"])
    card = reader.card(reader.indexes()[0])
    browser.script("arguments[0].focus()", card)
    browser.press(Keys.ARROW_DOWN)
    below = browser.focused()
    assert below.rect["y"] > card.rect["y"]
    assert below.rect["x"] == pytest.approx(card.rect["x"], abs=2)
    browser.press(Keys.ARROW_UP)
    assert browser.focused() == card
    browser.press(Keys.END)
    assert browser.focused().get_attribute("data-index") == str(reader.indexes()[-1])
    browser.press(Keys.HOME)
    assert browser.focused() == card


def test_keys_that_help(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"])
    browser.press("/")
    assert browser.focused().get_attribute("id") == "filter-text"
    browser.press("?", "j")  # text, in a text field
    assert browser.focused().get_property("value") == "?j"
    assert not browser.seen("#help")
    reader.search("")
    browser.script("document.activeElement.blur()")
    browser.press("?")
    assert browser.find("#help").is_displayed()
    browser.press("j")
    assert not reader.is_open()
    browser.press(Keys.ESCAPE)
    assert not browser.seen("#help")


def test_shortcuts_leave_the_browsers_own_alone(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"])
    prevented: Any = browser.script(
        """return ["/", "?", "j", "k", "ArrowRight"].map((key) => {
          const event = new KeyboardEvent("keydown",
            {key, ctrlKey: true, bubbles: true, cancelable: true});
          document.body.dispatchEvent(event);
          return event.defaultPrevented;
        })"""
    )
    assert not any(prevented)
    assert not reader.is_open()


def test_headings_and_landmarks_in_order(browser: Browser, reported: Reports) -> None:
    Reader(browser, reported["nightly"])
    steps = [
        int(str(each.tag_name)[1]) for each in browser.seen("h1, h2, h3, h4") if each.text.strip()
    ]
    assert steps[0] == 1
    assert steps.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(steps))
    assert browser.find("html").get_attribute("lang") == "en"
    assert browser.driver.title
    for section in browser.all("main > section"):
        assert section.accessible_name


def test_motion_is_not_forced(browser: Browser, reported: Reports) -> None:
    reader = Reader(browser, reported["grey"])
    browser.prefer(dark=False, reduced_motion=True)
    reader.open_sample(reader.indexes()[0])
    moving = browser.script("return document.getAnimations().length")
    assert moving == 0


def test_on_paper(browser: Browser, reported: Reports) -> None:
    """Printed, the page is one that can be read: nothing dark, no controls, nothing to scroll."""
    ink = "return [getComputedStyle(document.body).color, token('--ink')]"
    Reader(browser, reported["grey"], dark=True)
    browser.find("#theme-toggle").click()
    browser.find("#theme-toggle").click()
    dark = browser.script(ink)
    browser.cdp("Emulation.setEmulatedMedia", media="print", features=[])
    try:
        assert not browser.seen("#theme-toggle, #filters")
        browser.script("dispatchEvent(new Event('beforeprint'))")
        browser.wait("return !document.querySelector('canvas.thumb:not([data-drawn])')")
        assert browser.script(ink) != dark
        assert max(map(int, re.findall(r"\d+", browser.script(ink)[0]))) < 100
        scrolls = "return getComputedStyle(document.querySelector('.scroll')).overflowY"
        assert browser.script(scrolls) == "visible"
        browser.script("dispatchEvent(new Event('afterprint'))")
        assert browser.script(ink) == dark
    finally:
        browser.cdp("Emulation.setEmulatedMedia", media="", features=[])


def assert_focus_is_seen(browser: Browser) -> None:
    focus: dict[str, Any] = browser.script(FOCUS)
    assert focus["seen"], focus
    assert focus["inside"], focus
