"""SIGKILL and power cuts at any step of a scan: the same command goes on, to the same findings.

`make soak` runs this file as a script, and kills at every step, in every way.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from killing import HOW, Zygote
from oracles import array_bytes, write_first
from test_resume import names

SAMPLES = 160  # four segments
OPTIONS: dict[str, Any] = {"model": "mnist", "segment_samples": 1}
KILLS, TIMED, LAST = 60, 20, 40  # in a run of the suite
EPS = (4.0, 6.0)

Kill = dict[str, Any]


class Scans:
    """One dataset scanned over and over, and killed each time."""

    def __init__(self, folder: Path, mnist_h5: Path, zygote: Zygote) -> None:
        self.data = write_first(folder / "data.h5", mnist_h5, SAMPLES)
        self._zygote = zygote
        self._out = folder / "scans" / "f.h5"
        self._out.parent.mkdir()
        self.outcomes: Counter[str] = Counter()
        self._expected = {}
        for eps in reversed(EPS):
            assert self._scan(eps)
            self._expected[eps] = array_bytes(self._out)
            assert len(self._expected[eps]["flagged/index"]) > 5 * 8
        self.steps = zygote.run("scan", self.data, out=self._out, eps=EPS[0], **OPTIONS).steps

    def survive(self, kills: Iterable[Kill]) -> None:
        """Kill one run after another; what one leaves is where the next goes on.

        Each time findings are complete, a scan with another ε replaces them: under their name, the
        old ones must stay until the new ones are complete.
        """
        old, new = EPS
        for kill in kills:
            finished = self._scan(new, kill)
            present = array_bytes(self._out)
            assert present in (self._expected[old], self._expected[new])
            if not finished and present == self._expected[new]:  # killed while it cleaned up
                finished = self._scan(new)
            if finished:
                assert array_bytes(self._out) == self._expected[new]
                assert names(self._out.parent) == ["f.h5"]
                old, new = new, old

    def _scan(self, eps: float, kill: Kill | None = None) -> bool:
        outcome = self._zygote.run("scan", self.data, out=self._out, eps=eps, kill=kill, **OPTIONS)
        if kill:
            self.outcomes["finished" if outcome.finished else kill.get("how", "timed")] += 1
        return outcome.finished


@pytest.fixture
def scans(tmp_path: Path, mnist_h5: Path) -> Iterator[Scans]:
    with Zygote(tmp_path) as zygote:
        yield Scans(tmp_path, mnist_h5, zygote)


def drawn(rng: random.Random, steps: int) -> Iterator[Kill]:
    """Any step, in any way."""
    while True:
        yield {"step": rng.randint(1, steps), "how": rng.choice(HOW)}


def timed(rng: random.Random) -> Iterator[Kill]:
    """At any time of a run, whatever it is doing."""
    while True:
        yield {"seconds": rng.uniform(0, 0.5)}


def test_killed_at_any_step(scans: Scans) -> None:
    scans.survive(itertools.islice(drawn(random.Random(0), scans.steps), KILLS))
    assert set(HOW) <= set(scans.outcomes)
    assert sum(scans.outcomes.values()) == KILLS


def test_killed_at_any_time(scans: Scans) -> None:
    scans.survive(itertools.islice(timed(random.Random(0)), TIMED))
    assert scans.outcomes["timed"] > 0


def test_last_steps(scans: Scans) -> None:
    """The join, the rename and the cleaning up, each step of them in every way."""
    every = ({"step": step, "how": how} for step in range(1, scans.steps + 1) for how in HOW)
    scans.survive(itertools.islice(every, 4 * scans.steps - LAST, None))


def soak(kills: int, seed: int) -> None:
    """Every step of a scan in every way, then so many at random, half of them by time."""
    from audit.mnist import write_mnist

    with tempfile.TemporaryDirectory() as name, Zygote(Path(name)) as zygote:
        write_mnist(Path(name) / "mnist.h5")
        scans = Scans(Path(name), Path(name) / "mnist.h5", zygote)
        every = [{"step": n, "how": how} for n in range(1, scans.steps + 1) for how in HOW]
        rng = random.Random(seed)
        some = itertools.islice(drawn(rng, scans.steps), kills // 2)
        scans.survive([*every, *some, *itertools.islice(timed(rng), kills // 2)])
    print(f"a scan takes {scans.steps} steps that change the disk; runs that ended")
    for how, count in sorted(scans.outcomes.items()):
        print(f"  {how:<10} {count:6,}")


if __name__ == "__main__":
    soak(int(sys.argv[1]), int(sys.argv[2]))
