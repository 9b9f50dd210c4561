"""Reading past HDF5 gives what HDF5 gives, and only where that is certain."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import audit.storage
from audit.dataset import Dataset
from audit.errors import DatasetError
from audit.storage import ChunkedRows, ContiguousRows, LibraryRows, rows_of
from oracles import arrays

RAW = np.random.default_rng(0).integers(0, 9, (103, 7, 5), dtype=np.uint8)


def store(path: Path, values: NDArray[Any] = RAW, **storage: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=values, **storage)
    return path


def read(rows: audit.storage.Rows, start: int, stop: int, like: NDArray[Any]) -> NDArray[Any]:
    out = np.empty((stop - start, *like.shape[1:]), dtype=like.dtype.newbyteorder("="))
    rows.read_into(out, start)
    return out


class Refused(LibraryRows):
    """HDF5 where it must not be needed."""

    def read_into(self, out: NDArray[Any], start: int) -> None:
        raise AssertionError("left to HDF5")


@pytest.mark.parametrize(
    ("storage", "kind"),
    [
        ({}, ContiguousRows),
        ({"chunks": (10, 7, 5)}, ChunkedRows),
        ({"chunks": (10, 2, 3)}, ChunkedRows),
        ({"chunks": (200, 7, 5), "maxshape": (None, 7, 5)}, ChunkedRows),
        *[({"chunks": (10, 7, 5), "compression": "gzip", "compression_opts": n}, ChunkedRows)
          for n in (0, 1, 4, 9)],
        ({"chunks": (10, 4, 2), "compression": "gzip"}, ChunkedRows),
        ({"chunks": (1, 7, 5), "compression": "gzip"}, ChunkedRows),
        ({"compression": "gzip"}, ChunkedRows),
        ({"chunks": (10, 7, 5), "compression": "lzf"}, LibraryRows),
        ({"chunks": (10, 7, 5), "compression": "gzip", "shuffle": True}, ChunkedRows),
        ({"dtype": "<f4", "chunks": (10, 4, 3), "compression": "gzip", "shuffle": True},
         ChunkedRows),
        ({"dtype": ">f4", "chunks": (10, 4, 3), "compression": "gzip", "shuffle": True},
         LibraryRows),
        ({"chunks": (10, 7, 5), "compression": "gzip", "fletcher32": True}, LibraryRows),
        ({"chunks": (10, 7, 5), "scaleoffset": 0}, LibraryRows),
        ({"dtype": "<u2"}, ContiguousRows),
        ({"dtype": ">u2"}, LibraryRows),
        ({"dtype": ">f4", "chunks": (10, 7, 5), "compression": "gzip"}, LibraryRows),
        ({"dtype": "<f8", "chunks": (10, 7, 5), "compression": "gzip"}, ChunkedRows),
    ],
    ids=str,
)  # fmt: skip
def test_every_storage(storage: dict[str, Any], kind: type, tmp_path: Path) -> None:
    values = RAW.astype(storage.get("dtype", np.uint8))
    with h5py.File(store(tmp_path / "a.h5", values, **storage)) as file:
        rows = rows_of(file["images"])
        assert type(rows) is kind
        if isinstance(rows, ChunkedRows):
            rows._library = Refused(file["images"])
        for start, stop in ((0, 103), (0, 1), (102, 103), (9, 11), (37, 80), (5, 5)):
            np.testing.assert_array_equal(read(rows, start, stop, values), values[start:stop])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)),
    chunk=st.tuples(st.integers(1, 25), st.integers(1, 6), st.integers(1, 6)),
    deflated=st.booleans(),
    cut=st.tuples(st.integers(0, 19), st.integers(0, 19)),
    indexed=st.booleans(),
)
def test_any_chunks(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    deflated: bool,
    cut: tuple[int, int],
    indexed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    values = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    start, stop = sorted(min(each, shape[0]) for each in cut)
    path = tmp_path_factory.mktemp("chunks") / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "images",
            data=values,
            maxshape=(None,) * 3,
            chunks=chunk,
            compression="gzip" if deflated else None,
        )
    with pytest.MonkeyPatch.context() as patch, h5py.File(path) as file:
        patch.setattr(audit.storage, "MAX_INDEX", 2**16 if indexed else 0)
        rows = rows_of(file["images"])
        assert isinstance(rows, ChunkedRows)
        rows._library = Refused(file["images"])
        np.testing.assert_array_equal(read(rows, start, stop, values), values[start:stop])


@pytest.mark.parametrize("chunks", [None, (10, 4, 5)])
def test_a_user_block_is_left_to_hdf5(chunks: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("images", data=RAW, chunks=chunks)
    with h5py.File(tmp_path / "a.h5") as file:
        assert type(rows_of(file["images"])) is LibraryRows


def test_compact_storage_is_left_to_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((103, 7, 5))
        data = h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, properties)
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, RAW)
    with h5py.File(tmp_path / "a.h5") as file:
        rows = rows_of(file["images"])
        assert type(rows) is LibraryRows
        np.testing.assert_array_equal(read(rows, 3, 9, RAW), RAW[3:9])


def test_twelve_bits_in_sixteen_are_left_to_hdf5(tmp_path: Path) -> None:
    """HDF5 shifts them into place; the bytes as they are would be sixteen times too large."""
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    values = np.arange(-60, 60, dtype=np.int16).reshape(10, 3, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        data = h5py.h5d.create(file.id, b"images", kind, space)
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    with h5py.File(tmp_path / "a.h5") as file:
        rows = rows_of(file["images"])
        assert type(rows) is LibraryRows
        np.testing.assert_array_equal(read(rows, 0, 10, values), values)


def test_chunks_that_a_filter_was_left_out_of(tmp_path: Path) -> None:
    """A writer may store a chunk as it is and say so in its mask."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("images", RAW.shape, "u1", chunks=(50, 7, 5), compression="gzip")
        padded = np.zeros((150, 7, 5), np.uint8)
        padded[:103] = RAW
        for start, mask in ((0, 0), (50, 1), (100, 0)):
            raw = padded[start : start + 50].tobytes()
            data.id.write_direct_chunk((start, 0, 0), raw if mask else zlib.compress(raw), mask)
    with h5py.File(tmp_path / "a.h5") as file:
        rows = rows_of(file["images"])
        assert isinstance(rows, ChunkedRows)
        rows._library = Refused(file["images"])
        np.testing.assert_array_equal(read(rows, 0, 103, RAW), RAW)


def _flip(raw: bytes) -> bytes:
    return raw[:20] + bytes([raw[20] ^ 255]) + raw[21:]


@pytest.mark.parametrize(
    "spoil",
    [
        _flip,
        lambda raw: raw[:-6],
        lambda raw: raw[:1],
        lambda raw: zlib.compress(bytes(10**6)),  # inflates to more than the chunk
        lambda raw: zlib.compress(bytes(10)),
    ],
    ids=["flipped", "cut", "one byte", "too much", "too little"],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_a_damaged_chunk_is_what_hdf5_says(
    spoil: Callable[[bytes], bytes],
    indexed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit.storage, "MAX_INDEX", 2**16 if indexed else 0)
    path = store(tmp_path / "a.h5", chunks=(50, 7, 5), compression="gzip")
    with h5py.File(path, "a") as file:
        _, raw = file["images"].id.read_direct_chunk((50, 0, 0))
        file["images"].id.write_direct_chunk((50, 0, 0), spoil(raw))
    with h5py.File(path) as file:
        try:
            expected = file["images"][40:60]
        except (OSError, RuntimeError):
            expected = None
    with Dataset(path) as dataset:
        out = np.empty((20, 7, 5), np.uint8)
        if expected is None:
            with pytest.raises(DatasetError, match="'images' can't be read at samples 40 to 59"):
                dataset.read_into(out, 40)
        else:
            dataset.read_into(out, 40)
            np.testing.assert_array_equal(out[:10], expected[:10])
        dataset.read_into(out, 0)
        np.testing.assert_array_equal(out, RAW[:20])


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip", "chunks": (10, 7, 5)}])
def test_a_file_that_is_cut_while_it_is_read(storage: dict[str, Any], tmp_path: Path) -> None:
    """An error, where a memory map would end the process."""
    path = store(tmp_path / "a.h5", **storage)
    with Dataset(path) as dataset:
        out = np.empty((103, 7, 5), np.uint8)
        dataset.read_into(out, 0)
        with path.open("r+b") as file:
            file.truncate(2500)
        with pytest.raises(DatasetError, match="can't be read at samples 0 to 102"):
            dataset.read_into(out, 0)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}, {"compression": "lzf"}])
def test_many_threads_at_once(storage: dict[str, Any], tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (5000, 7, 5), dtype=np.uint8)
    with Dataset(store(tmp_path / "a.h5", values, **storage)) as dataset:

        def wrong(start: int) -> bool:
            out = np.empty((500, 7, 5), np.uint8)
            dataset.read_into(out, start)
            return not np.array_equal(out, values[start : start + 500])

        with ThreadPoolExecutor(8) as pool:
            assert not any(pool.map(wrong, range(0, 4500, 37)))


@pytest.mark.parametrize("name", ["Zstd", "Blosc", "LZ4"])
def test_filters_of_hdf5plugin(name: str, tmp_path: Path) -> None:
    """In a process that hasn't imported it: the command line."""
    values = np.random.default_rng(0).integers(0, 9, (300, 28, 28), dtype=np.uint8)
    path = store(tmp_path / "a.h5", values, chunks=(64, 28, 28), **getattr(hdf5plugin, name)())
    with h5py.File(path) as file:
        assert type(rows_of(file["images"])) is LibraryRows
    plain = store(tmp_path / "plain.h5", values)
    mixed = store(tmp_path / "mixed.h5", values)  # of the labels alone
    labels = np.arange(300) % 10
    for each, storage in ((path, {}), (plain, {}), (mixed, getattr(hdf5plugin, name)())):
        with h5py.File(each, "a") as file:
            file.create_dataset("labels", data=labels, chunks=(64,), **storage)
    for each in (path, plain, mixed):
        subprocess.run(
            [sys.executable, "-m", "audit", "scan", each, "--eps", "9", "--model", "mnist",
             "--no-gradients", "--quiet", "-o", each.with_suffix(".f.h5")],
            check=True,
        )  # fmt: skip
    expected = arrays(plain.with_suffix(".f.h5"))
    assert len(expected["flagged/index"]) > 100
    for each in (path, mixed):
        got = arrays(each.with_suffix(".f.h5"))
        for array in expected:
            np.testing.assert_array_equal(got[array], expected[array])
