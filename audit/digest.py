"""SHA-256s of a result file: of each array's values, and of everything else.

`docs/findings.md` says how they are computed, and shows it in plain h5py. They tell a damaged file,
not a forged one: whoever changes a file on purpose can compute them anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from audit import hdf5
from audit.errors import FindingsError

NAME = "sha256"  # of the attribute, of each array and of `/`
SLICE_BYTES = 16 * 2**20


class Checked(NamedTuple):
    """What became of the digests of a file.

    Attributes:
        arrays: How many there are.
        problems: What differs, a line each; empty: nothing does.
    """

    arrays: int
    problems: tuple[str, ...]


def seal(file: h5py.File) -> None:
    """Write the digests of all that is in an open file."""
    objects = _objects(file)
    for node in objects.values():
        if isinstance(node, h5py.Dataset):
            node.attrs[NAME] = _of_values(node)
    file.attrs[NAME] = _of_everything(objects)


def check(file: h5py.File) -> Checked | None:
    """Compute all digests anew; one array's damage doesn't keep the others from being looked at.

    Returns:
        What became of them; None: there are none, as in files of older versions.

    Raises:
        hdf5.FOREIGN: The objects can't be listed.
    """
    with hdf5.with_heaps_checked(file) as checked:
        return _checked(checked)


def _checked(file: h5py.File) -> Checked | None:
    objects = _objects(file)
    if not any(NAME in node.attrs for node in objects.values()):
        return None
    arrays = {path: node for path, node in objects.items() if isinstance(node, h5py.Dataset)}
    problems = [problem for each in arrays.items() if (problem := _problem(*each))]
    if _of_everything(objects) != _recorded(file):
        problems.append("/: a name, shape, dtype or attribute differs from the file's SHA-256")
    return Checked(len(arrays), tuple(problems))


def _objects(file: h5py.File) -> dict[str, Any]:
    """Every group and dataset by path.

    Raises:
        ValueError: There are links that no file of ours has.
    """
    found: dict[str, Any] = {"/": file}
    file.visititems(lambda name, node: found.update({f"/{name}": node}))
    names = sum(len(node) for node in found.values() if isinstance(node, h5py.Group))
    if names != len(found) - 1:  # each object is visited once, and no other link is followed
        raise ValueError("soft or external links, or two names of one object")
    return found


def _problem(path: str, dataset: h5py.Dataset) -> str | None:
    try:
        with hdf5.damage_as(FindingsError, path):
            problem = (
                hdf5.outside_source(dataset)
                or hdf5.missing_storage(dataset)
                or hdf5.oversized_chunk(dataset)
            )
            if problem:
                return f"{path} {problem}"
            if _of_values(dataset) == _recorded(dataset):
                return None
    except FindingsError as exc:
        return str(exc)
    return f"{path}: its values differ from its SHA-256"


def _recorded(node: Any) -> Any:
    return _attribute(node, NAME)[()] if NAME in node.attrs else None


def _attribute(node: Any, name: str) -> NDArray[Any]:
    """Numbers or texts.

    Raises:
        ValueError: It is something else.
    """
    dtype = node.attrs.get_id(name).dtype
    # Where one bit has made of a text what isn't one, HDF5 2.0 crashes when it is asked for it.
    if dtype.kind == "O" and h5py.check_string_dtype(dtype) is None:
        raise ValueError(f"the attribute {name!r} is neither numbers nor text")
    return np.asarray(node.attrs[name], dtype)


def _of_values(dataset: h5py.Dataset) -> str:
    """SHA-256 of the values, in hex."""
    if dataset.dtype.kind not in "biuf":
        raise ValueError(f"values of {dataset.dtype}")
    digest = hashlib.sha256()
    row = dataset.nbytes // max(1, len(dataset))
    if row > hdf5.MAX_CHUNK_BYTES:
        raise ValueError(f"rows of {row} bytes; at most {hdf5.MAX_CHUNK_BYTES} are read at once")
    rows = max(1, SLICE_BYTES // max(1, row))
    for start in range(0, len(dataset), rows):
        digest.update(_bytes(dataset[start : start + rows]))
    return digest.hexdigest()


def _of_everything(objects: dict[str, Any]) -> str:
    """SHA-256 of all objects and attributes, in hex; of the values, by their digests."""
    digest = hashlib.sha256()
    for path in sorted(objects):
        node = objects[path]
        digest.update(_line(path, *_kind(node)))
        for name in sorted(node.attrs):
            if (path, name) != ("/", NAME):
                value = _attribute(node, name)
                digest.update(_line(path, name, value.dtype.str, value.shape, _bytes(value).hex()))
    return digest.hexdigest()


def _kind(node: Any) -> tuple[Any, ...]:
    if isinstance(node, h5py.Dataset):
        return "dataset", node.dtype.str, node.shape, h5py.check_enum_dtype(node.dtype)
    return ("group",)


def _line(*values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _bytes(values: NDArray[Any]) -> bytes:
    """In C order and little endian; texts with a zero byte between them."""
    if values.dtype.kind == "O":
        return b"\0".join(str.encode(each, "utf-8", "surrogateescape") for each in values.flat)
    return values.astype(values.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
