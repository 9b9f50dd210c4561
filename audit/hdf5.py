"""Opening HDF5 files from strangers.

An HDF5 file can name other files (external links, external storage, virtual datasets) and declare
far more than it holds. Everything here opens what is in the file itself, or says what is wrong.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from audit.errors import AuditError
from audit.hdf5_heap import with_heaps_checked as with_heaps_checked

MAX_LINKS = 16  # soft links in a row, as many as HDF5 itself follows
# A chunk is decoded whole, so what its header claims is what it costs.
MAX_CHUNK_BYTES = 2**30
MAX_ATTRIBUTE_BYTES = 16 * 2**20
SCALAR_CLASSES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)  # bool: ENUM
# What h5py, and the conversions of what it gives, raise on a damaged file.
FOREIGN = (LookupError, RuntimeError, OSError, ValueError, TypeError, ArithmeticError, MemoryError)
MAX_REASON = 200


def forget_plugins() -> None:
    """Let HDF5 load no library for a filter that a file asks for.

    It would look for one on HDF5_PLUGIN_PATH, which may be the folder that the file came in. Those
    that are loaded already, and those of hdf5plugin, which registers its own, are used as before.
    """
    while h5py.h5pl.size():
        h5py.h5pl.remove(0)


forget_plugins()


class LeadsOutsideError(Exception):
    """A name that leads out of the file; the message says through what."""


@contextlib.contextmanager
def damage_as(error: type[AuditError], path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever h5py raises in here on a damaged file is raised as `error`."""
    try:
        yield
    except AuditError:
        raise
    except FOREIGN as exc:
        raise error(f"{path}: a damaged HDF5 file ({_reason(exc)})") from exc


def open_file(
    path: str | os.PathLike[str],
    error: type[AuditError],
    *,
    missing: type[AuditError],
    what: str,
) -> h5py.File:
    """Open for reading.

    Raises:
        AuditError: As `missing` where there is no such file, as `error` where it can't be read.
    """
    if not os.path.exists(path):
        raise missing(f"{path}: no such file; expected {what}")
    if os.path.isdir(path):
        raise error(f"{path}: a directory; expected {what}")
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        raise error(f"{path}: not a regular file; expected {what}")
    try:
        return h5py.File(path, "r")
    except FOREIGN as exc:
        if isinstance(exc, OSError) and "unable to lock file" in str(exc):
            raise error(
                f"{path}: locked, so another process is writing it; try again when it is done"
            ) from exc
        if isinstance(exc, PermissionError) or not os.access(path, os.R_OK):
            raise error(f"{path}: can't be read ({os.strerror(errno.EACCES)})") from exc
        try:
            is_hdf5 = h5py.is_hdf5(os.fspath(path))
        except FOREIGN:
            is_hdf5 = False
        if is_hdf5:
            raise error(f"{path}: a damaged or truncated HDF5 file ({_reason(exc)})") from exc
        raise error(f"{path}: not an HDF5 file that can be read; expected {what}") from exc


class Scalars:
    """Attributes of a group `with_heaps_checked`, each one number or text; no others are read.

    An attribute's header can claim any shape, and h5py allocates what it claims.
    """

    def __init__(self, node: h5py.Group) -> None:
        self._node = node

    def __getitem__(self, name: str) -> Any:
        """The number, or the text as `str` or `bytes`.

        Raises:
            KeyError: There is none of that name.
            ValueError: It is something else.
        """
        attribute = self._node.attrs.get_id(name)
        kind = attribute.get_type()
        if (
            attribute.shape != ()
            or kind.get_class() not in SCALAR_CLASSES
            or kind.get_size() > MAX_ATTRIBUTE_BYTES
        ):
            raise ValueError(f"the attribute {name!r} is not a number or a text")
        return self._node.attrs[name]


def text_attribute(file: h5py.File, name: str) -> str | None:
    """The attribute's text, of fixed or variable length; None where there is no such text."""
    try:
        with with_heaps_checked(file) as checked:
            value = Scalars(checked)[name]
    except FOREIGN:
        return None  # not there, of a type that numpy doesn't have, or damaged
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def schema_of(path: str | os.PathLike[str], error: type[AuditError], what: str) -> str:
    """The attribute `schema` of a file, which all files of ours have; empty where there is none.

    Raises:
        AuditError: As `error`, where there is no such file or it isn't HDF5.
    """
    with open_file(path, error, missing=error, what=what) as file:
        return text_attribute(file, "schema") or ""


def find_object(file: h5py.File, name: str) -> Any:
    """The group or dataset of that name within this very file, or None.

    Each link on the way is looked at before it is followed.

    Raises:
        LeadsOutsideError: The name leads out of the file.
    """
    return _walk(file, file, _parts(name), name, MAX_LINKS)


def _walk(file: h5py.File, node: Any, parts: list[str], name: str, links: int) -> Any:
    while parts:
        part, *parts = parts
        if not isinstance(node, h5py.Group):
            return None
        link = node.get(part, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise LeadsOutsideError(f"{name!r} is an external link to {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            if links == 0:
                raise LeadsOutsideError(f"{name!r} is a chain of more than {MAX_LINKS} soft links")
            start = file if link.path.startswith("/") else node
            node = _walk(file, start, _parts(link.path), name, links - 1)
        elif isinstance(link, h5py.HardLink):
            node = node[part]
        else:
            raise LeadsOutsideError(f"{name!r} is a user-defined link")
    return node


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def outside_source(dataset: h5py.Dataset) -> str | None:
    """What other file the dataset's values come from, in words; None: this file."""
    if dataset.is_virtual:
        return "a virtual dataset (its values lie in other datasets)"
    if dataset.external:
        return f"in external storage ({dataset.external[0][0]!r})"
    return None


def absent_source(dataset: h5py.Dataset) -> str | None:
    """What other file isn't there or is too short, in words: HDF5 reads zeros in its place."""
    folder = Path(dataset.file.filename).parent
    names = (
        [source.file_name for source in dataset.virtual_sources()]
        if dataset.is_virtual
        else [name for name, _, _ in dataset.external]
    )
    for name in names:
        # '.' is the file itself; '%b' stands for a number that HDF5 counts up.
        if (
            name != "."
            and "%" not in name
            and not any(os.path.isfile(p) for p in (folder / name, name))
        ):
            return f"has its values in {name!r}, which isn't there"
    if not dataset.is_virtual:
        held = 0
        for name, offset, size in dataset.external:
            path = next(p for p in (Path(name), folder / name) if os.path.isfile(p))
            held += min(size, max(0, path.stat().st_size - offset))
        if held < dataset.nbytes:
            return f"declares {dataset.nbytes} bytes but {names[0]!r} holds {held}"
    return None


def missing_storage(dataset: h5py.Dataset) -> str | None:
    """What of the declared extent the file doesn't hold, in words; None: it is all there."""
    if dataset.size == 0:
        return None
    if dataset.chunks is None:
        stored, declared = dataset.id.get_storage_size(), dataset.nbytes
        return None if stored >= declared else f"declares {declared} bytes but holds {stored}"
    per_axis = zip(dataset.shape, dataset.chunks, strict=True)
    expected = int(np.prod([-(-size // chunk) for size, chunk in per_axis], dtype=object))
    stored = dataset.id.get_num_chunks()
    return None if stored == expected else f"declares {expected} chunks but holds {stored}"


def chunk_bytes(dataset: h5py.Dataset) -> int:
    """Of a storage chunk once it is decoded."""
    return int(np.prod(dataset.chunks, dtype=object)) * int(dataset.dtype.itemsize)


def oversized_chunk(dataset: h5py.Dataset) -> str | None:
    """A storage chunk that is too large to decode, in words; None: there is none."""
    if dataset.chunks is None:
        return None
    size = chunk_bytes(dataset)
    if size <= MAX_CHUNK_BYTES:
        return None
    return f"is stored in chunks of {size} bytes; at most {MAX_CHUNK_BYTES} are decoded at once"


def _reason(exc: BaseException) -> str:
    """HDF5's own words, without the chain of C functions around them."""
    text = " ".join(
        (str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)).split()
    )
    inner = text[text.find("(") + 1 : text.rfind(")")] if "(" in text else ""
    return (inner or text or type(exc).__name__)[:MAX_REASON]
