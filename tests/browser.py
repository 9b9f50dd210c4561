"""A real Chromium for pages: what is drawn, said and fetched, as a reader's own browser does it."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--force-color-profile=srgb",  # pixels are compared
)
DESKTOP, PHONE = (1280, 900), (360, 740)
COMPLAINTS = ("SEVERE", "WARNING")
PIXELS = """
const canvas = arguments[0];
// Of a copy: reading the page's own would make the browser complain of the page.
const copy = new OffscreenCanvas(canvas.width, canvas.height);
const context = copy.getContext("2d", {willReadFrequently: true});
context.drawImage(canvas, 0, 0);
const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
let text = "";
for (let i = 0; i < data.length; i += 8192)
  text += String.fromCharCode(...data.subarray(i, i + 8192));
return [canvas.height, canvas.width, btoa(text)];
"""
# WCAG 2.1, 1.4.3: contrast of every text that is seen, backgrounds laid over each other.
TEXTS = """
const seen = [];
const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function rgba(text) {
  probe.clearRect(0, 0, 1, 1);
  probe.fillStyle = "#000";
  probe.fillStyle = text;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
const over = (top, under) => top.slice(0, 3).map(
  (value, i) => value * top[3] + under[i] * (1 - top[3]));
function background(element) {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    layers.push(rgba(getComputedStyle(each).backgroundColor));
    if (layers.at(-1)[3] === 1) break;
  }
  const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark")
    && matchMedia("(prefers-color-scheme: dark)").matches;
  let color = dark ? [18, 18, 18] : [255, 255, 255];
  for (const layer of layers.reverse()) color = over(layer, color);
  return color;
}
function opacity(element) {
  let value = 1;
  for (let each = element; each; each = each.parentElement)
    value *= Number(getComputedStyle(each).opacity);
  return value;
}
function luminance(color) {
  const [r, g, b] = color.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement;
  if (!node.data.trim() || element.closest("script, style, noscript, option, :disabled")) continue;
  if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect();
  if (box.width <= 1 || box.height <= 1 || element.closest("[aria-disabled=true]")) continue;
  const style = getComputedStyle(element);
  if (style.clipPath !== "none" || style.clip !== "auto") continue;
  const under = background(element);
  const paint = element instanceof SVGElement ? style.fill : style.color;
  const ink = rgba(paint);
  ink[3] *= opacity(element);
  const [low, high] = [luminance(over(ink, under)), luminance(under)].sort((a, b) => a - b);
  const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
  seen.push({
    text: node.data.trim().slice(0, 60),
    element: `${element.tagName.toLowerCase()}#${element.id}.${element.getAttribute("class")}`,
    contrast: (high + 0.05) / (low + 0.05),
    needed: size >= 24 || (bold && size >= 18.66) ? 3 : 4.5,
  });
}
return seen;
"""


class Browser:
    """A window with one page at a time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(
        self,
        page: Path,
        fragment: str = "",
        *,
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        """Load the page anew, whatever was open before; `fragment` is what follows the #."""
        self.driver.get("about:blank")
        self.complaints()
        self.requests()
        self.resize(size)
        self.prefer(dark=dark)
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.driver.get(page.as_uri() + (f"#{fragment}" if fragment else ""))

    def cdp(self, command: str, **arguments: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools Protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, arguments)
        return answer

    def resize(self, size: tuple[int, int]) -> None:
        """Narrower than a window can be, too; narrow ones are phones."""
        width, height = size
        phone = width < 600
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: bool) -> None:
        """What the reader's system prefers: `dark`, `reduced_motion`, `forced_colors`."""
        names = {
            "dark": ("prefers-color-scheme", "dark", "light"),
            "reduced_motion": ("prefers-reduced-motion", "reduce", "no-preference"),
            "forced_colors": ("forced-colors", "active", "none"),
        }
        said = []
        for feature, value in features.items():
            name, yes, no = names[feature]
            said.append({"name": name, "value": yes if value else no})
        self.cdp("Emulation.setEmulatedMedia", features=said)

    def script(self, body: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body; `arguments` are its arguments."""
        return self.driver.execute_script(body, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first such element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        """All such elements, hidden ones too."""
        return self.driver.find_elements("css selector", selector)

    def seen(self, selector: str) -> list[WebElement]:
        """All such elements that are displayed."""
        return [each for each in self.all(selector) if each.is_displayed()]

    def wait(self, body: str, *arguments: Any, seconds: float = 10) -> Any:
        """The value of a JavaScript function body, once it is truthy."""
        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(
            lambda _: self.script(body, *arguments), f"never true: {body.strip()}"
        )

    def press(self, *keys: str) -> None:
        """Keys, one after the other, to whatever has the focus."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def focused(self) -> WebElement:
        """The element that has the focus; the body where none has."""
        return self.driver.switch_to.active_element

    def pixels(self, canvas: WebElement) -> NDArray[np.uint8]:
        """What a canvas shows, uint8 (H, W, 4), in its own pixels."""
        height, width, content = self.script(PIXELS, canvas)
        values = np.frombuffer(b64decode(content), np.uint8)
        return values.reshape(height, width, 4)

    def texts(self) -> list[dict[str, Any]]:
        """Every text that is seen: `text`, `element`, its `contrast` and the contrast `needed`."""
        seen: list[dict[str, Any]] = self.script(TEXTS)
        return seen

    def complaints(self) -> list[str]:
        """What the console was told since it was last asked: errors, warnings, CSP violations."""
        return [each["message"] for each in self._log("browser") if each["level"] in COMPLAINTS]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since this was last asked, CSP's refusals included."""
        events = (json.loads(each["message"]) for each in self._log("performance"))
        urls = [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
            # The window's own first page is Chromium's.
            and not event["message"]["params"]["documentURL"].startswith("chrome")
        ]
        return [url for url in urls if url != "about:blank"]

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def screenshot(self, out: Path, *, whole: bool = False) -> None:
        """What is seen, or the whole page, as PNG."""
        content = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        out.write_bytes(b64decode(content))


def installed() -> Mapping[str, str] | None:
    """Paths of `chromium` and its `chromedriver`; None where one of them isn't there."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        return None
    return {"chromium": chromium, "chromedriver": chromedriver}


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with that folder as its profile; closed at the end."""
    paths = installed()
    assert paths is not None
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths["chromedriver"]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
