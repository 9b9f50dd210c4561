"""`top2_margin` on the CPU, compiled.

Compilers vectorise the maximum of integers, but not that of floats, where NaN and -0.0 stand in
the way. So wide rows are compared as integers, their *ranks*: with the lower bits of negative
floats flipped, the bits ascend as the numbers do (-0.0 just below 0.0, which changes no margin). A
shift that wraps then puts NaN and infinity of either sign above every finite number, so that one
maximum tells both the largest logit and whether all are finite.

The second largest is the largest of the other blocks' maxima, or is in the block of the largest:
one look at memory, and one more at a block that is still in the cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from audit_kernels.arrays import as_logits
from audit_kernels.compiled import inlined, run
from audit_kernels.types import Top2

NARROW = 36  # classes, up to which a plain loop over a row is faster
NARROW_ROWS = 256  # looked through for NaN and infinity at once: they stay in the first cache
BLOCK = 256  # classes, whose maximum takes a few vector registers
LINE = 64  # bytes that come from memory at once
AHEAD = 8192  # bytes from the block at hand to what is fetched already: 1.3 times the speed
THREAD_BYTES = 2**22  # of logits for each thread


class Ranking(NamedTuple):
    """How the bits of a float become its rank; all numbers are of the ranks' integer type."""

    sign_shift: Any
    below_sign: Any
    wrap: Any
    least: Any
    not_finite: Any  # and above


def _ranking(integer: type[np.signedinteger[Any]], infinity: int) -> Ranking:
    limits = np.iinfo(integer)
    wrap = infinity - limits.max - 1
    numbers = (limits.bits - 1, limits.max, wrap, limits.min, infinity + wrap)
    return Ranking(*map(integer, numbers))


RANKINGS = {
    np.dtype(np.float32): _ranking(np.int32, 0x7F80_0000),
    np.dtype(np.float64): _ranking(np.int64, 0x7FF0_0000_0000_0000),
}


def top2_margin(logits: NDArray[np.floating], *, classes: bool, threads: int = 1) -> Top2:
    """See `Kernel`. It works without the GIL, so that several threads can each call it."""
    logits = np.require(as_logits(logits), requirements=["C", "A"])
    top, second = np.empty(len(logits), logits.dtype), np.empty(len(logits), logits.dtype)
    pairs = np.empty((len(logits) if classes else 0, 2), np.int64)
    shares = max(1, min(threads, logits.nbytes // THREAD_BYTES))
    bounds = [len(logits) * share // shares for share in range(shares + 1)]
    first, *others = [slice(*pair) for pair in pairwise(bounds)]

    def work(rows: slice) -> None:
        _compute(logits[rows], top[rows], second[rows], pairs[rows])

    if others:
        with ThreadPoolExecutor(len(others)) as pool:
            started = [pool.submit(work, rows) for rows in others]
            work(first)
            for share in started:
                share.result()
    else:
        work(first)
    with np.errstate(over="ignore"):
        margin = np.subtract(top, second, out=second)
    return Top2(margin, top, pairs if classes else None)


def _compute(
    logits: NDArray[np.floating],
    top: NDArray[np.floating],
    second: NDArray[np.floating],
    pairs: NDArray[np.int64],
) -> None:
    """Fills `top` and `second` (N,), and `pairs` (N, 2) unless it is empty.

    `second` is NaN for rows with NaN or infinity.
    """
    logits = logits.view()
    logits.flags.writeable = False  # one type, and one compilation, for all arrays
    ranking = RANKINGS[logits.dtype]
    bits = logits.view(ranking.least.dtype)
    if logits.shape[1] <= NARROW:
        run(_narrow, logits, bits, top, second, ranking)
        if len(pairs):
            run(_narrow_pairs, logits, top, second, pairs)
    else:
        run(_wide, bits, top.view(bits.dtype), second.view(bits.dtype), ranking)
        if len(pairs):
            run(_wide_pairs, logits, top, second, pairs)


def _narrow(logits: Any, bits: Any, top: Any, second: Any, ranking: Ranking) -> None:
    count, width = logits.shape
    infinity = ranking.not_finite - ranking.wrap
    for start in range(0, count, NARROW_ROWS):
        stop = min(start + NARROW_ROWS, count)
        flat = bits[start:stop].reshape(-1)
        largest = ranking.least
        for index in range(len(flat)):
            largest = max(largest, flat[index] & ranking.below_sign)
        for row in range(start, stop):
            a, b = logits[row, 0], logits[row, 1]
            if a < b:
                a, b = b, a
            for column in range(2, width):
                value = logits[row, column]
                smaller = value if value < a else a
                a = a if value < a else value
                b = b if smaller < b else smaller
            top[row], second[row] = a, b
        if largest >= infinity:
            for row in range(start, stop):
                for column in range(width):
                    if bits[row, column] & ranking.below_sign >= infinity:
                        second[row] = np.nan


def _wide(bits: Any, top_bits: Any, second_bits: Any, ranking: Ranking) -> None:
    count, width = bits.shape
    whole, over = width // BLOCK * BLOCK, width % BLOCK
    for index in range(count):
        row = bits[index]
        largest = second = ranking.least
        where = 0
        for start in range(0, whole, BLOCK):
            block = row[start : start + BLOCK]
            for line in range(0, BLOCK, LINE // bits.itemsize):
                _fetch(block, line + AHEAD // bits.itemsize)
            rank = _largest(block, BLOCK, ranking)
            if rank > largest:
                largest, second, where = rank, largest, start
            elif rank > second:
                second = rank
        if whole and over:
            # A whole block is fast, since its size is known when this is compiled. What it shares
            # with the one before matters only if the largest may be there.
            rank = _largest(row[width - BLOCK :], BLOCK, ranking)
            if rank == largest:
                rank = _largest(row[whole:], over, ranking)
            if rank > largest:
                largest, second, where = rank, largest, width - BLOCK
            elif rank > second:
                second = rank
        if whole:
            rest = _largest_but_one(row[where : where + BLOCK], BLOCK, largest, ranking)
        else:
            largest = _largest(row, width, ranking)
            rest = _largest_but_one(row, width, largest, ranking)
        if largest >= ranking.not_finite:
            top_bits[index] = second_bits[index] = ranking.below_sign  # a NaN
        else:
            top_bits[index] = _bits(largest, bits.dtype.type, ranking)
            second_bits[index] = _bits(max(second, rest), bits.dtype.type, ranking)


def _narrow_pairs(logits: Any, top: Any, second: Any, pairs: Any) -> None:
    # Without a branch, whose way the processor couldn't guess.
    for index in range(len(logits)):
        row = logits[index]
        a = b = 0
        for column in range(len(row) - 1, -1, -1):
            a = column if row[column] == top[index] else a
        for column in range(len(row) - 1, -1, -1):
            b = column if (row[column] == second[index]) & (column != a) else b
        pairs[index, 0], pairs[index, 1] = a, b


def _wide_pairs(logits: Any, top: Any, second: Any, pairs: Any) -> None:
    for row in range(len(logits)):
        a = _find(logits[row], top[row], -1)
        pairs[row, 0] = a
        pairs[row, 1] = _find(logits[row], second[row], a)


# Results are made integers of the ranks' type again and again: numba widens them to 64 bits.
@inlined
def _rank(bits: Any, integer: Any, ranking: Ranking) -> Any:
    flip = integer(integer(bits >> ranking.sign_shift) & ranking.below_sign)
    return integer(integer(bits ^ flip) + ranking.wrap)


@inlined
def _bits(rank: Any, integer: Any, ranking: Ranking) -> Any:
    bits = integer(rank - ranking.wrap)
    return integer(bits ^ integer(integer(bits >> ranking.sign_shift) & ranking.below_sign))


@inlined
def _largest(block: Any, size: int, ranking: Ranking) -> Any:
    largest = ranking.least
    for index in range(size):
        largest = max(largest, _rank(block[index], block.dtype.type, ranking))
    return largest


@inlined
def _largest_but_one(block: Any, size: int, largest: Any, ranking: Ranking) -> Any:
    """The largest rank when one `largest` is taken away, if it is in the block."""
    integer = block.dtype.type
    second, hits = ranking.least, integer(0)
    for index in range(size):
        rank = _rank(block[index], integer, ranking)
        hit = rank == largest
        hits = integer(hits + integer(hit))
        second = max(second, ranking.least if hit else rank)
    return largest if hits > 1 else second


@inlined
def _find(row: Any, value: Any, other: int) -> int:
    """The first position of the value that isn't `other`; 0 if there is none."""
    blocks = len(row) // BLOCK * BLOCK
    for start in range(0, blocks, BLOCK):
        block = row[start : start + BLOCK]
        hit = np.int32(0)
        for index in range(BLOCK):
            hit = np.int32(hit | np.int32(block[index] == value))
        if hit:
            for index in range(BLOCK):
                if block[index] == value and start + index != other:
                    return start + index
    for index in range(blocks, len(row)):
        if row[index] == value and index != other:
            return index
    return 0


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Has the processor fetch the memory of `array[index]`, which may lie beyond the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # To be read, kept in the nearest cache, no code.
        builder.call(prefetch, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_fetch: Any = intrinsic(_prefetch)
