"""`--memory-limit`: what is counted, what is refused, and that it holds."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audit
from audit import lanes
from audit.batch_size import BatchSize
from audit.bundle import Bundle
from audit.crc32 import combined
from audit.dataset import Dataset
from audit.decide import Kept
from audit.errors import OptionError
from audit.fast_pass import Passed, Segment
from audit.memory import MIB, Memory, Scale, fitted, parse_size
from audit.memory_plan import Plan
from audit.portions import portions
from audit.resident import peak_of, resident
from conftest import Run
from networks import linear
from oracles import arrays
from watched import Look, deflated_dataset, growth, sparse_dataset, watched_scan

SHAPE = (28, 28)
GROWTH = 16 * MIB


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("bundles") / "linear"
    return audit.export(linear().eval(), out, input_shape=(1, 28, 28), raw_dtype="uint8")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("1GiB", 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 500_000_000),
        ("64kib", 2**16),
        ("12345", 12345),
        (2**31, 2**31),
        (np.int64(7), 7),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value", ["", "GiB", "1G", "-1GiB", "1e9", "0", "0.1B", 0, -5, 1.5, True, None, "9" * 400]
)
def test_no_sizes(value: object) -> None:
    with pytest.raises(OptionError, match="--memory-limit"):
        parse_size(value)


def scale(**changed: Any) -> Scale:
    usual = Scale(
        sample_bytes=784,
        input_size=784,
        classes=10,
        chunk_rows=1,
        chunk_bytes=0,
        segment_rows=2**18,
        kept_rows=10_000,
        rows_at_once=1024,
        threads=4,
        keep_all=False,
        gradients=True,
        least_rows=1,
        usual=Memory(block_rows=2675, buffers=8, window=16, decoding=1),
    )
    return replace(usual, **changed)


def test_with_room_all_is_as_without_a_limit() -> None:
    assert fitted(2**40, 300 * MIB, scale()) == scale().usual


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"chunk_rows": 535, "chunk_bytes": 535 * 784 * 3},
        {"least_rows": 100},
        {"sample_bytes": 2**22, "usual": Memory(1, 8, 16, 1)},
    ],
    ids=["small samples", "chunks", "batches", "large samples"],
)
def test_less_room_means_less_in_memory(changed: dict[str, Any]) -> None:
    """Each way takes less than the one before, down to the smallest block there may be."""
    tried = scale(**changed)
    totals = [tried.total(memory) for memory in tried.ways()]
    assert totals == sorted(totals, reverse=True)
    ways = list(tried.ways())
    assert ways[-1].block_rows == tried.least_rows
    assert ways[-1].buffers == ways[-1].window == 2
    for memory, total in zip(ways, totals, strict=True):
        assert tried.total(fitted(total + 5, 5, tried)) == total
        assert memory.buffers >= 2


def test_threads_are_kept_busy_as_long_as_whole_chunks_allow_it() -> None:
    tried = scale(chunk_rows=535, chunk_bytes=535 * 784 * 3)
    for memory in tried.ways():
        assert memory.buffers > tried.threads or memory.block_rows <= 535
        assert memory.block_rows % 535 == 0 or memory.block_rows < 535


def test_what_takes_most_is_named_first() -> None:
    with pytest.raises(OptionError) as caught:
        fitted(500 * MIB, 200 * MIB, scale(chunk_bytes=900 * MIB))
    message = str(caught.value)
    assert message.startswith("--memory-limit 500MiB: this scan needs ")
    assert ": 900MiB for decoding a storage chunk, 200MiB for Python" in message
    assert "\n" not in message


def test_the_peak_is_seen_and_not_what_was_before() -> None:
    large = np.ones(2**25)  # 256 MiB, gone before the run
    del large
    before = resident()

    def run() -> None:
        np.ones(2**23).sum()  # 64 MiB

    grown = peak_of(run) - before
    assert 48 * MIB < grown < 96 * MIB


def test_lanes_hold_as_many_blocks_as_they_may() -> None:
    held, most = set(), 0
    buffers = set()

    def read_into(out: Any, start: int) -> None:
        nonlocal most
        buffers.add(out.__array_interface__["data"][0])
        held.add(start)
        most = max(most, len(held))

    def finish(span: range, raw: Any, batches: Any) -> range:
        return span

    work = lanes.Work[Any, range](
        (3,), np.dtype(np.float32), np.empty, read_into, len, finish, BatchSize(3, 10)
    )
    blocks = [range(start, start + 10) for start in range(0, 1000, 10)]
    seen = []
    for span in lanes.run(work, blocks, 8, lambda _: None, Memory(10, 3, 3, 1)):
        held.discard(span.start)
        seen.append(span)
    assert seen == blocks
    assert len(buffers) <= 3
    assert most <= 4  # one more is read before the caller has let go of the last


def test_blocks_are_as_small_as_they_must_be(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "images", data=np.arange(3000, dtype=np.uint8).reshape(1000, 3), chunks=(100, 3)
        )
    with Dataset(tmp_path / "a.h5") as dataset:
        planned = dataset.block_rows
        dataset.limit(Memory(block_rows=30, buffers=2, window=2, decoding=1))
        blocks = list(dataset.blocks(5, 995, at_least=7))
        assert [*np.concatenate(blocks)] == [*range(5, 995)]
        assert max(map(len, blocks)) == 30
        assert dataset.block_rows == planned  # segments stay as they were


def test_small_blocks_change_no_bit(
    mnist_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a limit may lead to at the least, and without one: each chunk is decoded 21 times."""
    with h5py.File(mnist_h5) as source, h5py.File(tmp_path / "data.h5", "w") as file:
        images = source["images"][:6000]
        file.create_dataset("images", data=images, chunks=(2000, 28, 28), compression="gzip")
        file["labels"] = source["labels"][:6000]
    scan = partial(audit.scan, tmp_path / "data.h5", model="mnist", eps=1.0)
    scan(out=tmp_path / "plain.h5")
    least = Plan(
        Memory(block_rows=97, buffers=2, window=2, decoding=1), batch_rows=13, batch_size=5
    )
    monkeypatch.setattr("audit.scanning.plan_memory", lambda *_: least)
    found = scan(out=tmp_path / "limited.h5", memory_limit="1TiB")
    assert found.engine["batch_size"] == 5
    expected, got = arrays(tmp_path / "plain.h5"), arrays(tmp_path / "limited.h5")
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(
    kept=st.lists(st.booleans(), max_size=40), sizes=st.lists(st.integers(1, 9)),
    most=st.integers(1, 8), start=st.integers(0, 5),
)  # fmt: skip
def test_portions_are_of_so_many_candidates_however_large_the_blocks(
    kept: list[bool], sizes: list[int], most: int, start: int
) -> None:
    segment = Segment(start, start + len(kept))
    ends = [end for end in np.cumsum([0, *sizes]).tolist() if end < len(kept)] + [len(kept)]
    blocks = [passed(range(start + a, start + b), kept[a:b]) for a, b in pairwise(ends) if a < b]
    cut = list(portions(blocks, segment, most))
    counts = [sum(len(each.kept.index) for each in portion.blocks) for portion in cut]
    assert counts[:-1] == [most] * len(counts[:-1])
    assert sum(counts) == sum(kept)
    assert max(counts, default=0) <= most
    seen = start
    for portion in cut:
        assert portion.start == seen
        rows = np.concatenate([each.margin for each in portion.blocks])
        assert rows.tolist() == list(range(portion.start, portion.stop))
        index = np.concatenate([each.kept.index for each in portion.blocks])
        assert index.tolist() == [i for i in rows.astype(int) if kept[i - start]]
        assert sum(each.samples for each in portion.blocks) == len(rows)
        seen = portion.stop
    assert seen == segment.stop
    crc = 0
    for each in (each for portion in cut for each in portion.blocks):
        crc = combined(crc, each.crc32, each.samples)
    assert crc == zlib.crc32(bytes(range(start, start + len(kept))))
    total = sum(each.correct for portion in cut for each in portion.blocks)
    assert total == sum(each.correct for each in blocks)


def passed(span: range, kept: list[bool]) -> Passed:
    """A block whose samples have their positions as margins."""
    index = np.flatnonzero(kept) + span.start
    counts = np.ones(3, np.int64)
    of_kept = Kept(index, index, index.astype(np.float32), index > 3)
    rows = np.array(span, np.float32)
    classes = np.zeros((len(span), 2), np.int32)
    crc = zlib.crc32(bytes(span))
    return Passed(len(span), of_kept, counts, 1, 1, 1, rows, classes, crc)


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_a_scan_stays_within_its_limit(storage: str, bundle: Bundle, tmp_path: Path) -> None:
    """By the kernel's own mark; and what comes later takes no more than what came first."""
    limit = 700 * MIB
    path = tmp_path / "zeros.h5"
    if storage == "gzip":
        deflated_dataset(path, 200_000, SHAPE, rows=2000)
    else:
        sparse_dataset(path, 600_000, SHAPE)
    looks = watched_scan(path, bundle.path, tmp_path / "out", str(limit))
    assert looks[-1].passed == 1
    assert looks[-1].peak <= limit
    assert growth(looks) <= GROWTH


def test_growth_would_be_seen() -> None:
    looks = [Look(each * MIB, each * MIB, share) for each, share in [(50, 0), (60, 0.3), (90, 1)]]
    assert growth(looks) == 30 * MIB


def test_near_ties_by_the_thousand_stay_within_the_limit(bundle: Bundle, tmp_path: Path) -> None:
    """Every sample is one, so that all of what is counted is needed."""
    path = sparse_dataset(tmp_path / "zeros.h5", 22_000, SHAPE)
    limit = 600 * MIB
    looks = watched_scan(path, bundle.path, tmp_path / "out", str(limit), eps=100)
    assert looks[-1].peak <= limit


@pytest.mark.parametrize(
    ("shape", "samples", "chunked", "largest"),
    [
        (SHAPE, 50_000, False, "for candidates and gradients"),
        ((400, 1000, 1000), 3, False, "for samples in hand"),
        (SHAPE, 300_000, True, "for decoding a storage chunk"),
    ],
    ids=["small limit", "large sample", "large chunk"],
)
def test_what_cannot_be_kept_is_refused_at_the_start(
    shape: tuple[int, ...],
    samples: int,
    chunked: bool,
    largest: str,
    bundle: Bundle,
    tmp_path: Path,
    run_audit: Run,
) -> None:
    path = tmp_path / "data.h5"
    if chunked:
        deflated_dataset(path, samples, shape, rows=samples)
    else:
        sparse_dataset(path, samples, shape)
    done = run_audit(
        "scan", path, "--model", bundle.path, "--eps", "1", "--memory-limit", "200MiB", "--quiet"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --memory-limit 200MiB: this scan needs ")
    assert re.search(rf"or more: \d+MiB {largest}", line), line
    assert line.endswith(
        ". Raise it, or store the data in smaller chunks" if chunked else "Raise it"
    )
    assert not list(tmp_path.glob("*.findings.h5"))


def test_a_batch_that_cannot_be_had_is_refused(
    bundle: Bundle, tmp_path: Path, run_audit: Run
) -> None:
    path = sparse_dataset(tmp_path / "zeros.h5", 1_000_000, SHAPE)
    done = run_audit(
        "scan", path, "--model", bundle.path, "--eps", "1", "--memory-limit", "700MiB",
        "--batch-size", "1000000",
    )  # fmt: skip
    assert done.returncode == 2
    assert "for samples in hand" in done.stderr
    assert len(done.stderr.splitlines()) == 1
