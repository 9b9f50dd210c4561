"""Finding the samples and labels of an HDF5 file by their names."""

from __future__ import annotations

from typing import Any, NamedTuple

import h5py

from audit import hdf5
from audit.errors import DatasetError

IMAGE_NAMES = ("images", "x", "X", "data")
LABEL_NAMES = ("labels", "y", "Y", "targets")
SHOWN_NAMES = 8
MOST_LOOKED_AT = 1000  # for a message
MOST_LOOKED_INTO = 1000  # since each has to be opened for it


class Named(NamedTuple):
    """A dataset and its name in the file."""

    name: str
    dataset: h5py.Dataset


class DatasetNames:
    """The names of an open file; what leads out of it is refused unless that is allowed.

    Every method raises `DatasetError` where there is no such dataset, several may be meant, or one
    leads outside.
    """

    def __init__(self, file: h5py.File, path: str, allow_external: bool) -> None:
        self._file = file
        self._path = path
        self._allow_external = allow_external

    def images(self, name: str | None) -> Named:
        """The samples: of this name, or of a usual one where there is exactly one candidate."""
        if name is not None:
            return Named(name, self._named(name, "--images"))
        found = self._open("images")
        if found is not None:
            return Named("images", found)
        candidates = [path for path in self._paths() if path.rsplit("/", 1)[-1] in IMAGE_NAMES]
        opened = {path: self._open(path) for path in candidates}
        opened = {path: node for path, node in opened.items() if node is not None}
        if len(opened) > 1:
            raise self._error(
                f"several datasets may hold the samples: {_quoted(opened)}. Name one with --images"
            )
        for path, node in opened.items():
            return Named(path, node)
        raise self._error(f"no dataset 'images'; {self._found()}. Name it with --images")

    def labels(self, name: str | None, images_name: str) -> Named | None:
        """The labels: of this name, or of a usual one beside the samples."""
        if name is not None:
            found = self._named(name, "--labels")
        else:
            group = images_name.rpartition("/")[0]
            first, *others = (f"{group}/{each}".lstrip("/") for each in LABEL_NAMES)
            candidates = {first: self._open(first)}
            if candidates[first] is None:
                candidates = {path: self._open(path) for path in others}
            opened = {path: node for path, node in candidates.items() if node is not None}
            if len(opened) > 1:
                raise self._error(
                    f"several datasets may hold the labels: {_quoted(opened)}. "
                    "Name one with --labels"
                )
            if not opened:
                return None
            name, found = opened.popitem()
        return Named(name, found)

    def _named(self, name: str, option: str) -> h5py.Dataset:
        found = self._open(name)
        if found is None:
            raise self._error(f"no dataset {name!r}; {self._found()}. Name one with {option}")
        return found

    def _paths(self) -> list[str]:
        """Names in the root and in the groups right under it; links out of the file are listed.

        Of a root with very many names, only the first are looked into.
        """
        paths: list[str] = []
        for number, name in enumerate(self._file):
            paths.append(name)
            if number >= MOST_LOOKED_INTO:
                continue
            if self._file.get(name, getclass=True, getlink=True) is h5py.HardLink:
                node = self._file[name]
                if isinstance(node, h5py.Group):
                    paths.extend(f"{name}/{inner}" for inner in node)
        return paths

    def _found(self) -> str:
        names = [path for path in self._paths()[:MOST_LOOKED_AT] if self._is_local_dataset(path)]
        return f"found {_quoted(names)}" if names else "the file holds no dataset"

    def _is_local_dataset(self, path: str) -> bool:
        try:
            return isinstance(hdf5.find_object(self._file, path), h5py.Dataset)
        except hdf5.LeadsOutsideError:
            return False

    def _open(self, name: str) -> h5py.Dataset | None:
        """The dataset of that name, None where there is none; refused where it leads outside."""
        if self._allow_external:
            node = self._file.get(name)
        else:
            try:
                node = hdf5.find_object(self._file, name)
            except hdf5.LeadsOutsideError as exc:
                raise self._error(f"{exc}; refused unless --allow-external is given") from exc
        if not isinstance(node, h5py.Dataset):
            link = self._file.get(name, getlink=True) if self._allow_external else None
            if node is None and isinstance(link, h5py.ExternalLink):
                raise self._error(f"{name!r} leads to {link.filename!r}, where it isn't found")
            return None
        try:
            _ = node.dtype
        except TypeError as exc:
            raise self._error(f"{name!r} has a type that can't be read; expected numbers") from exc
        outside = None if self._allow_external else hdf5.outside_source(node)
        if outside:
            raise self._error(f"{name!r} is {outside}; refused unless --allow-external is given")
        return node

    def _error(self, message: str) -> DatasetError:
        return DatasetError(f"{self._path}: {message}")


def _quoted(names: Any) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:SHOWN_NAMES])
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown
