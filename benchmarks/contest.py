"""Two contestants in one run, in turn: what machines do over time happens to both alike.

pytest-benchmark runs one contestant after the other, minutes apart; on a shared machine that alone
is worth 10 %. Here each round of a benchmark times both, the first mover changing from round to
round (peer, ours; ours, peer; …), and `benchmark.extra_info` gets every round of both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.rows import Row

BUDGET_S = 20.0  # of one contest, roughly
ROUNDS = (7, 41)  # at least and at most; odd, so that a median is a measurement
LONG_S, LONG_ROUNDS = 20.0, 3  # a round that takes this long is repeated less often
SETTLE_S = 0.02  # ONNX Runtime's and OpenMP's idle threads spin on for a while after a call
TURN_S = 0.02  # of work: what is shorter is called again, so that waking up doesn't count
TRIALS = 3  # of each candidate before a contest against the best

Ours = TypeVar("Ours")
Peer = TypeVar("Peer")
Key = TypeVar("Key")


class Timed(NamedTuple, Generic[Ours]):
    """A result and how long it took."""

    result: Ours
    seconds: float


def timed(function: Callable[[], Ours]) -> Timed[Ours]:
    """Call it once."""
    start = time.perf_counter()
    result = function()
    return Timed(result, time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a contest is about; see `Row`.

    Attributes:
        goal: How many times better than the peer we want to be, at least.
        at_most: Or: how many times the peer's cost we may cost.
    """

    work: str
    against: str
    limit: bool = False
    unit: str = "s"
    goal: float | None = None
    at_most: float | None = None
    note: str = ""

    def row(self, ours: list[float], peer: list[float]) -> Row:
        """With what was measured."""
        return Row(
            work=self.work,
            against=self.against,
            limit=self.limit,
            unit=self.unit,
            ours=tuple(ours),
            peer=tuple(peer),
            goal=self.goal if self.at_most is None else 1 / self.at_most,
            cost=self.at_most is not None,
            note=self.note,
        )


class Contest:
    """The fixture: times both contestants in turn and records it."""

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self._benchmark = benchmark

    @property
    def enabled(self) -> bool:
        """Whether anything is measured; if not, contestants run once, for their results."""
        return bool(self._benchmark.enabled)

    def run(
        self,
        claim: Claim,
        ours: Callable[[], Ours],
        peer: Callable[[], Peer],
        check: Callable[[Ours, Peer], None],
    ) -> None:
        """Compare what both return, then time them: a wrong result leaves no row.

        Args:
            claim: What is measured.
            ours: One contestant.
            peer: The other.
            check: Gets the results of a first call of each, which doesn't count.
        """
        if not self.enabled:
            theirs = peer()
            check(self._once(claim, ours), theirs)
            return
        own = ours()
        check(own, peer())
        self._measure(claim, _seconds_a_call(ours), _seconds_a_call(peer))

    def run_costs(self, claim: Claim, ours: Callable[[], float], peer: Callable[[], float]) -> None:
        """As `run`, where each call returns what it cost, in another unit than seconds."""
        if not self.enabled:
            peer()
            self._once(claim, ours)
            return
        self._measure(claim, ours, peer)

    def best_of(self, candidates: Mapping[Key, Callable[[], object]]) -> Key:
        """Which of several ways of doing the same is fastest; the first where nothing is measured.

        A peer with a choice (batch size, threads) gets its best one before the contest.
        """
        return self._chosen(candidates, min)

    def slowest_of(self, stages: Mapping[Key, Callable[[], object]]) -> Key:
        """Which of several stages takes longest; the first where nothing is measured."""
        return self._chosen(stages, max)

    def _once(self, claim: Claim, ours: Callable[[], Ours]) -> Ours:
        self._benchmark.group = claim.work
        result: Ours = self._benchmark.pedantic(ours)  # type: ignore[no-untyped-call]
        return result

    def _measure(
        self, claim: Claim, own_cost: Callable[[], float], peer_cost: Callable[[], float]
    ) -> None:
        """Both in turn, as often as fits, and the row that follows."""
        benchmark = self._benchmark
        benchmark.group = claim.work
        seconds = timed(own_cost).seconds + timed(peer_cost).seconds
        own_costs: list[float] = []
        peer_costs: list[float] = []

        def our_turn() -> None:
            own_costs.append(own_cost())

        def their_turn() -> None:
            time.sleep(SETTLE_S)
            peer_costs.append(peer_cost())
            time.sleep(SETTLE_S)

        def before_ours() -> None:
            if len(own_costs) % 2 == 0:
                their_turn()

        def after_ours() -> None:
            if len(peer_costs) < len(own_costs):
                their_turn()

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            our_turn, setup=before_ours, teardown=after_ours, rounds=_rounds(seconds)
        )
        benchmark.extra_info.update(claim.row(own_costs, peer_costs).to_extra_info())

    def _chosen(
        self, candidates: Mapping[Key, Callable[[], object]], choose: Callable[..., Key]
    ) -> Key:
        if not self.enabled:
            return next(iter(candidates))
        least = dict.fromkeys(candidates, float("inf"))
        for _ in range(TRIALS):
            for key, candidate in candidates.items():
                least[key] = min(least[key], timed(candidate).seconds)
                time.sleep(SETTLE_S)
        return choose(least, key=lambda key: least[key])


def _seconds_a_call(function: Callable[[], object]) -> Callable[[], float]:
    """Measures a call, or the mean of several that together take `TURN_S`."""
    calls = max(1, math.ceil(TURN_S / timed(function).seconds))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    return measure


def _rounds(seconds: float) -> int:
    least, most = ROUNDS
    if seconds > LONG_S:
        least = LONG_ROUNDS
    return min(max(int(BUDGET_S / seconds), least), most) // 2 * 2 + 1
