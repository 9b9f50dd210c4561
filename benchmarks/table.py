"""The Markdown tables of README.md, from what `make bench` wrote.

python -m benchmarks.table .benchmarks/latest.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Range, Results, ResultsError, Row, load_results

TIMES = "\N{MULTIPLICATION SIGN}"


def lines(results: Results) -> Iterator[str]:
    """One table of contests, one of shares of the limit, and where they were measured."""
    contests = [row for row in results.rows.values() if not row.limit]
    limits = [row for row in results.rows.values() if row.limit]
    if contests:
        yield "| work | against | ratio (80 % of rounds) | goal | reached |"
        yield "| --- | --- | --- | --- | --- |"
        for row in contests:
            yield f"| {row.work} | {row.against} | {_cells(row)} |"
        yield ""
    if limits:
        yield "| work | its slowest stage, alone | share of the limit | goal | reached |"
        yield "| --- | --- | --- | --- | --- |"
        for row in limits:
            yield f"| {row.work} | {row.against} | {_cells(row)} |"
        yield ""
    notes = list(dict.fromkeys(row.note for row in results.rows.values() if row.note))
    yield from (f"- {note}" for note in notes)
    yield from [""] if notes else []
    yield _measured_on(results)


def _cells(row: Row) -> str:
    """Ratio, goal, reached; of costs the other way round."""
    ratio, spread, goal, sign = row.ratio, row.spread, row.goal, "≥"
    if row.cost:
        ratio, spread, sign = 1 / ratio, Range(1 / spread.high, 1 / spread.low), "≤"
        goal = None if goal is None else 1 / goal
    times = "" if row.limit else TIMES
    reached = {True: "yes", False: "**no**", None: "-"}[row.reached]
    shown = f"{ratio:.2f}{times} ({spread.low:.2f}-{spread.high:.2f})"
    return f"{shown} | {'-' if goal is None else f'{sign} {goal:.4g}{times}'} | {reached}"


def _measured_on(results: Results) -> str:
    machine, commit = results.machine, results.commit
    versions = ", ".join(f"{name} {each}" for name, each in machine.get("versions", {}).items())
    changed = " with uncommitted changes" if commit.get("dirty") else ""
    return (
        f"{results.date[:10]}, commit {str(commit.get('id'))[:12]}{changed}, "
        f"{machine.get('cpu', {}).get('brand_raw', machine.get('machine'))}, "
        f"{machine.get('processors', '?')} processors{_gpu(machine.get('gpu'))}, "
        f"Python {machine.get('python_version')}, {versions}."
    )


def _gpu(name: object) -> str:
    return f", {name}" if name else ""


def main() -> int:
    """Read the file, print the tables."""
    parser = argparse.ArgumentParser(prog="table", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON that `make bench` wrote")
    options = parser.parse_args()
    try:
        results = load_results(options.results)
    except ResultsError as exc:
        print(f"table: {exc}", file=sys.stderr)
        return 2
    print("\n".join(lines(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
