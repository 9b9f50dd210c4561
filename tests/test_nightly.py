"""The commands of docs/nightly.md, as they stand in the document, on fewer images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from audit.findings import load_findings
from oracles import write_dataset

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")
TRAINED_ON = 6000
REPEATED = 2000  # stands for the images that a clone doesn't have


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """Where everything is run."""
    folder = tmp_path_factory.mktemp("nightly")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "mnist.h5").symlink_to(mnist_h5)
    with h5py.File(mnist_h5) as file:
        images, labels = file["images"][()], file["labels"][()]
    write_dataset(folder / "mnist-train.h5", images[:TRAINED_ON], labels[:TRAINED_ON])
    write_dataset(
        folder / "mnist-all.h5",
        np.concatenate([images, images[:REPEATED]]),
        np.concatenate([labels, labels[:REPEATED]]),
    )
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """What all commands printed, one after the other."""
    commands = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input="".join(commands),
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_first_night_passes_and_says_that_it_is_the_first(said: str, folder: Path) -> None:
    first = load_findings(folder / "nightly/first.h5")
    assert (first.flagged, first.scanned) == (12, 10_000)
    assert f"{first.flagged} near ties of {first.scanned:,}" in DOCUMENT.replace(
        "10,000,", "10,000"
    )
    assert said.count("PASS: 8 gates passed; no baseline") == 2


def test_the_second_fails_by_the_comparison(said: str, folder: Path) -> None:
    assert said.count("exit code 1") == 2
    failed = re.findall(r"^FAIL +(\w+)", said, re.MULTILINE)
    assert failed.count("max_rate_increase") == 2  # trained on less, it may fail others as well
    gates = ElementTree.parse(folder / "nightly/gates.xml")
    cases = [
        case.get("name") for case in gates.iter("testcase") if case.find("failure") is not None
    ]
    assert "max_rate_increase" in cases
    assert "FAIL" in (folder / "nightly/gates.md").read_text(encoding="utf-8")


def test_the_difference_is_that_of_the_files(said: str, folder: Path) -> None:
    with (
        h5py.File(folder / "nightly/first-all.h5") as old,
        h5py.File(folder / "nightly/second-all.h5") as new,
        h5py.File(folder / "nightly/diff.h5") as diff,
    ):
        before, after = old["flagged/index"][()], new["flagged/index"][()]
        assert diff.attrs["newly"] == len(np.setdiff1d(after, before))
        assert diff.attrs["left"] == len(np.setdiff1d(before, after))
        changed = (old["scan/classes"][:, 0] != new["scan/classes"][:, 0]).sum()
    (flips,) = re.findall(r"^flips +([\d,]+) predictions changed", said, re.MULTILINE)
    # Of what float64 decided, the fast pass's order may be another.
    assert abs(int(flips.replace(",", "")) - changed) <= len(before) + len(after)


def test_pictures_and_page_are_there(said: str, folder: Path) -> None:
    night = folder / "nightly"
    assert (night / "history.png").stat().st_size > 5_000
    assert len(list((night / "figures").glob("near-tie-*.png"))) == 2
    page = (night / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in page
    assert "max_rate_increase" in page


def test_the_gates_shown_are_the_gates_run() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert tomllib.loads(shown) == tomllib.loads((ROOT / "examples/audit.toml").read_text())
