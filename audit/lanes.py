"""Threads that read blocks and run batches: each takes whatever is to be done next.

    read a block → its batches, each on whichever thread is free → finish the block

So reading, inflating and computing overlap, no thread waits while there is work, and what comes
out is in order. Memory is bounded by the number of buffers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from audit.batch_size import BatchSize
from audit.memory import Memory

BUFFER_BYTES = 256 * 2**20  # of all blocks in memory, unless two are larger
BATCHES_AT_ONCE = 64  # of a block: more threads than that find nothing to do
LOOK = 0.1  # seconds between two reports of progress

L = TypeVar("L")
T = TypeVar("T")


@dataclass(frozen=True)
class Work(Generic[L, T]):
    """What is done with each block; every function is called from any thread.

    Attributes:
        row_shape: Of a sample as stored.
        dtype: Of a sample as stored.
        allocate: Shape and dtype → a buffer for a block.
        read_into: Fills a buffer with the samples from a position on.
        forward: Raw batch (n, *row_shape) → its logits.
        finish: A block's span, raw samples and its batches' logits, in order → its result. The raw
            samples lie in a buffer that is used again: what is kept of them must be copied.
        batch_size: Gives the size of the next batch and learns how long it took.
    """

    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
    read_into: Callable[[NDArray[Any], int], None]
    forward: Callable[[NDArray[Any]], L]
    finish: Callable[[range, NDArray[Any], list[L]], T]
    batch_size: BatchSize


def buffers(block_bytes: int, threads: int) -> int:
    """Blocks in memory at once."""
    return max(2, min(BUFFER_BYTES // max(1, block_bytes), 2 * threads))


def run(
    work: Work[L, T],
    blocks: Sequence[range],
    threads: int,
    progress: Callable[[int], None],
    memory: Memory | None = None,
) -> Iterator[T]:
    """The result of each block, in order.

    What a thread raises is raised here, and all threads have ended when this has.

    Args:
        work: What is done with each block.
        blocks: Spans of samples.
        threads: How many work.
        progress: Called, from the caller's own thread, with the number of samples that have passed
            `forward` since the last call.
        memory: How many blocks may be in memory; None: as many as keep the threads busy.
    """
    threads = min(threads, len(blocks) * BATCHES_AT_ONCE)
    lanes = _Lanes(work, blocks, threads, memory)
    running: list[threading.Thread] = []
    try:
        for _ in range(threads):
            thread = threading.Thread(target=lanes.work, name="audit-lane", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine has no more of them: fewer do it as well
                if not running:
                    raise
                break
            running.append(thread)
        for place in range(len(blocks)):
            yield lanes.result(place, progress)
    finally:
        lanes.stop()
        for thread in running:
            thread.join()


@dataclass
class _Block(Generic[L]):
    """A block in memory: of its samples, `taken` are in a batch or through, `done` are through.

    `logits` are those of each batch, by its first row.
    """

    place: int
    span: range
    buffer: NDArray[Any]
    logits: dict[int, L] = field(default_factory=dict)
    taken: int = 0
    done: int = 0

    @property
    def raw(self) -> NDArray[Any]:
        return self.buffer[: len(self.span)]


class _Lanes(Generic[L, T]):
    """What the threads share. Everything with an underscore is changed under `_changed` alone."""

    def __init__(
        self, work: Work[L, T], blocks: Sequence[range], threads: int, memory: Memory | None
    ) -> None:
        self._do = work
        self._blocks = blocks
        self._rows = max(map(len, blocks), default=0)
        row_bytes = int(np.prod(work.row_shape)) * work.dtype.itemsize
        usual = buffers(row_bytes * self._rows, threads)
        self._buffers = memory.buffers if memory else usual  # yet to be made
        self._free: list[NDArray[Any]] = []
        # Reading stays so far ahead that no thread runs out of batches, and so near that results
        # that wait for an earlier block's stay few.
        self._ahead = max(2, threads)
        self._window = memory.window if memory else self._buffers + 2 * threads
        self._changed = threading.Condition()
        self._to_read = 0  # place of the first block that nobody has begun to read
        self._reading = 0
        self._open: list[_Block[L]] = []  # with samples that nobody has taken
        self._results: dict[int, T] = {}
        self._collected = 0
        self._through = 0  # samples since the last report
        self._error: BaseException | None = None
        self._stopped = False

    def work(self) -> None:
        """One thread's life."""
        try:
            while (step := self._next()) is not None:
                step()
        except BaseException as exc:
            with self._changed:
                self._error = self._error or exc
                self._changed.notify_all()

    def result(self, place: int, progress: Callable[[int], None]) -> T:
        """Wait for a block's result, and report progress meanwhile."""
        reported = time.monotonic()
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                ready = place in self._results
                if not ready:
                    self._changed.wait(LOOK)
                through = 0
                if ready or time.monotonic() - reported >= LOOK:
                    through, self._through = self._through, 0
            if through:
                reported = time.monotonic()
                progress(through)
            if ready:
                with self._changed:
                    self._collected = place + 1
                    self._changed.notify_all()
                    return self._results.pop(place)

    def stop(self) -> None:
        """Let the threads end after the step they are in."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """What this thread is to do now; waits until there is something; None: nothing any more."""
        with self._changed:
            while not self._stopped and self._error is None:
                if self._may_read() and len(self._open) + self._reading < self._ahead:
                    return self._take_read()
                if self._open:
                    return self._take_batch()
                if self._may_read():
                    return self._take_read()
                if self._to_read == len(self._blocks) and not self._reading:
                    return None
                self._changed.wait()
            return None

    def _may_read(self) -> bool:
        return (
            self._to_read < len(self._blocks)
            and self._to_read < self._collected + self._window
            and bool(self._free or self._buffers)
        )

    def _take_read(self) -> Callable[[], None]:
        place, self._to_read = self._to_read, self._to_read + 1
        self._reading += 1
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = self._do.allocate((self._rows, *self._do.row_shape), self._do.dtype)
            self._buffers -= 1
        return lambda: self._read(place, buffer)

    def _read(self, place: int, buffer: NDArray[Any]) -> None:
        span = self._blocks[place]
        block = _Block[L](place, span, buffer)
        self._do.read_into(block.raw, span.start)
        with self._changed:
            self._reading -= 1
            self._open.append(block)
            self._changed.notify_all()

    def _take_batch(self) -> Callable[[], None]:
        block = self._open[0]
        size = self._do.batch_size(len(block.span) - block.taken)
        start, block.taken = block.taken, block.taken + size
        if block.taken == len(block.span):
            self._open.pop(0)
        return lambda: self._forward(block, slice(start, start + size))

    def _forward(self, block: _Block[L], rows: slice) -> None:
        started = time.perf_counter()
        logits = self._do.forward(block.raw[rows])
        size = rows.stop - rows.start
        self._do.batch_size.record(size, time.perf_counter() - started)
        with self._changed:
            block.logits[rows.start] = logits
            self._through += size
            block.done += size
            if block.done < len(block.span):
                return
        in_order = [block.logits[first] for first in sorted(block.logits)]
        result = self._do.finish(block.span, block.raw, in_order)
        with self._changed:
            self._results[block.place] = result
            self._free.append(block.buffer)
            self._changed.notify_all()
