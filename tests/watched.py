"""Scans in processes of their own whose memory is watched, and datasets that are mostly a hole."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from processes import running

EVERY = 0.01  # seconds between two looks
SCAN = """
import sys, audit
out, *arguments = sys.argv[1:]
path, model, eps, limit = arguments
passed = open(out, "w")

def note(done, total):
    passed.seek(0)
    passed.write(f"{done / total:.6f}")
    passed.flush()

audit.scan(path, model=model, eps=float(eps), out=out + ".h5", memory_limit=limit, progress=note)
"""


@dataclass(frozen=True)
class Look:
    """A process at one moment.

    Attributes:
        resident: Bytes in memory, shared libraries included.
        peak: The most of it until then, by the kernel's mark.
        passed: Share of the samples that have been scanned.
    """

    resident: int
    peak: int
    passed: float


def sparse_dataset(path: Path, samples: int, shape: tuple[int, ...]) -> Path:
    """Zeros of uint8, contiguous, that take no room on a disk whose files may have holes."""
    with h5py.File(path, "w") as file:
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5d.FILL_TIME_NEVER)
        space = h5s.create_simple((samples, *shape))
        h5d.create(file.id, b"images", h5t.NATIVE_UINT8, space, properties)
        file["labels"] = np.zeros(samples, np.uint8)
    return path


def deflated_dataset(path: Path, samples: int, shape: tuple[int, ...], rows: int) -> Path:
    """Zeros of uint8, in gzip chunks of so many samples."""
    chunk = zlib.compress(bytes(rows * math.prod(shape)))
    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            "images", (samples, *shape), np.uint8, chunks=(rows, *shape), compression="gzip"
        )
        for start in range(0, samples, rows):
            images.id.write_direct_chunk((start, *[0] * len(shape)), chunk)
    return path


def watched_scan(path: Path, bundle: Path, out: Path, limit: str, eps: float = 1e-9) -> list[Look]:
    """Scan and look at the process meanwhile.

    Raises:
        CalledProcessError: The scan failed.
    """
    command = [sys.executable, "-c", SCAN, *map(str, (out, path, bundle, eps, limit))]
    looks: list[Look] = []
    with running(command) as process:
        while process.poll() is None:
            time.sleep(EVERY)
            if (look := _look(process.pid, out)) is not None:
                looks.append(look)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return looks


def _look(pid: int, progress: Path) -> Look | None:
    """None: the process has ended, or hasn't begun to scan."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        passed = progress.read_text()
        resident, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return None
    return Look(resident, peak, float(passed)) if passed else None


def growth(looks: list[Look], behind: float = 0.2) -> int:
    """Bytes by which the resident set grew after so much of the scan, at most."""
    sizes = [look.resident for look in looks if look.passed >= behind]
    return max(sizes) - sizes[0]
