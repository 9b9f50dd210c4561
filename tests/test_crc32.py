"""CRC-32 of parts, against zlib's of the whole."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from audit.crc32 import combined, crc32


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_of_two_parts(first: bytes, second: bytes) -> None:
    crcs = zlib.crc32(first), zlib.crc32(second)
    assert combined(*crcs, len(second)) == zlib.crc32(first + second)


def test_of_any_length() -> None:
    zeros = bytes(2**24 + 1)
    assert combined(zlib.crc32(b"a"), zlib.crc32(zeros), len(zeros)) == zlib.crc32(b"a" + zeros)


def test_of_an_array() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3, 2))
    assert crc32(values) == zlib.crc32(values.tobytes())
    assert crc32(values[:0]) == 0
