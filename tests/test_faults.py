"""A disk that is full, lost or read-only, a file system that lacks something: nothing is lost.

Each scan here fails in one line; the same command afterwards ends as if nothing had happened.
`make soak` runs this file as a script, and has every step of a scan fail.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import audit
from audit.bundle import MANIFEST, ONNX, Bundle, load_bundle
from killing import Outcome, Zygote
from oracles import array_bytes, write_first
from test_resume import names

SAMPLES = 160  # four segments
OLD, NEW = 4.0, 6.0  # ε of the findings that are there, and of the scan that fails
MIB = 2**20
DISK = 6 * MIB
KEPT = re.compile(
    rf"; (\d+) of {SAMPLES} samples are kept in \S+f\.h5\.partial; the same command goes on from "
    "there"
)

Fault = dict[str, Any]


class Scans:
    """One dataset, scanned into a folder that holds findings already."""

    def __init__(self, folder: Path, mnist_h5: Path, zygote: Zygote) -> None:
        self._data = write_first(folder / "data.h5", mnist_h5, SAMPLES)
        self.zygote = zygote
        self._once = folder / "once"
        self.expected = {}
        for eps in (OLD, NEW):
            (self._once / str(eps)).mkdir(parents=True)
            assert self.scan(self._once / str(eps), eps).finished
            self.expected[eps] = array_bytes(self._once / str(eps) / "f.h5")
        assert len(self.expected[OLD]["flagged/index"]) > 5 * 8
        self.size = (self._once / str(NEW) / "f.h5").stat().st_size

    def scan(self, folder: Path, eps: float = NEW, fault: Fault | None = None) -> Outcome:
        """By the command line, into `f.h5` of that folder."""
        options = ("--eps", eps, "--model", "mnist", "--segment-samples", 1, "--quiet")
        arguments = map(str, ("scan", self._data, *options, "-o", folder / "f.h5"))
        return self.zygote.run("audit", *arguments, kill=fault)

    def prepare(self, folder: Path) -> Path:
        """With findings of an earlier scan."""
        folder.mkdir(exist_ok=True)
        shutil.copy(self._once / str(OLD) / "f.h5", folder)
        return folder

    def check_failed(self, folder: Path, failed: Outcome, reason: str) -> int:
        """One line, and no half-written file; returns how many samples it says are kept."""
        assert re.fullmatch(rf"Error: [^\n]*\({reason}\)[^\n]*\n", failed.said), failed.said
        assert array_bytes(folder / "f.h5") in self.expected.values()
        assert set(names(folder)) <= {"f.h5", "f.h5.partial"}
        kept = KEPT.search(failed.said)
        return int(kept[1]) if kept else 0

    def check_again(self, folder: Path, kept: int = 0) -> None:
        """The same command ends well, and has scanned nothing twice that was kept."""
        replaced = array_bytes(folder / "f.h5") == self.expected[NEW]
        again = self.scan(folder)
        assert (again.finished, again.said) == (True, "")
        assert array_bytes(folder / "f.h5") == self.expected[NEW]
        assert names(folder) == ["f.h5"]
        resumed = audit.load_findings(folder / "f.h5").engine["resumed"]
        assert resumed >= kept or replaced


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Iterator[Scans]:
    folder = tmp_path_factory.mktemp("faults")
    with Zygote(folder) as zygote:
        yield Scans(folder, mnist_h5, zygote)


@pytest.fixture
def folder(scans: Scans, tmp_path: Path) -> Path:
    return scans.prepare(tmp_path / "scans")


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, *options: str) -> None:
        _mount("-o", ",".join(("remount", *options)), str(self.path))

    def leave(self, free: int) -> None:
        """Fill it up to so many bytes."""
        found = os.statvfs(self.path)
        with (self.path / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_bsize - free)

    def make_space(self) -> None:
        (self.path / "ballast").unlink()


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system can't be mounted here: {done.stderr.strip()}")


@contextmanager
def mounted(path: Path, options: str = f"size={DISK}") -> Iterator[Disk]:
    path.mkdir()
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


def full_disk(scans: Scans, disk: Disk, free: int) -> int | None:
    """How many samples are kept where so many bytes are free; None: it is enough."""
    scans.prepare(disk.path)
    disk.leave(free)
    failed = scans.scan(disk.path)
    disk.make_space()
    if failed.finished:
        return None
    kept = scans.check_failed(disk.path, failed, "No space left on device")
    scans.check_again(disk.path, kept)
    return kept


def test_full_disk(scans: Scans, disk: Disk) -> None:
    """For real, wherever it fills up: in any segment, or in the join."""
    files = (0, 0.01, 0.3, 0.9, 1.5, 2.1, 2.5)  # that there is space for
    kept = [full_disk(scans, disk, int(scans.size * count)) for count in files]
    assert kept == [0, 0, 0, 41, 82, 123, 160]


@pytest.mark.parametrize("inodes", [2, 3])
def test_disk_that_is_full_at_the_very_start(inodes: int, scans: Scans, tmp_path: Path) -> None:
    """No directory can be made, or no file in it."""
    with mounted(tmp_path / "disk", f"size={DISK},nr_inodes={inodes + 1}") as disk:
        scans.prepare(disk.path)
        failed = scans.scan(disk.path)
        assert scans.check_failed(disk.path, failed, "No space left on device") == 0
        disk.remount("nr_inodes=100")
        scans.check_again(disk.path)


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    disk.remount("ro")
    yield
    disk.remount("rw")


def test_read_only_directory(scans: Scans, disk: Disk) -> None:
    """Before the scan; and then when a scan is to go on."""
    scans.prepare(disk.path)
    with read_only(disk):
        failed = scans.scan(disk.path)
    assert scans.check_failed(disk.path, failed, "Read-only file system") == 0
    disk.leave(int(1.5 * scans.size))
    failed = scans.scan(disk.path)
    disk.make_space()
    kept = scans.check_failed(disk.path, failed, "No space left on device")
    assert kept > 0
    with read_only(disk):
        failed = scans.scan(disk.path)
    scans.check_failed(disk.path, failed, "Read-only file system")
    scans.check_again(disk.path, kept)


def test_directory_of_another_user(scans: Scans, folder: Path) -> None:
    """Root may write it all the same."""
    folder.chmod(0o555)
    try:
        failed = scans.scan(folder)
    finally:
        folder.chmod(0o755)
    if os.geteuid() == 0:
        assert failed.finished
    else:
        scans.check_failed(folder, failed, "Permission denied")
    scans.check_again(folder)


LACKS = {  # error, what the message says, how many samples are kept
    "lock": ({"of": ["flock"], "how": "ENOLCK"}, "No locks available", 0),
    "fsync": ({"of": ["fsync"], "how": "EINVAL"}, "fsync: Invalid argument", 0),
    "rename": ({"of": ["replace"], "how": "EPERM"}, "rename: Operation not permitted", 0),
    "rename over existing": ({"of": ["replace"], "how": "EEXIST"}, "rename: File exists", SAMPLES),
}


@pytest.mark.parametrize("lacking", LACKS)
def test_file_system_without(lacking: str, scans: Scans, folder: Path) -> None:
    fault, reason, kept = LACKS[lacking]
    failed = scans.scan(folder, fault={"step": 1, "lasting": True, **fault})
    assert scans.check_failed(folder, failed, reason) == kept
    scans.check_again(folder, kept)


def test_partial_on_another_file_system(scans: Scans, folder: Path) -> None:
    """A rename out of it fails, in the end; what is kept there can be moved."""
    with mounted(folder / "f.h5.partial"):
        failed = scans.scan(folder)
        kept = scans.check_failed(folder, failed, "rename: Invalid cross-device link")
        assert kept == SAMPLES
        shutil.copytree(folder / "f.h5.partial", folder / "moved")
    (folder / "f.h5.partial").rmdir()
    (folder / "moved").rename(folder / "f.h5.partial")
    scans.check_again(folder, kept)


def test_directory_that_cannot_be_synced(scans: Scans, folder: Path) -> None:
    """Many file systems over a network can't: then it is as safe as it gets there."""
    fault = {"step": 2, "of": ["fsync"], "how": "EINVAL"}  # behind that of the file in it
    assert scans.scan(folder, fault=fault) == Outcome(True, 12, "")
    scans.check_again(folder)


REASONS = {"ENOSPC": "No space left on device", "EIO": "Input/output error"}
SOME = (  # a scan makes 463 calls: 17 of open, 388 of pwrite, 12 of fsync, 6 of replace, …
    ("mkdir", 1),
    *(("open", step) for step in (1, 6)),
    *(("pwrite", step) for step in (1, 2, 120, 300, 387)),
    ("ftruncate", 5),
    ("write", 1),
    *(("fsync", step) for step in (1, 2, 11, 12)),
    *(("replace", step) for step in (1, 6)),
    *(("unlink", step) for step in (7, 11)),
    *(("close", step) for step in (2, 14)),
    ("rmdir", 1),
)


def injected(scans: Scans, folder: Path, fault: Fault) -> str:
    """How a scan ends that meets the fault, before the same command ends well."""
    scans.prepare(folder)
    failed = scans.scan(folder, fault=fault)
    assert failed.steps >= fault["step"], "the fault wasn't met"
    if failed.finished:
        assert array_bytes(folder / "f.h5") == scans.expected[NEW]
        scans.check_again(folder)
        return "borne"
    kept = scans.check_failed(folder, failed, f"(fsync: |rename: )?{REASONS[fault['how']]}")
    scans.check_again(folder, kept)
    return "failed"


def test_error_at_a_step(scans: Scans, tmp_path: Path) -> None:
    """A few of each kind of call that changes the disk, by turns full and broken."""
    seen = Counter(
        injected(scans, tmp_path / "scans", {"of": [name], "step": step, "how": how})
        for (name, step), how in zip(SOME, itertools.cycle(REASONS))
    )
    assert seen["failed"] > 12
    assert seen["borne"] > 3


@pytest.mark.parametrize("how", REASONS)
def test_export_whose_disk_fails_at_any_step(
    how: str, scans: Scans, mnist_bundle: Bundle, tmp_path: Path
) -> None:
    """The older bundle is whole, or the new one; the next export removes what is left."""
    new = tmp_path / "new"
    new.mkdir()
    for name in (MANIFEST, *mnist_bundle.manifest.files):
        shutil.copy(mnist_bundle.path / name, new)
    target = tmp_path / "exports" / "bundle"
    target.parent.mkdir()
    shutil.copytree(new, target)
    steps = scans.zygote.run("export", target, new).steps
    seen = Counter[bool]()
    for step in range(1, steps + 1):
        failed = scans.zygote.run("export", target, new, kill={"step": step, "how": how})
        seen[failed.finished] += 1
        line = rf"Error: {target}: can't be written \({REASONS[how]}\)\n"
        assert failed.finished or re.fullmatch(line, failed.said), failed.said
        assert load_bundle(target).read(ONNX) == mnist_bundle.read(ONNX)
        assert scans.zygote.run("export", target, new).finished
        assert names(target.parent) == ["bundle"]
    assert seen[False] > 5
    assert seen[True] > 0


def soak() -> None:
    """Every step of a scan fails in every way, and the disk is full at every 16 KiB."""
    from audit.mnist import write_mnist

    with tempfile.TemporaryDirectory() as name, Zygote(Path(name)) as zygote:
        write_mnist(Path(name) / "mnist.h5")
        scans = Scans(Path(name), Path(name) / "mnist.h5", zygote)
        folder = Path(name) / "scans"
        steps = scans.scan(scans.prepare(folder), fault={"step": 0, "how": ""}).steps
        print(f"a scan takes {steps} steps that change the disk; with one that fails")
        for how in REASONS:
            ends = Counter(
                injected(scans, folder, {"step": step, "how": how}) for step in range(1, steps + 1)
            )
            print(f"  {how:<7} {ends['failed']:6,} failed, {ends['borne']:,} bore it", flush=True)
        with mounted(Path(name) / "disk") as disk:
            kept = Counter(full_disk(scans, disk, n) for n in range(0, 4 * scans.size, 2**14))
    print("full disks by samples that were kept (None: it was enough)")
    for samples, count in kept.items():
        print(f"  {samples!s:<7} {count:6,}")


if __name__ == "__main__":
    soak()
