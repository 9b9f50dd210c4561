"""What `audit ascend` prints, how it ends, and what a user can get wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import audit
from audit.bundle import load_bundle
from conftest import Run
from oracles import write_dataset
from processes import running

KEYS = {
    "source", "bundle", "bundle_path", "target", "norm", "objective", "clip", "raw_dtype",
    "ascents", "succeeded", "surviving", "minimal_surviving", "outcomes", "rows", "seconds",
    "ascent",
}  # fmt: skip
SHIPPED = Path(audit.__file__).parent / "shipped" / "mnist"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """A folder with 60 images and their findings. Read only."""
    folder = tmp_path_factory.mktemp("scanned")
    with h5py.File(mnist_h5) as source:
        data = write_dataset(folder / "few.h5", source["images"][:60], source["labels"][:60])
    audit.scan(data, eps=8.0, model="mnist", out=folder / "few.findings.h5")
    return folder


def test_summary_names_everything(run_audit: Run, scanned: Path, tmp_path: Path) -> None:
    findings = audit.load_findings(scanned / "few.findings.h5")
    done = run_audit("ascend", findings.path)
    assert (done.returncode, done.stderr) == (0, "")
    count = findings.flagged
    for words in (
        f"ascended  {count} of {findings.path}",
        "model     mnist (",
        f"reached   {count} of {count} targets; ",
        "also when rounded to uint8",
        "from → to",
        "first order L2",
        "as uint8",
        "ascent    few.ascent.h5",
    ):
        assert words in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["few.ascent.h5"]


def test_json_is_the_same_and_nothing_else(run_audit: Run, scanned: Path, tmp_path: Path) -> None:
    done = run_audit(
        "ascend", scanned / "few.h5", "--index", "18", "--index", "3", "--target", "8",
        "--model", "mnist", "--norm", "linf", "--minimal", "--json", "-o", "out.h5",
    )  # fmt: skip
    assert done.stderr == ""
    summary = json.loads(done.stdout)
    assert summary.keys() == KEYS
    ascents = audit.load_ascents(tmp_path / "out.h5")
    assert (summary["ascents"], summary["succeeded"]) == (2, ascents.succeeded) == (2, 2)
    assert summary["outcomes"]["reached"] == 2
    assert summary["clip"] == [0.0, 1.0]
    assert ascents.options["norm"] == "linf"
    for row, shown in enumerate(summary["rows"]):
        assert shown["index"] == ascents.index[row] == [3, 18][row]
        assert shown["classes"] == [ascents.start_class[row], 8]
        assert shown["steps"] == ascents.steps[row]
        for name in ("distance_l2", "distance_linf", "first_order_linf", "minimal_distance_linf"):
            assert shown[name] == getattr(ascents, name)[row]
        assert shown["survives_rounding"] == ascents.survives_rounding[row]


def test_info_says_what_an_ascent_file_holds(run_audit: Run, scanned: Path) -> None:
    run_audit("ascend", scanned / "few.findings.h5", "-o", "out.h5", check=True)
    document = json.loads(run_audit("info", "out.h5", "--json", check=True).stdout)
    assert document["kind"] == "ascent"
    assert document["ascents"] == audit.load_findings(scanned / "few.findings.h5").flagged
    assert document["options"]["target"] == "second"


def test_minimal_has_a_column(run_audit: Run, scanned: Path) -> None:
    done = run_audit(
        "ascend", scanned / "few.h5", "--index", 7, "--minimal", "--model", SHIPPED,
        "--target", "all",
    )  # fmt: skip
    assert "minimal L2" in done.stdout
    assert "ascended  9 of" in done.stdout
    assert done.stdout.count("  7  ") >= 9


def test_quiet_prints_nothing(run_audit: Run, scanned: Path) -> None:
    done = run_audit("ascend", scanned / "few.findings.h5", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_a_target_not_reached_fails_only_if_strict(
    strict: tuple[str, ...], code: int, run_audit: Run, scanned: Path
) -> None:
    done = run_audit(
        "ascend", scanned / "few.h5", "--index", 0, "--model", "mnist", "--max-steps", 2, *strict
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert "reached   0 of 1 targets\n" in done.stdout
    assert "failed    1: 1 max steps" in done.stdout


def test_interrupt_ends_in_one_line(scanned: Path, tmp_path: Path) -> None:
    """Sent once the temporary file is there, so in the middle of the ascent."""
    command = [
        sys.executable, "-m", "audit", "ascend", str(scanned / "few.h5"), "--target", "all",
        "--model", "mnist", "--step", "1e-5", "--max-steps", "1000000", "-o", "a.h5",
    ]  # fmt: skip
    for index in range(60):
        command += ["--index", str(index)]
    with running(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(tmp_path.glob(".a.h5*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []


Build = Callable[[], object]
DATA, FINDINGS = "few.h5", "few.findings.h5"
ONE = ("--index", "0", "--model", "mnist")


@dataclass(frozen=True)
class Row:
    """One mistake: what the error line must contain, the arguments, what makes it one."""

    name: str
    words: tuple[str, ...]
    args: tuple[str, ...]
    build: Build = lambda: None


def changed(**attributes: Any) -> Build:
    """The findings, another record of the bundle."""

    def build() -> None:
        with h5py.File(FINDINGS, "a") as file:
            bundle = json.loads(file.attrs["bundle"])
            file.attrs["bundle"] = json.dumps(bundle | attributes)

    return build


def other_input() -> None:
    with h5py.File(FINDINGS, "a") as file:
        shape = (len(file["flagged/index"]), 5, 5)
        del file["flagged/input"]
        file["flagged/input"] = np.zeros(shape, np.uint8)


def other_bundle() -> None:
    shutil.copytree(SHIPPED, "other")
    manifest = Path("other") / "manifest.json"
    manifest.write_text(replace(load_bundle("other").manifest, name="other").to_json())


def an_ascent() -> None:
    audit.ascend(DATA, index=0, model="mnist", out="a.ascent.h5")


def gone() -> None:
    changed(path="nowhere", name="mine")()


ROWS = [
    Row("missing", ("nope.h5", "no such file", "findings"), ("nope.h5",)),
    Row("a directory", ("d: a directory",), ("d",), lambda: Path("d").mkdir()),
    Row(
        "neither findings nor dataset",
        ("note.txt", "not an HDF5 file", "findings"),
        ("note.txt",),
        lambda: Path("note.txt").write_text("text"),
    ),
    Row(
        "an HDF5 file without samples",
        ("empty.h5", "holds no dataset"),
        ("empty.h5", *ONE),
        lambda: h5py.File("empty.h5", "w").close(),
    ),
    Row("an ascent", ("audit-ascent/1", "expected findings"), ("a.ascent.h5",), an_ascent),
    Row("a dataset without index", (DATA, "--index"), (DATA, "--model", "mnist")),
    Row("a dataset without model", ("no model", "--model"), (DATA, "--index", "0")),
    Row("index beyond", ("--index 60", "0 to 59"), (DATA, "--index", "60", "--model", "mnist")),
    Row("index negative", ("--index -1",), (DATA, "--index", "-1", "--model", "mnist")),
    Row("index no number", ("'--index'",), (DATA, "--index", "x")),
    Row("index not flagged", ("--index 99", "nearest is"), (FINDINGS, "--index", "99")),
    Row(
        "unknown class",
        ("--target eight", "no such class", "0 to 9"),
        (DATA, *ONE, "--target", "eight"),
    ),
    Row("nearly second", ("did you mean second",), (DATA, *ONE, "--target", "secnd")),
    Row("class beyond", ("--target 10", "0 to 9"), (DATA, *ONE, "--target", "10")),
    Row("unknown norm", ("'--norm'", "'linf'"), (DATA, *ONE, "--norm", "l1")),
    Row("unknown objective", ("'--objective'", "'margin'"), (DATA, *ONE, "--objective", "loss")),
    Row("no step", ("--step 0.0", "above 0"), (DATA, *ONE, "--step", "0")),
    Row("step nan", ("--step nan",), (DATA, *ONE, "--step", "nan")),
    Row("no steps", ("--max-steps 0",), (DATA, *ONE, "--max-steps", "0")),
    Row("one frame", ("--frames 1", "0 for none"), (DATA, *ONE, "--frames", "1")),
    Row("clip turned", ("--clip 1,0", "such as 0,1"), (DATA, *ONE, "--clip", "1,0")),
    Row("clip empty", ("--clip 1,1",), (DATA, *ONE, "--clip", "1,1")),
    Row("clip nan", ("--clip nan,1",), (DATA, *ONE, "--clip", "nan,1")),
    Row("clip of one", ("'--clip'", "two numbers"), (DATA, *ONE, "--clip", "1")),
    Row("clip of words", ("'--clip'", "two numbers"), (DATA, *ONE, "--clip", "a,b")),
    Row(
        "sample outside the clip",
        ("--clip 0,0.5", "sample 0", "from 0 to 1"),
        (DATA, *ONE, "--clip", "0,0.5"),
    ),
    Row("no threads", ("--threads 0",), (DATA, *ONE, "--threads", "0")),
    Row("no such device", ("--device cuda",), (DATA, *ONE, "--device", "cuda")),
    Row("bundle missing", ("nope", "no such bundle"), (FINDINGS, "--model", "nope")),
    Row(
        "another bundle",
        ("--model other", "not the bundle", FINDINGS),
        (FINDINGS, "--model", "other"),
        other_bundle,
    ),
    Row("bundle gone", (FINDINGS, "'nowhere'", "--model"), (FINDINGS,), gone),
    Row(
        "made in training",
        (FINDINGS, "export the model", "--model"),
        (FINDINGS,),
        changed(path=None, manifest_sha256=None),
    ),
    Row("images of findings", ("--images x", "findings"), (FINDINGS, "--images", "x")),
    Row("inputs of another shape", (FINDINGS, "(5, 5)", "(28, 28)"), (FINDINGS,), other_input),
    Row("out is the findings", ("not an ascent file", "-o"), (FINDINGS, "-o", FINDINGS)),
    Row("out is the dataset", ("not an ascent file", "-o"), (DATA, *ONE, "-o", DATA)),
    Row("out is a directory", ("a directory",), (DATA, *ONE, "-o", "."), lambda: None),
    Row("out in no directory", ("no such directory",), (DATA, *ONE, "-o", "nowhere/a.h5")),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_line_and_exit_code_2(
    row: Row, scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In this process, through `main`, which is what the command runs."""
    from audit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in (DATA, FINDINGS):
        shutil.copy(scanned / name, name)
    row.build()
    before = sorted(os.listdir())
    monkeypatch.setattr(sys, "argv", ["audit", "ascend", *row.args])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for word in row.words:
        assert word in err
    assert sorted(os.listdir()) == before


def test_findings_made_in_training_can_be_given_a_model(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(scanned / FINDINGS, FINDINGS)
    changed(path=None, manifest_sha256=None)()
    assert audit.ascend(FINDINGS, model="mnist").succeeded > 0


def test_full_disk(scanned: Path, tmp_path: Path) -> None:
    program = f"""
import resource, audit
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    audit.ascend({str(scanned / DATA)!r}, index=range(9), target="all", model="mnist", out="a.h5")
except OSError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a.h5: writing failed (File too large); no half-written file is left\n"
    assert list(tmp_path.iterdir()) == []
