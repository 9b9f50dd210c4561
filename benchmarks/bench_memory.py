"""Peak memory of a scan, of a dataset and of one ten times as large."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.conftest import Work
from benchmarks.contest import Claim, Contest
from benchmarks.data import STORAGES, Scale

TIMES = 10
EPS = 1e-4
MAX = 1.05
SCAN = """
import sys, audit
from pathlib import Path
found = audit.scan(sys.argv[1], model=sys.argv[2], eps=float(sys.argv[3]), out=sys.argv[4])
# Not ru_maxrss, in which what started this process counts, too.
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(found.scanned, int(peak) / 2**10)
"""


def write_repeated(path: Path, images: NDArray[np.uint8], times: int, storage: str) -> Path:
    """The images, so many times over, written without holding them all."""
    with h5py.File(path, "w") as file:
        shape = (times * len(images), *images.shape[1:])
        rows = file.create_dataset("images", shape, images.dtype, **STORAGES[storage])
        for start in range(0, len(rows), len(images)):
            rows[start : start + len(images)] = images
    return path


def peak(path: Path, bundle: Path, out: Path, expected: int) -> float:
    """MiB of a process that scans it."""
    command = [sys.executable, "-c", SCAN, *map(str, (path, bundle, EPS, out))]
    scanned, peak = subprocess.check_output(command, text=True).split()
    assert int(scanned) == expected
    return float(peak)


@pytest.mark.parametrize("storage", ["contiguous", "gzip 256"])
def test_peak_memory(
    contest: Contest,
    work: Callable[[str], Work],
    scale: Scale,
    tmp_path: Path,
    storage: str,
) -> None:
    linear = work("linear")
    images = np.resize(linear.raw, (scale.memory, *linear.raw.shape[1:]))
    paths = {
        times: write_repeated(tmp_path / f"{times}.h5", images, times, storage)
        for times in (1, TIMES)
    }
    claim = Claim(
        work=f"peak memory, {TIMES * len(images):,} images, {storage}",
        against=f"{len(images):,} images",
        unit="MiB",
        at_most=MAX,
    )
    larger, smaller = (
        partial(
            peak, paths[times], linear.bundle.path, tmp_path / "findings.h5", times * len(images)
        )
        for times in (TIMES, 1)
    )
    contest.run_costs(claim, larger, smaller)
