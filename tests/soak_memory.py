"""Peak memory of a scan over a dataset that is larger than any memory: `make soak-memory`.

    python tests/soak_memory.py [GIGABYTES] [LIMIT]

The dataset is zeros in a file with a hole, the model a linear layer. It fails where the resident
set grows by more than `GROWTH` behind the first fifth, or exceeds the limit.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

import audit
from audit.memory import MIB, parse_size
from networks import linear
from watched import growth, sparse_dataset, watched_scan

SHAPE = (3, 32, 32)
GROWTH = 16 * MIB


def main(gigabytes: float = 50, limit: str = "1GiB") -> None:
    """Scan, print a row of docs/memory.md, and judge."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        bundle = audit.export(
            linear(3072).eval(),
            here / "linear",
            input_shape=SHAPE,
            raw_dtype="uint8",
            raw_layout="CHW",
        )
        samples = int(gigabytes * 1e9) // 3072
        path = sparse_dataset(here / "zeros.h5", samples, SHAPE)
        started = time.monotonic()
        looks = watched_scan(path, bundle.path, here / "out", limit)
        seconds = time.monotonic() - started
    grown, peak = growth(looks), looks[-1].peak
    print(f"{gigabytes:g} GB, {samples:,} samples, --memory-limit {limit}, {seconds:.0f} s")
    print(f"peak {peak / MIB:.0f} MiB, growth behind the first fifth {grown / MIB:.1f} MiB")
    if grown > GROWTH or peak > parse_size(limit):
        sys.exit(1)


if __name__ == "__main__":
    main(*[kind(text) for kind, text in zip((float, str), sys.argv[1:], strict=False)])
