"""Seeded mutations of a file's bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK = 64  # bytes; HDF5 files of ours are mostly zeros, which say nothing
MOST_MUTATIONS = 8
LONGEST = 256  # bytes of a piece
# Sizes and counts that programs get wrong.
INTERESTING: tuple[int, ...] = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
INTERESTING += (2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = (
    b"null", b"-1", b"1e999", b"NaN", b"{}", b"[]", b'""', b"true", b"9" * 400, b"[" * 2000,
    b'"\\ud800"', b"\x00", b"\x1b[2J", b"..", b"/", b"\n", b",", b":", b"0.1", b"\xff\xfe",
)  # fmt: skip

Mutation = Callable[[bytearray, bytes, np.random.Generator], None]


def mutated(data: bytes, other: bytes, number: int) -> bytes:
    """The bytes with a few changes, the same for the same number.

    Args:
        data: Of the file.
        other: Of another one, pieces of which may be taken over.
        number: Seed.
    """
    rng = np.random.default_rng(number)
    changed = bytearray(data)
    # What moves all the bytes behind it is noticed at once, and hides everything else.
    mutations = IN_PLACE if rng.random() < 0.8 else IN_PLACE + MOVING
    for _ in range(min(rng.geometric(0.5), MOST_MUTATIONS)):
        mutations[rng.integers(len(mutations))](changed, other, rng)
    return bytes(changed)


def _place(data: bytes | bytearray, rng: np.random.Generator) -> int:
    """An offset; nine of ten lie where the file isn't all zeros."""
    if len(data) == 0:
        return 0
    if rng.random() < 0.9 and len(data) > BLOCK:
        whole = np.frombuffer(bytes(data[: len(data) // BLOCK * BLOCK]), np.uint8)
        used = np.flatnonzero(whole.reshape(-1, BLOCK).any(axis=1))
        if len(used):
            return int(rng.choice(used)) * BLOCK + int(rng.integers(BLOCK))
    return int(rng.integers(len(data)))


def _piece(data: bytes | bytearray, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    return bytes(data[start : start + int(rng.integers(1, LONGEST))])


def _flip_bits(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 5)):
        at = _place(data, rng)
        data[at : at + 1] = bytes(each ^ (1 << int(rng.integers(8))) for each in data[at : at + 1])


def _set_bytes(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    at = _place(data, rng)
    data[at : at + 4] = rng.bytes(len(data[at : at + 4]))


def _set_number(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """An interesting integer of one to eight bytes, little-endian as HDF5 and protobuf have it."""
    at, size = _place(data, rng), int(rng.choice([1, 2, 4, 8]))
    value = int(INTERESTING[rng.integers(len(INTERESTING))]) & (2 ** (8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, "little")[: len(data) - at]


def _overwrite(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """With a piece of itself: an address or a name in the wrong place."""
    piece, at = _piece(data, rng), _place(data, rng)
    data[at : at + len(piece)] = piece[: len(data) - at]


def _duplicate(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    piece, at = _piece(data, rng), _place(data, rng)
    data[at:at] = piece


def _remove(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    at = _place(data, rng)
    del data[at : at + int(rng.integers(1, LONGEST))]


def _cross(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """A piece of the other file, in the same place or any."""
    at = _place(data, rng)
    start = min(at, len(other)) if rng.random() < 0.5 else _place(other, rng)
    piece = other[start : start + int(rng.integers(1, 16 * LONGEST))]
    data[at : at + len(piece)] = piece[: len(data) - at]


def _token(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """For text: JSON, TOML, names."""
    at = _place(data, rng)
    token = TOKENS[rng.integers(len(TOKENS))]
    data[at : at + int(rng.integers(0, len(token) + 2))] = token


def _truncate(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


IN_PLACE: tuple[Mutation, ...] = (
    _flip_bits, _flip_bits, _set_bytes, _set_number, _set_number, _overwrite, _cross,
)  # fmt: skip
MOVING: tuple[Mutation, ...] = (_duplicate, _remove, _token, _token, _truncate)
