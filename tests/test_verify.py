"""Results that were changed since, by chance or on purpose, and what `audit verify` makes of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit
from audit import digest, hdf5
from audit.bundle import MANIFEST, Bundle, load_bundle
from audit.errors import (
    AuditError,
    BundleError,
    DatasetError,
    FindingsError,
    OptionError,
    UntrustedError,
)
from audit.info import info
from conftest import Run
from nights import ties, write_night
from oracles import write_dataset

FLIPS = {"findings": 300, "ascent": 60, "diff": 60}  # a third anywhere, a third in values
SAMPLES = 1000
EPS = 2.0


@pytest.fixture(scope="session")
def data(mnist_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images, some of their labels unknown. Read only."""
    with h5py.File(mnist_h5) as file:
        images, labels = file["images"][:SAMPLES], file["labels"][:SAMPLES].astype(np.int64)
    labels[::7] = -1
    return write_dataset(tmp_path_factory.mktemp("verify") / "data.h5", images, labels)


@pytest.fixture(scope="session")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of findings.h5, ascent.h5 and diff.h5. Read only."""
    folder = tmp_path_factory.mktemp("results")
    few = audit.scan(
        data, model="mnist", eps=EPS / 2, min_logit=2.5, keep_all=True, out=folder / "few.h5"
    )
    found = audit.scan(
        data, model="mnist", eps=EPS, min_logit=3.0, keep_all=True, out=folder / "findings.h5"
    )
    assert 3 <= few.flagged < found.flagged < 100
    audit.ascend(few.path, minimal=True, max_steps=20, frames=3, out=folder / "ascent.h5")
    audit.diff(few, found, out=folder / "diff.h5")
    return folder


KINDS = ("findings", "ascent", "diff")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """Findings, to be changed."""
    return Path(shutil.copy(results / "findings.h5", tmp_path))


def contents(path: Path) -> dict[str, tuple[Any, ...]]:
    """Dtype, shape and bytes of every array and attribute, read without any of our code."""
    found: dict[str, tuple[Any, ...]] = {}

    def add(name: str, node: Any) -> None:
        values = {f"{name}@{key}": np.asarray(value) for key, value in node.attrs.items()}
        if isinstance(node, h5py.Dataset):
            found[f"{name}#"] = (str(h5py.check_enum_dtype(node.dtype)),)
            values[name] = node[()]
        for key, array in values.items():
            is_text = array.dtype.kind == "O"
            stored = str(array.tolist()) if is_text else array.tobytes()
            found[key] = (array.dtype.str, array.shape, stored)

    with h5py.File(path) as file:
        add("/", file)
        file.visititems(add)
    return found


STRUCTURE, VALUES, UNUSED = range(3)


def kinds_of_bytes(path: Path) -> NDArray[np.int8]:
    """What each byte of the file is: of an array's value, of a row to come, or of neither."""
    kinds = np.full(path.stat().st_size, STRUCTURE, np.int8)
    arrays: list[h5py.Dataset] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, node: arrays.append(node) if isinstance(node, h5py.Dataset) else None
        )
        for array in arrays:
            row = array.nbytes // max(1, len(array))
            for number in range(array.id.get_num_chunks()):
                chunk = array.id.get_chunk_info(number)
                held = row * min(array.chunks[0], len(array) - chunk.chunk_offset[0])
                kinds[chunk.byte_offset :][: chunk.size] = UNUSED
                kinds[chunk.byte_offset :][:held] = VALUES
    return kinds


def is_intact(path: Path) -> bool:
    """What `audit verify` asks first."""
    try:
        with (
            hdf5.open_file(path, FindingsError, missing=FindingsError, what="it") as file,
            hdf5.damage_as(FindingsError, path),
        ):
            found = digest.check(file)
    except FindingsError:
        return False
    return found is not None and not found.problems


def test_results_pass(results: Path, kind: str) -> None:
    verification = audit.verify(results / f"{kind}.h5")
    assert verification.passed
    assert verification.kind == kind
    assert [check.name for check in verification.checks][:1] == ["digests"]
    assert all(check.compared for check in verification.checks)


def test_flipped_bits(results: Path, kind: str, tmp_path: Path) -> None:
    """Each is reported, unless all that is in the file reads as before."""
    damaged = Path(shutil.copy(results / f"{kind}.h5", tmp_path))
    data, expected, kinds = damaged.read_bytes(), contents(damaged), kinds_of_bytes(damaged)
    rng, count = np.random.default_rng(7), FLIPS[kind] // 3
    offsets = [
        *rng.integers(0, len(data), count),
        *rng.choice(np.flatnonzero(kinds == VALUES), count),
        *rng.choice(np.flatnonzero(kinds == STRUCTURE), count),
    ]
    harmless = 0
    with damaged.open("r+b", buffering=0) as file:
        for offset in map(int, offsets):
            for byte in (data[offset] ^ 1 << rng.integers(8), data[offset]):
                file.seek(offset)
                file.write(bytes([byte]))
                if byte != data[offset] and is_intact(damaged):
                    assert kinds[offset] != VALUES
                    assert contents(damaged) == expected, f"unseen at {offset}"
                    harmless += 1
    assert is_intact(damaged)
    assert count / 2 < harmless < 2 * count


def changed(path: Path, change: Callable[[h5py.File], Any], *, sealed: bool) -> Path:
    """The file, changed on purpose; sealed: with digests that vouch for it."""
    with h5py.File(path, "r+") as file:
        change(file)
        if sealed:
            digest.seal(file)
    return path


def put(name: str, row: Any, value: Any) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        file[name][row] = value

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def linked(name: str, link: Any) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        file[name] = file[link] if isinstance(link, str) else link

    return change


def without(file: h5py.File) -> None:
    del file["summary/pairs"]


DIFFERENCES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "value": (put("flagged/margin", 1, 0.0625), "/flagged/margin: its values differ from"),
    "digest": (
        lambda file: file["flagged/margin"].attrs.modify("sha256", "0" * 64),
        "/flagged/margin: its values differ from",
    ),
    "no digest": (
        lambda file: file["flagged/margin"].attrs.__delitem__("sha256"),
        "/flagged/margin: its values differ from",
    ),
    "no root digest": (lambda file: file.attrs.__delitem__("sha256"), "/: a name, shape, dtype"),
    "attribute": (attribute("eps", 2.5), "/: a name, shape, dtype or attribute differs"),
    "missing": (without, "/: a name, shape, dtype or attribute differs"),
    "another": (linked("other", np.zeros(3)), "/other: its values differ"),
    "soft link": (linked("other", h5py.SoftLink("/flagged")), "soft or external links"),
    "outside": (linked("other", h5py.ExternalLink("a.h5", "/")), "soft or external links"),
    "two names": (linked("other", "flagged/index"), "or two names of one object"),
    "a circle": (linked("flagged/other", "/flagged"), "or two names of one object"),
    "text": (
        lambda file: file.create_dataset("text", data=["a"], dtype=h5py.string_dtype()),
        "/text: a damaged HDF5 file (values of object)",
    ),
    "a scalar": (linked("other", 7), "/other: a damaged HDF5 file"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_changed_since(difference: str, copied: Path) -> None:
    change, problem = DIFFERENCES[difference]
    verification = audit.verify(changed(copied, change, sealed=False))
    assert not verification.passed
    (check,) = verification.checks
    assert check.name == "digests"
    assert any(problem in each for each in check.problems), check.problems


def swapped(file: h5py.File) -> None:
    """Two near ties change places, in every array."""
    for array in file["flagged"].values():
        array[:2] = array[:2][::-1]


CONTRADICTIONS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "order": (swapped, "/flagged/index isn't ascending"),
    "beyond": (put("flagged/index", -1, SAMPLES), "or beyond the 1000 scanned samples"),
    "a class": (put("flagged/classes", 0, [3, 10]), "what isn't two of 10 classes"),
    "one class": (put("flagged/classes", 0, [3, 3]), "what isn't two of 10 classes"),
    "pairs": (put("summary/pairs", (0, 1), 99), "/summary/pairs doesn't count"),
    "label": (put("flagged/label", 0, 10), "/flagged/label holds what is none of 10 classes"),
    "labels": (put("summary/labels", 3, 0), "/summary/labels doesn't sum up"),
    "edges": (put("summary/margin_edges", 3, 0.5), "/summary/margin_edges aren't those"),
    "histogram": (put("summary/margin_counts", 3, 10**6), "counts more than the 1000 scanned"),
    "count": (attribute("flagged", 3), "no /flagged/index of 3 rows"),
    "eps": (attribute("eps", 0.5), "the margin isn't below ε = 0.5"),
    "min_logit": (attribute("min_logit", 6.0), "the largest logit isn't above min_logit = 6"),
    "margin": (put("flagged/margin", 0, 1e-3), "isn't the difference of the logits"),
    "infinite": (put("flagged/logits", 0, np.inf), "a logit isn't finite"),
    "gradient": (put("flagged/gradient", (1, 0), 0.5), "the distance in L2 isn't"),
    "L2": (put("flagged/distance_l2", 1, 0.5), "the distance in L2 isn't"),
    "L∞": (put("flagged/distance_linf", 1, np.nan), "the distance in L∞ isn't"),
    "every margin": (put("scan/margin", 5, 0.25), "/summary/margin_counts doesn't count"),
    "every class": (put("scan/classes", 5, [3, 12]), "that isn't one of 10"),
    "not finite": (put("scan/margin", 5, np.nan), "a margin or class from sample 0 on"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_numbers_that_do_not_fit(contradiction: str, copied: Path) -> None:
    """With digests that vouch for them."""
    change, problem = CONTRADICTIONS[contradiction]
    check = audit.verify(changed(copied, change, sealed=True)).checks[-1]
    assert check.name != "digests"
    assert any(problem in each for each in check.problems), check


def record(name: str, **changes: Any) -> Callable[[h5py.File], Any]:
    """Entries of a record in JSON."""

    def change(file: h5py.File) -> None:
        file.attrs[name] = json.dumps(json.loads(file.attrs[name]) | changes)

    return change


def another_shape(name: str, *row: int) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        array = np.zeros((len(file[name]), *row), file[name].dtype)
        del file[name]
        file[name] = array

    return change


CONTRADICTIONS |= {
    "class names": (record("bundle", classes=7), "and the bundle's classes are others"),
    "no class names": (record("bundle", classes=None), "and the bundle's classes are others"),
    "bundle": (record("bundle", raw={}), "its bundle's record: shape: expected list"),
    "input": (another_shape("flagged/input", 28, 27), "/flagged/input isn't uint8 (28, 28)"),
    "no pixels": (another_shape("flagged/gradient", 2, 0), "/flagged/gradient has shape (0,)"),
    "square": (another_shape("summary/pairs", 9), "/summary/pairs has shape (10, 9)"),
}

OTHERS: dict[str, tuple[str, Callable[[h5py.File], Any], str]] = {
    "succeeded": ("ascent", attribute("succeeded", 0), "and the file says 0"),
    "success": ("ascent", put("ascent/outcome", 0, 3), "success and outcome contradict"),
    "class": ("ascent", put("ascent/final_class", 0, 11), "reached, and of another class"),
    "path": ("ascent", put("path/offset", 1, 3), "its path isn't steps + 1"),
    "frames": ("ascent", put("frame/offset", -1, 10**6), "/frame/step is int64"),
    "distance": ("ascent", put("ascent/distance_l2", 0, 3.0), "distance_l2 isn't how far"),
    "minimal": ("ascent", put("minimal/input", 0, 0.5), "minimal_distance_l2 isn't how far"),
    "input": ("ascent", another_shape("ascent/input", 27, 28), "/ascent/input has shape (27, 28)"),
    "final": ("ascent", another_shape("ascent/final", 28, 28), "final of an ascent has shape"),
    "classes": ("ascent", record("bundle", classes=None), "incomplete (no class names)"),
    "no index": ("diff", lambda file: file.__delitem__("flips"), "a damaged HDF5 file"),
    "order": ("diff", put("newly/index", 0, SAMPLES - 1), "/newly/index isn't ascending"),
    "twice": (
        "diff",
        lambda file: (
            put("left/index", slice(None), file["still/index"][:1])(file)
            if len(file["left/index"])
            else put("newly/index", 0, file["still/index"][0])(file)
        ),
        "a sample is in two of",
    ),
    "flips": ("diff", attribute("flips", 3), "/flips/classes hasn't 3 rows"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_ascents_and_diffs_that_do_not_fit(case: str, results: Path, tmp_path: Path) -> None:
    kind, change, problem = OTHERS[case]
    path = Path(shutil.copy(results / f"{kind}.h5", tmp_path))
    check = audit.verify(changed(path, change, sealed=True)).checks[-1]
    assert check.name != "digests"
    assert any(problem in each for each in check.problems), check


@pytest.fixture
def copied_bundle(mnist_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mnist_bundle.path, tmp_path / "bundle"))


def test_flipped_bits_of_a_bundle(mnist_bundle: Bundle, copied_bundle: Path) -> None:
    assert audit.verify("mnist").passed
    assert audit.verify(copied_bundle).passed
    rng = np.random.default_rng(9)
    for name in (MANIFEST, *mnist_bundle.manifest.files):
        path = copied_bundle / name
        original = path.read_bytes()
        for offset in rng.integers(0, len(original), 40):
            damaged = bytearray(original)
            damaged[offset] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            assert not passes(copied_bundle), f"unseen in {name} at {offset}"
        path.write_bytes(original)
    assert audit.verify(copied_bundle).passed


def passes(path: Path) -> bool:
    try:
        return audit.verify(path).passed
    except AuditError:
        return False


def test_what_else_is_in_a_bundle(copied_bundle: Path) -> None:
    (copied_bundle / "notes.txt").touch()
    (copied_bundle / "model.onnx.data").mkdir()
    check = audit.verify(copied_bundle).checks[-1]
    assert (check.name, check.compared) == ("entries", 6)
    assert check.problems == tuple(
        f"{copied_bundle / name}: not a file of a bundle"
        for name in ("model.onnx.data", "notes.txt")
    )
    (copied_bundle / "model.ts").unlink()
    (check,) = audit.verify(copied_bundle).checks
    assert check.problems[0].startswith(f"{copied_bundle / 'model.ts'}: missing; ")


def computed_anew(path: Path, data: Path, **options: Any) -> audit.Verification:
    return audit.verify(path, dataset=data, **options)


def test_findings_computed_anew(results: Path, data: Path) -> None:
    found = audit.load_findings(results / "findings.h5")
    some = {check.name: check.compared for check in computed_anew(found.path, data).checks}
    assert some["near ties"] == min(64, found.flagged)
    assert some["the others"] == 64
    verification = computed_anew(found.path, data, all=True, bundle="mnist")
    assert verification.passed, verification
    every = {check.name: check.compared for check in verification.checks}
    assert every["near ties"] == found.flagged
    assert every["the others"] == SAMPLES - found.flagged


def unflagged(file: h5py.File) -> None:
    """A near tie is left out, and everything that counts it with it."""
    a, b = file["flagged/classes"][-1]
    file["summary/pairs"][a, b] -= 1
    for array in file["flagged"].values():
        array.resize(len(array) - 1, axis=0)
    file.attrs["flagged"] -= 1


def another_logit(file: h5py.File) -> None:
    file["flagged/logits"][1] += 1e-6
    z_a, z_b = file["flagged/logits"][1]
    file["flagged/margin"][1] = z_a - z_b


def other_classes(file: h5py.File) -> None:
    a, b = file["flagged/classes"][1]
    c = next(each for each in range(10) if each not in (a, b))
    file["flagged/classes"][1] = [a, c]
    file["summary/pairs"][a, b] -= 1
    file["summary/pairs"][a, c] += 1


def larger_gradient(file: h5py.File) -> None:
    """By one millionth, with distances that fit."""
    file["flagged/gradient"][1] *= np.float32(1 + 1e-6)
    for norm in ("l2", "linf"):
        file[f"flagged/distance_{norm}"][1] /= 1 + 1e-6


def other_pixel(file: h5py.File) -> None:
    file["flagged/input"][1, 14, 14] ^= 1


def other_label(file: h5py.File) -> None:
    row = np.flatnonzero(file["flagged/label"][:] < 0)[0]
    file["flagged/label"][row] = (file["flagged/classes"][row, 0] + 1) % 10


def not_finite(file: h5py.File) -> None:
    index = file["flagged/index"][:]
    position = next(each for each in range(SAMPLES) if each not in index)
    file["nonfinite/index"].resize(1, axis=0)
    file["nonfinite/index"][0] = position
    file.attrs["nonfinite"] = 1


FORGERIES: dict[str, tuple[Callable[[h5py.File], Any], str, str]] = {
    "left out": (unflagged, "the others", ": is a near tie, and isn't in /flagged"),
    "logit": (another_logit, "near ties", ": its logits are "),
    "classes": (other_classes, "near ties", ": its logits are "),
    "gradient": (larger_gradient, "near ties", ": its gradients differ"),
    "pixel": (other_pixel, "near ties", ": /flagged/input isn't what the dataset has there"),
    "label": (other_label, "near ties", ": its label is -1, not "),
    "labels": (put("summary/labels", slice(0, 2), [1, 0]), "summary", "doesn't sum up"),
    "not finite": (not_finite, "non-finite", ": its logits are finite"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_findings(forgery: str, copied: Path, data: Path) -> None:
    """Whose digests vouch for them, and whose numbers fit each other."""
    change, name, problem = FORGERIES[forgery]
    changed(copied, change, sealed=True)
    check = computed_anew(copied, data, all=True).checks[-1]
    assert check.name == name
    assert problem in check.problems[0]


def test_labels_of_other_classes(copied: Path, data: Path) -> None:
    def moved(file: h5py.File) -> None:
        file["summary/labels"][:2] += np.array([-1, 1])

    check = computed_anew(changed(copied, moved, sealed=True), data).checks[-1]
    assert (check.name, *check.problems) == (
        "dataset",
        "/summary/labels doesn't count the dataset's labels",
    )


def test_other_dataset_and_bundle(
    results: Path, data: Path, copied_bundle: Path, tmp_path: Path
) -> None:
    found = results / "findings.h5"
    other = Path(shutil.copy(data, tmp_path))
    with h5py.File(other, "r+") as file:
        file["labels"][5] = 9
    check = computed_anew(found, other).checks[-1]
    assert (check.name, *check.problems) == (
        "dataset",
        f"{other}: not the dataset that was scanned (its fingerprint differs)",
    )
    manifest = load_bundle(copied_bundle).manifest
    (copied_bundle / MANIFEST).write_text(replace(manifest, name="other").to_json())
    check = audit.verify(found, bundle=copied_bundle).checks[-1]
    assert (check.name, *check.problems) == (
        "bundle",
        f"{copied_bundle}: not the bundle that was scanned with (its manifest differs)",
    )


def test_limit_and_no_gradients(data: Path, tmp_path: Path) -> None:
    found = audit.scan(
        data, model="mnist", eps=EPS, limit=500, no_gradients=True, out=tmp_path / "few.h5"
    )
    verification = computed_anew(found.path, data, all=True)
    assert verification.passed
    every = {check.name: check.compared for check in verification.checks}
    assert every["near ties"] + every["the others"] == 500
    assert "distances" not in every


def test_findings_that_a_graph_decided(
    data: Path, mnist_bundle: Bundle, copied_bundle: Path, tmp_path: Path
) -> None:
    """Of a stranger's bundle: they differ from float64 by the guard at most."""
    producer = {**mnist_bundle.manifest.producer, "by": "a stranger"}
    text = replace(mnist_bundle.manifest, producer=producer).to_json()
    (copied_bundle / MANIFEST).write_text(text)
    found = audit.scan(
        data, model=copied_bundle, eps=EPS, no_gradients=True, out=tmp_path / "found.h5"
    )
    assert found.engine["decided_by"] == "onnx"
    with pytest.raises(UntrustedError):
        computed_anew(found.path, data, bundle=copied_bundle, all=True)
    assert computed_anew(found.path, data, bundle=copied_bundle, all=True, trust=True).passed


def test_sample_that_nobody_looks_at(copied: Path, data: Path, tmp_path: Path) -> None:
    """Neither the fingerprint nor the random samples are of it."""
    changed = Path(shutil.copy(data, tmp_path / "changed.h5"))
    with h5py.File(changed, "r+") as file:
        file["images"][1, 0, 0] ^= 1
    verification = computed_anew(copied, changed, samples=1)
    problems = [problem for check in verification.checks for problem in check.problems]
    assert problems == [
        f"{changed}: samples were changed since they were scanned (their CRC-32 differs)"
    ]


def test_samples_that_are_not_finite(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((300, 12)).astype(np.float32)
    images[3], images[77] = np.nan, np.inf
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(data, model=network_bundle("tabular"), eps=0.1, out=tmp_path / "found.h5")
    assert found.nonfinite == 2
    assert found.flagged
    assert computed_anew(found.path, data, all=True).passed

    def forgotten(file: h5py.File) -> None:
        file["nonfinite/index"].resize(1, axis=0)
        file.attrs["nonfinite"] = 1

    changed(found.path, forgotten, sealed=True)
    check = computed_anew(found.path, data, all=True).checks[-1]
    assert (check.name, *check.problems) == (
        "the others",
        "sample 77: has NaN or infinite logits, and isn't in /nonfinite",
    )


def test_findings_of_a_training(tmp_path: Path, data: Path) -> None:
    found = write_night(tmp_path / "night.h5", ties(3, 9, l2=np.nan, linf=np.nan))
    assert audit.verify(found.path).passed
    with pytest.raises(OptionError, match=r"night\.h5: made in training, without a dataset"):
        computed_anew(found.path, data)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_older_versions(kind: str, results: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(results / f"{kind}.h5", tmp_path))

    def older(file: h5py.File) -> None:
        del file.attrs["sha256"]
        file.visititems(lambda _, node: node.attrs.pop("sha256", None) and None)

    with pytest.raises(FindingsError, match=r"no digests: written by an older version of near-tie"):
        audit.verify(changed(path, older, sealed=False))
    assert info(path)["kind"] == kind


def test_command(run_audit: Run, results: Path, data: Path, copied: Path) -> None:
    done = run_audit("verify", results / "findings.h5", "--dataset", data, "--samples", 5)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == f"{results / 'findings.h5'}: findings"
    assert "  PASS  the others    5 samples" in lines
    assert lines[-1] == "PASS: nothing differs"
    changed(copied, put("flagged/margin", 1, 0.0625), sealed=False)
    done = run_audit("verify", copied)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{copied}: findings",
        "  FAIL  digests  16 arrays",
        "        /flagged/margin: its values differ from its SHA-256",
        "FAIL: digests; nothing after it was checked",
    ]
    done = run_audit("verify", "nowhere.h5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: nowhere.h5: no such file; expected findings, ascents, a")


def test_json(run_audit: Run, copied: Path) -> None:
    changed(copied, put("flagged/margin", 1, 0.0625), sealed=False)
    done = run_audit("verify", copied, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "path": str(copied),
        "kind": "findings",
        "passed": False,
        "checks": [
            {
                "name": "digests",
                "compared": 16,
                "unit": "array",
                "problems": ["/flagged/margin: its values differ from its SHA-256"],
                "passed": False,
            }
        ],
    }


def test_digest_of_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read at once, and in whatever byte order it is stored."""
    values = np.random.default_rng(0).standard_normal((1000, 3))
    expected = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, dtype in (("little", "<f8"), ("big", ">f8")):
            file.create_dataset(name, data=values.astype(dtype), chunks=(7, 3))
        file["none"] = np.empty((0, 3))
        for at_once in (2**24, 1000, 100, 1):
            monkeypatch.setattr(digest, "SLICE_BYTES", at_once)
            digest.seal(file)
            assert {file[name].attrs["sha256"] for name in ("little", "big")} == {expected}
            assert file["none"].attrs["sha256"] == hashlib.sha256().hexdigest()
            file.flush()
            assert digest.check(file) == (3, ())


def test_a_text_whose_type_is_damaged(copied: Path) -> None:
    """A bit that makes HDF5 2.0 crash when it reads the attribute."""
    data = bytearray(copied.read_bytes())
    at = data.rindex(b"sha256\0\0\x19\x01\x01\0") + 9
    data[at] ^= 8
    copied.write_bytes(data)
    (check,) = audit.verify(copied).checks
    assert "the attribute 'sha256' is neither numbers nor text" in check.problems[0]


def refusals(results: Path, data: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    yield str(data), {}, "of schema ''; expected findings, ascents, a diff or a bundle"
    yield str(folder), {}, "no manifest.json; expected findings"
    found, ascent = str(results / "findings.h5"), str(results / "ascent.h5")
    yield found, {"samples": 0}, "--samples 0: expected 1 or more"
    yield found, {"seed": -1}, "--seed -1: expected 0 or more"
    yield found, {"dataset": folder / "gone.h5"}, "gone.h5: no such file"
    yield found, {"bundle": folder / "gone"}, "gone: no such bundle"
    yield ascent, {"dataset": data}, "is for findings, and this is of kind 'ascent'; leave it out"
    yield "mnist", {"bundle": "mnist"}, "--bundle mnist: is for findings, and this is a bundle"


def test_refused(results: Path, data: Path, tmp_path: Path) -> None:
    for path, options, message in refusals(results, data, tmp_path):
        with pytest.raises(AuditError) as caught:
            audit.verify(path, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_bundle_that_is_gone(copied: Path, data: Path) -> None:
    def gone(file: h5py.File) -> None:
        record = json.loads(file.attrs["bundle"])
        file.attrs["bundle"] = json.dumps(record | {"path": "/gone", "name": "gone"})

    changed(copied, gone, sealed=True)
    with pytest.raises(OptionError, match="its bundle '/gone' isn't there any more"):
        computed_anew(copied, data)
    assert computed_anew(copied, data, bundle="mnist", samples=3).passed


def test_recorded_names_that_are_none(copied: Path, data: Path) -> None:
    changed(copied, record("dataset", images=None, labels=[7]), sealed=True)
    with pytest.raises(DatasetError, match="no dataset 'None'"):
        computed_anew(copied, data)


def test_bundle_of_an_older_version(copied_bundle: Path) -> None:
    path = copied_bundle / MANIFEST
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"no digest: written by an older version of near-tie"):
        audit.verify(copied_bundle)
