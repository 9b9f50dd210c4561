"""What docs/gates.md shows is what happens, and its numbers are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scipy.stats import binomtest

from audit.gates import DEFAULTS, GATES, KNOWN
from conftest import Run

TEXT = (Path(__file__).parents[1] / "docs" / "gates.md").read_text()


def block(language: str) -> str:
    """The one fenced block of that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return str(found)


def shown() -> str:
    """The block without a language that shows the table."""
    return TEXT.partition("```\nfindings")[2].partition("```\n")[0]


def test_the_example(run_audit: Run, tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(block("toml"))
    run_audit("data", "mnist", check=True)
    run_audit("scan", "mnist.h5", "--eps", "0.1", check=True)
    environment = {**os.environ, "COLUMNS": "100"}  # as in a log
    done = run_audit("check", "mnist.findings.h5", env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    when = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
    assert when.sub("", done.stdout) == when.sub("", f"findings{shown()}")
    out = subprocess.check_output([sys.executable, "-c", block("python")], cwd=tmp_path, text=True)
    assert out.startswith("WARN\nPASS complete 10,000 ≥ 10,000 all samples")


def test_every_gate_is_there() -> None:
    table = TEXT.partition("## All gates")[2].partition("\n\nWhat is **on**")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert set(names) == set(GATES)
    on = {name for row in rows if "**on**" in row for name in re.findall(r"^\| `(\w+)`", row)}
    assert on == set(DEFAULTS) - {"level"}
    assert set(DEFAULTS) <= set(KNOWN)


def test_numbers_of_the_text() -> None:
    def p(new: int, gone: int) -> float:
        return float(binomtest(new, new + gone, 0.5, alternative="greater").pvalue)

    assert f"p = {p(5, 3):.2f} and\npasses" in TEXT
    assert f"p = {p(28, 4):.0e} and fails" in TEXT
    assert p(7, 0) <= 0.01 < p(6, 0)
