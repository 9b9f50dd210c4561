"""What a user can get wrong, each through the real command line: one line, exit code 2, no trace.

Every row builds its bad input in an empty directory and gives the arguments for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit.bundle
from conftest import Run

SHIPPED = audit.bundle.SHIPPED / "mnist"
IMAGES = np.zeros((4, 28, 28), np.uint8)
LABELS = np.arange(4)
DATA = "data.h5"
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
SCAN = ("scan", DATA, "--eps", "0.1")

Build = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One mistake.

    Attributes:
        name: Of the test.
        words: What the error line must contain.
        build: Makes the input in the current directory.
        args: Command line.
        env: Added to the environment.
        file_limit: Largest file the process may write, bytes: what a full disk looks like.
    """

    name: str
    words: tuple[str, ...]
    build: Build = lambda: None
    args: tuple[str, ...] = SCAN
    env: dict[str, str] = field(default_factory=dict)
    file_limit: int | None = None


def data(
    images: Any = IMAGES, labels: Any = LABELS, *, bundle: str | None = "mnist", **options: Any
) -> Build:
    """A dataset file with these arrays; `options` go to the image dataset."""

    def build() -> None:
        with h5py.File(DATA, "w") as file:
            if images is not None:
                file.create_dataset("images", data=images, **options)
            if labels is not None:
                file["labels"] = labels
            if bundle is not None:
                file.attrs["audit_bundle"] = bundle

    return build


def named(**arrays: NDArray[Any]) -> Build:
    """A dataset file with arrays of these names; '__' stands for '/'."""

    def build() -> None:
        with h5py.File(DATA, "w") as file:
            for name, values in arrays.items():
                file[name.replace("__", "/")] = values
            file.attrs["audit_bundle"] = "mnist"

    return build


def declared(shape: tuple[int, ...], **options: Any) -> Build:
    """A dataset file whose images are declared and never written."""

    def build() -> None:
        with h5py.File(DATA, "w") as file:
            file.create_dataset("images", shape=shape, dtype=np.uint8, **options)
            file.attrs["audit_bundle"] = "mnist"

    return build


def objects(dtype: np.dtype[Any]) -> Build:
    """A dataset file whose images are of a type that lives on the heap."""

    def build() -> None:
        with h5py.File(DATA, "w") as file:
            file.create_dataset("images", shape=(4, 28), dtype=dtype)
            file.attrs["audit_bundle"] = "mnist"

    return build


def giant_chunk() -> None:
    """Chunks of more than 1 GiB, as the file says, stored in a few bytes."""
    shape = (2, 64, 2**24 + 1)
    with h5py.File(DATA, "w") as file:
        images = file.create_dataset(
            "images", shape=shape, dtype=np.uint8, chunks=(1, *shape[1:]), compression="gzip"
        )
        for sample in range(2):
            images.id.write_direct_chunk((sample, 0, 0), b"tiny")


def half_written() -> None:
    declared((512, 28, 28), chunks=(256, 28, 28))()
    with h5py.File(DATA, "a") as file:
        file["images"][:256] = 1


def labels_half_written() -> None:
    named(images=np.zeros((512, 28, 28), np.uint8))()
    with h5py.File(DATA, "a") as file:
        file.create_dataset("labels", shape=(512,), dtype=np.int64, chunks=(256,))[:256] = 1


def truncated() -> None:
    data(np.zeros((400, 28, 28), np.uint8), None)()
    with open(DATA, "rb+") as file:
        file.truncate(100_000)


def corrupted(**options: Any) -> Build:
    """Bytes flipped in the middle of the second stored chunk."""

    def build() -> None:
        noise = np.random.default_rng(0).integers(0, 255, (200, 28, 28), np.uint8)
        data(noise, None, chunks=(100, 28, 28), **options)()
        with h5py.File(DATA, "r") as file:
            chunk = file["images"].id.get_chunk_info(1)
        with open(DATA, "rb+") as raw:
            raw.seek(chunk.byte_offset + chunk.size // 2)
            raw.write(bytes(range(64)))

    return build


def other_file() -> None:
    with h5py.File("other.h5", "w") as file:
        file["images"] = IMAGES


def external_link() -> None:
    other_file()
    with h5py.File(DATA, "w") as file:
        file["images"] = h5py.ExternalLink("other.h5", "/images")
        file.attrs["audit_bundle"] = "mnist"


def soft_to_external() -> None:
    other_file()
    with h5py.File(DATA, "w") as file:
        file["far"] = h5py.ExternalLink("other.h5", "/")
        file["images"] = h5py.SoftLink("/far/images")
        file.attrs["audit_bundle"] = "mnist"


def external_storage() -> None:
    Path("values.raw").write_bytes(IMAGES.tobytes())
    with h5py.File(DATA, "w") as file:
        size = h5py.h5f.UNLIMITED
        file.create_dataset(
            "images", shape=IMAGES.shape, dtype=np.uint8, external=[("values.raw", 0, size)]
        )
        file.attrs["audit_bundle"] = "mnist"


def virtual_dataset() -> None:
    other_file()
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource("other.h5", "images", IMAGES.shape)
    with h5py.File(DATA, "w") as file:
        file.create_virtual_dataset("images", layout)
        file.attrs["audit_bundle"] = "mnist"


def external_labels() -> None:
    with h5py.File("other.h5", "w") as file:
        file["labels"] = LABELS
    named(images=IMAGES)()
    with h5py.File(DATA, "a") as file:
        file["labels"] = h5py.ExternalLink("other.h5", "/labels")


OUTSIDE: dict[str, tuple[Build, tuple[str, ...]]] = {
    "external link": (external_link, ("'images' is an external link to 'other.h5'",)),
    "soft link to an external one": (soft_to_external, ("'images' is an external link",)),
    "external storage": (external_storage, ("'images' is in external storage ('values.raw')",)),
    "virtual dataset": (virtual_dataset, ("'images' is a virtual dataset",)),
    "labels by external link": (external_labels, ("'labels' is an external link",)),
}


def without_source(build: Build, *sources: str) -> Build:
    """An input whose values lie in files that aren't there."""

    def built() -> None:
        build()
        for source in sources:
            Path(source).unlink()

    return built


def link_cycle() -> None:
    with h5py.File(DATA, "w") as file:
        file["images"] = h5py.SoftLink("/also")
        file["also"] = h5py.SoftLink("/images")


def time_type() -> None:
    """A type of HDF5 that numpy has none for."""
    with h5py.File(DATA, "w") as file:
        space = h5py.h5s.create_simple((4, 28, 28))
        h5py.h5d.create(file.id, b"images", h5py.h5t.UNIX_D32LE, space)


def hostile_names() -> None:
    with h5py.File(DATA, "w") as file:
        file["a\nb\x1b[31m"] = IMAGES


def bundle(damage: Callable[[Path], object]) -> Build:
    """Good data and a copy of the shipped bundle, damaged."""

    def build() -> None:
        data()()
        shutil.copytree(SHIPPED, "bundle")
        damage(Path("bundle"))

    return build


def change_byte(name: str) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / name).write_bytes(content)

    return damage


def change_text(old: str, new: str) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        path = directory / "manifest.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return damage


def change_hash(directory: Path) -> None:
    path = directory / "manifest.json"
    digest = hashlib.sha256((directory / "model.onnx").read_bytes()).hexdigest()
    change_text(digest, digest[::-1])(directory)
    assert digest not in path.read_text()


def with_files(**texts: str) -> Build:
    """Good data and text files; '__' stands for '.'."""

    def build() -> None:
        data()()
        for name, text in texts.items():
            Path(name.replace("__", ".")).write_text(text)

    return build


def then(first: Build, second: Build) -> Build:
    def build() -> None:
        first()
        second()

    return build


def not_findings() -> None:
    with h5py.File("other.h5", "w") as file:
        file["images"] = IMAGES


def findings_without_arrays() -> None:
    with h5py.File("f.h5", "w") as file:
        file.attrs["schema"] = "audit-findings/1"


GOOD = data()
WITH_BUNDLE = (*SCAN, "--model", "bundle")
TOML = "model in audit.toml"

ROWS = [
    # The file
    Row("missing file", (DATA, "no such file", "expected an HDF5 file")),
    Row("directory", (DATA, "a directory", "expected"), lambda: Path(DATA).mkdir()),
    Row("not HDF5", (DATA, "not an HDF5 file"), lambda: Path(DATA).write_text("a,b,c\n" * 500)),
    Row("empty file", (DATA, "not an HDF5 file"), lambda: Path(DATA).touch()),
    Row("truncated HDF5", (DATA, "truncated"), truncated),
    Row("named pipe", (DATA, "not a regular file"), lambda: os.mkfifo(DATA)),
    # Its datasets
    Row("no dataset", ("holds no dataset", "--images"), data(None, None)),
    Row("no image dataset", ("no dataset 'images'", "found 'pixels'"), named(pixels=IMAGES)),
    Row(
        "several candidates",
        ("several datasets", "'x'", "'data'", "--images"),
        named(x=IMAGES, data=IMAGES),
    ),
    Row(
        "candidates in groups",
        ("'test/images'", "'train/images'", "--images"),
        named(test__images=IMAGES, train__images=IMAGES),
    ),
    Row(
        "name that isn't there",
        ("no dataset 'nope'", "found 'images', 'labels'", "--images"),
        GOOD,
        (*SCAN, "--images", "nope"),
    ),
    Row(
        "name of a group",
        ("no dataset 'test'", "--images"),
        named(test__images=IMAGES),
        (*SCAN, "--images", "test"),
    ),
    Row("soft links in a circle", ("'images'", "soft links"), link_cycle),
    Row("names with control characters", ("no dataset 'images'",), hostile_names),
    Row("wrong rank", ("(28,)", "takes (28, 28)"), data(np.zeros((4, 28), np.uint8))),
    Row("wrong shape", ("(32, 32)", "takes (28, 28)"), data(np.zeros((4, 32, 32), np.uint8))),
    Row(
        "wrong dtype",
        ("dtype float32", "takes uint8", "--raw-dtype float32"),
        data(IMAGES.astype(np.float32)),
    ),
    Row("one dimension", ("shape (4,)", "expected (N, …)"), data(np.zeros(4, np.uint8))),
    Row("scalar", ("shape ()", "expected (N, …)"), data(np.uint8(3))),
    Row("null dataspace", ("shape None",), data(h5py.Empty(np.uint8))),
    Row("text", ("dtype object", "expected numbers"), data(["a", "b", "c", "d"])),
    Row("bytes", ("dtype |S3", "expected numbers"), data(np.array([b"abc"] * 4))),
    Row("compound", ("expected numbers",), data(np.zeros((4, 28), [("a", "u1"), ("b", "f4")]))),
    Row("complex", ("complex64", "expected numbers"), data(IMAGES.astype(np.complex64))),
    Row("boolean", ("bool", "expected numbers"), data(IMAGES.astype(bool))),
    Row(
        "variable length",
        ("dtype object", "expected numbers"),
        objects(h5py.vlen_dtype(np.uint8)),
    ),
    Row(
        "object references",
        ("dtype object", "expected numbers"),
        objects(h5py.ref_dtype),
    ),
    Row("time", ("'images'", "type"), time_type),
    Row("empty dataset", ("empty", "(0, 28, 28)"), data(np.zeros((0, 28, 28), np.uint8), None)),
    # Labels
    Row("fewer labels", ("3 labels for 4 samples",), data(labels=np.arange(3))),
    Row("more labels", ("5 labels for 4 samples",), data(labels=np.arange(5))),
    Row(
        "label out of range",
        ("'labels' holds 10 at position 2", "0 to 9"),
        data(labels=np.array([0, 1, 10, 2])),
    ),
    Row(
        "label below -1",
        ("'labels' holds -2 at position 1", "-1 for unknown"),
        data(labels=np.array([0, -2, 3, 2])),
    ),
    Row("huge label", ("at position 0",), data(labels=np.full(4, 2**64 - 1, np.uint64))),
    Row("labels are floats", ("float64", "integer classes", "--labels"), data(labels=LABELS / 2)),
    Row("one-hot labels", ("(4, 10)", "expected (N,)"), data(labels=np.zeros((4, 10), int))),
    Row(
        "two label datasets",
        ("several", "'targets'", "'y'", "--labels"),
        named(images=IMAGES, targets=LABELS, y=LABELS),
    ),
    Row("labels half written", ("'labels' declares 2 chunks but holds 1",), labels_half_written),
    Row("no such labels", ("no dataset 'z'", "--labels"), GOOD, (*SCAN, "--labels", "z")),
    # Values that aren't there
    *[Row(name, (*words, "--allow-external"), build) for name, (build, words) in OUTSIDE.items()],
    Row(
        "external link to nothing",
        ("other.h5",),
        without_source(external_link, "other.h5"),
        (*SCAN, "--allow-external"),
    ),
    Row(
        "external storage that is gone",
        ("values.raw",),
        without_source(external_storage, "values.raw"),
        (*SCAN, "--allow-external"),
    ),
    Row(
        "virtual dataset without source",
        ("other.h5",),
        without_source(virtual_dataset, "other.h5"),
        (*SCAN, "--allow-external"),
    ),
    Row("more chunks declared than held", ("declares 2 chunks but holds 1",), half_written),
    Row("contiguous, never written", ("declares 3136 bytes but holds 0",), declared((4, 28, 28))),
    Row("gigantic", ("bytes but holds 0",), declared((10**15, 28, 28))),
    Row(
        "gigantic, chunked",
        ("chunks but holds 0",),
        declared((10**15, 28, 28), chunks=(256, 28, 28)),
    ),
    Row(
        "gigantic sample",
        ("declares 1 chunks but holds 0",),
        declared((1, 2**15, 2**15), chunks=(1, 2**15, 2**15)),
    ),
    Row(
        "gigantic chunk",
        ("chunks of 1073741888 bytes", "smaller chunks"),
        giant_chunk,
    ),
    Row("corrupted gzip chunk", ("samples", "damaged"), corrupted(compression="gzip")),
    Row("corrupted checksum", ("samples", "damaged"), corrupted(fletcher32=True)),
    # Options
    *[
        Row(f"eps {value}", ("--eps", f"{float(value)}", "above 0"), GOOD, ("scan", DATA, *args))
        for value, args in {
            "0": ("--eps", "0"),
            "-1": ("--eps", "-1"),
            "nan": ("--eps", "nan"),
            "inf": ("--eps", "inf"),
        }.items()
    ],
    Row("eps x", ("'--eps'", "'x'"), GOOD, ("scan", DATA, "--eps", "x")),
    Row("eps missing", ("'--eps'", "--help"), GOOD, ("scan", DATA)),
    Row("dataset missing", ("DATA.h5", "--help"), GOOD, ("scan", "--eps", "0.1")),
    Row("unknown option", ("--epz",), GOOD, ("scan", DATA, "--epz", "1")),
    Row("unknown command", ("'scam'", "--help"), GOOD, ("scam", DATA)),
    Row("min-logit nan", ("--min-logit nan", "finite"), GOOD, (*SCAN, "--min-logit", "nan")),
    *[
        Row(f"{option} 0", (f"{option} 0", "1 or more"), GOOD, (*SCAN, option, "0"))
        for option in ("--batch-size", "--limit", "--threads")
    ],
    Row("unknown device", ("'--device'", "'tpu'", "'cuda'"), GOOD, (*SCAN, "--device", "tpu")),
    Row(
        "no such device",
        ("--device cuda",),
        GOOD,
        (*SCAN, "--device", "cuda"),
        {"CUDA_VISIBLE_DEVICES": ""},
    ),
    Row("threads", ("--threads 1025", "1024 or fewer"), GOOD, (*SCAN, "--threads", "1025")),
    Row("no int8", ("mnist", "--int8 --calibration"), GOOD, (*SCAN, "--precision", "int8")),
    Row("unknown precision", ("'--precision'",), GOOD, (*SCAN, "--precision", "int3")),
    # Output
    Row("out in no directory", ("nowhere", "no such directory"), GOOD, (*SCAN, "-o", "nowhere/f")),
    Row("out below a file", (f"{DATA}", "no such directory"), GOOD, (*SCAN, "-o", f"{DATA}/f")),
    Row("out in /proc", ("/proc/f.h5", "can't be made"), GOOD, (*SCAN, "-o", "/proc/f.h5")),
    Row("out is a device", ("/dev/full", "not a findings"), GOOD, (*SCAN, "-o", "/dev/full")),
    Row(
        "out is a directory",
        ("d: a directory", "-o"),
        then(GOOD, lambda: Path("d").mkdir()),
        (*SCAN, "-o", "d"),
    ),
    Row(
        "out is another file",
        ("note.txt", "not a findings file", "-o"),
        with_files(note__txt="mine"),
        (*SCAN, "-o", "note.txt"),
    ),
    Row(
        "out is another HDF5 file",
        ("other.h5", "not a findings file", "-o"),
        then(GOOD, not_findings),
        (*SCAN, "-o", "other.h5"),
    ),
    Row("out is the input", ("the dataset itself", "-o"), GOOD, (*SCAN, "-o", f"./{DATA}")),
    Row(
        "out is a hard link to the input",
        ("link.h5", "the dataset itself"),
        then(GOOD, lambda: os.link(DATA, "link.h5")),
        (*SCAN, "-o", "link.h5"),
    ),
    Row(
        "out is a symlink to the input",
        ("link.h5", "the dataset itself"),
        then(GOOD, lambda: os.symlink(DATA, "link.h5")),
        (*SCAN, "-o", "link.h5"),
    ),
    Row(
        "disk full",
        ("data.findings.h5", "writing failed"),
        data(np.zeros((99, 28, 28), np.uint8), None),
        ("scan", DATA, "--eps", "1000"),
        file_limit=100_000,
    ),
    # Bundle
    Row("bundle missing", ("nope", "no such bundle"), GOOD, (*SCAN, "--model", "nope")),
    Row("bundle is a file", (DATA, "no such bundle"), GOOD, (*SCAN, "--model", DATA)),
    *[
        Row(f"{name} changed", (name, "SHA-256"), bundle(change_byte(name)), WITH_BUNDLE)
        for name in ("model.onnx", "model.ts")
    ],
    *[
        Row(
            f"{name} missing",
            (f"bundle/{name}: missing",),
            bundle(lambda directory, name=name: (directory / name).unlink()),  # type: ignore[misc]
            WITH_BUNDLE,
        )
        for name in ("model.onnx", "model.ts", "manifest.json")
    ],
    Row(
        "model.onnx empty",
        ("model.onnx", "SHA-256 or size"),
        bundle(lambda directory: (directory / "model.onnx").write_bytes(b"")),
        WITH_BUNDLE,
    ),
    Row(
        "manifest: not JSON",
        ("manifest.json", "export the model again"),
        bundle(lambda directory: (directory / "manifest.json").write_text("{")),
        WITH_BUNDLE,
    ),
    Row(
        "manifest: byte changed in a name",
        ("manifest.json", "parity"),
        bundle(change_text('"parity"', '"qarity"')),
        WITH_BUNDLE,
    ),
    Row(
        "manifest: byte changed in the schema",
        ("manifest.json", "audit-bundle/2", "audit-bundle/1"),
        bundle(change_text("audit-bundle/1", "audit-bundle/2")),
        WITH_BUNDLE,
    ),
    Row(
        "manifest: byte changed in a hash",
        ("manifest.json", "changed since it was exported", "SHA-256"),
        bundle(change_hash),
        WITH_BUNDLE,
    ),
    # Which model
    Row(
        "no model named",
        ("--model", "AUDIT_MODEL", "audit.toml", "'audit_bundle'"),
        data(bundle=None),
    ),
    Row("attribute points up", ("'../evil'", "--model"), data(bundle="../evil")),
    Row("attribute points up inside", ("'a/../../b'",), data(bundle="a/../../b")),
    Row("attribute is absolute", ("'/etc'", "--model"), data(bundle="/etc")),
    Row("attribute names nothing", ("nothing", "no such bundle"), data(bundle="nothing")),
    Row(
        "AUDIT_MODEL names nothing",
        ("nothing", "no such bundle"),
        GOOD,
        env={"AUDIT_MODEL": "nothing"},
    ),
    Row("audit.toml malformed", ("audit.toml", "not TOML"), with_files(audit__toml="model = [")),
    Row("audit.toml names nothing", ("no such bundle",), with_files(audit__toml="model = 'no'")),
    Row(
        "audit.toml: wrong type",
        ("audit.toml", "model is 3", "expected"),
        with_files(audit__toml="model = 3"),
    ),
    Row(
        "pyproject.toml malformed",
        ("pyproject.toml", "not TOML"),
        with_files(pyproject__toml="[tool.audit"),
    ),
    Row(
        "pyproject.toml: wrong type",
        ("pyproject.toml", "tool.audit"),
        with_files(pyproject__toml="tool = 3"),
    ),
    # The other commands
    Row("info: missing", ("nope", "no such file", "findings"), args=("info", "nope")),
    Row(
        "info: not HDF5",
        ("a.txt", "not an HDF5 file"),
        with_files(a__txt="text"),
        ("info", "a.txt"),
    ),
    Row("info: not a bundle", ("manifest.json",), lambda: Path("d").mkdir(), ("info", "d")),
    Row(
        "info: incomplete findings",
        ("f.h5", "incomplete"),
        findings_without_arrays,
        ("info", "f.h5"),
    ),
    Row(
        "info: bundle changed",
        ("model.ts", "SHA-256"),
        bundle(change_byte("model.ts")),
        ("info", "bundle"),
    ),
    Row("info: half written", ("declares 2 chunks but holds 1",), half_written, ("info", DATA)),
    Row(
        "data: train without files",
        ("--split train", "--from"),
        args=("data", "mnist", "--split", "train"),
    ),
    Row(
        "data: no such directory",
        ("nope", "no such directory"),
        args=("data", "mnist", "--from", "nope"),
    ),
    Row(
        "data: no files there", ("t10k-images", "--download"), args=("data", "mnist", "--from", ".")
    ),
    Row(
        "data: out in no directory",
        ("nope/m.h5", "written"),
        args=("data", "mnist", "-o", "nope/m.h5"),
    ),
    # Names that are too long for the file system
    Row("long data", ("no such file",), args=("scan", "b" * 300, "--eps", "1")),
    Row("long out", ("File name too long", "-o"), GOOD, (*SCAN, "-o", "b" * 300)),
    Row("long model", ("no such bundle",), GOOD, (*SCAN, "--model", "b" * 300)),
    Row("long path of info", ("no such file",), args=("info", "b" * 300)),
    Row("long data out", ("File name too long",), args=("data", "mnist", "-o", "b" * 300)),
    Row(
        "data: out is another file",
        ("a.txt", "not made by this command", "-o"),
        with_files(a__txt="text"),
        ("data", "mnist", "-o", "a.txt"),
    ),
    *[
        Row(
            f"data: disk full after {limit} bytes",
            ("mnist.h5", "can't be written (File too large)"),
            args=("data", "mnist"),
            file_limit=limit,
        )
        for limit in (0, 9_999, 7_850_000)
    ],
]


def listing(directory: Path) -> dict[str, str]:
    """Everything below, with a digest of each regular file."""
    return {
        str(path.relative_to(directory)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
        )
        for path in directory.rglob("*")
    }


def environment(**added: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "AUDIT_MODEL"} | added


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_line_and_no_trace(
    row: Row,
    run_audit: Run,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    row.build()
    before = listing(tmp_path)

    env = environment(**row.env)
    if row.file_limit is not None:
        site = tmp_path_factory.mktemp("site")
        (site / "sitecustomize.py").write_text(LIMIT.format(row.file_limit))
        env["PYTHONPATH"] = str(site)

    done = run_audit(*row.args, env=env, timeout=60)

    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr[:-1].isprintable()
    assert [word for word in row.words if word not in done.stderr] == [], done.stderr
    assert listing(tmp_path) == before


def test_names_of_rows_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", OUTSIDE)
def test_allow_external(
    name: str, run_audit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    OUTSIDE[name][0]()
    done = run_audit(*SCAN, "--allow-external", "--quiet", env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert audit.load_findings("data.findings.h5").scanned == 4


def test_bad_scan_keeps_earlier_findings(
    run_audit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corruption that shows only while reading, after the new findings were begun."""
    monkeypatch.chdir(tmp_path)
    GOOD()
    assert run_audit(*SCAN, "--quiet", env=environment()).returncode == 0
    earlier = listing(tmp_path)["data.findings.h5"]
    corrupted(compression="gzip")()
    before = listing(tmp_path)
    assert run_audit(*SCAN, env=environment()).returncode == 2
    assert listing(tmp_path) == before
    assert before["data.findings.h5"] == earlier
