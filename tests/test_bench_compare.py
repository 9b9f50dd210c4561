"""What judges benchmarks: a fall is seen, noise isn't, and what can't be judged is named."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
MEASURED = """
import time
import pytest
from benchmarks.contest import Claim, Contest

turns = []

def test_seconds(benchmark):
    claim = Claim(work="a nap", against="a longer one", goal=2.0)
    contest = Contest(benchmark)
    ours = lambda: (turns.append("ours"), time.sleep(0.02))
    peer = lambda: (turns.append("peer"), time.sleep(0.03), "theirs")
    def check(own, theirs):
        assert theirs[2] == "theirs"
        assert turns == ["ours", "peer"]
    contest.run(claim, ours, peer, check)
    assert turns[:6] == ["ours", "peer"] * 3  # which don't count
    rounds = [*zip(turns[6::2], turns[7::2])]
    assert rounds[:3] == [("peer", "ours"), ("ours", "peer"), ("peer", "ours")]
    assert len(rounds) == 41

def test_short_calls_are_repeated(benchmark):
    claim = Claim(work="nothing", against="a nap")
    calls = []
    check = lambda ours, peer: None
    Contest(benchmark).run(claim, lambda: calls.append(1), lambda: time.sleep(0.001), check)
    row = benchmark.extra_info["contest"]
    assert 0 < row["ours"][0] < 0.001 < row["peer"][0] < 0.02
    assert len(calls) > 1000

def test_costs(benchmark):
    claim = Claim(work="memory", against="half the work", unit="MiB", at_most=1.05)
    Contest(benchmark).run_costs(claim, lambda: 103.0, lambda: 100.0)

@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_wrong(benchmark):
    claim = Claim(work="the same", against="something else")
    Contest(benchmark).run(claim, lambda: 1, lambda: 0, lambda ours, peer: ours / peer)

def test_best(benchmark):
    ways = {wait: lambda wait=wait: time.sleep(wait) for wait in (0.02, 0.001, 0.01)}
    contest = Contest(benchmark)
    assert contest.best_of(ways) == 0.001
    assert contest.slowest_of(ways) == 0.02
    benchmark(lambda: None)
"""
SECONDS, SHORT, COSTS, BEST = (
    f"bench_it.py::test_{name}" for name in ("seconds", "short_calls_are_repeated", "costs", "best")
)
Write = Callable[[dict[str, Any]], Path]


def tool(name: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *map(str, paths)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pytest-benchmark writes of the contests above. Read only."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "bench_it.py").write_text(MEASURED)
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "bench_it.py", f"--benchmark-json={out}"],
        cwd=folder, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    document: dict[str, Any] = json.loads(out.read_text())
    return document


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(document: dict[str, Any]) -> Path:
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.json"
        path.write_text(json.dumps(document))
        return path

    return write


def with_rounds(document: dict[str, Any], name: str, **rounds: Any) -> dict[str, Any]:
    """The document with the rounds of one contest replaced."""
    changed = copy.deepcopy(document)
    (benchmark,) = [each for each in changed["benchmarks"] if each["fullname"] == name]
    benchmark["extra_info"]["contest"].update({k: [*map(float, v)] for k, v in rounds.items()})
    return changed


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    kept = [each for each in document["benchmarks"] if each["fullname"] != name]
    return document | {"benchmarks": kept}


def noisy(median: float, seed: int, rounds: int = 9, noise: float = 0.1) -> list[float]:
    values = median * np.random.default_rng(seed).lognormal(0, noise, rounds)
    return [float(each) for each in values]


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    rows = [line.split() for line in done.stdout.splitlines()[1:] if "::" in line]
    return {row[-1]: row[0] for row in rows}


def test_a_run_is_like_itself(measured: dict[str, Any], write: Write) -> None:
    done = tool("compare", write(measured), write(measured))
    assert done.returncode == 0
    assert verdicts(done) == {SECONDS: "same", SHORT: "same", COSTS: "same", BEST: "no"}
    assert f"no peer, not judged: {BEST}" in done.stdout
    assert done.stdout.endswith("0 of 3 fell\n")


def test_a_wrong_result_leaves_no_row(measured: dict[str, Any]) -> None:
    names = [each["fullname"] for each in measured["benchmarks"]]
    assert names == [SECONDS, SHORT, COSTS, BEST]


def test_a_fall_is_seen(measured: dict[str, Any], write: Write) -> None:
    """A fifth slower, in rounds that differ by a tenth."""
    base = with_rounds(measured, SECONDS, ours=noisy(1, 0, 25), peer=noisy(3, 1, 25))
    new = with_rounds(measured, SECONDS, ours=noisy(1.25, 2, 25), peer=noisy(3, 3, 25))
    done = tool("compare", write(base), write(new))
    assert done.returncode == 1
    assert verdicts(done)[SECONDS] == "FELL"
    assert verdicts(done)[COSTS] == "same"
    assert done.stdout.endswith("1 of 3 fell\n")
    back = tool("compare", write(new), write(base))
    assert back.returncode == 0
    assert verdicts(back)[SECONDS] == "rose"


def test_a_small_fall_is_seen_where_rounds_agree(measured: dict[str, Any], write: Write) -> None:
    new = with_rounds(measured, COSTS, ours=[110.0] * 7, peer=[100.0] * 7)
    assert verdicts(tool("compare", write(measured), write(new)))[COSTS] == "FELL"
    new = with_rounds(measured, COSTS, ours=[107.0] * 7, peer=[100.0] * 7)  # 4 % are slack
    assert verdicts(tool("compare", write(measured), write(new)))[COSTS] == "same"


def test_a_slower_machine_is_no_fall(measured: dict[str, Any], write: Write) -> None:
    base = with_rounds(measured, SECONDS, ours=noisy(1, 0), peer=noisy(3, 1))
    new = with_rounds(measured, SECONDS, ours=noisy(10, 2), peer=noisy(30, 3))
    done = tool("compare", write(base), write(new))
    assert done.returncode == 0
    assert verdicts(done)[SECONDS] == "same"


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_noise_is_no_fall(measured: dict[str, Any], write: Write, seed: int) -> None:
    base = with_rounds(measured, SECONDS, ours=noisy(1, seed), peer=noisy(3, seed + 1))
    new = with_rounds(measured, SECONDS, ours=noisy(1, seed + 2), peer=noisy(3, seed + 3))
    assert tool("compare", write(base), write(new)).returncode == 0


def test_what_only_one_run_holds_is_named(measured: dict[str, Any], write: Write) -> None:
    done = tool("compare", write(measured), write(without(measured, COSTS)))
    assert done.returncode == 0
    assert verdicts(done)[COSTS] == "missing"
    done = tool("compare", write(without(measured, COSTS)), write(measured))
    assert verdicts(done)[COSTS] == "new"


def test_another_processor_is_named(measured: dict[str, Any], write: Write) -> None:
    machine = measured["machine_info"]
    other = measured | {"machine_info": machine | {"cpu": {"brand_raw": "Abacus"}}}
    assert "Abacus" in tool("compare", write(measured), write(other)).stdout


@pytest.mark.parametrize("name", ["compare", "table"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read"),
        ("{", "not JSON"),
        ("[1]", "TypeError"),
        ('{"benchmarks": []}', "datetime|machine_info"),
        ('{"benchmarks": [], "machine_info": {}, "commit_info": {}, "datetime": ""}', "no contest"),
    ],
)
def test_a_bad_file_is_one_line(name: str, content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    done = tool(name, *[path] * (2 if name == "compare" else 1))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: {path}: ")
    assert any(each in line for each in says.split("|"))


@pytest.mark.parametrize(
    "rounds",
    [
        {"ours": []},
        {"ours": [1.0]},
        {"ours": [0.0] * 41},
        {"ours": [float("nan")] * 41},
    ],
)
def test_rounds_must_make_sense(
    measured: dict[str, Any], write: Write, rounds: dict[str, Any]
) -> None:
    done = tool("compare", write(measured), write(with_rounds(measured, SECONDS, **rounds)))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_table(measured: dict[str, Any], write: Write) -> None:
    changed = with_rounds(measured, SECONDS, ours=[1, 1, 1], peer=[1.5, 1.6, 1.5])
    done = tool("table", write(changed))
    assert done.returncode == 0
    shown = done.stdout.replace("\N{MULTIPLICATION SIGN}", "x")
    assert "| a nap | a longer one | 1.50x (1.50-1.58) | ≥ 2x | **no** |" in shown
    assert "| memory | half the work | 1.03x (1.03-1.03) | ≤ 1.05x | yes |" in shown
    assert f"Python {sys.version.split()[0]}" in shown


def test_shares_of_the_limit_have_a_table_of_their_own(
    measured: dict[str, Any], write: Write
) -> None:
    changed = with_rounds(measured, SECONDS, ours=[2.0, 2.0, 2.0], peer=[1.9, 1.9, 1.9])
    changed["benchmarks"][0]["extra_info"]["contest"] |= {"limit": True, "goal": 0.9}
    shown = tool("table", write(changed)).stdout
    assert "| a nap | a longer one | 0.95 (0.95-0.95) | ≥ 0.9 | yes |" in shown
    assert "share of the limit" in shown
