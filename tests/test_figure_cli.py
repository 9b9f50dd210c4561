"""`audit figure`: which sheets are written, from what, and what is said where none can be."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import audit
import audit.bundle
from audit.bundle import Bundle, load_bundle
from audit.cli import main
from audit.figure import figure
from audit.findings import Findings, load_findings
from audit.forward import Forward
from audit.near_tie import NearTie, near_ties_from_findings
from conftest import Run

SHIPPED = audit.bundle.SHIPPED / "mnist"
SAMPLES = 1100
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

sys.meta_path.insert(0, Hidden())
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """`audit figure ARGS…` in an empty directory, in this process: imports are what takes long."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["audit", "figure", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """A folder of findings; the network is unsure of at least three of these digits at 1.0."""
    folder = tmp_path_factory.mktemp("scanned")
    with h5py.File(mnist_h5) as file, h5py.File(folder / "few.h5", "w") as few:
        few["images"] = file["images"][:SAMPLES]
        few["labels"] = file["labels"][:SAMPLES]
    scans: dict[str, dict[str, Any]] = {
        "few": {"eps": 1.0},
        "none": {"eps": 1e-12},
        "plain": {"eps": 1.0, "no_gradients": True},
    }
    for name, options in scans.items():
        audit.scan(folder / "few.h5", model="mnist", out=folder / f"{name}.findings.h5", **options)
    audit.ascend(folder / "few.h5", index=18, target=8, model="mnist", out=folder / "a.ascent.h5")
    return folder


@pytest.fixture(scope="module")
def few(scanned: Path) -> Findings:
    findings = load_findings(scanned / "few.findings.h5")
    assert findings.flagged >= 3
    return findings


def alone(scanned: Path, folder: Path) -> Path:
    """Those findings, from a bundle that isn't there any more."""
    path = folder / "alone.findings.h5"
    shutil.copy(scanned / "few.findings.h5", path)
    with h5py.File(path, "a") as file:
        bundle = json.loads(file.attrs["bundle"])
        file.attrs["bundle"] = json.dumps(bundle | {"path": "/nowhere", "name": "gone"})
    return path


def ties(findings: Findings, *rows: int, model: Any = None) -> list[NearTie]:
    return list(near_ties_from_findings(findings, rows, model=model))


def test_a_near_tie_is_what_the_scan_found(few: Findings, mnist_bundle: Bundle) -> None:
    rows = [2, 0]
    forward = Forward(mnist_bundle.read("model.onnx"), device="cpu", threads=1, source="model.onnx")
    with h5py.File(few.path) as file:
        flagged: dict[str, NDArray[Any]] = {
            name: each[()] for name, each in file["flagged"].items()
        }
    for row, tie in zip(rows, ties(few, *rows), strict=True):
        raw = flagged["input"][row]
        assert tie.index == flagged["index"][row]
        assert_array_equal(tie.x, (raw[None] / 255).astype(np.float32))
        assert_array_equal(tie.gradient, flagged["gradient"][row])
        assert list(tie.classes) == flagged["classes"][row].tolist()
        assert list(tie.logits) == flagged["logits"][row].tolist()
        for name in ("margin", "label", "distance_l2", "distance_linf"):
            assert getattr(tie, name) == flagged[name][row]
        assert tie.class_names == tuple("0123456789")
        logits = forward.logits(raw[None])[0].astype(float)
        logits[flagged["classes"][row]] = flagged["logits"][row]
        assert tie.all_logits is not None
        assert_array_equal(tie.all_logits, logits)


def test_only_the_wanted_rows_are_read(
    few: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, Any]] = []
    original = Findings._read

    def spy(self: Findings, name: str, *args: Any, rows: list[int] | None = None) -> Any:
        read.append((name, rows))
        return original(self, name, *args, rows=rows)

    monkeypatch.setattr(Findings, "_read", spy)
    figure(few.path, tmp_path, index=[int(few.index[1])])
    large = [each for each in read if each[0] in ("flagged/input", "flagged/gradient")]
    assert large == [("flagged/input", [1]), ("flagged/gradient", [1])]


def test_the_closest_first(run: Callable[..., Done], few: Findings, tmp_path: Path) -> None:
    done = run(few.path, "--closest", 2)
    closest = few.index[few.margin.argsort()[:2]]
    expected = [f"few-figures/near-tie-{index}.png" for index in closest]
    assert done == (0, "\n".join(expected) + "\n", "")
    assert sorted(path.name for path in (tmp_path / "few-figures").iterdir()) == sorted(
        Path(each).name for each in expected
    )


def test_index_format_and_directory(
    run: Callable[..., Done], few: Findings, tmp_path: Path
) -> None:
    second, first = few.index[[2, 0]].tolist()
    done = run(
        few.path, "--index", second, "--index", first, "--index", second, "-o", "a/b",
        "--format", "pdf", "--format", "svg", "-k", "-2",
    )  # fmt: skip
    names = [f"near-tie-{index}.{format}" for index in (second, first) for format in ("pdf", "svg")]
    assert done == (0, "".join(f"a/b/{name}\n" for name in names), "")
    assert (tmp_path / "a/b" / names[0]).read_bytes().startswith(b"%PDF")
    assert b"<svg" in (tmp_path / "a/b" / names[1]).read_bytes()
    assert len(list((tmp_path / "a/b").iterdir())) == 4


def test_k_is_honoured(run: Callable[..., Done], few: Findings, tmp_path: Path) -> None:
    sheets = []
    for factor in (("-k", 3), (), ("--projection-factor", 2.5)):
        done = run(few.path, "--closest", 1, *factor)
        assert done.code == 0
        sheets.append((tmp_path / done.out.strip()).read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_none_flagged(run: Callable[..., Done], scanned: Path, tmp_path: Path) -> None:
    done = run(scanned / "none.findings.h5")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("none.findings.h5: holds none, nothing to draw\n")
    assert list(tmp_path.iterdir()) == []


def test_without_its_bundle_other_logits_are_not_known(scanned: Path, tmp_path: Path) -> None:
    findings = load_findings(alone(scanned, tmp_path))
    (tie,) = ties(findings, 0)
    assert tie.all_logits is None
    (named,) = ties(findings, 0, model="mnist")
    assert named.all_logits is not None
    assert_array_equal(named.x, tie.x)
    assert len(figure(findings, tmp_path / "out", closest=1)) == 1


def test_an_ascent_is_a_picture_and_a_film(
    run: Callable[..., Done], scanned: Path, tmp_path: Path
) -> None:
    done = run(scanned / "a.ascent.h5")
    assert (done.code, done.err) == (0, "")
    paths = [tmp_path / line for line in done.out.splitlines()]
    assert {path.suffix for path in paths} == {".png", ".gif"}
    assert {path.parent.name for path in paths} == {"a-figures"}
    assert [path for path in paths if not path.stat().st_size] == []


def tabular(folder: Path) -> Path:
    """Findings of a network that was trained, not exported: rows of three features."""
    from audit.findings_writer import FindingsLayout, FindingsWriter
    from audit.manifest import describe_model
    from audit.preprocess import Preprocess
    from test_findings import segment

    preprocess = Preprocess(
        raw_shape=(3,), raw_dtype="float32", raw_layout="F", input_shape=(3,), scale=1.0,
        offset=0.0, mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    model = describe_model("Net", tuple("abcdefghij"), preprocess)
    bundle = {"path": None, "manifest_sha256": None, "files": {}, **model}
    layout = FindingsLayout(preprocess=preprocess, classes=10, bundle=bundle, eps=0.1)
    rng = np.random.default_rng(0)
    found = replace(
        segment(rng, 0, 2, 40),
        input=rng.normal(size=(2, 3)).astype(np.float32),
        gradient=rng.normal(size=(2, 2, 3)).astype(np.float32),
    )
    path = folder / "table.findings.h5"
    with FindingsWriter(path, layout) as writer:
        writer.append(found)
        writer.finish({"path": None}, {"source": "test"})
    return path


@pytest.mark.parametrize("as_file", [False, True])
def test_feature_names(run: Callable[..., Done], tmp_path: Path, as_file: bool) -> None:
    names = "alpha, beta,gamma"
    if as_file:
        names = "names.txt"
        (tmp_path / names).write_text("alpha\nbeta\n\ngamma\n")
    done = run(tabular(tmp_path), "--feature-names", names, "--format", "svg", "--closest", 1)
    assert (done.code, done.err) == (0, "")
    # Text is drawn as paths, which are named by a comment.
    drawn = (tmp_path / done.out.strip()).read_text()
    assert all(f"<!-- {name}" in drawn for name in ("alpha", "beta", "gamma"))
    assert "logits are not known" in drawn


def other_bundle(folder: Path) -> Path:
    path = folder / "other"
    shutil.copytree(SHIPPED, path)
    other = replace(load_bundle(path).manifest, name="other")
    (path / "manifest.json").write_text(other.to_json())
    return path


def without_raw(folder: Path, scanned: Path) -> Path:
    """As version 0.1.0 wrote them."""
    path = alone(scanned, folder)
    with h5py.File(path, "a") as file:
        bundle = json.loads(file.attrs["bundle"])
        file.attrs["bundle"] = json.dumps({k: v for k, v in bundle.items() if k != "raw"})
    return path


def changed(folder: Path, scanned: Path, name: str, values: Any) -> Path:
    """Those findings with another array at /flagged/`name`."""
    path = folder / "changed.findings.h5"
    shutil.copy(scanned / "few.findings.h5", path)
    with h5py.File(path, "a") as file:
        del file[f"flagged/{name}"]
        file[f"flagged/{name}"] = values(file.attrs["flagged"])
    return path


def text(folder: Path) -> Path:
    (folder / "text.h5").write_text("no HDF5")
    return folder / "text.h5"


def blocked(folder: Path, scanned: Path) -> tuple[object, ...]:
    """A directory stands where the file should."""
    index = load_findings(scanned / "few.findings.h5").index[0]
    (folder / f"out/near-tie-{index}.png").mkdir(parents=True)
    return (scanned / "few.findings.h5", "--index", index, "-o", "out")


Arguments = Callable[[Path, Path], tuple[object, ...]]


def of_few(*args: object) -> Arguments:
    return lambda folder, scanned: (scanned / "few.findings.h5", *args)


def of_ascent(*args: object) -> Arguments:
    return lambda folder, scanned: (scanned / "a.ascent.h5", *args)


MISTAKES: dict[str, tuple[Arguments, tuple[str, ...]]] = {
    "not flagged": (of_few("--index", 0), ("--index 0: not a near tie", "next to it")),
    "negative index": (of_few("--index", -1), ("--index -1: not a near tie",)),
    "index of none": (
        lambda folder, scanned: (scanned / "none.findings.h5", "--index", 0),
        ("--index 0", "it has none"),
    ),
    "index and closest": (of_few("--index", 1, "--closest", 1), ("exclude each other",)),
    "closest 0": (of_few("--closest", 0), ("--closest 0", "1 or more")),
    "k nan": (of_few("-k", "nan"), ("--projection-factor nan", "finite")),
    "gif": (of_few("--format", "gif"), ("--format gif", "png, svg, pdf")),
    "format": (of_few("--format", "bmp"), ("bmp", "--help")),
    "feature names of images": (
        of_few("--feature-names", "a,b"),
        ("--feature-names", "(1, 28, 28)"),
    ),
    "too few feature names": (
        lambda folder, scanned: (tabular(folder), "--feature-names", "a,b"),
        ("got 2 names", "expected 3"),
    ),
    "feature names of bytes": (
        lambda folder, scanned: (tabular(folder), "--feature-names", tabular(folder)),
        ("--feature-names", "UTF-8", "feature name a line"),
    ),
    "other bundle": (
        lambda folder, scanned: (scanned / "few.findings.h5", "--model", other_bundle(folder)),
        ("other: not the bundle", "manifests differ"),
    ),
    "no such bundle": (of_few("--model", "nowhere"), ("nowhere",)),
    "bundle of training": (
        lambda folder, scanned: (tabular(folder), "--model", "mnist"),
        ("made without a bundle",),
    ),
    "0.1.0 without bundle": (
        lambda folder, scanned: (without_raw(folder, scanned),),
        ("0.1.0", "--model"),
    ),
    "no gradients": (
        lambda folder, scanned: (scanned / "plain.findings.h5",),
        ("/flagged/gradient", "scan again with gradients"),
    ),
    "gradient of another shape": (
        lambda folder, scanned: (
            changed(folder, scanned, "gradient", lambda n: np.zeros((n, 2, 3), np.float32)),
        ),
        ("/flagged/gradient has shape (2, 3)", "(2, 1, 28, 28)"),
    ),
    "input of another dtype": (
        lambda folder, scanned: (
            changed(folder, scanned, "input", lambda n: np.zeros((n, 28, 28))),
        ),
        ("/flagged/input is float64", "uint8"),
    ),
    "output is a file": (
        lambda folder, scanned: (scanned / "few.findings.h5", "-o", text(folder)),
        ("text.h5: can't be made a directory", "-o"),
    ),
    "output can't be made": (of_few("-o", "/proc/figures"), ("/proc/figures", "-o")),
    "file is a directory": (blocked, ("can't be written", "-o")),
    "a dataset": (
        lambda folder, scanned: (scanned / "few.h5",),
        ("few.h5", "expected findings made by 'audit scan' or ascents"),
    ),
    "text": (lambda folder, scanned: (text(folder),), ("text.h5: not an HDF5 file",)),
    "nothing": (lambda folder, scanned: ("nothing.h5",), ("nothing.h5: no such file",)),
    "a directory": (lambda folder, scanned: (folder,), ("a directory; expected findings",)),
    "ascent, closest": (of_ascent("--closest", 1), ("--closest", "is an ascent file")),
    "ascent, model": (of_ascent("--model", "mnist"), ("--model", "is an ascent file")),
    "ascent, k": (of_ascent("-k", 2), ("--projection-factor", "is an ascent file")),
    "ascent, names": (of_ascent("--feature-names", "a"), ("--feature-names", "got 1 names")),
    "ascent, index": (of_ascent("--index", 17), ("17",)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, run: Callable[..., Done], scanned: Path, tmp_path: Path
) -> None:
    arguments, words = MISTAKES[name]
    args = arguments(tmp_path, scanned)
    before = sorted(tmp_path.rglob("*"))
    done = run(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert done.err[:-1].isprintable()
    assert [word for word in words if word not in done.err] == [], done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_matplotlib(run_audit: Run, scanned: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HIDE)
    hidden = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    for source in ("few.findings.h5", "a.ascent.h5"):
        done = run_audit("figure", scanned / source, env=hidden)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "Error: matplotlib is not installed: pip install 'near-tie-audit[plot]'\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    # The same without the fault: what made it fail was the fault.
    done = run_audit("figure", scanned / "few.findings.h5", "--closest", 1)
    assert (done.returncode, done.stderr) == (0, "")
