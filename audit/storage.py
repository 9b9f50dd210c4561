"""Reading rows of an HDF5 dataset from many threads at once.

HDF5 reads on one thread at a time, and inflates with zlib. Where the file says plainly where the
bytes are (contiguous, or in chunks that are stored as they are, or deflated, shuffled before or
not), they are read past HDF5 and inflated by libdeflate, in the threads that need them. Every other
layout, and whatever turns out to be odd on the way, is HDF5's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from typing import Any, NamedTuple, Protocol

import deflate
import h5py
import numpy as np
from numpy.typing import NDArray

from audit import hdf5
from audit.chunk_guard import ChunkGuard

LARGE_CHUNK_BYTES = 64 * 2**20  # of larger ones HDF5 inflates one at a time
INFLATED_BYTES = 256 * 2**20  # of chunks that are inflated at once
MAX_INDEX = 2**16  # chunks whose place is looked up beforehand; of more, each when it is due
# That HDF5 and h5py bring: deflate to scale-offset, and lzf. Others come with hdf5plugin.
OWN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
PLAIN_FILTERS: tuple[list[int], ...] = ([], [DEFLATE], [SHUFFLE, DEFLATE])
STORED_AS_IT_IS = 1  # bit of a chunk's filter mask: the first filter was left out


class _OddError(Exception):
    """Not as a plain layout would have it: let HDF5 read it, or say what is wrong."""


class Decoding(NamedTuple):
    """What decoding takes.

    Attributes:
        bytes: Of memory for a storage chunk, as stored and as decoded; 0: there are none.
        at_once: Storage chunks that are decoded at once, by as many threads.
    """

    bytes: int
    at_once: int


COPIES = 3  # of a chunk while HDF5 inflates it


class Rows(Protocol):
    """A way to read; may be called from several threads at once."""

    decoding: Decoding

    def limit(self, at_once: int) -> None:
        """Decode no more storage chunks at once than that."""
        ...

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """Fill `out` (n, *row_shape) with the rows from `start` on.

        Raises:
            Exception: What h5py raises on a damaged file.
        """
        ...


def rows_of(dataset: h5py.Dataset) -> Rows:
    """The fastest way to read this dataset."""
    library = LibraryRows(dataset)
    if not _is_plain(dataset):
        return library
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return library if offset is None else ContiguousRows(dataset, offset)
    filters = _filters(dataset)
    if (
        filters not in PLAIN_FILTERS
        or hdf5.chunk_bytes(dataset) > LARGE_CHUNK_BYTES
        or not hasattr(dataset.id, "chunk_iter")
    ):
        return library
    return ChunkedRows(library, filters)


def _is_plain(dataset: h5py.Dataset) -> bool:
    """The stored bytes are the numbers in memory, and lie in this very file as it is on disk."""
    file = dataset.file
    return (
        file.driver == "sec2"
        and file.userblock_size == 0
        and not dataset.is_virtual
        and not dataset.external
        and dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype.newbyteorder("="))
    )


def _filters(dataset: h5py.Dataset) -> list[int]:
    """Numbers of the filters that its chunks went through, in order."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


class LibraryRows:
    """By HDF5, which can read everything."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.decoding = Decoding(COPIES * hdf5.chunk_bytes(dataset) if dataset.chunks else 0, 1)
        self._guard = ChunkGuard(dataset)
        if not OWN_FILTERS.issuperset(_filters(dataset)):
            with contextlib.suppress(ImportError):
                import hdf5plugin  # noqa: F401 - registers Blosc, Zstd and others

    def limit(self, at_once: int) -> None:
        """See `Rows`: HDF5 decodes one at a time."""

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """See `Rows`."""
        self._guard.check(start, start + len(out))
        self.dataset.read_direct(out, np.s_[start : start + len(out)])


class ContiguousRows:
    """Straight from the file, by `preadv`.

    A memory map would save the copy, but ends the process where another one truncates the file;
    and into a buffer that is used again and stays in the cache, the copy costs next to nothing.
    """

    def __init__(self, dataset: h5py.Dataset, offset: int) -> None:
        self._offset = offset
        self._file = dataset.file.id.get_vfd_handle()
        self._row_bytes = dataset.nbytes // dataset.shape[0]
        self.decoding = Decoding(0, 1)

    def limit(self, at_once: int) -> None:
        """See `Rows`: nothing is decoded."""

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """See `Rows`."""
        rest = out.reshape(-1).view(np.uint8).data
        at = self._offset + start * self._row_bytes
        while rest:
            read = os.preadv(self._file, [rest], at)
            if read == 0:  # HDF5 would read zeros
                raise OSError("the file ends before its data")
            rest, at = rest[read:], at + read


class _Chunk(NamedTuple):
    """Where a chunk's bytes are: offset and size in the file, and which filters it did without."""

    offset: int
    size: int
    mask: int


class ChunkedRows:
    """Chunks from the file, inflated by libdeflate, which releases the interpreter meanwhile."""

    def __init__(self, library: LibraryRows, filters: list[int]) -> None:
        dataset = library.dataset
        self._library = library
        self._deflated = DEFLATE in filters
        self._shuffled = SHUFFLE in filters
        self._file = dataset.file.id.get_vfd_handle()
        self._end = os.fstat(self._file).st_size
        self._chunk: tuple[int, ...] = dataset.chunks
        self._dtype: np.dtype[Any] = dataset.dtype
        self._bytes = hdf5.chunk_bytes(dataset)
        self.decoding = Decoding(COPIES * self._bytes, max(1, INFLATED_BYTES // self._bytes))
        self.limit(self.decoding.at_once)
        sizes = zip(dataset.shape, self._chunk, strict=True)
        self._grid = tuple(-(-size // chunk) for size, chunk in sizes)
        self._word = self._widest(dataset.shape[-1])
        self._index = self._indexed() if np.prod(self._grid) <= MAX_INDEX else None

    def limit(self, at_once: int) -> None:
        """See `Rows`."""
        self._inflating = threading.BoundedSemaphore(at_once)

    def _widest(self, columns: int) -> np.dtype[Any]:
        """The widest number that chunks and rows are whole multiples of: copied as such."""
        sizes = [n * self._dtype.itemsize for n in (columns, self._chunk[-1])]
        for word in (np.dtype("u8"), np.dtype("u4"), np.dtype("u2")):
            if not any(size % word.itemsize for size in sizes):
                return word
        return self._dtype

    def _indexed(self) -> NDArray[np.int64]:
        """Offset, size and mask of every chunk, by its place in the grid."""
        index = np.zeros((*self._grid, 3), dtype=np.int64)

        def note(chunk: Any) -> None:
            place = tuple(at // n for at, n in zip(chunk.chunk_offset, self._chunk, strict=True))
            index[place] = chunk.byte_offset, chunk.size, chunk.filter_mask

        self._library.dataset.id.chunk_iter(note)
        return index

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """See `Rows`."""
        try:
            self._read_into(out, start)
        except (_OddError, OSError, deflate.DeflateError):
            self._library.read_into(out, start)

    def _read_into(self, out: NDArray[Any], start: int) -> None:
        stop = start + len(out)
        rows = self._chunk[0]
        out = out.view(self._word)
        for first in range(start // rows, -(-stop // rows)):
            begin, end = max(start, first * rows), min(stop, (first + 1) * rows)
            inner = slice(begin - first * rows, end - first * rows)
            for place in itertools.product(*map(range, self._grid[1:])):
                with self._inflating:
                    values = self._values((first, *place)).view(self._word)[inner]
                    box = self._box(place, values.shape[1:], out.shape[1:])
                    cropped = tuple(slice(each.stop - each.start) for each in box)
                    out[begin - start : end - start, *box] = values[:, *cropped]
                    del values

    @staticmethod
    def _box(
        place: tuple[int, ...], chunk: tuple[int, ...], row: tuple[int, ...]
    ) -> tuple[slice, ...]:
        """What the chunk at this place covers of a row."""
        return tuple(
            slice(at * each, min((at + 1) * each, size))
            for at, each, size in zip(place, chunk, row, strict=True)
        )

    def _values(self, place: tuple[int, ...]) -> NDArray[Any]:
        """The numbers of one chunk."""
        chunk = self._find(place)
        if self._shuffled and chunk.mask:
            raise _OddError
        stored_as_it_is = not self._deflated or bool(chunk.mask & STORED_AS_IT_IS)
        # Nothing is allocated because a header claims it: deflate expands by less than 1 %.
        limit = self._bytes if stored_as_it_is else self._bytes + self._bytes // 64 + 64
        if not 0 < chunk.size <= min(limit, self._end - chunk.offset):
            raise _OddError
        data = os.pread(self._file, chunk.size, chunk.offset)
        if len(data) != chunk.size:
            raise _OddError
        raw = data if stored_as_it_is else deflate.zlib_decompress(data, self._bytes)
        if len(raw) != self._bytes:
            raise _OddError
        if self._shuffled:  # all first bytes, then all second ones, …
            raw = np.frombuffer(raw, np.uint8).reshape(self._dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(raw, dtype=self._dtype).reshape(self._chunk)

    def _find(self, place: tuple[int, ...]) -> _Chunk:
        if self._index is not None:
            return _Chunk(*self._index[place].tolist())
        corner = tuple(at * n for at, n in zip(place, self._chunk, strict=True))
        found = self._library.dataset.id.get_chunk_info_by_coord(corner)
        if found.byte_offset is None:
            raise _OddError
        return _Chunk(found.byte_offset, found.size, found.filter_mask)
