"""Decompression bombs: what a chunk inflates to is known before HDF5 inflates it.

HDF5 inflates a chunk to whatever it inflates to, a thousand times its stored size and more, and
then takes as many bytes of it as the chunk has. Deflate can't say beforehand what comes out; so a
large chunk is inflated once more, up to the size that it must have, and given up beyond.

What other filters allocate, they were told: by the file's header, or by the chunk's. The former is
compared here. The latter, of the filters that hdf5plugin brings, is not.
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import h5py

from audit import hdf5

DEFLATE, SHUFFLE, FLETCHER32, SZIP, NBIT, SCALE_OFFSET = range(1, 7)
# Position, among a filter's values, of how many elements a chunk has, and of how many bytes each.
TOLD_ELEMENTS = {NBIT: 2, SCALE_OFFSET: 2}
TOLD_SIZE = {SHUFFLE: 0, NBIT: 4, SCALE_OFFSET: 4}
MOST_EXPANSION = 1032  # of deflate, by design: https://zlib.net/zlib_tech.html
HARMLESS_BYTES = 64 * 2**20  # what a chunk may inflate to without being looked at
INFLATED_AT_ONCE = 2**20
SLACK = 2**16  # that an earlier filter may add to a chunk
MOST_REMEMBERED = 2**16


def odd_pipeline(dataset: h5py.Dataset) -> str | None:
    """What is wrong with the filters of its chunks, in words; None: nothing."""
    if dataset.chunks is None:
        return None
    filters = _filters(dataset)
    numbers = [number for number, _ in filters]
    if len(set(numbers)) < len(numbers):
        return "is stored through one filter twice"
    for bounded in {DEFLATE, SZIP} & set(numbers):
        behind = numbers[numbers.index(bounded) + 1 :]
        if behind not in ([], [FLETCHER32]):
            return f"is stored through filters in an order that nobody uses ({numbers})"
    size = dataset.dtype.itemsize
    elements = hdf5.chunk_bytes(dataset) // size
    for number, values in filters:
        for places, expected in ((TOLD_ELEMENTS, elements), (TOLD_SIZE, size)):
            place = places.get(number)
            if place is not None and values[place : place + 1] != (expected,):
                return f"has a filter ({number}) that was told of other chunks"
    return None


class ChunkGuard:
    """Looks at the chunks of one dataset before HDF5 reads them."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._numbers = [number for number, _ in _filters(dataset)] if dataset.chunks else []
        # Of the two, the one that is undone first.
        self._bounded = next((each for each in (DEFLATE, SZIP) if each in self._numbers), None)
        self._seen: set[int] = set()

    def check(self, start: int, stop: int) -> None:
        """Look at those that hold the rows `start` to `stop`.

        Raises:
            OSError: One of them isn't there, or inflates to more than a chunk.
        """
        shape, chunk = self._dataset.shape, self._dataset.chunks
        if chunk is None or start >= stop:
            return
        rows = range(start // chunk[0] * chunk[0], stop, chunk[0])
        others = (range(0, size, each) for size, each in zip(shape[1:], chunk[1:], strict=True))
        for corner in itertools.product(rows, *others):
            self._check(corner)

    def _check(self, corner: tuple[int, ...]) -> None:
        found = self._dataset.id.get_chunk_info_by_coord(corner)
        if found.byte_offset is None:  # of a damaged index; HDF5 would make up zeros
            raise OSError("a chunk isn't there")
        if self._bounded is None or found.byte_offset in self._seen:
            return
        if found.filter_mask & 1 << self._numbers.index(self._bounded):
            return  # stored without it
        if self._bounded == SZIP or found.size * MOST_EXPANSION > HARMLESS_BYTES:
            self._check_size(corner, found.size)
        if len(self._seen) == MOST_REMEMBERED:
            self._seen.clear()
        self._seen.add(found.byte_offset)

    def _check_size(self, corner: tuple[int, ...], stored_bytes: int) -> None:
        limit = hdf5.chunk_bytes(self._dataset) + SLACK
        if stored_bytes > 2 * limit:
            raise OSError("a chunk is stored in more bytes than it has")
        _, stored = self._dataset.id.read_direct_chunk(corner)
        size = _inflated(stored, limit) if self._bounded == DEFLATE else _claimed(stored)
        if size > limit:
            raise OSError("a chunk inflates to more than its size")


def _filters(dataset: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """Number and values of each, in the order in which a chunk was stored through them."""
    properties: Any = dataset.id.get_create_plist()
    found = (properties.get_filter(i) for i in range(properties.get_nfilters()))
    return [(number, values) for number, _, values, _ in found]


def _inflated(stored: bytes, limit: int) -> int:
    """Bytes that come out, counted to a little beyond the limit."""
    stream, size = zlib.decompressobj(), 0
    try:
        while size <= limit and not stream.eof:
            piece = stream.decompress(stored, INFLATED_AT_ONCE)
            stored = stream.unconsumed_tail
            size += len(piece)
            if not piece and not stored:
                break
    except zlib.error:
        pass  # HDF5 gets no further either
    return size


def _claimed(stored: bytes) -> int:
    return int.from_bytes(stored[:4], "little")
