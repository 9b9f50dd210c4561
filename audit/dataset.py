"""The dataset to scan: opened, checked against the bundle, read block by block.

Nothing is allocated because a header claims it: the extent must be backed by stored bytes, and a
block, what is read at once, is a whole number of storage chunks. `audit.storage` does the reading.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from audit import hdf5
from audit.bundle import Manifest
from audit.chunk_guard import odd_pipeline
from audit.crc32 import combined, crc32
from audit.dataset_names import DatasetNames
from audit.errors import DatasetError, DatasetNotFoundError
from audit.memory import Memory
from audit.options import RAW_DTYPES
from audit.storage import Decoding, LibraryRows, Rows, rows_of

BLOCK_BYTES = 2 * 2**20  # enough to amortise a call, little enough to stay in the cache
LABELS_AT_ONCE = 2**18  # 2 MiB
MAX_BLOCK_BYTES = 64 * 2**20  # for chunks that are larger than that, alignment is given up
FINGERPRINT_SAMPLES = 8
KEPT_BYTES = 2**20  # of a sample that is kept for the fingerprint
UNKNOWN_LABEL = -1

WHAT = "an HDF5 file with samples in a dataset 'images'"


class FileState(NamedTuple):
    """What changes where a file is written to: its size in bytes, and when, in ns since 1970."""

    size: int
    mtime_ns: int


class Dataset:
    """Samples and, where there are some, labels of an open HDF5 file; a context manager.

    Attributes:
        path: The file.
        images_name: Name of the sample dataset in it.
        labels_name: Name of the label dataset, or None.
        sample_shape: Shape of one sample as stored.
        dtype: Dtype of a sample in native byte order.
        stored: Samples in the file.
        chunks: Storage chunk shape, or None for contiguous storage.
        compression: Name of the compression filter as h5py gives it, or None.
        audit_bundle: The file's `audit_bundle` attribute, or None.
        state: Of the file, when it was opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        images: str | None = None,
        labels: str | None = None,
        allow_external: bool = False,
    ) -> None:
        """Open and find the samples and labels.

        Raises:
            DatasetNotFoundError: There is no such file.
            DatasetError: It isn't HDF5, or holds no samples that can be told apart by name, or its
                values lie outside the file, or it declares more than it holds.
        """
        self.path = os.fspath(path)
        self._allow_external = allow_external
        self._file = hdf5.open_file(path, DatasetError, missing=DatasetNotFoundError, what=WHAT)
        try:
            self.state = self._current_state()
            with hdf5.damage_as(DatasetError, path):
                self._inspect(images, labels)
        except BaseException:
            self.close()
            raise

    def _inspect(self, images: str | None, labels: str | None) -> None:
        """Everything that the file says of itself, so that later only values are read."""
        names = DatasetNames(self._file, self.path, self._allow_external)
        self.images_name, self._images = names.images(images)
        self._check_samples()
        named = names.labels(labels, self.images_name)
        self.labels_name: str | None = named.name if named else None
        self._labels: h5py.Dataset | None = named.dataset if named else None
        if named:
            self._check_labels(*named)
        self.audit_bundle = hdf5.text_attribute(self._file, "audit_bundle")
        self.sample_shape: tuple[int, ...] = self._images.shape[1:]
        self.dtype: np.dtype[Any] = self._images.dtype.newbyteorder("=")
        self.stored: int = self._images.shape[0]
        self.chunks: tuple[int, ...] | None = self._images.chunks
        self.compression: str | None = self._images.compression
        self._rows = rows_of(self._images)
        self._most_rows = self.stored  # of a block
        spaced = np.linspace(0, self.stored - 1, FINGERPRINT_SAMPLES).astype(np.int64)
        self._spaced = np.unique(spaced)
        self._seen: dict[int, NDArray[np.generic]] = {}  # of `_spaced`, what has been read

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def has_labels(self) -> bool:
        """Whether the file has labels."""
        return self._labels is not None

    @property
    def sample_bytes(self) -> int:
        """Of a sample as stored, at least 1."""
        return max(1, int(np.prod(self.sample_shape)) * self.dtype.itemsize)

    @property
    def chunk_rows(self) -> int:
        """Samples that a block has a multiple of, as they share storage chunks; 1: any number."""
        rows = self.chunks[0] if self.chunks else 1
        return 1 if rows * self.sample_bytes > MAX_BLOCK_BYTES else rows

    @property
    def block_rows(self) -> int:
        """Samples read at once: whole storage chunks, about `BLOCK_BYTES`."""
        aligned = self.chunk_rows
        return max(1, BLOCK_BYTES // (self.sample_bytes * aligned)) * aligned

    @property
    def decoding(self) -> Decoding:
        """What decoding storage chunks takes, of the samples or of the labels."""
        of_labels = LibraryRows(self._labels).decoding.bytes if self._labels is not None else 0
        own = self._rows.decoding
        return own._replace(bytes=max(own.bytes, of_labels))

    def limit(self, memory: Memory) -> None:
        """Read in blocks that are smaller from now on, and decode fewer chunks at once."""
        self._most_rows = memory.block_rows
        self._rows.limit(memory.decoding)

    def check_unchanged(self) -> None:
        """Raise where the file isn't what was opened any more.

        Raises:
            DatasetError: It was written to, replaced or deleted.
        """
        if self._current_state() != self.state:
            raise self._error(
                "was changed since the scan began, so that its samples aren't of one dataset; "
                "scan it when nobody writes to it"
            )

    def check_against(self, manifest: Manifest) -> None:
        """Raise where the samples or labels aren't what the bundle takes.

        Raises:
            DatasetError: The rank, shape or dtype of the samples or a label is wrong.
        """
        raw = manifest.preprocess
        if self.sample_shape != raw.raw_shape:
            raise self._error(
                f"{self.images_name!r} has samples of shape {self.sample_shape}; the bundle "
                f"{manifest.name!r} takes {raw.raw_shape}. Name other data with --images, or "
                "another bundle with --model"
            )
        if self.dtype != np.dtype(raw.raw_dtype):
            way_out = ""
            if str(self.dtype) in RAW_DTYPES:
                way_out = f", or export with --raw-dtype {self.dtype}"
            raise self._error(
                f"{self.images_name!r} has dtype {self.dtype}; the bundle {manifest.name!r} takes "
                f"{raw.raw_dtype}. Convert the data{way_out}"
            )
        classes = len(manifest.classes)
        for start in range(0, self.stored if self.has_labels else 0, LABELS_AT_ONCE):
            labels = self.labels(start, min(start + LABELS_AT_ONCE, self.stored))
            wrong = np.flatnonzero((labels < UNKNOWN_LABEL) | (labels >= classes))
            if len(wrong):
                raise self._error(
                    f"{self.labels_name!r} holds {labels[wrong[0]]} at position "
                    f"{start + wrong[0]}; expected classes 0 to {classes - 1} of the bundle "
                    f"{manifest.name!r}, or {UNKNOWN_LABEL} for unknown"
                )

    def blocks(self, start: int, stop: int, at_least: int = 1) -> Iterator[range]:
        """What to read at once of the samples `start` to `stop`, in file order.

        Args:
            start: First sample.
            stop: Behind the last sample.
            at_least: Samples that a block should have.
        """
        rows = min(self.block_rows * -(-at_least // self.block_rows), self._most_rows)
        while start < stop:
            end = min((start // rows + 1) * rows, stop)
            yield range(start, end)
            start = end

    def read_into(self, out: NDArray[np.generic], start: int) -> None:
        """Fill `out` (n, *sample_shape) with the samples from `start` on; from any thread.

        Raises:
            DatasetError: The stored bytes are damaged.
        """
        self._read_into(out, self._rows, self.images_name, start)
        if self.sample_bytes > KEPT_BYTES:
            return
        # Reading them once more for the fingerprint would inflate their chunks once more.
        for position in self._spaced[self._spaced.searchsorted(start) :].tolist():
            if position >= start + len(out):
                break
            self._seen[position] = out[position - start].copy()

    def samples(self, positions: NDArray[np.int64]) -> NDArray[np.generic]:
        """Samples at these ascending positions, (len(positions), *sample_shape)."""
        out = np.empty((len(positions), *self.sample_shape), dtype=self.dtype)
        # HDF5 keeps the last chunks it inflated.
        library = LibraryRows(self._images)
        for row, position in enumerate(positions.tolist()):
            self._read_into(out[row : row + 1], library, self.images_name, position)
        return out

    def labels(self, start: int, stop: int) -> NDArray[np.int64]:
        """Labels of samples `start` to `stop`, int64; -1 where unknown."""
        if self._labels is None:
            return np.full(stop - start, UNKNOWN_LABEL, dtype=np.int64)
        shape = (stop - start, *self._labels.shape[1:])
        labels = np.empty(shape, dtype=self._labels.dtype.newbyteorder("="))
        self._read_into(labels, LibraryRows(self._labels), str(self.labels_name), start)
        if labels.dtype == np.uint64:
            labels = np.minimum(labels, np.uint64(np.iinfo(np.int64).max))
        return labels.reshape(-1).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, dtype, all labels and a few evenly spaced samples.

        The same for a copy of the data in another file, chunking or compression. A change of
        samples between those looked at goes unseen: it tells datasets apart, not versions of one.
        """
        digest = hashlib.sha256()
        digest.update(f"{self._images.shape} {self.dtype.str} {self.has_labels}".encode())
        for position in self._spaced.tolist():
            seen = self._seen.get(position)
            digest.update((self.samples(np.array([position])) if seen is None else seen).data)
        for start in range(0, self.stored if self.has_labels else 0, LABELS_AT_ONCE):
            digest.update(self.labels(start, min(start + LABELS_AT_ONCE, self.stored)).tobytes())
        return digest.hexdigest()

    def crc32(self, start: int, stop: int) -> int:
        """Of the samples `start` to `stop` as stored.

        Raises:
            DatasetError: The stored bytes are damaged.
        """
        crc = 0
        for span in self.blocks(start, stop):
            raw = np.empty((len(span), *self.sample_shape), dtype=self.dtype)
            self.read_into(raw, span.start)
            crc = combined(crc, crc32(raw), raw.nbytes)
        return crc

    def describe(self) -> dict[str, Any]:
        """What was read, for the findings' attribute `dataset`."""
        return {
            "path": os.path.abspath(self.path),
            "images": self.images_name,
            "labels": self.labels_name,
            "samples": self.stored,
            "shape": self.sample_shape,
            "dtype": str(self.dtype),
            "fingerprint": self.fingerprint,
        }

    def _current_state(self) -> FileState:
        try:
            found = os.stat(self.path)
        except OSError as exc:
            raise self._error(f"is no longer there ({exc.strerror}); bring it back") from exc
        return FileState(found.st_size, found.st_mtime_ns)

    def _read_into(self, out: NDArray[Any], rows: Rows, name: str, start: int) -> None:
        try:
            rows.read_into(out, start)
        except hdf5.FOREIGN as exc:
            raise self._error(
                f"{name!r} can't be read at samples {start} to {start + len(out) - 1}: the file is "
                "damaged, or needs a filter that isn't installed"
            ) from exc

    def _error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.path}: {message}")

    def _check_samples(self) -> None:
        name, images = self.images_name, self._images
        if images.dtype.kind not in "uif" or images.dtype.subdtype is not None:
            raise self._error(f"{name!r} has dtype {images.dtype}; expected numbers")
        if images.shape is None or images.ndim < 2:
            raise self._error(
                f"{name!r} has shape {images.shape}; expected (N, …), one row a sample"
            )
        if images.shape[0] == 0:
            raise self._error(f"{name!r} is empty: shape {images.shape}; nothing to scan")
        if 0 in images.shape:
            raise self._error(f"{name!r} has shape {images.shape}; expected samples of some values")
        self._check_storage(name, images)
        sample_bytes = images.nbytes // images.shape[0]
        if sample_bytes > hdf5.MAX_CHUNK_BYTES:
            raise self._error(
                f"{name!r} has samples of {sample_bytes} bytes; at most {hdf5.MAX_CHUNK_BYTES}"
            )

    def _check_labels(self, name: str, labels: h5py.Dataset) -> None:
        if labels.dtype.kind not in "ui" or labels.dtype.subdtype is not None:
            raise self._error(
                f"{name!r} has dtype {labels.dtype}; expected integer classes. "
                "Name other labels with --labels"
            )
        if labels.shape is None or labels.ndim == 0 or any(n != 1 for n in labels.shape[1:]):
            raise self._error(f"{name!r} has shape {labels.shape}; expected (N,), one class each")
        if labels.shape[0] != self._images.shape[0]:
            raise self._error(
                f"{name!r} has {labels.shape[0]} labels for {self._images.shape[0]} samples in "
                f"{self.images_name!r}; expected as many"
            )
        self._check_storage(name, labels)

    def _check_storage(self, name: str, dataset: h5py.Dataset) -> None:
        if dataset.is_virtual or dataset.external:  # --allow-external was given
            absent = hdf5.absent_source(dataset)
            if absent:
                raise self._error(f"{name!r} {absent}")
            return
        try:
            missing = hdf5.missing_storage(dataset)
        except (OSError, RuntimeError) as exc:
            raise self._error(f"{name!r} has a damaged storage index") from exc
        if missing:
            raise self._error(f"{name!r} {missing}: incomplete or damaged; write it again")
        oversized = hdf5.oversized_chunk(dataset)
        if oversized:
            raise self._error(f"{name!r} {oversized}. Store it in smaller chunks")
        odd = odd_pipeline(dataset)
        if odd:
            raise self._error(f"{name!r} {odd}; store it with plain compression, such as gzip")
