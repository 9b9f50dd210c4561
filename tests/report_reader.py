"""A report as its reader uses it: what `docs/report.md` says can be seen and done there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from audit.findings import Findings
from browser import Browser
from reported import Report

READY = 'return document.documentElement.dataset.ready === "true"'
DRAWN = """
const wanted = document.querySelector("#detail").dataset.index;
return document.querySelector("#detail").open && wanted === arguments[0];
"""
SET = """
arguments[0].value = arguments[1];
for (const name of ["input", "change"])
  arguments[0].dispatchEvent(new Event(name, {bubbles: true}));
"""
INDEXES = 'return [...document.querySelectorAll("#samples .card")].map((c) => +c.dataset.index)'
SHOWN = """
return [...document.querySelectorAll("#samples .card")]
  .filter((card) => card.checkVisibility()).map((card) => +card.dataset.index);
"""


class Reader:
    """Of one page in a browser."""

    def __init__(self, browser: Browser, report: Report, fragment: str = "", **how: Any) -> None:
        self.browser = browser
        self.report = report
        self.findings: Findings = report.findings
        browser.open(report.page, fragment, **how)
        self.settle()

    def settle(self) -> None:
        """Wait until the page says that it is ready."""
        self.browser.wait(READY)

    def facts(self, inside: str) -> dict[str, str]:
        """Texts of a description list by their names."""
        found: dict[str, str] = self.browser.script(
            """return Object.fromEntries([...document.querySelectorAll(
              `${arguments[0]} [data-fact]`)].map(
              (each) => [each.dataset.fact, each.querySelector("dd").innerText.trim()]))""",
            inside,
        )
        return found

    def indexes(self) -> list[int]:
        """Samples of the gallery as they stand there, each by its position in the dataset."""
        shown: list[int] = self.browser.script(SHOWN)
        return shown

    def count(self) -> str:
        """What is announced of the gallery."""
        return str(self.browser.find("#result-count").text)

    def choose(self, name: str, value: str) -> None:
        """Choose from `#sort` or a `#filter-…`."""
        Select(self.browser.find(f"#{name}")).select_by_value(value)

    def search(self, text: str) -> None:
        """Type into the text filter in place of what is there."""
        field = self.browser.find("#filter-text")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        if text:
            field.send_keys(text)

    def card(self, index: int) -> WebElement:
        """The gallery's card of a sample."""
        return self.browser.find(f'.card[data-index="{index}"]')

    def open_sample(self, index: int) -> None:
        """As a click on its card does."""
        card = self.card(index)
        self.browser.script('arguments[0].scrollIntoView({block: "center"})', card)
        card.click()
        self.shows(index)

    def shows(self, index: int) -> None:
        """Wait until the detail shows that sample."""
        self.browser.wait(DRAWN, str(index))

    def is_open(self) -> bool:
        """Whether the detail is."""
        return bool(self.browser.script('return document.querySelector("#detail").open'))

    def close(self) -> None:
        """Close the detail."""
        self.browser.find("#detail-close").click()
        self.browser.wait('return !document.querySelector("#detail").open')

    def picture(self, field: str) -> NDArray[np.uint8]:
        """RGBA of a field of the detail, uint8 (H, W, 4)."""
        return self.browser.pixels(self.browser.find(f'[data-field="{field}"] canvas.picture'))

    def slide(self, position: int) -> float:
        """Move the slider to one of its positions; k as the page then says it is."""
        self.browser.script(SET, self.browser.find("#k-slider"), position)
        return self.k()

    def type_k(self, text: str) -> None:
        """Type k in place of what is there."""
        field = self.browser.find("#k-number")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.TAB)

    def k(self) -> float:
        """The k that the page says it draws."""
        return float(str(self.browser.find("#k-number").get_property("value")))

    def row(self, index: int) -> int:
        """The sample's row in the findings."""
        return int(np.flatnonzero(self.findings.index == index)[0])

    def fragment(self) -> dict[str, str]:
        """What stands behind the #, decoded."""
        pairs: dict[str, str] = self.browser.script(
            "return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"
        )
        return pairs


def input_space(findings: Findings, row: int) -> NDArray[np.float32]:
    """x of a flagged sample, float32 (*input_shape)."""
    preprocess = findings.preprocess
    assert preprocess is not None
    x: NDArray[np.float32] = preprocess.to_input_space(findings.rows("input", [row]))[0]
    return x
