"""MNIST: from the IDX files to `mnist.h5`, each checked by its SHA-256.

`datasets/README.md` says where the files come from and under which licence.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import DatasetError, DatasetNotFoundError, OptionError, OutputError
from audit.options import SPLITS
from audit.output_file import write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHIPPED = Path(__file__).parent / "shipped" / "mnist-data"
LICENCE = "CC BY-SA 3.0, https://creativecommons.org/licenses/by-sa/3.0/"
SOURCE = (
    "Yann LeCun, Corinna Cortes, Christopher J. C. Burges: The MNIST database of handwritten "
    "digits, http://yann.lecun.com/exdb/mnist/"
)
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SIDE = 28
TIMEOUT_S = 60


@dataclass(frozen=True)
class IdxFile:
    """One of the four files: its name, and of its uncompressed content the SHA-256 and shape."""

    name: str
    sha256: str
    shape: tuple[int, ...]

    @property
    def header(self) -> bytes:
        """IDX header: 0, 0, type 8 (uint8), rank, then the sizes, big-endian."""
        return bytes([0, 0, 8, len(self.shape)]) + b"".join(
            n.to_bytes(4, "big") for n in self.shape
        )

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        count = 1
        for n in self.shape:
            count *= n
        return len(self.header) + count


FILES = {
    ("test", "images"): IdxFile(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        (10_000, SIDE, SIDE),
    ),
    ("test", "labels"): IdxFile(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        (10_000,),
    ),
    ("train", "images"): IdxFile(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        (60_000, SIDE, SIDE),
    ),
    ("train", "labels"): IdxFile(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        (60_000,),
    ),
}


def write_mnist(
    out: str | os.PathLike[str],
    *,
    split: str = "test",
    source: str | os.PathLike[str] | None = None,
    download: bool = False,
    mirrors: Sequence[str] = MIRRORS,
) -> int:
    """Write MNIST as an HDF5 dataset for the shipped bundle `mnist`.

    Args:
        out: The HDF5 file; one that this function made is replaced.
        split: "test" (10,000 images), "train" (60,000) or "all" (training images first).
        source: Directory of the IDX files, gzipped or not; None: the test split that ships with
            this package.
        download: Fetch files that `source` lacks, into it.
        mirrors: Where from, tried in order.

    Returns:
        Images written.

    Raises:
        OptionError: The options contradict each other.
        DatasetError: A file is missing, can't be fetched, or isn't the original.
        OutputError: `out` can't be written.
    """
    if split not in SPLITS:
        raise OptionError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    if source is None and (download or split != "test"):
        raise OptionError(
            f"--split {split}: only the test split ships with this package; name a directory of "
            "the IDX files with --from, and --download to fetch them into it"
        )
    directory = SHIPPED if source is None else Path(source)
    if download:
        _make_directory(directory)
    elif not os.path.isdir(directory):
        raise DatasetNotFoundError(f"{directory}: no such directory; expected the IDX files there")
    splits = ("train", "test") if split == "all" else (split,)
    arrays: dict[str, list[NDArray[np.uint8]]] = {"images": [], "labels": []}
    for part in splits:
        for kind, parts in arrays.items():
            file = FILES[part, kind]
            if download and _found(directory, file) is None:
                _download(directory, file, mirrors)
            parts.append(_read(directory, file))
    import numpy as np

    images, labels = np.concatenate(arrays["images"]), np.concatenate(arrays["labels"])
    _write(Path(out), images, labels, split)
    return len(images)


def _found(directory: Path, file: IdxFile) -> Path | None:
    for name in (file.name, f"{file.name}.gz"):
        if os.path.isfile(directory / name):
            return directory / name
    return None


def _read(directory: Path, file: IdxFile) -> NDArray[np.uint8]:
    import numpy as np

    path = _found(directory, file)
    if path is None:
        raise DatasetNotFoundError(
            f"{directory}: no {file.name} or {file.name}.gz; put it there, or fetch it with "
            "--download"
        )
    content = _content(path, file)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DatasetError(
            f"{path}: not the original MNIST file (its SHA-256 differs); delete it and fetch it "
            "again with --download"
        )
    assert content.startswith(file.header)
    return np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(file.shape)


def _content(path: Path, file: IdxFile) -> bytes:
    """Uncompressed, and no more than a byte beyond what the original has."""
    try:
        if path.suffix != ".gz":
            with path.open("rb") as stream:
                return stream.read(file.size + 1)
        with gzip.open(path) as stream:
            return stream.read(file.size + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise DatasetError(f"{path}: can't be read ({exc}); fetch it with --download") from exc


def _download(directory: Path, file: IdxFile, mirrors: Sequence[str]) -> None:
    import http.client  # with email and ssl, which would be half the time of `audit --help`
    import urllib.request

    target = directory / f"{file.name}.gz"
    reasons = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{target.name}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                # Gzip can't make it larger than the content, but for a few bytes of header.
                data = response.read(file.size + 1024)
        except (http.client.HTTPException, OSError, ValueError) as exc:
            reasons.append(f"{url}: {getattr(exc, 'reason', exc)}")
            continue
        if _is_original(data, file):
            write_file(target, data)
            return
        reasons.append(f"{url}: not the original file (its SHA-256 differs)")
    raise DatasetError(f"{file.name}: can't be fetched; tried {'; '.join(reasons)}")


def _is_original(data: bytes, file: IdxFile) -> bool:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        content = decompressor.decompress(data, file.size + 1)
    except zlib.error:
        return False
    return hashlib.sha256(content).hexdigest() == file.sha256


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{directory}: can't be created ({exc.strerror})") from exc


def _is_ours(out: Path) -> bool:
    from audit import hdf5

    try:
        with hdf5.open_file(out, DatasetError, missing=DatasetError, what="MNIST") as file:
            return hdf5.text_attribute(file, "source") == SOURCE
    except DatasetError:
        return False


def _write(out: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], split: str) -> None:
    import h5py

    from audit.diskfile import DiskFile

    if os.path.lexists(out) and not _is_ours(out):
        raise OutputError(f"{out}: exists and was not made by this command; name another with -o")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            path = Path(scratch) / out.name
            with contextlib.closing(DiskFile(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))) as disk:
                with h5py.File(disk, "w") as file:
                    file["images"] = images
                    file["labels"] = labels
                    file.attrs["audit_bundle"] = "mnist"
                    file.attrs["split"] = split
                    file.attrs["licence"] = LICENCE
                    file.attrs["source"] = SOURCE
                disk.check()
            path.replace(out)
    except OSError as exc:
        raise OutputError(f"{out}: can't be written ({exc.strerror or exc})") from exc
