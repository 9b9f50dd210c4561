"""What one line of a table says of findings, which a stranger may have written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from audit.errors import FindingsError

if TYPE_CHECKING:
    from audit.findings import Findings

YEARS = range(1970, 3000)
NAME_LIMIT = 28  # characters of a name from a file, in a column


def made_at(created: str) -> datetime | None:
    """The time in UTC; None where the text is none, or none at which a scan was made."""
    try:
        moment = datetime.fromisoformat(created)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year in YEARS else None


def shown_date(created: str) -> str:
    """Date and minute in UTC; what isn't a time, as it stands."""
    moment = made_at(created)
    return shortened(created) if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def class_names(findings: Findings) -> tuple[str, ...]:
    """One a class; empty where none are recorded."""
    from audit.near_tie import class_names_of_findings

    try:
        return class_names_of_findings(findings)
    except FindingsError:
        return ()


def bundle_name(findings: Findings) -> str:
    """The bundle's name; a dash where none is recorded."""
    name = findings.bundle.get("name")
    return name if isinstance(name, str) else "-"


def one_line(text: str) -> str:
    """Without line breaks: a stranger's text must not look like a line of ours."""
    return " ".join(text.split())


def shortened(text: str, limit: int = NAME_LIMIT) -> str:
    """At most so many characters on one line; the middle is what is left out."""
    line = one_line(text[: 64 * limit])
    if len(line) <= limit:
        return line
    tail = limit // 3
    return f"{line[: limit - tail - 1]}…{line[-tail:]}"
