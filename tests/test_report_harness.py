"""The harness of the report's tests sees what is wrong with a page, and what isn't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from browser import PHONE, Browser

pytest_plugins = ["report_fixtures"]
pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><title>x</title>
<style>body {{ background: #fff; color: #000; margin: 0 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #000; color: #fff }} }}</style>{body}"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def write(page: Path, body: str, policy: str = "default-src * 'unsafe-inline'") -> Path:
    page.write_text(PAGE.format(policy=policy, body=body), encoding="utf-8")
    return page


@pytest.mark.parametrize("call", ["console.error('x')", "console.warn('x')", "undefined.x"])
def test_it_hears_the_console(call: str, browser: Browser, page: Path) -> None:
    browser.open(write(page, "<script>console.log('fine')</script>"))
    assert browser.complaints() == []
    browser.open(write(page, f"<script>{call}</script>"))
    assert len(browser.complaints()) == 1
    assert browser.complaints() == []


def test_it_sees_what_is_fetched_and_what_a_policy_refuses(browser: Browser, page: Path) -> None:
    body = "<img src='other.png' alt=''><img src='https://example.invalid/x.png' alt=''>"
    browser.open(write(page, body, "default-src 'none'; style-src 'unsafe-inline'"))
    browser.wait("return document.readyState === 'complete'")
    assert sorted(browser.requests()) == sorted(
        [page.as_uri(), (page.parent / "other.png").as_uri(), "https://example.invalid/x.png"]
    )
    assert len(browser.complaints()) == 2


@pytest.mark.parametrize(
    ("style", "contrast"),
    [
        ("color: #000", 21),
        ("color: #767676", 4.54),
        ("color: rgb(0 0 0 / 50%)", 3.98),
        ("opacity: 0.5", 3.98),
        ("background: #777", 4.69),
        ("background: rgb(0 0 0 / 50%)", 5.26),
    ],
)
def test_it_measures_contrast(style: str, contrast: float, browser: Browser, page: Path) -> None:
    browser.open(write(page, f"<p style='{style}'>words</p><p hidden>none</p>"))
    (text,) = browser.texts()
    assert text["text"] == "words"
    assert text["contrast"] == pytest.approx(contrast, abs=0.03)
    assert text["needed"] == 4.5


def test_it_knows_dark_rooms_and_phones(browser: Browser, page: Path) -> None:
    browser.open(write(page, "<h1>large</h1>"), size=PHONE, dark=True)
    (text,) = browser.texts()
    assert text["contrast"] == pytest.approx(21)
    assert text["needed"] == 3
    assert browser.script("return [innerWidth, getComputedStyle(document.body).color]") == [
        PHONE[0],
        "rgb(255, 255, 255)",
    ]


def test_it_reads_pixels(browser: Browser, page: Path) -> None:
    body = """<canvas width=3 height=2></canvas><script>
    const context = document.querySelector("canvas").getContext("2d");
    context.fillStyle = "rgb(10 20 30)"; context.fillRect(2, 1, 1, 1);</script>"""
    browser.open(write(page, body))
    pixels = browser.pixels(browser.find("canvas"))
    assert pixels.shape == (2, 3, 4)
    assert pixels[1, 2].tolist() == [10, 20, 30, 255]
    assert np.count_nonzero(pixels) == 4


def test_it_runs_no_scripts_where_told(browser: Browser, page: Path) -> None:
    body = "<noscript>without</noscript><script>document.title = 'ran'</script>"
    browser.open(write(page, body), scripts=False)
    assert browser.driver.title == "x"
    assert browser.find("body").text == "without"
    browser.open(page)
    assert browser.driver.title == "ran"
