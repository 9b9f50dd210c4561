"""Working ahead changes when items are made, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from audit.prefetch import prefetch


def producers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "audit-prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_same_items_in_the_same_order(count: int, depth: int) -> None:
    assert list(prefetch(range(count), depth)) == list(range(count))
    assert producers() == []


@pytest.mark.parametrize("good", [0, 1, 5])
@pytest.mark.parametrize("error", [ValueError("why"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_error_is_raised_where_the_item_was_due(good: int, error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield from range(good)
        raise error

    seen = []
    with pytest.raises(type(error)) as caught:  # noqa: PT012 - what was seen before counts
        for item in prefetch(items()):
            seen.append(item)
    assert caught.value is error
    assert seen == list(range(good))
    assert producers() == []


def test_items_are_made_on_another_thread() -> None:
    (made_on,) = prefetch(threading.current_thread().name for _ in range(1))
    assert made_on == "audit-prefetch"


@pytest.mark.parametrize("depth", [1, 3])
def test_works_ahead_and_not_further(depth: int) -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(50):
            made.append(item)
            yield item

    ahead = prefetch(items(), depth)
    assert next(ahead) == 0
    limit = 1 + depth + 1  # used, in the queue, in the producer's hand
    deadline = time.monotonic() + 10
    while len(made) < limit and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # time enough to run away, were it not bounded
    assert len(made) == limit
    assert list(ahead) == list(range(1, 50))


def test_early_stop_ends_the_thread() -> None:
    made: list[None] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(None)
            yield len(made)

    ahead = prefetch(endless())
    assert isinstance(ahead, Iterator)
    assert next(ahead) == 1
    assert len(producers()) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert producers() == []
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count


def test_error_in_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        for item in prefetch(iter(int, 1)):
            raise LookupError(item)

    with pytest.raises(LookupError):
        consume()
    deadline = time.monotonic() + 10
    while producers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert producers() == []
