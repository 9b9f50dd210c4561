"""What is decided and explained at once: so many candidates, however large the blocks are.

A sample's float64 gradients can differ in their last bits with the samples they are computed
beside. So portions are cut by candidates alone, not where blocks happen to end: batch size, storage
and memory limit, from which the size of a block follows, leave the findings as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from audit.decide import Kept
from audit.fast_pass import Passed, Segment


@dataclass(frozen=True)
class Portion:
    """Consecutive samples, `start` to `stop`, and what the fast pass knows of them, in order."""

    start: int
    stop: int
    blocks: list[Passed]


def portions(blocks: Iterable[Passed], segment: Segment, most: int) -> Iterator[Portion]:
    """The blocks of a segment, cut behind every so many kept samples; the last has the rest.

    Args:
        blocks: Of the segment.
        segment: Which samples.
        most: Kept samples of each portion but the last.
    """
    start = at = segment.start
    waiting: list[Passed] = []
    room = most
    for block in blocks:
        rest = block
        while len(rest.kept.index) >= room:
            head, rest = _cut(rest, at, room)
            at += head.samples
            yield Portion(start, at, [*waiting, head])
            start, waiting, room = at, [], most
        waiting.append(rest)
        room -= len(rest.kept.index)
        at += rest.samples
    if start < at:
        yield Portion(start, at, waiting)


def _cut(block: Passed, start: int, kept: int) -> tuple[Passed, Passed]:
    """A block that begins at `start`, behind so many kept samples; what it counts is the head's.

    Its CRC-32 is the last part's, and 0 before: appending multiplies and adds, so that the CRC-32
    of all parts together comes out right, though none of theirs is.
    """
    samples = int(block.kept.index[kept - 1]) + 1 - start
    whole = samples == block.samples
    first, second = slice(kept), slice(kept, None)
    head = replace(
        block,
        samples=samples,
        kept=_rows(block.kept, first),
        margin=block.margin[:samples],
        classes=block.classes[:samples],
        crc32=block.crc32 if whole else 0,
    )
    rest = Passed(
        samples=block.samples - samples,
        kept=_rows(block.kept, second),
        margin_counts=block.margin_counts * 0,
        correct=0,
        rescored=0,
        checked=0,
        margin=block.margin[samples:],
        classes=block.classes[samples:],
        crc32=0 if whole else block.crc32,
    )
    return head, rest


def _rows(kept: Kept, rows: slice) -> Kept:
    return Kept(kept.index[rows], kept.raw[rows], kept.fast[rows], kept.proposed[rows])
