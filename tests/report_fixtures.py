"""Fixtures of the tests that read pages: `pytest_plugins = ["report_fixtures"]` in a test module.

Where there is no Chromium, tests marked `browser` are skipped, and counted as such; with
`AUDIT_REQUIRE_BROWSER=1` they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from browser import Browser, installed, started
from reported import Reports

REQUIRED = "AUDIT_REQUIRE_BROWSER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Chromium, tests marked `browser` are skipped, unless that is forbidden."""
    if installed() is not None or os.environ.get(REQUIRED) == "1":
        return
    skip = pytest.mark.skip(reason="browser: no chromium and chromedriver on PATH")
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests: starting one takes more than a second."""
    if installed() is None:
        pytest.fail(f"no chromium and chromedriver on PATH, and {REQUIRED}=1 forbids to go without")
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; the test fails where the console was told of an error, or anything fetched."""
    chromium.complaints()
    chromium.requests()
    yield chromium
    complaints, requests = chromium.complaints(), chromium.requests()
    chromium.driver.get("about:blank")  # a page left open goes on drawing, also beside benchmarks
    assert complaints == []
    assert [url for url in requests if not url.startswith("file:")] == []


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Reports:
    """Reports by name: `reported["grey"]`."""
    folder = tmp_path_factory.mktemp("reported")
    return Reports(folder, lambda: request.getfixturevalue("mnist_h5"))
