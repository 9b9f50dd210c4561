"""Files from strangers that mean harm: one line, no memory, no hang, no code.

What users get wrong without meaning it is in `test_bad_input.py`, damage in `test_fuzz.py`.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import audit
from audit.dataset import Dataset
from audit.errors import AuditError, BundleNotFoundError, DatasetError
from audit.info import info
from fuzzing.kind import SEEDS
from hostile_hdf5 import (
    DEFLATE,
    FLETCHER32,
    NBIT,
    SCALE_OFFSET,
    SHAPE,
    SHUFFLE,
    SZIP,
    UNKNOWN_FILTER,
    bomb,
    retold,
    stored,
    with_endless_heap,
)
from made_findings import Tie, write_findings
from oracles import read

IMAGES = np.random.default_rng(0).integers(0, 9, SHAPE, np.uint8)
BOMB_BYTES = 4 * 10**8
ELEMENTS, MANY = IMAGES.size, 2**31 - 1
Write = Callable[[Path], object]


def file_of(**arrays: Any) -> Write:
    """A file of these datasets."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values

    return write


def raw(filters: Any, chunk: bytes, **options: Any) -> Write:
    return lambda path: stored(path, filters, chunk, **options)


def read_all(path: Path) -> None:
    """All that a scan reads."""
    with Dataset(path) as dataset:
        dataset.describe()
        for block in dataset.blocks(0, dataset.stored):
            read(dataset, block)
        dataset.samples(np.arange(dataset.stored))


def grown_by(run: Callable[[], object]) -> int:
    """Bytes by which this process was larger than before, at most, while `run` ran.

    Not by `peak_of`, whose thread can't look while HDF5 holds the GIL.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's mark begins anew
    before = peak()
    run()
    return peak() - before


def peak() -> int:
    """Most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def retelling(write: Write, told: tuple[int, ...], lie: tuple[int, ...]) -> Write:
    def write_it(path: Path) -> None:
        write(path)
        retold(path, told, lie)

    return write_it


BOMB = bomb(BOMB_BYTES)
TWICE = zlib.compress(BOMB, 9)
BOMBS: dict[str, Write] = {
    "deflate": raw([(DEFLATE, (4,))], BOMB),
    "deflate twice": raw([(DEFLATE, (4,)), (DEFLATE, (4,))], TWICE),
    "shuffle, deflate": raw([(SHUFFLE, (1,)), (DEFLATE, (4,))], BOMB),
    "deflate, checksum": raw([(DEFLATE, (4,)), (FLETCHER32, ())], BOMB + bytes(4)),
    "deflate, shuffle": raw([(DEFLATE, (4,)), (SHUFFLE, (1,))], BOMB),
    "scale-offset": retelling(
        raw([(SCALE_OFFSET, (2, 0))], bytes(21)), (2, 0, ELEMENTS, 0, 1), (2, 0, MANY, 0, 8)
    ),
    "n-bit": retelling(raw([(NBIT, ())], bytes(64)), (1, ELEMENTS, 1, 1), (1, MANY, 1, 8)),
    "szip": raw([(SZIP, (141, 32, 8, 784))], b"\xff\xff\xff\x7f" + bytes(64)),
    "wide deflate": raw([(DEFLATE, (4,))], BOMB, dtype=">f8"),
}  # fmt: skip


def test_what_goes_off_is_measured() -> None:
    """Again, too, once it has gone off."""
    for _ in range(2):
        assert grown_by(lambda: np.ones(BOMB_BYTES, np.uint8)) > 0.9 * BOMB_BYTES


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    BOMBS[name](path)

    def refused() -> None:
        with pytest.raises(DatasetError, match=r"a\.h5"):
            read_all(path)

    assert grown_by(refused) < BOMB_BYTES / 4


@pytest.mark.parametrize("name", ["deflate", "deflate twice"])
def test_a_bomb_in_findings(name: str, tmp_path: Path) -> None:
    path = write_findings(tmp_path / "f.h5", [Tie(3)])
    with h5py.File(path, "r+") as file:
        del file["flagged/index"]
    filters, chunk = {"deflate": ([(DEFLATE, (4,))], BOMB)}.get(
        name, ([(DEFLATE, (4,)), (DEFLATE, (4,))], TWICE)
    )
    stored(path, filters, chunk, shape=(1,), name="flagged/index", dtype="i8")

    def refused() -> None:
        with pytest.raises(AuditError, match=r"f\.h5"):
            _ = audit.load_findings(path).index

    assert grown_by(refused) < BOMB_BYTES / 4


GOOD_STORAGES: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip"},
    "shuffle, gzip": {"compression": "gzip", "shuffle": True},
    "gzip, checksum": {"compression": "gzip", "fletcher32": True},
    "scale-offset": {"scaleoffset": 0},
    "scale-offset, gzip": {"scaleoffset": 0, "compression": "gzip"},
    "szip": {"compression": "szip"},
    "lzf": {"compression": "lzf", "shuffle": True},
}


@pytest.mark.parametrize("dtype", ["u1", ">i4"])
@pytest.mark.parametrize("storage", GOOD_STORAGES)
def test_what_is_no_bomb_is_read(storage: str, dtype: str, tmp_path: Path) -> None:
    """Large chunks, which are looked at; noise doesn't shrink."""
    values = np.random.default_rng(0).integers(0, 255, (40, 200, 200)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=values, chunks=(20, 200, 200), **GOOD_STORAGES[storage])
    with Dataset(tmp_path / "a.h5") as dataset:
        np.testing.assert_array_equal(read(dataset, range(40)), values)


def test_n_bit_is_read(tmp_path: Path) -> None:
    kind = h5py.h5t.NATIVE_UINT8.copy()
    kind.set_precision(4)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(SHAPE)
    properties.set_filter(NBIT, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(SHAPE)
        made = h5py.h5d.create(file.id, b"images", kind, space, properties)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, IMAGES)
    with Dataset(tmp_path / "a.h5") as dataset:
        np.testing.assert_array_equal(read(dataset, range(4)), IMAGES)


CANARY = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void sing(void) { close(open("sung", O_CREAT, 0600)); }
int H5PLget_plugin_type(void) { sing(); return 0; }
const void *H5PLget_plugin_info(void) { sing(); return 0; }
"""
READ_BY_H5PY = "import h5py, sys; h5py.File(sys.argv[1])['images'][()]"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A library beside the dataset that says so when it is loaded."""
    (tmp_path / "canary.c").write_text(CANARY)
    command = ["cc", "-shared", "-fPIC", "canary.c", "-o", "libcanary.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path / "libcanary.so"


def test_no_library_is_loaded_for_a_filter(
    canary: Path, tmp_path: Path, run_audit: Callable[..., Any]
) -> None:
    """Not even from where the environment says; h5py alone loads it, which proves the canary."""
    stored(tmp_path / "a.h5", [(UNKNOWN_FILTER, ())], bytes(99))
    env = {**os.environ, "HDF5_PLUGIN_PATH": str(canary.parent)}
    done = run_audit("scan", "a.h5", "--eps", "1", "--model", "mnist", env=env)
    assert done.returncode == 2, done
    assert "filter" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "sung").exists()
    command = [sys.executable, "-c", READ_BY_H5PY, "a.h5"]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (tmp_path / "sung").exists()


def test_an_endless_heap_of_a_dataset(tmp_path: Path) -> None:
    """HDF5 alone never comes back from its attribute."""

    attribute("mnist")(tmp_path / "a.h5")
    with Dataset(with_endless_heap(tmp_path / "a.h5")) as dataset:
        assert dataset.audit_bundle is None
        np.testing.assert_array_equal(read(dataset, range(4)), IMAGES)


def test_an_endless_heap_of_findings(tmp_path: Path) -> None:
    path = with_endless_heap(write_findings(tmp_path / "f.h5", [Tie(3)]))
    with pytest.raises(AuditError, match=r"f\.h5"):
        audit.load_findings(path)


def attribute(value: Any, **options: Any) -> Write:
    """Good samples and this attribute `audit_bundle`."""

    def write(path: Path) -> None:
        with h5py.File(path, "w", libver="latest") as file:  # attributes of any size
            file["images"] = IMAGES
            file.attrs.create("audit_bundle", value, **options)

    return write


NO_TEXT: dict[str, Write] = {
    "number": attribute(7),
    "array": attribute(["mnist"] * 3),
    "array of one": attribute(["mnist"]),
    "compound": attribute(np.zeros((), [("a", "u1"), ("b", "f4")])),
    "opaque": attribute(np.void(b"mnist")),
    "reference": attribute(h5py.Reference(), dtype=h5py.ref_dtype),
    "empty": attribute(h5py.Empty("f4")),
    "huge array": attribute(np.zeros(10**6)),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_an_attribute_that_is_no_text_names_no_bundle(name: str, tmp_path: Path) -> None:
    NO_TEXT[name](tmp_path / "a.h5")
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset.audit_bundle is None


@pytest.mark.parametrize(
    "text", ["x" * 10**6, "a\nb", "\x1b[2J", "../" * 300, "C1\x9b31m", "\u202emnist"],
    ids=["1 MB", "lines", "escape", "up", "C1", "bidi"],
)  # fmt: skip
def test_an_attribute_of_text_that_means_harm(
    text: str, tmp_path: Path, run_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUDIT_MODEL", raising=False)
    attribute(text)(tmp_path / "a.h5")
    with pytest.raises(BundleNotFoundError):
        audit.scan(tmp_path / "a.h5", eps=1.0, out=tmp_path / "f.h5")
    done = run_here("scan", "a.h5", "--eps", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr[:-1].isprintable()
    assert len(done.stderr) < 3000


def declared(path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", shape, "u1")


def cyclic(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["up"] = file["/"]
        group["self"] = group


def deep(path: Path) -> None:
    with h5py.File(path, "w") as file:
        node: Any = file
        for _ in range(2000):
            node = node.create_group("a")
        node["images"] = IMAGES


def crowd(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        one = file.create_dataset("one", data=1)
        for number in range(20_000):
            h5py.h5o.link(one.id, file.id, f"d{number}".encode())


def region_reference(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["other"] = IMAGES
        regions = file.create_dataset("images", (4, 4), dtype=h5py.regionref_dtype)
        regions[0, 0] = file["other"].regionref[:2]


def enumeration(path: Path) -> None:
    with h5py.File(path, "w") as file:
        kind = h5py.enum_dtype({"A": 0, "B": 1}, basetype="u1")
        file.create_dataset("images", data=IMAGES, dtype=kind)


def bit_field(path: Path) -> None:
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_B8LE, space)


REFUSED: dict[str, Write] = {
    "group in itself": cyclic,
    "2000 groups deep": deep,
    "20,000 names, none of ours": crowd,
    "region references": region_reference,
    "bit field": bit_field,
    "opaque": file_of(images=np.zeros((4, 4), "V7")),
    "array type": file_of(images=np.zeros(4, [("a", "u1", (3, 3))])),
    "2**62 samples of no size": lambda path: declared(path, (2**62, 0)),
    "samples of no size": file_of(images=np.zeros((4, 0), np.uint8)),
    "text labels": file_of(images=IMAGES, labels=["a", "b", "c", "d"]),
    "bytes as labels": file_of(images=IMAGES, labels=np.array([b"a"] * 4)),
    "no labels in labels": file_of(images=IMAGES, labels=h5py.Empty("i8")),
    "not HDF5 behind its signature": lambda path: path.write_bytes(
        b"\x89HDF\r\n\x1a\n" + bytes(2000)
    ),
    "signature alone": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path, run_here: Callable[..., Any]) -> None:
    REFUSED[name](tmp_path / "a.h5")
    done = run_here("scan", "a.h5", "--eps", "1", "--model", "mnist")
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("Error: a.h5: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 3000
    assert not (tmp_path / "a.findings.h5").exists()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/", "fifo", "s"])
def test_what_is_no_file_is_not_opened(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/dev/zero", tmp_path / "s")
    for read_it in (Dataset, audit.load_findings, audit.load_ascents):
        with pytest.raises(AuditError, match=r"expected|can't be read"):
            read_it(tmp_path / path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e-45])
def test_samples_that_are_no_numbers_are_reported(value: float, tmp_path: Path) -> None:
    """Never dropped, and never flagged."""
    images = np.zeros((9, 4), np.float32)
    images[4, 3] = value
    file_of(images=images)(tmp_path / "a.h5")
    found = audit.scan(
        tmp_path / "a.h5", eps=1e-9, model=SEEDS / "bundle", out=tmp_path / "f.h5", trust=True
    )
    assert found.scanned == 9
    if not np.isfinite(value):
        assert found.nonfinite_index.tolist() == [4]


@pytest.mark.parametrize("dtype", [np.longdouble, np.float16, ">f8", np.complex64])
def test_types_that_no_bundle_takes(dtype: Any, tmp_path: Path) -> None:
    file_of(images=np.zeros(SHAPE, dtype))(tmp_path / "a.h5")
    with pytest.raises(DatasetError, match=r"takes uint8|expected numbers"):
        audit.scan(tmp_path / "a.h5", eps=1.0, model="mnist", out=tmp_path / "f.h5")


def test_a_user_block_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file["images"] = IMAGES
        file.attrs["audit_bundle"] = "mnist"
    with (tmp_path / "a.h5").open("r+b") as file:
        file.write(b"#!/bin/sh\nexit\n")
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset.audit_bundle == "mnist"
        np.testing.assert_array_equal(read(dataset, range(4)), IMAGES)


OURS = ("findings", "ascents", "diff")


@pytest.mark.parametrize("kind", OURS)
def test_attributes_of_our_files_that_claim_too_much(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.h5"
    path.write_bytes(gzip.decompress((SEEDS / f"{kind}.h5.gz").read_bytes()))
    described = info(path)
    assert described["kind"] == kind.removesuffix("s") or described["kind"] == kind
    with h5py.File(path, "r+") as file:
        names = [name for name in file.attrs if name not in ("NX_class", "default", "schema")]
        values = {name: file.attrs[name] for name in names}
    for name in names:
        for wrong in (np.zeros(4000), ["a"] * 9, h5py.Empty("f8"), np.void(b"123")):
            with h5py.File(path, "r+") as file:
                file.attrs[name] = wrong
            with pytest.raises(AuditError, match=path.name):
                info(path)
        with h5py.File(path, "r+") as file:
            file.attrs[name] = values[name]
    assert info(path) == described
