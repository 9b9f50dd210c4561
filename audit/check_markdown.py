"""`audit check --markdown`: the summary of a CI job's page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from audit.check_text import MOST_ROWS, answer, described
from audit.gates.condense import condensed, worst_first
from audit.gates.result import CheckResult, Status

if TYPE_CHECKING:
    from audit.findings import Findings

SIGNS: dict[Status, str] = {"PASS": "✅", "WARN": "⚠️", "FAIL": "❌", "ERROR": "⛔"}
# What means something inside a line of GitHub's or GitLab's Markdown: emphasis, code, links, HTML,
# tables, formulas, mentions, emoji, addresses, references.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$@#!&^]|:(?=\S)|(?i:(?<=www)\.))")


def markdown_from_check(result: CheckResult) -> str:
    """A heading with the answer, then a table, the worst gates first."""
    rows = [
        f"| {SIGNS[row.status]} {row.status} | {escaped(row.name)} | {escaped(row.shown_value)} "
        f"| {escaped(row.shown_limit)} | {escaped(row.message)} |"
        for row in worst_first(condensed(result.results, MOST_ROWS))
    ]
    lines = [
        f"### {SIGNS[result.status]} audit check: {escaped(answer(result))}",
        "",
        "| status | gate | value | limit | why |",
        "| :-- | :-- | --: | --: | :-- |",
        *rows,
        "",
        _line("Findings", result.findings),
    ]
    if result.baseline is not None:
        lines += ["", _line("Baseline", result.baseline)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """One line in which nothing is markup: names and paths may come from a stranger's file."""
    line = "".join(each if each.isprintable() else "�" for each in " ".join(text.split()))
    return SPECIAL.sub(r"\\\1", line).replace(r"\<", "&lt;").replace(r"\>", "&gt;")


def _line(what: str, findings: Findings) -> str:
    return f"{what} {escaped(described(findings))}"
