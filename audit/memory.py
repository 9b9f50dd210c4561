"""How much of a scan is in memory at once, so that it stays within `--memory-limit`.

What the interpreter, both engines and the model take is measured (`audit.memory_plan`). What the
scan adds is counted here, at its worst, every sample being a near tie; it is a matter of how many
samples are read at once and how many such blocks there are, which is what a limit makes smaller.
How many samples are decided and explained at once, it leaves alone: that would change last bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral

from audit.errors import OptionError

UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
MIB = 2**20
# HDF5's caches: 8 MiB of chunks for samples and labels each, 1 MiB for each array of the findings,
# and what it remembers of where chunks are.
HDF5_BYTES = 24 * MIB
# What the allocator holds back of what was freed: so much, and this share of what is counted.
HELD_BACK = 16 * MIB
SHARE_HELD_BACK = 1 / 8
CHUNKS = "decoding a storage chunk"
SMALLEST_BLOCK = 2**16  # bytes, below which a call costs more than its block


def parse_size(value: object) -> int:
    """Bytes, from a number of them or text such as "1GiB", "500MB", "1.5 GB".

    Raises:
        OptionError: It is neither, or less than one byte.
    """
    size = 0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value, re.ASCII)
        if found and found[2].upper() in UNITS and len(found[1]) < 20:
            size = int(float(found[1]) * UNITS[found[2].upper()])
    elif isinstance(value, Integral) and not isinstance(value, bool):
        size = int(value)
    if size < 1:
        raise OptionError(f"--memory-limit {value}: expected a size such as 1GiB or 500MB")
    return size


def text_from_size(size: int) -> str:
    """A size in whole MiB, rounded up."""
    return f"{-(-size // MIB)}MiB"


@dataclass(frozen=True)
class Memory:
    """What of the samples is in memory at once.

    Attributes:
        block_rows: Samples that are read at once.
        buffers: Blocks that are read or computed at once, at least 2.
        window: Blocks from the first whose result nobody has taken to the last that is read.
        decoding: Storage chunks that are decoded at once.
    """

    block_rows: int
    buffers: int
    window: int
    decoding: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that the memory of a scan follows from.

    Attributes:
        sample_bytes: Of a sample as stored.
        input_size: Numbers in the network's input.
        classes: Number of classes C.
        chunk_rows: Samples that share storage chunks; 1: none.
        chunk_bytes: What decoding a storage chunk takes; 0: nothing is decoded.
        segment_rows: Samples of a segment.
        kept_rows: Candidates that are decided and explained in one go.
        rows_at_once: Samples that are decided, and explained, at once.
        threads: That read and compute.
        keep_all: With every sample's margin and classes.
        gradients: With gradients of what is flagged.
        least_rows: Samples that a block must have.
        usual: What a scan without a limit has.
    """

    sample_bytes: int
    input_size: int
    classes: int
    chunk_rows: int
    chunk_bytes: int
    segment_rows: int
    kept_rows: int
    rows_at_once: int
    threads: int
    keep_all: bool
    gradients: bool
    least_rows: int
    usual: Memory

    def needs(self, memory: Memory) -> dict[str, int]:
        """Bytes that a scan adds at its worst, by what for."""
        logits, every = 4 * self.classes, 36 if self.keep_all else 0
        result = self.sample_bytes + logits + 32 + every  # were it a candidate
        # Of a sample whose block is being finished: numpy's intermediate results, and what a
        # quantised graph passed on.
        finish = 2 * self.sample_bytes + 20 * logits + 128 + every
        rows, settled = memory.block_rows, min(self.kept_rows, self.segment_rows)
        at_once = min(settled, self.rows_at_once)
        counted = {
            CHUNKS: memory.decoding * self.chunk_bytes,
            "samples in hand": rows
            * (
                memory.buffers * (self.sample_bytes + logits)
                + (memory.window + 1) * result  # one is cut to be decided
                + min(self.threads, memory.buffers) * finish
            ),
            # Stored four times over, as each step has its own; gradients twice, as those of the
            # last are being written.
            "candidates and gradients": settled
            * (5 * self.sample_bytes + 2 * logits + 160 + 16 * self.input_size * self.gradients)
            # From raw to float32 by float64; pair gradients are float64.
            + at_once * (self.sample_bytes + 28 * self.input_size + 25 * logits),
            "labels and counts": self.segment_rows * (24 + every) + 24 * self.classes**2,
        }
        counted["HDF5 and the allocator"] = (
            HDF5_BYTES + HELD_BACK + int(SHARE_HELD_BACK * sum(counted.values()))
        )
        return counted

    def total(self, memory: Memory) -> int:
        """Bytes that a scan adds at its worst."""
        return sum(self.needs(memory).values())

    def ways(self) -> Iterator[Memory]:
        """From the usual down to the least.

        Threads are kept busy as long as blocks of whole storage chunks allow it; then fewer blocks
        are in hand; then chunks are decoded more than once.
        """
        usual = self.usual
        yield usual
        buffers = min(usual.buffers, self.threads + 1)
        busy = replace(usual, buffers=buffers, window=buffers)
        rows = usual.block_rows
        least = self.least_rows
        whole = max(self.chunk_rows, -(-least // self.chunk_rows) * self.chunk_rows)
        while rows > whole and rows * self.sample_bytes > SMALLEST_BLOCK:
            yield replace(busy, block_rows=rows)
            rows = max(whole, rows // 2 // self.chunk_rows * self.chunk_rows)
        yield replace(busy, block_rows=rows)
        while rows > least:
            yield Memory(rows, 2, 2, min(1, usual.decoding))
            rows = max(least, rows // 2)
        yield Memory(rows, 2, 2, min(1, usual.decoding))


def fitted(limit: int, taken: int, scale: Scale) -> Memory:
    """The fastest way to scan within a limit.

    Args:
        limit: Bytes that the process may have resident.
        taken: Bytes that it has before the first segment, the engines' working memory included.
        scale: Of the scan.

    Raises:
        OptionError: There is no way.
    """
    for memory in scale.ways():
        if taken + scale.total(memory) <= limit:
            return memory
    raise _refused(limit, taken, scale.needs(memory))


def _refused(limit: int, taken: int, needs: dict[str, int]) -> OptionError:
    """What to raise where a scan takes more than its limit, whatever is done."""
    parts = {"Python, the engines and the model": taken, **needs}
    least = text_from_size(sum(parts.values()))
    largest = sorted(parts.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{text_from_size(size)} for {what}" for what, size in largest if size)
    in_chunks = max(needs, key=lambda what: needs[what]) == CHUNKS
    return OptionError(
        f"--memory-limit {text_from_size(limit)}: this scan needs {least} or more: {listed}. "
        f"Raise it{', or store the data in smaller chunks' if in_chunks else ''}"
    )
