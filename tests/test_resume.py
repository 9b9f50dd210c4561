"""An interrupted scan goes on from its last sealed segment, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit
from audit.errors import DatasetError, OptionError, OutputError
from conftest import Run
from oracles import array_bytes, write_first
from processes import running

EPS = 2.0
SAMPLES = 1000
SEGMENT = 128  # of blocks of 64 samples


@pytest.fixture
def data(tmp_path: Path, mnist_h5: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("audit.dataset.BLOCK_BYTES", 64 * 784)
    return write_first(tmp_path / "data.h5", mnist_h5, SAMPLES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "f.h5"


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name("f.h5.partial")


def scan(data: Path, out: Path, **options: Any) -> audit.Findings:
    options = {"eps": EPS, "model": "mnist", "segment_samples": SEGMENT, **options}
    return audit.scan(data, out=out, **options)


class Interrupted(Exception):
    """What stops a scan in these tests."""


def interrupt(data: Path, out: Path, at: int = 500, **options: Any) -> None:
    """Scan until so many samples are through."""

    def progress(done: int, total: int) -> None:
        if done >= at:
            raise Interrupted

    with pytest.raises(Interrupted):
        scan(data, out, progress=progress, **options)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.mark.parametrize("options", [{}, {"keep_all": True}, {"no_gradients": True}])
def test_arrays_are_those_of_one_run(
    options: dict[str, Any], data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    once = scan(data, tmp_path / "once.h5", **options)
    for at in (100, 300, 300, 650, 999):
        interrupt(data, out, at, **options)
        assert partial.is_dir() == (at > 100)
    resumed = scan(data, out, **options)
    assert array_bytes(out) == array_bytes(once.path)
    assert resumed.flagged == once.flagged > 20
    assert (once.engine["resumed"], resumed.engine["resumed"]) == (0, 896)
    assert names(tmp_path) == ["data.h5", "f.h5", "once.h5"]


def test_what_is_sealed_is_not_scanned_again(data: Path, out: Path, partial: Path) -> None:
    interrupt(data, out)
    assert names(partial) == ["00000000.h5", "00000001.h5", "00000002.h5", "lock", "scan.json"]
    seen: list[int] = []
    scan(data, out, progress=lambda done, total: seen.append(done))
    assert seen[0] >= 384
    assert seen[-1] == SAMPLES


def test_segments_of_any_size_find_the_same(data: Path, tmp_path: Path) -> None:
    whole = scan(data, tmp_path / "a.h5", segment_samples=None)
    parts = scan(data, tmp_path / "b.h5", segment_samples=1)  # a block each
    np.testing.assert_array_equal(whole.index, parts.index)
    np.testing.assert_allclose(whole.logits, parts.logits, rtol=0, atol=1e-12)
    assert (whole.engine["segment_samples"], parts.engine["segment_samples"]) == (1000, 64)
    assert whole.dataset["crc32"] == parts.dataset["crc32"]


def test_crc32_is_that_of_the_samples(data: Path, out: Path) -> None:
    with h5py.File(data) as file:
        assert scan(data, out).dataset["crc32"] == zlib.crc32(file["images"][:])
        some = scan(data, out, limit=300)
        assert some.dataset["crc32"] == zlib.crc32(file["images"][:300])


def test_guard_that_breaks_behind_sealed_segments(
    data: Path, out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is scanned again with a wider guard, which an interruption doesn't forget."""
    from audit.bundle import Bundle
    from audit.guard import Guard

    monkeypatch.setattr(Bundle, "guard", property(lambda self: Guard(1e-12, 1e9)))  # can't hold
    monkeypatch.setattr("audit.cascade.CHECKS", 0)
    sealed: list[int] = []

    def progress(done: int, total: int) -> None:
        sealed.append(len(list(partial.glob("0*.h5"))))
        if done == SAMPLES:
            raise Interrupted

    with pytest.raises(Interrupted):  # the first near tie is sample 674, in the sixth segment
        scan(data, out, eps=0.05, progress=progress)
    assert 5 in sealed
    assert 0 in sealed[sealed.index(5) :]
    record = json.loads((partial / "scan.json").read_text())
    assert record["rescans"] == 1
    found = scan(data, out, eps=0.05)
    assert found.index.tolist() == [674]
    assert (found.engine["rescans"], found.engine["resumed"]) == (1, 896)
    assert found.engine["guard"] == record["levels"][0]["value"] > 1e-12


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eps": 0.2}, "--eps 2.0 there, 0.2 here"),
        ({"min_logit": 1.0}, "--min-logit not given there, 1.0 here"),
        ({"keep_all": True}, "--keep-all not given there, given here"),
        ({"no_gradients": True}, "--no-gradients not given there, given here"),
        ({"limit": 900}, "--limit not given there, 900 here"),
        ({"batch_size": 7}, "--batch-size not given there, 7 here"),
        ({"precision": "float32"}, "--precision auto there, float32 here"),
        ({"segment_samples": 256}, "--segment-samples 128 there, 256 here"),
    ],
)
def test_another_scan_does_not_go_on(
    changed: dict[str, Any], said: str, data: Path, out: Path, partial: Path
) -> None:
    interrupt(data, out)
    with pytest.raises(OutputError, match=r"f\.h5\.partial: is of another scan \(" + said) as info:
        scan(data, out, **changed)
    assert "--restart" in str(info.value)
    assert len(names(partial)) == 5  # nothing of the other's is lost
    scan(data, out, resume=False, **changed)
    assert not partial.exists()


def test_threads_and_a_moved_dataset_change_nothing(data: Path, out: Path, tmp_path: Path) -> None:
    interrupt(data, out, threads=1)
    moved = data.rename(tmp_path / "moved.h5")
    assert scan(moved, out, threads=2).engine["resumed"] == 384


def test_another_dataset(data: Path, out: Path) -> None:
    interrupt(data, out)
    with h5py.File(data, "r+") as file:
        file["labels"][-1] = 9 - file["labels"][-1]
    with pytest.raises(OutputError, match=r"is of another scan \(dataset [0-9a-f]{12} there"):
        scan(data, out)


@pytest.mark.parametrize("package", ["near-tie-audit", "torch", "numpy", "onnxruntime"])
def test_another_version(package: str, data: Path, out: Path, partial: Path) -> None:
    interrupt(data, out)
    record = json.loads((partial / "scan.json").read_text())
    record["identity"][package] = "1.0"
    (partial / "scan.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=rf"\({package} 1\.0 there, "):
        scan(data, out)


def test_resume_asks_for_something_to_resume(data: Path, out: Path, partial: Path) -> None:
    with pytest.raises(OptionError, match="--resume: no interrupted scan is in"):
        scan(data, out, resume=True)
    assert not partial.exists()
    interrupt(data, out)
    assert scan(data, out, resume=True).engine["resumed"] == 384


def test_restart_drops_what_was_kept(data: Path, out: Path, partial: Path) -> None:
    interrupt(data, out)
    assert scan(data, out, resume=False).engine["resumed"] == 0
    assert not partial.exists()


def test_sample_that_changed_since(data: Path, out: Path, partial: Path) -> None:
    """One that the fingerprint doesn't look at: the segment's checksum tells."""
    interrupt(data, out)
    with h5py.File(data, "r+") as file:
        file["images"][130, 14, 14] ^= 1
    with pytest.raises(OutputError, match=r"samples 128 to 255 of .* have changed since"):
        scan(data, out)
    assert len(names(partial)) == 5


def test_dataset_that_was_only_touched(data: Path, out: Path, partial: Path) -> None:
    interrupt(data, out)
    os.utime(data)
    assert scan(data, out).engine["resumed"] == 384


def test_clock_that_goes_backwards(
    data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = scan(data, tmp_path / "once.h5")
    os.utime(data, (4e9, 4e9))  # in 2096
    now = iter(np.arange(1e9, 0, -1e3))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    interrupt(data, out)
    scan(data, out)
    assert array_bytes(out) == array_bytes(once.path)


@pytest.mark.parametrize("fate", ["written", "replaced", "deleted"])
def test_dataset_that_changes_under_the_scan(
    fate: str, data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(data, tmp_path / "copy.h5")

    def progress(done: int, total: int) -> None:
        if 500 <= done < 600:
            if fate == "written":
                os.utime(data, (1, 1))
            elif fate == "replaced":
                os.replace(shutil.copyfile(copy, tmp_path / "new.h5"), data)
            else:
                data.unlink(missing_ok=True)

    said = "is no longer there" if fate == "deleted" else "was changed since the scan began"
    with pytest.raises(DatasetError, match=said) as info:
        scan(data, out, progress=progress)
    assert "384 of 1,000 samples are kept" in info.value.__notes__[0]
    assert not out.exists()
    shutil.copy(copy, data)
    assert scan(data, out).engine["resumed"] == 384


def test_damaged_segment_is_scanned_again(
    data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    once = scan(data, tmp_path / "once.h5")
    interrupt(data, out)
    sealed = partial / "00000001.h5"
    sealed.write_bytes(sealed.read_bytes()[:1000])
    shutil.copy(partial / "00000000.h5", partial / "00000002.h5")  # of other samples
    assert scan(data, out).engine["resumed"] == 128
    assert array_bytes(out) == array_bytes(once.path)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"schema": "audit-partial/2"}',
                                    b'{"schema": "audit-partial/1", "levels": 3}'])  # fmt: skip
def test_record_that_cannot_be_read(record: bytes, data: Path, out: Path, partial: Path) -> None:
    interrupt(data, out)
    (partial / "scan.json").write_bytes(record)
    with pytest.raises(OutputError, match=r"f\.h5\.partial.*--restart drops"):
        scan(data, out)
    scan(data, out, resume=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "int4"), ("value", "wide"), ("value", 0), ("logit_scale", None),
     ("safety", 10**400)],
)  # fmt: skip
def test_record_of_a_guard_that_cannot_be(
    name: str, value: object, data: Path, out: Path, partial: Path
) -> None:
    interrupt(data, out, at=200)
    record = json.loads((partial / "scan.json").read_text())
    record["levels"][0][name] = value
    (partial / "scan.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match="its record isn't one that a scan writes; --restart"):
        scan(data, out)


def test_segments_without_a_record_are_worth_nothing(
    data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    once = scan(data, tmp_path / "once.h5")
    interrupt(data, out)
    (partial / "scan.json").unlink()
    assert scan(data, out).engine["resumed"] == 0
    assert array_bytes(out) == array_bytes(once.path)


def test_what_is_not_ours_is_not_touched(data: Path, out: Path, partial: Path) -> None:
    partial.mkdir()
    (partial / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex: isn't of a scan"):
        scan(data, out)
    assert (partial / "thesis.tex").read_text() == "mine"


def test_link_instead_of_the_directory(
    data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"f\.h5\.partial: is in the way"):
        scan(data, out)
    assert names(tmp_path / "elsewhere") == []


@pytest.mark.timeout(20)  # a pipe that is waited for hangs
@pytest.mark.parametrize("name", ["scan.json", "00000000.h5", "lock"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_has_our_names_and_is_no_file(
    name: str, kind: str, data: Path, out: Path, partial: Path, tmp_path: Path
) -> None:
    partial.mkdir()
    path, precious = partial / name, tmp_path / "precious"
    precious.write_text("mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(precious)
    else:
        os.mkfifo(path)
    with pytest.raises(OutputError, match=r"f\.h5\.partial.*; (move it away, or )?(name|write)"):
        scan(data, out)
    assert names(partial) == sorted({name, "lock"})
    assert precious.read_text() == "mine"


def test_file_instead_of_the_directory(data: Path, out: Path, partial: Path) -> None:
    partial.write_text("mine")
    with pytest.raises(OutputError, match=r"f\.h5\.partial: is in the way"):
        scan(data, out)
    assert partial.read_text() == "mine"


LONG = """
import sys, time, audit
audit.scan(sys.argv[1], out="f.h5", eps=2.0, model="mnist", segment_samples=128,
           progress=lambda done, total: done >= 500 and (print(flush=True), time.sleep(60)))
"""


def test_second_scan_to_the_same_output(data: Path, out: Path, run_audit: Run) -> None:
    """It is told which process holds it; killed, that one holds nothing any more."""
    command = [sys.executable, "-c", LONG, str(data)]
    with running(command, cwd=out.parent, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        arguments = ("scan", data, "--eps", EPS, "--model", "mnist", "-o", out)
        second = run_audit(*arguments, "--restart")
        assert second.returncode == 2
        holder = f"another scan is writing it (process {first.pid} on {os.uname().nodename})"
        assert second.stderr == (
            f"Error: {out}: {holder}; wait for it, or name another file with -o\n"
        )
        first.kill()
    assert run_audit(*arguments, "--restart", "--quiet").returncode == 0
    assert names(out.parent) == ["data.h5", "f.h5"]


def test_a_file_system_on_which_the_lock_is_never_the_same_file(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.partial.Partial._is_current", lambda *_: False)
    opened = os.listdir("/proc/self/fd")
    with pytest.raises(OutputError, match="another file whenever it is opened"):
        scan(data, out)
    assert os.listdir("/proc/self/fd") == opened
    assert not out.exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_says_how_to_go_on(
    signum: int, code: int, mnist_h5: Path, tmp_path: Path, run_audit: Run
) -> None:
    arguments = ["scan", str(mnist_h5), "--eps", "0.1", "-o", "f.h5", "--batch-size", "1",
                 "--segment-samples", "1"]  # fmt: skip
    with running(
        [sys.executable, "-m", "audit", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "f.h5.partial" / "00000000.h5").exists():
            assert process.poll() is None
        process.send_signal(signum)
        shown, said = process.communicate(timeout=60)
    assert (process.returncode, shown) == (code, "")
    kept = len(list((tmp_path / "f.h5.partial").glob("0*.h5"))) * 2674
    assert said == (
        f"Interrupted. {kept:,} of 10,000 samples are kept in f.h5.partial; the same command goes "
        "on from there\n"
    )
    done = run_audit(*arguments)
    assert done.returncode == 0
    assert f"resumed   {kept:,} of them were kept from an interrupted scan" in done.stdout
    once = audit.scan(mnist_h5, eps=0.1, out=tmp_path / "once.h5", batch_size=1, segment_samples=1)
    assert array_bytes(tmp_path / "f.h5") == array_bytes(once.path)


def test_joined_rows_are_read_a_few_at_once(
    data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = scan(data, tmp_path / "once.h5", eps=5.0)
    monkeypatch.setattr("audit.segment_file.JOINED_BYTES", 10_000)
    scan(data, out, eps=5.0)
    assert array_bytes(out) == array_bytes(once.path)


def test_flagged_of_all_segments(data: Path, out: Path) -> None:
    """Positions ascend over the joints, and counts are sums."""
    found = scan(data, out, eps=5.0)
    index: NDArray[np.int64] = found.index
    assert (np.diff(index) > 0).all()
    assert len(set(index // SEGMENT)) == 8
    assert found.pairs.sum() == found.flagged
    assert found.margin_counts.sum() == SAMPLES
    assert found.labelled == SAMPLES
