"""Names and numbers as the page shows them: they come from strangers' files, and room is short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from audit.findings_text import made_at, shown_date
from audit.near_tie import class_names_of_findings, name_of_class

if TYPE_CHECKING:
    from audit.findings import Findings

MAX_NAME = 80
ELLIPSIS = "…"
NONE = "\N{EN DASH}"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # Persian or Hindi can't do without


class ClassNames:
    """Names of the classes, whatever number is asked for."""

    def __init__(self, findings: Findings) -> None:
        """Take them from the record of the bundle.

        Raises:
            FindingsError: It has none.
        """
        self._names = class_names_of_findings(findings)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, class_index: int) -> str:
        """That class's name, shortened; of one that has none, its number."""
        return shortened(name_of_class(self._names, class_index)) or f"class {class_index}"


def one_line(text: str) -> str:
    """As people can read it: nothing that hides, or turns the text around it."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() or each in JOINERS else REPLACEMENT for each in line)


def shortened(text: str) -> str:
    """One line of at most `MAX_NAME` characters.

    The middle is what is left out: names often differ at their ends only.
    """
    if len(text) > 64 * MAX_NAME:  # megabytes are not looked through
        text = f"{text[: 32 * MAX_NAME]} {text[-32 * MAX_NAME :]}"
    line = one_line(text)
    if len(line) <= MAX_NAME:
        return line
    tail = MAX_NAME // 3
    return f"{line[: MAX_NAME - tail - 1].rstrip()}{ELLIPSIS}{line[-tail:].lstrip()}"


def number(value: float | None, digits: int = 3) -> str:
    """Few digits; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+")
    return text.replace("-", "\N{MINUS SIGN}")


def moment(text: str) -> str:
    """A date and time of ISO 8601 to the minute, in UTC; anything else as it is."""
    return shortened(text) if made_at(text) is None else f"{shown_date(text)} UTC"
