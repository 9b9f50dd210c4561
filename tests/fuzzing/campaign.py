"""Many mutations of every kind, and what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from processes import running

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# Of 100 mutations; the rest is shared by those that aren't named.
SHARES = {
    "dataset": 40, "findings": 20, "ascents": 8, "diff": 4, "manifest": 8, "onnx": 6, "config": 6,
    "weights": 4, "safetensors": 4,
}  # fmt: skip
ROUND = 1000  # mutations; a campaign that is cut short has read some of every kind


@dataclass
class Campaign:
    """Counts and failures.

    Attributes:
        counts: (kind, outcome) → inputs.
        slowest: Kind → most seconds that one input took.
        failures: In words: kind, number, what happened.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        """A line a kind."""
        lines = [
            f"{'kind':12} {'inputs':>7} {'read':>7} {'refused':>7} {'failed':>7} {'slowest':>8}"
        ]
        for kind in dict.fromkeys(kind for kind, _ in self.counts):
            read, refused, failed = (
                self.counts[kind, outcome] for outcome in ("read", "refused", "failure")
            )
            lines.append(
                f"{kind:12} {read + refused + failed:7,} {read:7,} {refused:7,} {failed:7,} "
                f"{self.slowest.get(kind, 0):7.2f}s"
            )
        return "\n".join(lines)


def spans(mutations: int, first: int) -> list[str]:
    """What a worker is to do, in its words: so many mutations, shared among the kinds in rounds."""
    ends = [*range(0, mutations, ROUND), mutations]
    return [
        f"{kind}:{first + start * share // 100}:{end * share // 100 - start * share // 100}"
        for start, end in pairwise(ends)
        for kind, share in SHARES.items()
    ]


def environment() -> dict[str, str]:
    """Of a process that reads mutated files: this tree's modules, and one thread."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels", TESTS))),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }


def run(
    wanted: Sequence[str],
    progress: Callable[[Campaign], None] = lambda campaign: None,
    failed: Callable[[str], None] = lambda failure: None,
    module: str = "fuzzing.worker",
) -> Campaign:
    """Let a worker do it, at the command line of that module.

    Args:
        wanted: `KIND:FIRST:COUNT`.
        progress: Called after each input.
        failed: Called with each failure when it is seen.
        module: Whose `main` reads them.
    """
    campaign = Campaign()

    def fail(failure: str) -> None:
        campaign.failures.append(failure)
        failed(failure)

    command = [sys.executable, "-m", module, *wanted]
    with running(command, stdout=subprocess.PIPE, env=environment()) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            result = json.loads(line)
            kind = result["kind"]
            campaign.counts[kind, result["outcome"]] += 1
            campaign.slowest[kind] = max(campaign.slowest.get(kind, 0), result.get("seconds", 0))
            if result["outcome"] == "failure":
                fail(f"{kind}:{result['number']}:1 {result['detail']}")
            progress(campaign)
    if worker.returncode:
        fail(f"the worker itself ended with {worker.returncode}")
    return campaign
