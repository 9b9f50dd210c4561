"""Takes the pictures of docs/nightly.md from what its commands left: `make pictures`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

from PIL import Image

from browser import PHONE, Browser, started

COLUMNS = "92"
SETTLED = 1.0  # seconds until what is drawn lazily is drawn
TERMINAL = {
    "nightly-first": ("check", "first.h5"),
    "nightly-second": ("check", "second.h5", "--baseline", "first.h5"),
    "nightly-diff": ("diff", "first-all.h5", "second-all.h5"),
}
DRAWN = {
    "nightly-history": "history.png",
    "nightly-tie-first": "figures/near-tie-4860.png",
    "nightly-tie-second": "figures/near-tie-8094.png",
}
PAGE = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #fafaf8; }
pre { display: inline-block; margin: 0; padding: 14px 18px; color: #1c1e21;
      font: 13px/1.4 "DejaVu Sans Mono", monospace; }
</style><pre>"""


def save(picture: Image.Image, path: Path) -> None:
    """With a palette, which halves the repository's share of it."""
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def shot(browser: Browser, size: tuple[int, int]) -> Image.Image:
    """What a window of that size shows."""
    browser.resize(size)
    time.sleep(SETTLED)
    return Image.open(io.BytesIO(browser.driver.get_screenshot_as_png()))


def terminal(browser: Browser, night: Path, command: tuple[str, ...], folder: Path) -> Image.Image:
    """What a command prints, below itself."""
    done = subprocess.run(
        [Path(sys.executable).parent / "audit", *command],
        cwd=night,
        env=os.environ | {"COLUMNS": COLUMNS},
        capture_output=True,
        text=True,
        check=False,
    )
    text = f"$ audit {' '.join(command)}\n{done.stdout}"
    if done.returncode:
        text += f"\n$ echo $?\n{done.returncode}\n"
    page = folder / "terminal.html"
    page.write_text(f"{PAGE}{escape(text)}</pre>", encoding="utf-8")
    browser.open(page, size=(1600, 1600))
    box = browser.driver.execute_script(
        "const box = document.querySelector('pre').getBoundingClientRect();"
        "return [Math.ceil(box.width), Math.ceil(box.height)]"
    )
    return shot(browser, (box[0], box[1]))


def main(night: Path, out: Path) -> None:
    """Take all of them.

    Args:
        night: The folder in which the document's commands ran.
        out: Where the pictures go.
    """
    report = (night / "report.html").resolve()
    with tempfile.TemporaryDirectory() as scratch, started(Path(scratch)) as browser:
        for name, command in TERMINAL.items():
            save(terminal(browser, night, command, Path(scratch)), out / f"{name}.png")
        browser.open(report, size=(1200, 1500))
        save(shot(browser, (1200, 1500)), out / "nightly-report.png")
        browser.open(report, "sample=9427&k=0.5", size=(1200, 800))
        save(shot(browser, (1200, 800)), out / "nightly-detail.png")
        browser.open(report, size=PHONE, dark=True)
        overview = shot(browser, PHONE)
        browser.open(report, "sample=9427&k=0.5", size=PHONE, dark=True)
        detail = shot(browser, PHONE)
        both = Image.new("RGB", (2 * PHONE[0] + 20, PHONE[1]), "white")
        both.paste(overview, (0, 0))
        both.paste(detail, (PHONE[0] + 20, 0))
        save(both, out / "nightly-phone.png")
    for name, source in DRAWN.items():
        with Image.open(night / source) as picture:
            save(picture, out / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
