"""The scan's threads: in order, everything once, bounded, and gone afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from audit import batch_size, lanes
from audit.batch_size import BatchSize


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "audit-lane"]


def read_into(out: NDArray[Any], start: int) -> None:
    out[:] = np.arange(start, start + len(out))[:, None]


def forward(raw: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([raw[:, 0], -raw[:, 0]], axis=1).astype(np.float32)


def finish(span: range, raw: NDArray[Any], batches: list[NDArray[np.float32]]) -> range:
    logits = np.concatenate(batches)
    assert raw[:, 0].tolist() == logits[:, 0].tolist() == list(span)
    return span


def work(**changed: Any) -> lanes.Work[NDArray[np.float32], range]:
    return lanes.Work(
        **{
            "row_shape": (3,),
            "dtype": np.dtype(np.float32),
            "allocate": np.empty,
            "read_into": read_into,
            "forward": forward,
            "finish": finish,
            "batch_size": BatchSize(3, 100, given=7),
            **changed,
        }
    )


def blocks_of(sizes: list[int]) -> list[range]:
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=30),
    threads=st.integers(1, 5),
    given_size=st.one_of(st.none(), st.integers(1, 50)),
)
def test_every_block_once_and_in_order(
    sizes: list[int], threads: int, given_size: int | None
) -> None:
    seen: list[int] = []
    blocks = blocks_of(sizes)
    todo = work(batch_size=BatchSize(3, 40, given_size))
    assert list(lanes.run(todo, blocks, threads, seen.append)) == blocks
    assert sum(seen) == sum(sizes)
    assert running() == []


def test_slow_and_fast_blocks_stay_in_order() -> None:
    def slow(raw: NDArray[Any]) -> NDArray[np.float32]:
        time.sleep(0.02 if raw[0, 0] % 3 == 0 else 0)
        return forward(raw)

    blocks = blocks_of([7] * 40)
    assert list(lanes.run(work(forward=slow), blocks, 4, lambda _: None)) == blocks


def _raising(of: Callable[..., Any], when: Callable[..., bool], error: BaseException) -> Any:
    def wrapped(*args: Any) -> Any:
        if when(*args):
            raise error
        return of(*args)

    return wrapped


@pytest.mark.parametrize("error", [ValueError("why"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "broken",
    [
        {"read_into": (read_into, lambda out, start: start == 70)},
        {"forward": (forward, lambda raw: raw[0, 0] == 70)},
        {"finish": (finish, lambda span, raw, logits: span.start == 70)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_what_a_thread_raises_is_raised_here(
    broken: dict[str, Any], threads: int, error: BaseException
) -> None:
    ((name, (of, when)),) = broken.items()
    todo = work(**{name: _raising(of, when, error)})
    with pytest.raises(type(error)) as caught:
        list(lanes.run(todo, blocks_of([7] * 40), threads, lambda _: None))
    assert caught.value is error
    assert running() == []


def test_an_error_of_the_progress_ends_it() -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(lanes.run(work(), blocks_of([7] * 1000), 2, stop))
    assert running() == []


def test_progress_comes_from_the_callers_thread_during_a_long_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "LOOK", 0.01)
    names, steps = set(), []

    def note(samples: int) -> None:
        names.add(threading.current_thread().name)
        steps.append(samples)

    def slow(raw: NDArray[Any]) -> NDArray[np.float32]:
        time.sleep(0.03)
        return forward(raw)

    list(lanes.run(work(forward=slow), blocks_of([70]), 1, note))
    assert names == {threading.current_thread().name}
    assert len(steps) > 3
    assert sum(steps) == 70


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_memory_is_bounded_when_nobody_collects(threads: int) -> None:
    read = []

    def counting(out: NDArray[Any], start: int) -> None:
        read.append(start)
        read_into(out, start)

    results: Iterator[range] = lanes.run(
        work(read_into=counting), blocks_of([7] * 1000), threads, lambda _: None
    )
    next(results)
    time.sleep(0.2)
    assert len(read) <= 1 + 4 * threads + 2
    results.close()  # type: ignore[attr-defined]
    assert running() == []


def test_large_blocks_share_two_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BUFFER_BYTES", 1)
    buffers = set()

    def noting(out: NDArray[Any], start: int) -> None:
        buffers.add(out.__array_interface__["data"][0])
        read_into(out, start)

    blocks = blocks_of([7] * 50)
    assert list(lanes.run(work(read_into=noting), blocks, 4, lambda _: None)) == blocks
    assert len(buffers) == 2


def test_all_threads_work_at_once() -> None:
    """Four batches wait for each other: fewer threads would wait for ever."""
    together = threading.Barrier(4, timeout=20)

    def meeting(raw: NDArray[Any]) -> NDArray[np.float32]:
        together.wait()
        return forward(raw)

    blocks = blocks_of([28] * 4)
    assert list(lanes.run(work(forward=meeting), blocks, 4, lambda _: None)) == blocks


class Machine:
    """Takes a known time for a batch."""

    def __init__(self, a_call: float, a_sample: float, beyond: int) -> None:
        self.a_call, self.a_sample, self.beyond = a_call, a_sample, beyond

    def seconds(self, size: int) -> float:
        slow = 2 if size > self.beyond else 1  # out of the cache
        return self.a_call + size * self.a_sample * slow


@pytest.mark.parametrize(
    ("machine", "best"),
    [
        (Machine(1e-4, 1e-7, 10**6), 1024),
        (Machine(1e-5, 1e-6, 200), 64),
        (Machine(5e-3, 3e-4, 10**6), 256),  # 1024 would take longer than a batch may
        (Machine(1e-3, 1, 10**6), 16),
    ],
)
def test_the_fastest_batch_size_is_found(machine: Machine, best: int) -> None:
    size = BatchSize(input_size=784, most=5000)
    tried = set()
    for _ in range(40):
        batch = size(10**6)
        tried.add(batch)
        size.record(batch, machine.seconds(batch))
    assert size(10**6) == size.best == best
    assert all(each * machine.a_sample <= batch_size.MAX_SECONDS for each in tried - {16})


@pytest.mark.parametrize(
    ("input_size", "most", "sizes"),
    [
        (784, 5000, [16, 64, 256, 1024]),
        (784, 300, [16, 64, 256]),
        (784, 35, [16]),  # 64 would be answered with the whole block, and never be tried
        (784, 3, [16]),
        (10**7, 5000, [16]),
        (30_000, 5000, [16, 64]),
    ],
)
def test_sizes_fit_blocks_and_memory(input_size: int, most: int, sizes: list[int]) -> None:
    size = BatchSize(input_size, most)
    tried = []
    for calls in range(40):
        batch = size(10**6)
        tried.append(batch)
        size.record(batch, 1e-6 / (1 + calls))
    assert [*dict.fromkeys(tried)] == sizes


def test_no_small_batch_is_left_over() -> None:
    assert [BatchSize(10, 100)(rest) for rest in (1, 16, 23, 24, 99)] == [1, 16, 23, 16, 16]
    assert [BatchSize(10, 100, given=8)(rest) for rest in (1, 8, 15, 16)] == [1, 8, 8, 8]


def test_fewer_threads_where_the_machine_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = threading.Thread.start
    started: list[threading.Thread] = []

    def start(self: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        plain(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    blocks = blocks_of([7] * 40)
    assert list(lanes.run(work(), blocks, 50, lambda _: None)) == blocks
    assert len(started) == 2
    assert running() == []
