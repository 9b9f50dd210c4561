"""GitHub Actions: annotations of a job, and text that its runner doesn't take for commands.

https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions; the escapes are
those of @actions/core.
"""

from __future__ import annotations

from audit.check_text import answer, explained
from audit.gates.condense import condensed, worst_first
from audit.gates.result import CheckResult, Status

MOST = 10  # of each kind: GitHub shows no more a step
COMMANDS: dict[Status, str] = {"ERROR": "error", "FAIL": "error", "WARN": "warning"}


def annotations_from_check(result: CheckResult) -> list[str]:
    """A line a gate, class or pair that doesn't pass, and one with the answer."""
    lines: list[str] = []
    rows = worst_first(condensed(result.results))
    for command in dict.fromkeys(COMMANDS.values()):
        found = [row for row in rows if COMMANDS.get(row.status) == command]
        shown = found if len(found) <= MOST else found[: MOST - 1]
        lines += [_command(command, f"{row.status} {row.name}", explained(row)) for row in shown]
        if len(shown) < len(found):
            more = f"{len(found) - len(shown):,} more; the table lists them"
            lines.append(_command(command, "audit check", more))
    return [*lines, _command("notice", "audit check", answer(result))]


def defused(line: str) -> str:
    """The line, without what the runner would take for a command."""
    line = line.replace("##[", "## [")
    start = len(line) - len(line.lstrip())
    return f"{line[:start]}: {line[start + 1 :]}" if line.startswith("::", start) else line


def _command(command: str, title: str, message: str) -> str:
    title = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{command} title={title}::{_data(message)}"


def _data(text: str) -> str:
    line = "".join(each if each.isprintable() else "�" for each in " ".join(text.split()))
    return line.replace("##[", "## [").replace("%", "%25")
