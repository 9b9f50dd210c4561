"""CRC-32, as zip and gzip have it, of data that is read in parts.

The parts are checked wherever they are at hand; the sum of the whole follows from theirs, so that
`zlib.crc32(images[:])` gives what a scan gave, whatever its blocks and segments were.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import deflate
from numpy.typing import NDArray

POLYNOMIAL = 0xEDB88320  # x³² + x²⁶ + … + 1; bit 31 is the coefficient of x⁰
ONE = 1 << 31
X_TO_THE_8TH = 1 << 23


def crc32(values: NDArray[Any]) -> int:
    """Of C-contiguous values."""
    return int(deflate.crc32(values.reshape(-1).view("u1")))


def combined(first: int, second: int, size: int) -> int:
    """Of one part followed by another of `size` bytes, from their CRCs.

    A CRC is a remainder of polynomials, and appending `size` bytes multiplies what came before by
    x to the power of 8·size: crc32_combine of zlib (https://zlib.net/manual.html).
    """
    return _times(first, _shift(size)) ^ second


@lru_cache
def _shift(size: int) -> int:
    """X to the power of 8·size, modulo the polynomial; blocks are of few sizes."""
    shift, factor = ONE, X_TO_THE_8TH
    while size:
        if size & 1:
            shift = _times(shift, factor)
        factor = _times(factor, factor)
        size >>= 1
    return shift


def _times(a: int, b: int) -> int:
    """Product of two polynomials, modulo CRC-32's."""
    product = 0
    for power in range(31, -1, -1):
        if a >> power & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product
