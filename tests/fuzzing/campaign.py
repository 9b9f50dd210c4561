"""Many mutations of every kind, and what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# Of 100 mutations; the rest is shared by those that aren't named.
SHARES = {
    "dataset": 40, "findings": 20, "ascents": 8, "diff": 4, "manifest": 8, "onnx": 6, "config": 6,
    "weights": 4, "safetensors": 4,
}  # fmt: skip


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
    """What a worker is to do, in its words: so many mutations, shared among the kinds."""
    return [f"{kind}:{first}:{mutations * share // 100}" for kind, share in SHARES.items()]


def run(
    wanted: Sequence[str],
    progress: Callable[[int], None] = lambda done: None,
    module: str = "fuzzing.worker",
) -> Campaign:
    """Let a worker do it, at the command line of that module."""
    campaign = Campaign()
    paths = [ROOT, ROOT / "kernels", TESTS]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", module, *wanted]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        for done, line in enumerate(worker.stdout, 1):
            result = json.loads(line)
            kind = result["kind"]
            campaign.counts[kind, result["outcome"]] += 1
            campaign.slowest[kind] = max(campaign.slowest.get(kind, 0), result.get("seconds", 0))
            if result["outcome"] == "failure":
                campaign.failures.append(f"{kind}:{result['number']}:1 {result['detail']}")
            progress(done)
    if worker.returncode:
        campaign.failures.append(f"the worker itself ended with {worker.returncode}")
    return campaign
