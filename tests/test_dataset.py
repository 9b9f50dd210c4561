"""The dataset: found by its usual names, read in order whatever its storage, told apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit.dataset
from audit.dataset import Dataset
from audit.errors import DatasetError
from oracles import read

IMAGES = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
LABELS = np.arange(6)


def write(path: Path, **arrays: NDArray[Any]) -> Path:
    """An HDF5 file with arrays of these names; '__' stands for '/'."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


@pytest.mark.parametrize(
    ("arrays", "images", "labels"),
    [
        (["images"], "images", None),
        (["images", "labels"], "images", "labels"),
        *[([name, "y"], name, "y") for name in ("x", "X", "data")],
        *[(["x", name], "x", name) for name in ("labels", "y", "Y", "targets")],
        (["x", "pixels", "classes"], "x", None),
        (["test__images", "test__labels"], "test/images", "test/labels"),
        (["test__x", "test__y"], "test/x", "test/y"),
        (["test__x", "train__pixels", "train__y"], "test/x", None),
        # The root's 'images' wins over anything else; labels come from beside the images.
        (["images", "x", "data", "labels"], "images", "labels"),
        (["images", "test__images", "test__labels"], "images", None),
        (["images", "train__images", "test__images"], "images", None),
        (["test__x", "labels"], "test/x", None),
        (["a__b__images", "x"], "x", None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else str(value),
)
def test_usual_names(arrays: list[str], images: str, labels: str | None, tmp_path: Path) -> None:
    kinds = {"labels", "y", "Y", "targets"}
    path = write(
        tmp_path / "a.h5",
        **{name: LABELS if name.rpartition("__")[2] in kinds else IMAGES for name in arrays},
    )
    with Dataset(path) as dataset:
        assert (dataset.images_name, dataset.labels_name) == (images, labels)
        assert dataset.has_labels == (labels is not None)
        assert dataset.labels(0, 6).tolist() == ([*range(6)] if labels else [-1] * 6)


def test_given_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images=IMAGES, labels=LABELS, deep__er__p=IMAGES + 1, q=LABELS)
    with Dataset(path, images="/deep/er/p", labels="q") as dataset:
        np.testing.assert_array_equal(read(dataset, range(6)), IMAGES + 1)
        assert dataset.labels_name == "q"


@pytest.mark.parametrize("link", [h5py.SoftLink("/store/x"), h5py.SoftLink("store/x"), None])
def test_links_within_the_file(link: h5py.SoftLink | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", store__x=IMAGES)
    with h5py.File(path, "a") as file:
        file["images"] = file["store/x"] if link is None else link
    with Dataset(path) as dataset:
        assert dataset.images_name == "images"
        np.testing.assert_array_equal(dataset.samples(np.arange(6)), IMAGES)


@pytest.mark.parametrize(
    "dtype", [">f2", ">f4", ">f8", "<f4", "f2", "f8", "u1", ">u2", ">i4", "i8"]
)
def test_byte_orders(dtype: str, tmp_path: Path) -> None:
    values = (np.arange(24).reshape(6, 2, 2) * 3).astype(dtype)
    with Dataset(write(tmp_path / "a.h5", images=values)) as dataset:
        assert dataset.dtype.isnative
        assert dataset.dtype == values.dtype.newbyteorder("=")
        raw = read(dataset, range(6))
        np.testing.assert_array_equal(raw, values.astype(values.dtype.newbyteorder("=")))
        np.testing.assert_array_equal(dataset.samples(np.array([0, 5])), raw[[0, 5]])


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", ">u4", "<i4", ">i8", "u8"])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1)])
def test_labels_of_any_integer(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images=IMAGES, labels=LABELS.astype(dtype).reshape(shape))
    with Dataset(path) as dataset:
        assert dataset.labels(1, 5).dtype == np.int64
        assert dataset.labels(1, 5).tolist() == [1, 2, 3, 4]


def test_label_beyond_int64_stays_out_of_range(tmp_path: Path) -> None:
    labels = np.array([0, 2**64 - 1, 2**63, 1, 2, 3], np.uint64)
    with Dataset(write(tmp_path / "a.h5", images=IMAGES, labels=labels)) as dataset:
        assert dataset.labels(0, 6).tolist() == [0, 2**63 - 1, 2**63 - 1, 1, 2, 3]


@pytest.mark.parametrize("make", [str, np.bytes_], ids=["variable length", "fixed length"])
def test_bundle_attribute(make: Callable[[str], object], tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", images=IMAGES)
    with Dataset(path) as dataset:
        assert dataset.audit_bundle is None
    with h5py.File(path, "a") as file:
        file.attrs["audit_bundle"] = make("mine")
    with Dataset(path) as dataset:
        assert dataset.audit_bundle == "mine"


# Storage: name → options of the dataset of shape (1000, 28, 28).
STORAGES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip, default chunks": {"compression": "gzip"},
    "(256, 28, 28)": {"chunks": (256, 28, 28), "compression": "gzip"},
    "(1, 28, 28)": {"chunks": (1, 28, 28)},
    "columns": {"chunks": (1000, 1, 4)},
    "columns past the end": {"chunks": (1000, 1, 28), "maxshape": (None, 28, 28), "shuffle": True},
    "lzf": {"chunks": (100, 28, 28), "compression": "lzf"},
    "shuffle, gzip 9": {"chunks": (77, 14, 28), "compression": 9, "shuffle": True},
    "fletcher32": {"chunks": (333, 28, 28), "fletcher32": True},
    "one chunk": {"chunks": (1000, 28, 28), "compression": 1},
    "compact": {},
}
RAW = np.random.default_rng(0).integers(0, 255, (1000, 28, 28), np.uint8)


def stored(path: Path, storage: str, raw: NDArray[Any] = RAW) -> Path:
    """A file whose images and labels are stored that way."""
    with h5py.File(path, "w") as file:
        if storage == "compact":
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_layout(h5py.h5d.COMPACT)
            raw = raw[:80]  # 64 KiB at most
            space = h5py.h5s.create_simple(raw.shape)
            kind = h5py.h5t.py_create(raw.dtype, logical=True)
            made = h5py.h5d.create(file.id, b"images", kind, space, properties)
            h5py.Dataset(made)[...] = raw
        else:
            file.create_dataset("images", data=raw, **STORAGES[storage])
        file["labels"] = np.arange(len(raw)) % 10
    return path


@pytest.mark.parametrize("limits", [None, (2**16, 2**19)], ids=["real limits", "small limits"])
@pytest.mark.parametrize("storage", STORAGES)
def test_blocks_cover_exactly_the_range_in_order(
    storage: str,
    limits: tuple[int, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if limits is not None:
        monkeypatch.setattr(audit.dataset, "BLOCK_BYTES", limits[0])
        monkeypatch.setattr(audit.dataset, "MAX_BLOCK_BYTES", limits[1])
    block_bytes, most = audit.dataset.BLOCK_BYTES, audit.dataset.MAX_BLOCK_BYTES
    with Dataset(stored(tmp_path / "a.h5", storage)) as dataset:
        n = dataset.stored
        chunk = dataset.chunks[0] if dataset.chunks else 1
        aligned = chunk * 784 <= most
        assert dataset.block_rows * 784 <= (max(block_bytes, chunk * 784) if aligned else most)
        assert not aligned or dataset.block_rows % chunk == 0
        for start, stop in ((0, n), (0, 1), (n - 1, n), (n // 3, n // 2), (7, n - 3), (5, 5)):
            blocks = list(dataset.blocks(start, stop))
            assert [block.start for block in blocks] == [
                start,
                *[block.stop for block in blocks[:-1]],
            ][: len(blocks)]
            assert all(0 < len(block) <= dataset.block_rows for block in blocks)
            assert all(block.stop % dataset.block_rows == 0 for block in blocks[:-1])
            joined = [read(dataset, block) for block in blocks]
            joined.append(np.empty((0, 28, 28), np.uint8))
            np.testing.assert_array_equal(np.concatenate(joined), RAW[start:stop])


def test_columns_too_wide_to_align(tmp_path: Path) -> None:
    """The real limits: a chunk row of (N, 1, 1) holds every sample, 70 MB of them."""
    shape = (70_000, 16, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        file.create_dataset("images", data=values, chunks=(70_000, 1, 8))
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset.block_rows == 2 * 2**20 // 1024
        next_start = 0
        for block in dataset.blocks(0, 9000):
            assert block.start == next_start
            np.testing.assert_array_equal(read(dataset, block), values[block.start : block.stop])
            next_start = block.stop
        assert next_start == 9000


def test_samples_at_positions(tmp_path: Path) -> None:
    with Dataset(stored(tmp_path / "a.h5", "(256, 28, 28)")) as dataset:
        positions = np.array([0, 1, 255, 256, 999])
        np.testing.assert_array_equal(dataset.samples(positions), RAW[positions])


def fingerprint(path: Path) -> str:
    with Dataset(path) as dataset:
        return dataset.fingerprint


def test_fingerprint_is_of_the_values_not_of_the_file(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.h5", "contiguous")
    shutil.copy(path, tmp_path / "copy.h5")
    expected = fingerprint(path)
    assert len(expected) == 64
    assert fingerprint(tmp_path / "copy.h5") == expected
    for storage in STORAGES.keys() - {"compact"}:
        assert fingerprint(stored(tmp_path / "b.h5", storage)) == expected, storage


def test_fingerprint_is_blind_to_names_and_byte_order(tmp_path: Path) -> None:
    values = RAW[:9].astype("<f4")
    first = write(tmp_path / "a.h5", images=values, labels=np.arange(9, dtype="i8"))
    other = write(tmp_path / "b.h5", x=values.astype(">f4"), y=np.arange(9, dtype=">i2")[:, None])
    assert fingerprint(first) == fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels: (images, np.where(np.arange(50) == 31, 3, labels)),
        lambda images, labels: (images, np.where(np.arange(50) == 49, -1, labels)),
        lambda images, labels: (images, None),
        lambda images, labels: (images.astype(np.int8), labels),
        lambda images, labels: (images.astype(np.float32), labels),
        lambda images, labels: (images[:49], labels[:49]),
        lambda images, labels: (images.reshape(50, 784), labels),
        lambda images, labels: (np.concatenate([images[:1] + 1, images[1:]]), labels),
        lambda images, labels: (np.concatenate([images[:-1], images[-1:] + 1]), labels),
        lambda images, labels: (images[::-1], labels),
    ],
    ids=[
        "label",
        "last label",
        "no labels",
        "int8",
        "float32",
        "N",
        "shape",
        "first",
        "last",
        "order",
    ],
)
def test_fingerprint_changes_with_the_data(
    change: Callable[[Any, Any], tuple[Any, Any]], tmp_path: Path
) -> None:
    images, labels = RAW[:50] // 2, np.zeros(50, int)
    expected = fingerprint(write(tmp_path / "a.h5", images=images, labels=labels))
    images, labels = change(images, labels)
    arrays = {"images": images} | ({} if labels is None else {"labels": labels})
    assert fingerprint(write(tmp_path / "b.h5", **arrays)) != expected


def test_label_sections_are_all_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are hashed in sections; no label at a seam is lost or counted twice."""
    path = stored(tmp_path / "a.h5", "contiguous")
    expected = fingerprint(path)
    for size in (1, 999, 1000, 1001):
        monkeypatch.setattr(audit.dataset, "LABELS_AT_ONCE", size)
        assert fingerprint(path) == expected


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A file cut anywhere is an error of the user's data, and never a crash or wrong values."""
    whole = stored(tmp_path / "a.h5", "(256, 28, 28)", RAW[:300]).read_bytes()
    path = tmp_path / "b.h5"
    for size in range(0, len(whole), 1999):
        path.write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r"b\.h5"):
            Dataset(path)
