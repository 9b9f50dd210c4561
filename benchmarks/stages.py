"""The stages of a scan, each by itself: what the whole can't be faster than."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import deflate
import h5py
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from audit.bundle import ONNX, ONNX_INT8, Bundle
from benchmarks.peers import forward_alone

BATCHES = (64, 256, 1024)
BLOCK = 4 * 2**20
GROUPS = 8  # a thread
GRAPHS = {"float32": ONNX, "int8": ONNX_INT8}

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """Where a stored chunk lies in the file."""

    offset: int
    size: int


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def reading(path: Path) -> Callable[[], None]:
    """All bytes of the images out of the file and decoded, on all processors; nothing is kept."""
    with h5py.File(path) as file:
        images = file["images"]
        if images.chunks is None:
            start, stop = images.id.get_offset(), images.id.get_offset() + images.nbytes
            blocks = [Chunk(at, min(BLOCK, stop - at)) for at in range(start, stop, BLOCK)]
            return partial(_on_threads, partial(_copied, path), blocks)
        assert images.compression == "gzip"
        assert not images.shuffle
        chunks: list[Chunk] = []
        images.id.chunk_iter(lambda each: chunks.append(Chunk(each.byte_offset, each.size)))
        decoded = int(np.prod(images.chunks)) * images.dtype.itemsize
    return partial(_on_threads, partial(_inflated, path, decoded), chunks)


def _copied(path: Path, blocks: Sequence[Chunk]) -> None:
    buffer = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        for block in blocks:
            file.seek(block.offset)
            file.readinto(memoryview(buffer)[: block.size])


def _inflated(path: Path, decoded: int, chunks: Sequence[Chunk]) -> None:
    with path.open("rb", buffering=0) as file:
        for chunk in chunks:
            deflate.zlib_decompress(os.pread(file.fileno(), chunk.size, chunk.offset), decoded)


def _on_threads(work: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
    each = -(-len(items) // (GROUPS * threads()))
    groups = [items[start : start + each] for start in range(0, len(items), each)]
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(work, groups):
            pass


def forwards(bundle: Bundle, precision: str, raw: NDArray[Any]) -> dict[str, Callable[[], None]]:
    """Ways to run one of the bundle's graphs over data in memory: one of them is the fastest."""
    content = bundle.read(GRAPHS[precision])
    together = _session(content, threads())
    single = _session(content, 1)
    ways: dict[str, Callable[[], None]] = {}
    for batch in BATCHES:
        rows = [raw[start : start + batch] for start in range(0, len(raw), batch)]
        ways[f"{threads()} calls at once, a thread each, batch {batch}"] = partial(
            _on_threads, partial(_run, single), rows
        )
        ways[f"a call at a time, {threads()} threads, batch {batch}"] = partial(
            _run, together, rows
        )
    return ways


def _session(content: bytes, within: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = within
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(session: Any, batches: Sequence[NDArray[Any]]) -> None:
    for batch in batches:
        forward_alone(session, batch, batch=len(batch))
