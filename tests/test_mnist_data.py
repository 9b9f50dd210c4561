"""MNIST from its original files, and only from them."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from audit import mnist
from audit.errors import AuditError, DatasetError, DatasetNotFoundError, OptionError, OutputError
from audit.mnist import FILES, SHIPPED, IdxFile, write_mnist
from conftest import Run

# As published on http://yann.lecun.com/exdb/mnist/ and by its mirrors, uncompressed.
PUBLISHED = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
NAMES = [f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
Folder = Callable[[str], Path]
WROTE = "wrote     10,000 images to m.h5\n"
Table = dict[tuple[str, str], IdxFile]


@pytest.fixture
def originals(tmp_path: Path) -> Folder:
    """A folder with the test split, as "gz" or "raw"."""

    def folder(form: str) -> Path:
        made = tmp_path / form
        made.mkdir()
        for name in NAMES:
            packed = (SHIPPED / f"{name}.gz").read_bytes()
            if form == "gz":
                (made / f"{name}.gz").write_bytes(packed)
            else:
                (made / name).write_bytes(gzip.decompress(packed))
        return made

    return folder


def small_files(
    directory: Path, form: str
) -> tuple[dict[tuple[str, str], IdxFile], NDArray[np.uint8]]:
    """Real IDX files of 3 test and 5 training images, their table, and all 8 images."""
    images = np.random.default_rng(1).integers(0, 255, (8, 28, 28), np.uint8)
    table: Table = {}
    for split, rows in (("train", slice(0, 5)), ("test", slice(5, 8))):
        for kind, values in (("images", images[rows]), ("labels", np.arange(8, dtype="u1")[rows])):
            file = IdxFile(f"{split}-{kind}", "", values.shape)
            content = file.header + values.tobytes()
            name = f"{file.name}.gz" if form == "gz" else file.name
            packed = gzip.compress(content) if form == "gz" else content
            (directory / name).write_bytes(packed)
            digest = hashlib.sha256(content).hexdigest()
            table[split, kind] = IdxFile(file.name, digest, values.shape)
    return table, images


def test_table_is_the_published_one() -> None:
    assert {file.name: file.sha256 for file in FILES.values()} == PUBLISHED


def test_shipped_split(mnist_h5: Path) -> None:
    with h5py.File(mnist_h5) as file:
        images, labels = file["images"][()], file["labels"][()]
        attributes = dict(file.attrs)
    for name, values in zip(NAMES, (images, labels), strict=True):
        header = IdxFile("", "", values.shape).header
        assert values.dtype == np.uint8
        assert hashlib.sha256(header + values.tobytes()).hexdigest() == PUBLISHED[name]
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert attributes["audit_bundle"] == "mnist"
    assert attributes["split"] == "test"
    assert attributes["licence"].startswith("CC BY-SA 3.0, https://creativecommons.org/")
    assert "LeCun" in attributes["source"]


@pytest.mark.parametrize("form", ["gz", "raw"])
def test_from_a_directory(
    form: str, originals: Folder, run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    done = run_audit("data", "mnist", "--from", originals(form), "-o", "m.h5")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "wrote     10,000 images to m.h5\n",
        "",
    )
    with h5py.File(tmp_path / "m.h5") as made, h5py.File(mnist_h5) as expected:
        for name in ("images", "labels"):
            np.testing.assert_array_equal(made[name][()], expected[name][()])
        assert dict(made.attrs) == dict(expected.attrs)


@pytest.mark.parametrize("form", ["gz", "raw"])
@pytest.mark.parametrize(("split", "rows"), [("train", (0, 5)), ("test", (5, 8)), ("all", (0, 8))])
def test_splits(
    split: str, rows: tuple[int, int], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, images = small_files(tmp_path, form)
    monkeypatch.setattr(mnist, "FILES", table)
    out = tmp_path / "m.h5"
    assert write_mnist(out, split=split, source=tmp_path) == rows[1] - rows[0]
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["images"][()], images[slice(*rows)])
        assert file["labels"][()].tolist() == list(range(*rows))
        assert file.attrs["split"] == split


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("form", "name", "damage", "error", "message"),
    [
        ("raw", NAMES[0], flip, DatasetError, "not the original"),
        ("raw", NAMES[1], flip, DatasetError, "not the original"),
        ("raw", NAMES[0], cut, DatasetError, "not the original"),
        ("raw", NAMES[0], extend, DatasetError, "not the original"),
        ("gz", f"{NAMES[0]}.gz", cut, DatasetError, "can't be read"),
        ("gz", f"{NAMES[0]}.gz", flip, DatasetError, r"can't be read|not the original"),
        ("gz", f"{NAMES[1]}.gz", lambda path: path.write_text("no"), DatasetError, "can't be read"),
        ("gz", f"{NAMES[1]}.gz", Path.unlink, DatasetNotFoundError, "--download"),
        ("raw", NAMES[0], Path.unlink, DatasetNotFoundError, "--download"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_damaged_originals(
    form: str,
    name: str,
    damage: Callable[[Path], object],
    error: type[AuditError],
    message: str,
    originals: Folder,
    tmp_path: Path,
) -> None:
    folder = originals(form)
    damage(folder / name)
    with pytest.raises(error, match=message) as caught:
        write_mnist(tmp_path / "m.h5", source=folder)
    assert name.removesuffix(".gz") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [form]


def test_zip_bomb_is_not_inflated(originals: Folder, tmp_path: Path) -> None:
    """Only as much as the original holds is inflated, and a byte to tell."""
    folder = originals("gz")
    file = FILES["test", "labels"]
    bomb = gzip.compress(bytes(2**26))
    (folder / f"{file.name}.gz").write_bytes(bomb)
    assert len(mnist._content(folder / f"{file.name}.gz", file)) == file.size + 1
    with pytest.raises(DatasetError, match="not the original"):
        write_mnist(tmp_path / "m.h5", source=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "--split train"),
        ({"split": "all"}, "--split all"),
        ({"split": "half"}, "expected one of test, train, all"),
        ({"download": True}, "--from"),
    ],
)
def test_contradicting_options(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        write_mnist(tmp_path / "m.h5", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_replaces_hdf5_only(tmp_path: Path) -> None:
    out = tmp_path / "m.h5"
    out.write_text("mine")
    with pytest.raises(OutputError, match="not made by this command"):
        write_mnist(out)
    assert out.read_text() == "mine"
    out.unlink()
    assert write_mnist(out) == write_mnist(out) == 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]


class Mirror(http.server.BaseHTTPRequestHandler):
    """/absent/…: 404; /changed/…: a byte flipped; /short/…: cut off; /garbage/…: not HTTP."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        _, kind, name = self.path.split("/")
        content = bytearray((SHIPPED / name).read_bytes())
        if kind == "absent":
            self.send_error(404)
            return
        if kind == "garbage":
            self.wfile.write(b"no such protocol\r\n\r\n")
            return
        if kind == "changed":
            content[5000] ^= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:3000] if kind == "short" else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine that knows the test split; its URL."""
    Mirror.asked = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def mirrors(url: str, *kinds: str) -> list[str]:
    return [each for kind in kinds for each in ("--mirror", f"{url}/{kind}/")]


def test_download_from_the_first_mirror_that_is_right(
    mirror: str, run_audit: Run, tmp_path: Path, mnist_h5: Path
) -> None:
    kinds = ("absent", "short", "garbage", "changed", "right", "never")
    command = ("data", "mnist", "--from", "a/b", "--download", *mirrors(mirror, *kinds))
    done = run_audit(*command)
    assert (done.returncode, done.stderr) == (0, "")
    asked = [f"/{kind}/{name}.gz" for name in NAMES for kind in kinds[:-1]]
    assert Mirror.asked == asked
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == [
        f"{name}.gz" for name in NAMES
    ]
    with h5py.File(tmp_path / "mnist.h5") as made, h5py.File(mnist_h5) as expected:
        np.testing.assert_array_equal(made["images"][()], expected["images"][()])
    assert run_audit(*command).returncode == 0
    assert asked == Mirror.asked  # what is there isn't fetched again


def test_download_fails_in_one_line(mirror: str, run_audit: Run, tmp_path: Path) -> None:
    failing = [*mirrors(mirror, "absent", "short", "garbage", "changed")]
    failing += ["--mirror", "http://127.0.0.1:1/", "--mirror", "http://127.0.0.1:port/"]
    failing += ["--mirror", "no url"]
    done = run_audit("data", "mnist", "--from", ".", "--download", *failing)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: t10k-images-idx3-ubyte: can't be fetched; tried http")
    assert done.stderr.count("\n") == 1
    for word in ("Not Found", "SHA-256", "refused", "absent/t10k", "changed/t10k", "no url"):
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_download_into_what_can_not_be_written(mirror: str, run_audit: Run) -> None:
    for folder, word in (("/proc", "written"), ("/dev/null/x", "created")):
        done = run_audit("data", "mnist", "--from", folder, "--download", *mirrors(mirror, "right"))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"Error: {folder}")
        assert word in done.stderr
        assert done.stderr.count("\n") == 1
