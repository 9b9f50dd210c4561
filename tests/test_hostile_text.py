"""Text of strangers on a terminal: names, paths and attributes with escapes, C1 and bidi."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audit
from audit.bundle import MANIFEST, load_bundle
from audit.check_markdown import escaped
from audit.cli.output import MOST_CHARACTERS, echo_lines, printable
from audit.history_text import _cell
from audit.junit import _legal
from audit.reporting.page import script_json
from fuzzing.kind import SEEDS
from made_findings import Tie, write_findings

Run = Callable[..., "CompletedProcess[str]"]
# An escape that clears the screen, its one-byte form, text that turns around, lines of its own.
EVIL = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\u2028f\rg\nscanned   9 samples\x00\x7f\ud800h"
HARMFUL = ("\x1b", "\x9b", "\u202e", "\u2066", "\u2028", "\r", "\x00", "\x7f")


def check(text: str) -> None:
    """Nothing that a terminal takes for more than text, and no line that a stranger wrote."""
    assert [each for each in HARMFUL if each in text] == []
    assert not any(line.startswith("scanned   9") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.fixture
def findings_h5(tmp_path: Path) -> Path:
    names = [EVIL, EVIL + "2", "cat", "dog"]
    dataset = {"path": EVIL, "images": EVIL, "labels": EVIL, "samples": 100, "shape": [2]}
    dataset |= {"dtype": EVIL, "fingerprint": EVIL}
    return write_findings(
        tmp_path / "f.h5",
        [Tie(3)],
        name=EVIL,
        classes=names,
        dataset=dataset,
        created=EVIL.split("\x00")[0],
    )


@pytest.mark.parametrize(
    "command",
    [
        ("info", "f.h5"),
        ("check", "f.h5", "--gate", "max_class_rate=0.001"),
        ("diff", "f.h5", "f.h5"),
        ("history", "f.h5"),
        ("figure", "f.h5", "--index", "4"),
        ("ascend", "f.h5"),
    ],
    ids=lambda command: command[0],
)
def test_findings_of_a_stranger(command: tuple[str, ...], findings_h5: Path, run_here: Run) -> None:
    done = run_here(*command)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2)
    check(done.stdout + done.stderr)


def test_info_of_a_dataset(tmp_path: Path, run_here: Run) -> None:
    name = EVIL.replace("\x00", "").replace("\ud800", "")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[f"{name}/images"] = np.zeros((4, 2), np.uint8)
        file[f"{name}/labels"] = np.zeros(4, int)
        file.attrs["audit_bundle"] = name
    done = run_here("info", "a.h5")
    assert done.returncode == 0
    assert "labels" in done.stdout
    check(done.stdout + done.stderr)
    for arguments in (("scan", "a.h5", "--eps", "1"), ("info", "a.h5", "--images", "z")):
        done = run_here(*arguments)
        assert done.returncode == 2
        check(done.stdout + done.stderr)


@pytest.fixture
def evil_bundle(tmp_path: Path) -> Path:
    """A bundle with such names; the graphs are those of the corpus."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in (SEEDS / "bundle").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"name": EVIL, "classes": [EVIL, EVIL + "2", "c"], "producer": {EVIL: EVIL}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_info_of_a_bundle(evil_bundle: Path, run_here: Run) -> None:
    done = run_here("info", "bundle")
    assert done.returncode == 0
    check(done.stdout + done.stderr)
    assert json.loads(run_here("info", "bundle", "--json").stdout)["name"] == EVIL


def test_summary_of_a_scan(
    evil_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the summary's own function: whether such a bundle is trusted is another question."""
    from audit.summary import summary_from_findings, text_from_summary

    names = load_bundle(evil_bundle).manifest.classes
    path = write_findings(
        tmp_path / "f.h5",
        [Tie(3)],
        name=EVIL,
        classes=[*names, "d"],
        engine={"guard": 0.1, "rescans": 0, "checked": 3, "miss_rate_bound": 0.1},
    )
    summary = summary_from_findings(audit.load_findings(path))
    echo_lines(text_from_summary(summary))
    check(capsys.readouterr().out)


ANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
TEXT = st.text(alphabet=st.one_of(st.characters(), st.sampled_from([*HARMFUL, "\n", "\ud800"])))


@ANY
@given(TEXT)
def test_any_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text * 999)) <= MOST_CHARACTERS


@ANY
@given(TEXT)
def test_any_text_in_junit(text: str) -> None:
    import xml.etree.ElementTree as ET

    root = ET.Element("a", {"b": _legal(text)})
    root.text = _legal(text)
    again = ET.fromstring(ET.tostring(root, encoding="utf-8"))
    assert (again.text or "").replace("\r", "\n") == _legal(text).replace("\r\n", "\n").replace(
        "\r", "\n"
    )
    assert again.get("b") is not None


@ANY
@given(TEXT)
def test_any_text_in_markdown(text: str) -> None:
    line = escaped(text)
    assert "\n" not in line
    assert line.isprintable()
    assert "<" not in line


@ANY
@given(TEXT)
def test_any_text_in_a_spreadsheet(text: str) -> None:
    cell = _cell(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert cell.isprintable()


@ANY
@given(TEXT)
def test_any_text_in_a_page(text: str) -> None:
    document = script_json({"name": text})
    assert document.isascii()
    assert not set("<>&") & set(document)
    assert json.loads(document) == {"name": text}
