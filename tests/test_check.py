"""What `audit check` says, to people and to CI servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import markdown  # type: ignore[import-untyped]
import pytest

import audit
from audit.check import CheckResult
from audit.check_markdown import escaped, markdown_from_check
from audit.check_text import MOST_ROWS, answer, text_from_check
from audit.errors import FindingsError, OptionError
from audit.gates.condense import condensed
from audit.github import MOST, annotations_from_check, defused
from nights import Tie, ties, write_night

HOSTILE = (
    "| a | b |\n|---|---|",
    "<script>alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "[link](javascript:alert(1))",
    "`code` **bold** ~~gone~~ $x$",
    "::error::gotcha",
    "\x1b[2J##[command]rm",
    "::stop-commands::x\r\n::set-env name=PATH::/evil",
    "www.evil.example @someone #1 :tada:",
    "100%0A::error::",
)


@pytest.fixture
def hostile(tmp_path: Path) -> CheckResult:
    flagged = [Tie(i, a=i % 10, b=(i + 1) % 10, label=i % 10) for i in range(30)]
    findings = write_night(tmp_path / "night.h5", flagged, classes=HOSTILE)
    return audit.check(findings, gates={"max_class_count": 0, "max_pair_count": {"warn": 0}})


def checked(tmp_path: Path, **gates: Any) -> CheckResult:
    findings = write_night(tmp_path / "n.h5", [Tie(1), Tie(2), Tie(3, a=1, b=2, label=1)])
    return audit.check(findings, gates=gates)


def test_text(tmp_path: Path) -> None:
    result = checked(tmp_path, max_rate=0.0002, max_class_count=3, guard_held=False)
    text = text_from_check(result, 90)
    head, *lines = text.splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(
        rf"findings  .*n\.h5: 3 near ties among 10,000 samples at ε = 0\.1, {when}", head
    )
    assert lines == [
        "",
        "status  gate                value     limit  why",
        "FAIL    max_rate            0.03%   ≤ 0.02%  3 near ties among 10,000 samples at ε = 0.1",
        "PASS    complete           10,000  ≥ 10,000  all samples of the dataset scanned",
        "PASS    max_nonfinite           0       ≤ 0  0 samples with NaN or infinite logits",
        "PASS    max_class_count         2       ≤ 3  10 classes pass; the most: 2 near ties of",
        "                                             1,000 samples labelled 4",
        "PASS    max_rate_increase       -         -  no baseline: nothing to compare with",
        "",
        "FAIL: 1 gate failed, 4 passed; no baseline",
    ]


@pytest.mark.parametrize("width", [80, 90, 100, 120])
def test_lines_fit(width: int, tmp_path: Path) -> None:
    old = write_night(tmp_path / "old.h5", ties(*range(5)))
    new = write_night(tmp_path / "new.h5", ties(*range(60)))
    gates = {"max_rate_increase_relative": 0.1, "max_class_count": 1}
    lines = text_from_check(audit.check(new, baseline=old, gates=gates), width).splitlines()
    assert max(len(line) for line in lines[3:]) <= width
    assert "not by chance" in " ".join(" ".join(lines).split())


def test_answers(tmp_path: Path) -> None:
    assert answer(checked(tmp_path)) == "PASS: 4 gates passed; no baseline"
    several = {"max_rate": {"warn": 0}, "max_count": 0, "max_pair_count": {"pairs": {"x/y": 1}}}
    assert answer(checked(tmp_path, **several)) == (
        "ERROR: 1 gate can't tell, 1 failed, 1 warned, 4 passed; no baseline"
    )


def test_a_thousand_failing_pairs_are_cut_short(tmp_path: Path) -> None:
    classes = [f"c{i}" for i in range(1000)]
    flagged = [Tie(i, a=i % 999, b=999, label=i % 999) for i in range(3000)]
    findings = write_night(tmp_path / "night.h5", flagged, classes=classes, scanned=50_000)
    result = audit.check(findings, gates={"max_pair_count": 2, "max_class_count": 3})
    text = text_from_check(result, 100)
    assert text.count("max_pair_count") == MOST_ROWS + 1
    assert "949 pairs more; --json lists all" in text
    assert text.index("max_pair_count[c0/c999]") < text.index("max_pair_count[c3/c999]")
    assert len(condensed(result.results)) == 999 + 4 + 3 + 1  # only the text is cut
    assert len(markdown_from_check(result)) < 2**16


def test_markdown(tmp_path: Path) -> None:
    result = checked(tmp_path, max_rate=0.0002)
    text = markdown_from_check(result)
    html = markdown.markdown(text, extensions=["tables"])
    assert "<h3>❌ audit check: FAIL: 1 gate failed, 4 passed; no baseline</h3>" in html
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[:5] == [
        "❌ FAIL",
        "max_rate",
        "0.03%",
        "≤ 0.02%",
        "3 near ties among 10,000 samples at ε = 0.1",
    ]


def test_markdown_of_a_stranger(hostile: CheckResult) -> None:
    text = markdown_from_check(hostile)
    html = markdown.markdown(text, extensions=["tables"])
    tags = set(re.findall(r"</?(\w+)", html))
    assert tags <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "p"}
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert all(len(re.findall(r"<t[hd]", row)) == 5 for row in rows)
    assert not re.search(r"(?i)(?<!\\)(:tada:|@someone|www\.)", text)
    assert not re.search(r"https?://", text)


def test_escaped() -> None:
    assert escaped("max_rate[4/9]: a|b\n`c`") == r"max\_rate\[4/9\]: a\|b \`c\`"
    assert escaped("17:10 <b>\x1b") == r"17\:10 &lt;b&gt;�"


def test_annotations(tmp_path: Path) -> None:
    lines = annotations_from_check(checked(tmp_path, max_rate=0.0002, max_count={"warn": 1}))
    assert lines == [
        "::error title=FAIL max_rate::0.03%25, expected ≤ 0.02%25: 3 near ties among 10,000 "
        "samples at ε = 0.1",
        "::warning title=WARN max_count::3, expected ≤ 1: 3 near ties among 10,000 samples at "
        "ε = 0.1",
        "::notice title=audit check::FAIL: 1 gate failed, 1 warned, 4 passed; no baseline",
    ]


def test_annotations_of_a_stranger(hostile: CheckResult) -> None:
    lines = annotations_from_check(hostile)
    command = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::[^\r\n]*")
    for line in lines:
        assert command.fullmatch(line)
        assert "##[" not in line
        assert line.isprintable()
    kinds = [line.split()[0] for line in lines]
    assert kinds == ["::error"] * MOST + ["::warning"] * MOST + ["::notice"]


def test_more_annotations_than_are_shown(tmp_path: Path) -> None:
    flagged = [Tie(i, a=0, b=i + 1, label=0) for i in range(30)]
    classes = [str(i) for i in range(31)]
    findings = write_night(tmp_path / "n.h5", flagged, classes=classes)
    lines = annotations_from_check(audit.check(findings, gates={"max_pair_count": 0}))
    assert len(lines) == MOST + 1
    assert lines[MOST - 1] == "::error title=audit check::21 more; the table lists them"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("PASS  gate", "PASS  gate"),
        ("   ::error::x", "   : :error::x"),
        ("::set-env name=A::b", ": :set-env name=A::b"),
        ("a ::error::x", "a ::error::x"),  # commands are at the start of a line
        ("x ##[command]y", "x ## [command]y"),
    ],
)
def test_defused(line: str, expected: str) -> None:
    assert defused(line) == expected


def test_a_mapping_takes_the_place_of_what_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = write_night(tmp_path / "n.h5", ties(1, 2, 3))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.toml").write_text("[gates]\nmax_count = 2\nlevel = 0.05\n")
    configured = audit.check(findings)
    assert (configured.status, configured.level) == ("FAIL", 0.05)
    assert audit.check(findings, level=0.2).level == 0.2
    given = audit.check(findings, gates={"max_rate": 0.5})
    assert (given.status, given.level) == ("PASS", 0.01)
    assert "max_count" not in given.by_gate


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    findings = write_night(tmp_path / "n.h5")
    with pytest.raises(OptionError, match=r"gates: no gate 'max_rte'; is max_rate meant"):
        audit.check(findings, gates={"max_rte": 1})
    with pytest.raises(OptionError, match=r"--level: level is 2; expected"):
        audit.check(findings, gates={}, level=2)
    for bad in (tmp_path / "no.h5", tmp_path):
        with pytest.raises(FindingsError):
            audit.check(bad, gates={})
        with pytest.raises(FindingsError):
            audit.check(findings, baseline=bad, gates={})
