"""An export that is killed at any moment leaves the older bundle or the new one.

`make soak` runs this file as a script, and kills more often.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit import bundle_writer
from audit.bundle import MANIFEST, ONNX, Bundle, load_bundle
from audit.bundle_writer import write_bundle
from audit.errors import OutputError

# Forks a process for each try, which writes the new bundle and dies: at its first step that Python
# tells of (opening, making, renaming, listing, locking, …), at its second, …, until it is through;
# then at random times.
KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from audit import bundle_writer

folder, new, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if mode == "fallback":
    bundle_writer._exchange = lambda one, other: False
files = {each.name: each.read_bytes() for each in new.iterdir()}
random.seed(0)
step, took, through = 0, 1.0, False


def write(tries, step):
    left = step
    def hook(event, args):
        nonlocal left
        if event == "open" or event.startswith(("os.", "fcntl.", "ctypes.")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    if step:
        sys.addaudithook(hook)
    bundle_writer.write_bundle(tries / "bundle", files)


def attempt(step, delay):
    tries = folder / f"{step}-{delay}"
    tries.mkdir()
    if mode != "fresh":
        shutil.copytree(folder / "old", tries / "bundle")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # no exit code that is expected
        write(tries, step)
        os._exit(0)
    if delay:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0, time.monotonic() - start


while not through:
    step += 1
    through, took = attempt(step, 0)
for _ in range(int(sys.argv[4])):
    attempt(0, random.uniform(1e-4, took))
"""
RANDOM_KILLS = 15
MODES = ("exchange", "fallback", "fresh")
Files = Callable[[str], Mapping[str, bytes]]


@pytest.fixture(scope="module")
def files(mnist_bundle: Bundle) -> Files:
    return files_like(mnist_bundle)


def files_like(bundle: Bundle) -> Files:
    """Files of a bundle of that name."""

    def of(name: str) -> Mapping[str, bytes]:
        manifest = replace(bundle.manifest, name=name)
        kept = {each: bundle.read(each) for each in manifest.files}
        return {**kept, MANIFEST: manifest.to_json().encode()}

    return of


def killed(mode: str, files: Files, folder: Path, random_kills: int) -> list[Path]:
    """The folders in which an export was killed."""
    for name in ("old", "new"):
        write_bundle(folder / name, files(name))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder, folder / "new", mode, str(random_kills)],
        capture_output=True,
        text=True,
        timeout=max(200, random_kills),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [each for each in folder.iterdir() if each.name not in ("old", "new")]


def whole(bundle: Path) -> str:
    """Its name, after every file was compared with the manifest."""
    loaded = load_bundle(bundle)
    loaded.check_files()
    assert {each.name for each in bundle.iterdir()} == {MANIFEST, *loaded.manifest.files}
    return loaded.manifest.name


def survived(mode: str, files: Files, folder: Path, random_kills: int) -> Counter[str]:
    """What was there after each kill; the next export works, and leaves nothing else."""
    seen = Counter[str]()
    folders = killed(mode, files, folder, random_kills)
    for each in folders:
        target = each / "bundle"
        if target.exists():
            seen[whole(target)] += 1
        else:  # with two renames there is a moment without, and the older one is beside it
            seen["none"] += 1
            kept = [whole(old) for old in each.glob(".bundle.*.old")]
            assert kept == (["old"] if mode == "fallback" else [])
        write_bundle(target, files("next"))
        assert list(each.iterdir()) == [target]
        assert whole(target) == "next"
    assert len(folders) > random_kills + 10  # steps
    expected = {"exchange": {"old", "new"}, "fallback": {"old", "new", "none"}}
    assert set(seen) == expected.get(mode, {"none", "new"})
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_killed_at_every_step(mode: str, files: Files, tmp_path: Path) -> None:
    survived(mode, files, tmp_path, RANDOM_KILLS)


def test_the_older_one_is_put_back_even_if_the_next_export_fails(
    files: Files, tmp_path: Path
) -> None:
    write_bundle(tmp_path / ".bundle.abcdefgh.old", files("old"))
    with pytest.raises(OutputError, match="can't be written"):
        write_bundle(tmp_path / "bundle", {"x" * 300: b""})
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]
    assert whole(tmp_path / "bundle") == "old"


def test_only_ones_own_scratch_is_removed(files: Files, tmp_path: Path) -> None:
    def folder(name: str, *names: str) -> Path:
        (tmp_path / name).mkdir()
        for each in names:
            (tmp_path / name / each).write_text("")
        return tmp_path / name

    dead = [folder(".b.abcdefgh.partial", MANIFEST, ONNX), folder(".b.a1_b2_c3.old", ONNX)]
    kept = [
        folder(".b.abcdefgi.partial", ONNX, "thesis.tex"),
        folder(".b.c.abcdefgh.partial", ONNX),
        folder(".c.abcdefgh.partial", ONNX),
        folder(".b.backup.partial.d", ONNX),
        folder("elsewhere", ONNX),
    ]
    (tmp_path / ".b.linklink.partial").symlink_to("elsewhere")
    alive = folder(".b.alive_00.partial", ONNX)
    descriptor = os.open(alive, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = {each: sorted(each.iterdir()) for each in (*kept, alive)}
    write_bundle(tmp_path / "b", files("new"))
    assert {each: sorted(each.iterdir()) for each in (*kept, alive)} == before
    assert not any(each.exists() for each in dead)
    os.close(descriptor)
    write_bundle(tmp_path / "b", files("new"))
    assert not alive.exists()


def test_a_scratch_folder_that_was_taken_for_a_dead_ones(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export removes it between its making and its lock: another is made."""
    lock, calls = bundle_writer._lock, 0

    def removed_first(descriptor: int) -> bool | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            bundle_writer._remove(next(tmp_path.iterdir()))
        return lock(descriptor)

    monkeypatch.setattr(bundle_writer, "_lock", removed_first)
    write_bundle(tmp_path / "b", files("new"))
    assert whole(tmp_path / "b") == "new"
    assert (calls, list(tmp_path.iterdir())) == (2, [tmp_path / "b"])


def test_something_else_took_the_place(files: Files, tmp_path: Path) -> None:
    """Between the check at the start of an export and its end minutes pass."""
    write_bundle(tmp_path / "b", files("old"))
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "b", files("new"))
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"


def test_without_locks(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a living export may be writing stays."""
    stale = tmp_path / ".b.abcdefgh.partial"
    stale.mkdir()

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for name in ("old", "new"):
        write_bundle(tmp_path / "b", files(name))
        assert whole(tmp_path / "b") == name
        assert sorted(tmp_path.iterdir()) == [stale, tmp_path / "b"]


@pytest.mark.parametrize("exchange", [True, False])
def test_interrupted_after_the_exchange(
    exchange: bool,
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_bundle(tmp_path / "b", files("old"))
    put = bundle_writer._put_in_place
    if not exchange:
        monkeypatch.setattr(bundle_writer, "_exchange", lambda one, other: False)

    def put_then_interrupted(scratch: Path, target: Path) -> Any:
        put(scratch, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_writer, "_put_in_place", put_then_interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "b", files("new"))
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    assert whole(tmp_path / "b") == "new"


def test_exchange_is_one_step(tmp_path: Path) -> None:
    """Where it works it was the system's own; a file system without it is told by False."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not bundle_writer._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system can't exchange names")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(OSError, match="No such file or directory"):
        bundle_writer._exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("after", [1, 2])
def test_ctrl_c_between_the_renames(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file system that can't exchange two names."""
    monkeypatch.setattr(bundle_writer, "_exchange", lambda one, other: False)
    old, new = (b'{"schema": "audit-bundle/1", ' + each for each in (b'"old"}', b'"new"}'))
    out = tmp_path / "out"
    write_bundle(out, {MANIFEST: old})
    rename, calls = Path.rename, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        result = rename(self, target)
        if calls == after:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(out, {MANIFEST: new})
    assert (out / MANIFEST).read_bytes() == (old if after == 1 else new)
    assert list(tmp_path.iterdir()) == [out]


def soak(kills: int) -> None:
    """Every step of an export, then so many at random times, in each way that it can end."""
    files = files_like(load_bundle("mnist"))
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            seen = survived(mode, files, Path(folder), kills // len(MODES))
        print(f"exports killed, {mode}: {dict(seen)}")


if __name__ == "__main__":
    soak(int(sys.argv[1]))
