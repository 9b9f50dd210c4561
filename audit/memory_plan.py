"""How a scan stays within its memory limit: by what it is made of, and by a trial of its engines.

Two looks: one before labels are read or an engine is loaded, at what no engine could help; and one
behind trial batches, when all is known.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audit import lanes
from audit.batch_size import MAX_BYTES, SIZES, SMALLEST
from audit.bundle import Manifest
from audit.dataset import Dataset
from audit.decide import ROWS_AT_ONCE
from audit.fast_pass import Level
from audit.memory import MIB, Memory, Scale, fitted
from audit.options import ScanOptions
from audit.resident import peak_of, resident
from audit.segment import kept_rows, plan_segments
from audit_kernels import Kernel

if TYPE_CHECKING:
    from audit.gradients import Canonical

STEP = 4  # from one size of a batch to the next: what it will take is known from the one before
LEAST = MIB  # that a batch is taken to need: less can't be told from chance


class Plan(NamedTuple):
    """How a scan stays within its limit.

    Attributes:
        memory: Of the samples.
        batch_rows: Samples that a forward call may take, where `BatchSize` has the choice.
        batch_size: Where it has none: what the user asks for, or less than its smallest.
    """

    memory: Memory
    batch_rows: int
    batch_size: int | None


def scale_of(dataset: Dataset, manifest: Manifest, options: ScanOptions, threads: int) -> Scale:
    """What the memory of a scan on that many threads follows from."""
    given = options.batch_size or 1
    rows = min(dataset.stored, dataset.block_rows * -(-given // dataset.block_rows))
    buffers = lanes.buffers(rows * dataset.sample_bytes, threads)
    segment = plan_segments(
        dataset.stored, dataset.block_rows, dataset.sample_bytes, options.segment_samples
    )[0]
    decoding = dataset.decoding
    return Scale(
        sample_bytes=dataset.sample_bytes,
        input_size=int(np.prod(manifest.preprocess.input_shape)),
        classes=len(manifest.classes),
        chunk_rows=min(rows, dataset.chunk_rows),
        chunk_bytes=decoding.bytes,
        segment_rows=segment.samples,
        kept_rows=kept_rows(manifest),
        rows_at_once=ROWS_AT_ONCE,
        threads=threads,
        keep_all=options.keep_all,
        gradients=not options.no_gradients,
        least_rows=min(rows, given),
        usual=Memory(rows, buffers, buffers + 2 * threads, min(threads, decoding.at_once)),
    )


def check_memory(dataset: Dataset, manifest: Manifest, options: ScanOptions, threads: int) -> None:
    """Raise where a limit is below what the data alone takes, before any of it is read.

    Raises:
        OptionError: It is.
    """
    if options.memory_limit is not None:
        fitted(options.memory_limit, resident(), scale_of(dataset, manifest, options, threads))


class Engines:
    """What a scan computes with, to be tried on batches that are all zeros."""

    def __init__(
        self,
        manifest: Manifest,
        levels: tuple[Level, ...],
        kernel: Kernel,
        canonical: Callable[[], Canonical] | None,
        options: ScanOptions,
    ) -> None:
        """Take them; None: there is no canonical path, a graph decides."""
        self._manifest = manifest
        self._levels = levels
        self._kernel = kernel
        self._canonical = canonical
        self._options = options

    def propose(self, rows: int, threads: int) -> None:
        """A batch through each graph and the kernel, on so many threads at once."""
        raw_shape, dtype = self._manifest.preprocess.raw_shape, self._manifest.preprocess.raw_dtype
        raw = np.zeros((rows, *raw_shape), dtype=dtype)

        def batch(_: int) -> None:
            for level in self._levels:
                self._kernel(level.forward.logits(raw), classes=self._options.keep_all)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(batch, range(threads)))

    def settle(self, batches: int) -> None:
        """So many batches through the module, and their gradients; 0: a sample."""
        if self._canonical is None:
            return
        from audit.gradients import batch_rows

        canonical, preprocess = self._canonical(), self._manifest.preprocess
        rows = min(ROWS_AT_ONCE, batches * batch_rows(int(np.prod(preprocess.input_shape)))) or 1
        raw = np.zeros((rows, *preprocess.raw_shape), dtype=preprocess.raw_dtype)
        x = preprocess.to_input_space(raw)
        canonical.logits(x)
        if not self._options.no_gradients:
            canonical.pair_gradients(x, np.tile([0, 1], (rows, 1)), np.zeros(rows))


def plan_memory(limit: int, scale: Scale, engines: Engines, batch_size: int | None) -> Plan:
    """What keeps a scan within its limit.

    Each engine is run on a sample, then on a batch on one thread, then on all threads, then on
    larger batches: never on what isn't known to fit, from the step before.

    Args:
        limit: Bytes that the process may have resident.
        scale: Of the scan.
        engines: Of the scan.
        batch_size: That the user asks for.

    Raises:
        OptionError: Nothing does.
    """
    threads = scale.threads
    engines.propose(1, 1)  # what comes once: compiling, tables
    for _ in range(2):  # TorchScript is optimised when it is first run again
        engines.settle(0)
    alone = _growth(engines.settle, 1)
    fitted(limit, resident() + threads * alone, scale)
    settling = _growth(engines.settle, threads)

    before = resident() + settling  # which comes on top: what ONNX Runtime took, it keeps
    most = batch_size or _most_rows(scale)
    rows = min(STEP, most)
    forward = threads * _growth(engines.propose, rows, 1)
    memory = fitted(limit, before + forward, scale)
    forward = max(forward, _growth(engines.propose, rows, threads))
    while rows < most:
        larger = min(STEP * rows, most)
        expected = before + forward * larger // rows
        if batch_size:
            memory = fitted(limit, expected, scale)
        elif expected + scale.total(memory) > limit:
            break  # a larger batch is worth less than what it would take from the blocks
        rows = larger
        forward += _growth(engines.propose, rows, threads)
    if rows < SIZES[0]:
        batch_size = batch_size or rows
    # A batch takes what would be left over of a block.
    return Plan(fitted(limit, before + forward, scale), rows + SMALLEST, batch_size)


def _most_rows(scale: Scale) -> int:
    """Of a batch, where `BatchSize` has the choice."""
    return min(
        scale.usual.block_rows, max(SIZES[0], min(SIZES[-1], MAX_BYTES // (4 * scale.input_size)))
    )


def _growth(run: Callable[..., None], *sizes: int) -> int:
    """Bytes that the process had resident while `run` ran, beyond what it had before."""
    before = resident()
    return max(LEAST, peak_of(partial(run, *sizes)) - before)
