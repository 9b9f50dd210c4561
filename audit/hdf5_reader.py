"""Reading a result file of ours that may have been changed since: checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import AuditError


@dataclass(frozen=True)
class ResultReader:
    """What every array of one file is read with.

    Attributes:
        path: The file.
        error: What is raised where it isn't as it should be.
        what: The kind of file in words, for messages.
    """

    path: Path
    error: type[AuditError]
    what: str

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The h5py file; what h5py raises on a damaged one is raised as `error`."""
        from audit import hdf5

        with (
            hdf5.open_file(self.path, self.error, missing=self.error, what=self.what) as file,
            hdf5.damage_as(self.error, self.path),
        ):
            yield file

    def dataset(self, file: Any, name: str) -> Any:
        """The dataset of that name, in this very file and as large as it says; None: none."""
        import h5py

        from audit import hdf5
        from audit.chunk_guard import ChunkGuard, odd_pipeline

        try:
            node = hdf5.find_object(file, name)
        except hdf5.LeadsOutsideError as exc:
            raise self.wrong(f"{exc}") from exc
        if node is None:
            return None
        if not isinstance(node, h5py.Dataset):
            raise self.wrong(f"/{name} is not a dataset")
        problem = (
            hdf5.outside_source(node) or hdf5.missing_storage(node) or hdf5.oversized_chunk(node)
        )
        problem = problem or odd_pipeline(node)
        if problem:
            raise self.wrong(f"/{name} {problem}")
        ChunkGuard(node).check(0, len(node) if node.shape else 0)
        return node

    def checked(self, file: Any, name: str, dtype: str | None, *shape: Any) -> Any:
        """As `dataset`, which must be there and be of this dtype and shape.

        Args:
            file: From `open`.
            name: Of the dataset.
            dtype: None: any number.
            shape: A size of None: any; `...` at the end: more axes.
        """
        dataset = self.dataset(file, name)
        if dataset is None:
            raise self.wrong(f"no /{name}")
        if not _fits(dataset, dtype, shape):
            raise self.wrong(f"/{name} is {dataset.dtype} of shape {dataset.shape}")
        return dataset

    def wrong(self, problem: str) -> AuditError:
        """The error that says so, in one line."""
        return self.error(f"{self.path}: {problem}; expected {self.what}")


def json_object(text: Any) -> dict[str, Any]:
    """The JSON object of an attribute.

    Raises:
        ValueError: It is none.
    """
    from audit import strict_json

    document = strict_json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    return document


def _fits(dataset: Any, dtype: str | None, shape: tuple[Any, ...]) -> bool:
    actual = dataset.shape
    if shape and shape[-1] is ...:
        shape = shape[:-1]
        actual = actual[: len(shape)]
    sizes = len(actual) == len(shape) and all(
        expected in (None, size) for expected, size in zip(shape, actual, strict=True)
    )
    kind = dataset.dtype.kind in "uif" if dtype is None else str(dataset.dtype) == dtype
    return bool(sizes and kind)
