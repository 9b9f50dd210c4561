"""What one contest measured: a row of the table, and of the JSON file that `make bench` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KEY = "contest"  # in pytest-benchmark's extra_info
QUANTILES = (0.1, 0.9)


class ResultsError(ValueError):
    """A file that isn't what `make bench` writes; the message is one line."""


class Range(NamedTuple):
    """The middle of a distribution."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One piece of work, done by ours and by a peer in the same rounds.

    Attributes:
        work: What was done.
        against: By whom else.
        limit: The peer isn't a contestant but a stage of the work, measured alone: the ratio is
            then the share of the limit.
        unit: Of `ours` and `peer`: less is better.
        ours: What each round cost us.
        peer: What the same round cost the peer.
        goal: Least ratio that was aimed at, or None.
        cost: The ratio reads better the other way round: ours ÷ the peer's, at most.
        note: What else should stand beside the numbers.
    """

    work: str
    against: str
    limit: bool = False
    unit: str = "s"
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    goal: float | None = None
    cost: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if not self.ours or len(self.ours) != len(self.peer):
            raise ResultsError(f"{len(self.ours)} rounds of ours and {len(self.peer)} of the peer")
        if not all(np.isfinite(self.ours + self.peer)) or min(self.ours + self.peer) <= 0:
            raise ResultsError("costs that aren't finite numbers above 0")

    @property
    def ratio(self) -> float:
        """The peer's median ÷ ours: above 1 we are better."""
        return float(np.median(self.peer) / np.median(self.ours))

    @property
    def spread(self) -> Range:
        """Of the ratios of the single rounds, all but the outer tenths."""
        low, high = np.quantile(np.divide(self.peer, self.ours), QUANTILES)
        return Range(float(low), float(high))

    @property
    def reached(self) -> bool | None:
        """Whether the goal was; None without one."""
        return None if self.goal is None else self.ratio >= self.goal

    def to_extra_info(self) -> dict[str, Any]:
        """For `benchmark.extra_info`; what follows from the rounds is written out for readers."""
        measured = asdict(self) | {"ratio": self.ratio, "spread": self.spread}
        return {KEY: measured | {"reached": self.reached}}


def row_from_extra_info(extra_info: Mapping[str, Any]) -> Row | None:
    """The inverse; None where the benchmark wasn't a contest.

    Raises:
        ResultsError: It was, and something is missing or malformed.
    """
    if KEY not in extra_info:
        return None
    try:
        given = {name: extra_info[KEY][name] for name in Row.__dataclass_fields__}
        given |= {name: tuple(map(float, given[name])) for name in ("ours", "peer")}
        return Row(**given)
    except (KeyError, TypeError, ValueError) as exc:
        raise ResultsError(f"not a contest's record ({type(exc).__name__}: {exc})") from exc


@dataclass(frozen=True)
class Results:
    """A file that `make bench` wrote.

    Attributes:
        rows: By the name of the test.
        alone: Benchmarks without a peer, which nothing can be judged by.
        machine: Of pytest-benchmark, with versions.
        commit: Of pytest-benchmark.
        date: When, ISO 8601.
    """

    rows: dict[str, Row]
    alone: tuple[str, ...]
    machine: dict[str, Any]
    commit: dict[str, Any]
    date: str


def load_results(path: Path) -> Results:
    """Read the file.

    Raises:
        ResultsError: It can't be read, or isn't one.
    """
    expected = "expected a file that `make bench` wrote"
    try:
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise ResultsError(f"{path}: can't be read ({exc.strerror}); {expected}") from exc
    except ValueError as exc:
        raise ResultsError(f"{path}: not JSON; {expected}") from exc
    try:
        rows, alone = {}, []
        for benchmark in document["benchmarks"]:
            name = benchmark["fullname"]
            row = row_from_extra_info(benchmark["extra_info"])
            if row is None:
                alone.append(name)
            else:
                rows[name] = row
        results = Results(
            rows,
            tuple(alone),
            dict(document["machine_info"]),
            dict(document["commit_info"]),
            str(document["datetime"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        reason = exc if isinstance(exc, ResultsError) else f"{type(exc).__name__}: {exc}"
        raise ResultsError(f"{path}: {reason}; {expected}") from exc
    if not rows:
        raise ResultsError(f"{path}: holds no contest; {expected}")
    return results
