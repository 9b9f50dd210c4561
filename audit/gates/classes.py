"""Class names as gates and tables show them: they come from files, perhaps a stranger's."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audit.errors import FindingsError
from audit.gates.judge import CanNotTellError

if TYPE_CHECKING:
    from audit.findings import Findings

LONGEST = 40
ELLIPSIS = "…"


def pair_counts(findings: Findings) -> NDArray[np.int64]:
    """Flagged samples per unordered pair, int64 (C, C), a < b; the rest is 0.

    Raises:
        FindingsError: What is recorded can't be.
    """
    pairs = findings.pairs
    if pairs.shape[0] != pairs.shape[1]:
        raise FindingsError(f"{findings.path}: /summary/pairs of {pairs.shape}; expected a square")
    return np.triu(pairs + pairs.T, 1)


def shown_classes(findings: Findings, classes: int) -> tuple[str, ...]:
    """A name a class, each another, in one short printable line."""
    names = findings.bundle.get("classes")
    names = names if isinstance(names, list) else []
    shown = [_shown(names[i]) if i < len(names) else f"class {i}" for i in range(classes)]
    times = Counter(shown)
    return tuple(
        name if times[name] == 1 and name else f"{name} (class {i})".strip()
        for i, name in enumerate(shown)
    )


def find_class(key: str, classes: Sequence[str]) -> int:
    """The class of that name or, where none has it, of that number.

    Raises:
        CanNotTellError: There is none.
    """
    name = _shown(key)
    if name in classes:
        return classes.index(name)
    if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(classes):
        return int(name)
    near = _nearest(name, classes)
    raise CanNotTellError(f"no class {name!r} in these findings{near}")


def find_pair(key: str, classes: Sequence[str]) -> tuple[int, int]:
    """The two classes of NAME/NAME, in ascending order.

    Raises:
        CanNotTellError: There are none such, or it could be read in two ways.
    """
    parts = key.split("/")
    found = set()
    reason = CanNotTellError(f"no pair {_shown(key)!r}: expected NAME/NAME")
    for at in range(1, len(parts)):
        halves = "/".join(parts[:at]), "/".join(parts[at:])
        try:
            a, b = (find_class(half, classes) for half in halves)
        except CanNotTellError as exc:
            reason = exc
            continue
        if a != b:
            found.add((min(a, b), max(a, b)))
    if len(found) > 1:
        raise CanNotTellError(
            f"the pair {_shown(key)!r} can be read in {len(found)} ways; give class numbers"
        )
    if not found:
        raise reason
    return found.pop()


def _nearest(name: str, classes: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(itertools.islice(classes, 10_000)), n=1)
    return f"; is {near[0]!r} meant?" if near else ""


def _shown(name: object) -> str:
    """The middle is left out of a long one: names often differ at their ends only."""
    text = str(name)
    if len(text) > 64 * LONGEST:  # megabytes are not looked through
        text = f"{text[: 32 * LONGEST]} {text[-32 * LONGEST :]}"
    line = "".join(each if each.isprintable() else "�" for each in " ".join(text.split()))
    if len(line) > LONGEST:
        tail = LONGEST // 3
        line = f"{line[: LONGEST - tail - 1].rstrip()}{ELLIPSIS}{line[-tail:].lstrip()}"
    return line
