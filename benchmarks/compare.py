"""Has a ratio to the peer of the same run fallen since an earlier run?

    python -m benchmarks.compare BASE.json NEW.json

Absolute times of two runs can't be compared: the machine, its clock and its neighbours differ. The
ratio to a peer that ran in the same rounds can. Its noise within a run is known from the rounds:
they are drawn again, with replacement, and the change of the ratio of medians computed, many times
(the percentile bootstrap: Efron and Tibshirani 1993, chapter 13). What differs between runs though
the code doesn't (where memory lay, which core, which neighbours) no round shows; `SLACK` is for
that. A ratio fell where even the upper bound of its change is below 1 - `SLACK`.

Exit code 0: none fell; 1: one did; 2: a file can't be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Range, Results, ResultsError, Row, load_results

SLACK = 0.05  # a guess until the same commit has been run twice on a quiet machine
CONFIDENCE = 0.99  # one-sided, since some forty rows are judged at once
DRAWS = 10_000
SEED = 0


@dataclass(frozen=True)
class Change:
    """Of one benchmark between two runs.

    Attributes:
        base: In the earlier run.
        new: In the later one.
        bounds: Between which the later ratio ÷ the earlier one lies.
    """

    base: Row
    new: Row
    bounds: Range

    @property
    def fell(self) -> bool:
        """By more than noise and slack."""
        return self.bounds.high < 1 - SLACK

    @property
    def rose(self) -> bool:
        """By more than noise and slack."""
        return self.bounds.low > 1 + SLACK


def change(base: Row, new: Row) -> Change:
    """What the rounds of both runs say."""
    rng = np.random.default_rng(SEED)
    drawn = _drawn_ratios(new, rng) / _drawn_ratios(base, rng)
    low, high = np.quantile(drawn, [1 - CONFIDENCE, CONFIDENCE])
    return Change(base, new, Range(float(low), float(high)))


def _drawn_ratios(row: Row, rng: np.random.Generator) -> NDArray[np.float64]:
    """Ratios of medians of rounds drawn with replacement, (`DRAWS`,); a round keeps its pair."""
    rounds = rng.integers(len(row.ours), size=(DRAWS, len(row.ours)))
    ours, peer = (np.median(np.array(costs)[rounds], axis=1) for costs in (row.ours, row.peer))
    return np.asarray(peer / ours)


def changes(base: Results, new: Results) -> dict[str, Change]:
    """Of every benchmark that both runs hold."""
    return {name: change(row, new.rows[name]) for name, row in base.rows.items()
            if name in new.rows}  # fmt: skip


def lines(base: Results, new: Results, found: dict[str, Change]) -> Iterator[str]:
    """The table, worst first, and what couldn't be judged."""
    yield f"{'verdict':8} {'base':>7} {'new':>7} {'change':>7}  bounds       benchmark"
    for name, each in sorted(found.items(), key=lambda item: item[1].bounds.high):
        verdict = "FELL" if each.fell else "rose" if each.rose else "same"
        ratio = each.new.ratio / each.base.ratio
        bounds = f"{each.bounds.low:.3f}-{each.bounds.high:.3f}"
        yield (
            f"{verdict:8} {each.base.ratio:7.3f} {each.new.ratio:7.3f} {ratio:7.3f}  {bounds:11}  "
            f"{name}"
        )
    for name in sorted(base.rows.keys() - new.rows.keys()):
        yield f"{'missing':8} {base.rows[name].ratio:7.3f} {'-':>7} {'-':>7}  {'-':11}  {name}"
    for name in sorted(new.rows.keys() - base.rows.keys()):
        yield f"{'new':8} {'-':>7} {new.rows[name].ratio:7.3f} {'-':>7}  {'-':11}  {name}"
    for name in sorted({*base.alone, *new.alone}):
        yield f"no peer, not judged: {name}"
    names = [str(run.machine.get("cpu", {}).get("brand_raw", "?")) for run in (base, new)]
    if names[0] != names[1]:
        yield f"different processors, ratios may differ for that: {names[0]}; {names[1]}"


def main() -> int:
    """Read both files, print the table."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="JSON of the earlier run")
    parser.add_argument("new", type=Path, help="JSON of the later run")
    options = parser.parse_args()
    try:
        base, new = load_results(options.base), load_results(options.new)
    except ResultsError as exc:
        print(f"compare: {exc}", file=sys.stderr)
        return 2
    found = changes(base, new)
    print("\n".join(lines(base, new, found)))
    fell = [name for name, each in found.items() if each.fell]
    print(f"{len(fell)} of {len(found)} fell")
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
