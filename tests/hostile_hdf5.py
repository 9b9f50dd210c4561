"""HDF5 files that mean harm: bombs, endless heaps, filters that name libraries, false claims."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

SHAPE = (4, 28, 28)
ZEROS = bytes(10**6)
DEFLATE, SHUFFLE, FLETCHER32, SZIP, NBIT, SCALE_OFFSET = range(1, 7)
UNKNOWN_FILTER = 31_999

Filters = Sequence[tuple[int, tuple[int, ...]]]


def stored(
    path: Path,
    filters: Filters,
    chunk: bytes,
    *,
    mask: int = 0,
    shape: tuple[int, ...] = SHAPE,
    name: str = "images",
    dtype: str = "u1",
) -> Path:
    """A dataset of one chunk, whose stored bytes, filters and mask are as given."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    for number, values in filters:
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(np.dtype(dtype))
        made = h5py.h5d.create(file.id, name.encode(), kind, space, properties)
        made.write_direct_chunk((0,) * len(shape), chunk, mask)
        file.attrs["audit_bundle"] = "mnist"
    return path


def retold(path: Path, told: Sequence[int], lie: Sequence[int]) -> Path:
    """The file, with other values of a filter than HDF5 wrote into it."""
    old, new = (struct.pack(f"<{len(each)}I", *each) for each in (told, lie))
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def bomb(size: int) -> bytes:
    """Deflated zeros: a thousandth of what comes out."""
    stream = zlib.compressobj(9)
    pieces = [stream.compress(ZEROS) for _ in range(size // len(ZEROS))]
    return b"".join([*pieces, stream.flush()])


def with_endless_heap(path: Path) -> Path:
    """The file, whose heap gets a free piece that takes no room."""
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while int.from_bytes(content[at : at + 2], "little"):  # the last piece, 0, is what is free
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        at += 16 + -(-size // 8) * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
    return path
