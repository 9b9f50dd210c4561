"""The compiled kernel: its threads, and its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import audit_kernels
from audit_kernels import cpu
from audit_kernels.types import Top2

# Compiles for one dtype, then the other, and says how often numba loaded code instead.
PROGRAM = """
import sys
import numpy as np
import audit_kernels
from audit_kernels import compiled

reference, cpu = audit_kernels.get("reference"), audit_kernels.get("cpu")
for dtype in sys.argv[1:]:
    for width in (10, 300):
        logits = np.random.default_rng(0).standard_normal((50, width)).astype(dtype)
        expected = reference(logits, classes=True)
        found = cpu(logits, classes=True)
        np.testing.assert_array_equal(found.margin, expected.margin)
        np.testing.assert_array_equal(found.classes, expected.classes)
print(sum(sum(f.stats.cache_hits.values()) for f in compiled._functions.values()))
"""
DTYPES = ("float32", "float64")
FUNCTIONS = 4  # of each dtype


def start(*dtypes: str, prefix: str = "", **environment: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", prefix + PROGRAM, *dtypes]
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(command, env=variables, text=True, stdout=-1, stderr=-1)


def loaded(process: subprocess.Popen[str]) -> int:
    """How many functions came from the disk; the results were right."""
    try:
        output, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return int(output)


def logits_of(rows: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


def assert_same(found: Top2, expected: Top2) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(400_001, 10), (5_003, 1000), (3, 1_500_000)])
def test_the_number_of_threads_changes_nothing(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    submit = ThreadPoolExecutor.submit

    def counted(self: ThreadPoolExecutor, *args: object) -> object:
        starts.append(threading.get_ident())
        return submit(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    kernel, logits = audit_kernels.get("cpu"), logits_of(*shape)
    expected = kernel(logits, classes=True)
    assert not starts
    for threads in (2, 3, 64):
        starts.clear()
        assert_same(kernel(logits, classes=True, threads=threads), expected)
        assert len(starts) == min(threads, logits.nbytes // cpu.THREAD_BYTES) - 1


def test_small_work_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ThreadPoolExecutor", None)
    kernel, logits = audit_kernels.get("cpu"), logits_of(1000, 10)
    assert_same(kernel(logits, classes=True, threads=8), kernel(logits, classes=True))


def test_several_threads_may_call_it_at_once() -> None:
    kernel = audit_kernels.get("cpu")
    batches = [logits_of(2000, width) for width in (10, 100, 1000, 37)] * 4
    expected = [audit_kernels.get("reference")(batch, classes=True) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: kernel(batch, classes=True), batches))
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("shape", [(3_000_000, 10), (1500, 50_000)])
def test_it_works_without_the_gil(shape: tuple[int, int]) -> None:
    kernel, logits = audit_kernels.get("cpu"), np.zeros(shape, np.float32)
    kernel(logits[:1], classes=False)  # compiled
    ends: list[float] = []

    def call() -> None:
        ends.append(time.perf_counter())
        kernel(logits, classes=False)
        ends.append(time.perf_counter())

    worker = threading.Thread(target=call)
    steps = []
    worker.start()
    while worker.is_alive():
        steps.append(time.perf_counter())
    worker.join()
    begun, done = ends
    quarter = (done - begun) / 4
    # With the GIL held, none but at the ends.
    assert sum(begun + quarter < step < done - quarter for step in steps) > 100


def test_the_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    assert loaded(start(*DTYPES, NUMBA_CACHE_DIR=tmp_path)) == 0
    assert loaded(start(*DTYPES, NUMBA_CACHE_DIR=tmp_path)) == FUNCTIONS * len(DTYPES)


def test_processes_that_start_at_once_do_not_load_each_others_code(tmp_path: Path) -> None:
    processes = [start(*order, NUMBA_CACHE_DIR=tmp_path) for order in (DTYPES, DTYPES[::-1]) * 2]
    loads = [loaded(process) for process in processes]
    assert sum(loads) == (len(loads) - 1) * FUNCTIONS * len(DTYPES)


def test_damaged_files_are_compiled_anew(tmp_path: Path) -> None:
    assert loaded(start("float32", NUMBA_CACHE_DIR=tmp_path)) == 0
    files = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert len(files) == 2 * FUNCTIONS
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    assert loaded(start("float32", NUMBA_CACHE_DIR=tmp_path)) == 0


def test_a_full_disk_is_no_obstacle(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    assert loaded(start("float32", prefix=full, NUMBA_CACHE_DIR=tmp_path)) == 0
    assert not list(tmp_path.rglob("*.nbc"))


def test_it_works_where_nothing_can_be_written(tmp_path: Path) -> None:
    package = Path(cpu.__file__).parent
    copy = tmp_path / "audit_kernels"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").write_text("no directory")
    moved = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    nowhere = "/dev/null/none"
    process = start(
        "float32", prefix=moved, NUMBA_CACHE_DIR=nowhere, XDG_CACHE_HOME=nowhere, HOME=nowhere
    )
    assert loaded(process) == 0
    assert (copy / "__pycache__").is_file()
