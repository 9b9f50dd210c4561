"""Writes a findings file: rows are appended to a temporary file, which is renamed when complete.

The layout follows NeXus (https://manual.nexusformat.org/classes/base_classes/NXdata.html), so that
viewers such as H5Web, silx and NeXpy plot it by themselves. `docs/findings.md` is the schema.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from audit import hdf5
from audit.bundle import Bundle
from audit.dataset import Dataset
from audit.diskfile import DiskFile
from audit.errors import FindingsError, OutputError
from audit.fast_pass import MARGIN_EDGES
from audit.findings import SCHEMA
from audit.options import ScanOptions
from audit.segment import SegmentFindings

CHUNK_BYTES = 2**16  # a chunk takes its full size even for one row

# /flagged: name → dtype; None: that of the samples, which the bundle knows.
ROWS: dict[str, Any] = {
    "index": np.int64,
    "classes": np.int64,
    "logits": np.float64,
    "margin": np.float64,
    "label": np.int64,
    "input": None,
    "gradient": np.float32,
    "distance_l2": np.float64,
    "distance_linf": np.float64,
}
NEEDS_GRADIENT = ("gradient", "distance_l2", "distance_linf")


class FindingsWriter:
    """Appends segments' findings; a context manager that leaves nothing behind unless finished."""

    def __init__(self, out: Path, bundle: Bundle, options: ScanOptions) -> None:
        """Create the temporary file beside `out`.

        Raises:
            OutputError: It can't be created, or `out` is something that isn't findings.
        """
        check_output(out)
        self._out = out
        self._options = options
        self._bundle = bundle
        self._totals = Totals(len(bundle.manifest.classes))
        self._scratch = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
        with contextlib.ExitStack() as stack:
            stack.callback(_remove, self._scratch)
            self._disk = stack.enter_context(contextlib.closing(_created(self._scratch, out)))
            self._file = stack.enter_context(
                h5py.File(self._disk, "w", libver=("earliest", "v110"))
            )
            self._create()
            self._cleanup = stack.pop_all()

    def __enter__(self) -> FindingsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def append(self, found: SegmentFindings) -> None:
        """Add the findings of the next segment.

        Raises:
            OutputError: The disk is full or gone.
        """
        with _disk_errors(self._out):
            for name in self._file["flagged"]:
                _extend(self._file["flagged"][name], getattr(found, name))
            _extend(self._file["nonfinite/index"], found.nonfinite_index)
            if self._options.keep_all:
                _extend(self._file["scan/margin"], found.scan_margin)
                _extend(self._file["scan/classes"], found.scan_classes)
            self._disk.check()
        self._totals.add(found)

    def finish(self, dataset: Dataset, engine: dict[str, Any]) -> None:
        """Write summary and attributes, then give the file its name.

        Raises:
            OutputError: The disk is full or gone.
        """
        with _disk_errors(self._out):
            self._write_summary()
            self._write_attributes(dataset, engine)
            self._file.close()
            self._disk.sync()
            self._disk.check()
            self._scratch.replace(self._out)
            _sync_directory(self._out.parent)

    def _create(self) -> None:
        preprocess = self._bundle.manifest.preprocess
        shapes = {
            "classes": (2,),
            "logits": (2,),
            "input": preprocess.raw_shape,
            "gradient": (2, *preprocess.input_shape),
        }
        flagged = self._file.create_group("flagged")
        for name, dtype in ROWS.items():
            if name in NEEDS_GRADIENT and self._options.no_gradients:
                continue
            kind = np.dtype(dtype or preprocess.raw_dtype)
            _create_rows(flagged, name, kind, shapes.get(name, ()))
        _create_rows(self._file.create_group("nonfinite"), "index", np.dtype(np.int64), ())
        if self._options.keep_all:
            scan = self._file.create_group("scan")
            _create_rows(scan, "margin", np.dtype(np.float32), ())
            _create_rows(scan, "classes", np.dtype(np.int32), (2,))

    def _write_summary(self) -> None:
        summary = self._file.create_group("summary")
        totals = self._totals
        _create_array(summary, "pairs", totals.pairs)
        _create_array(summary, "margin_edges", MARGIN_EDGES)
        _create_array(summary, "margin_counts", totals.margin_counts)
        summary.attrs["degenerate"] = -1 if self._options.no_gradients else totals.degenerate
        summary.attrs["labelled"] = totals.labelled
        summary.attrs["correct"] = totals.correct

    def _write_attributes(self, dataset: Dataset, engine: dict[str, Any]) -> None:
        options, manifest, root = self._options, self._bundle.manifest, self._file.attrs
        root["schema"] = SCHEMA
        root["tool_version"] = version("near-tie-audit")
        root["created"] = datetime.now(UTC).isoformat()
        root["eps"] = options.eps
        root["min_logit"] = np.nan if options.min_logit is None else options.min_logit
        root["scanned"] = self._totals.scanned
        root["flagged"] = len(self._file["flagged/index"])
        root["nonfinite"] = len(self._file["nonfinite/index"])
        root["dataset"] = json.dumps(dataset.describe())
        root["bundle"] = json.dumps(
            {
                "path": str(self._bundle.path),
                "name": manifest.name,
                "classes": manifest.classes,
                "manifest_sha256": self._bundle.manifest_sha256,
                "files": {name: record.sha256 for name, record in manifest.files.items()},
            }
        )
        root["engine"] = json.dumps(engine)
        self._write_nexus()

    def _write_nexus(self) -> None:
        """What a viewer opens first, and as what it draws it."""
        self._file.attrs["NX_class"] = "NXroot"
        self._file.attrs["default"] = "flagged" if self._file.attrs["flagged"] else "summary"
        flagged, summary = self._file["flagged"], self._file["summary"]
        flagged.attrs["NX_class"] = "NXdata"
        flagged.attrs["signal"] = "margin" if self._options.no_gradients else "gradient"
        rank = flagged[flagged.attrs["signal"]].ndim
        flagged.attrs["axes"] = ["index", *["."] * (rank - 1)]
        flagged.attrs["index_indices"] = 0
        shape = self._bundle.manifest.preprocess.input_shape
        kind = "image" if len(shape) == 3 else "spectrum"
        for name in ("input", "gradient"):
            if name in flagged:
                flagged[name].attrs["interpretation"] = kind
                flagged[name].attrs["long_name"] = {
                    "input": "sample as stored",
                    "gradient": "gradient of both tied logits in input space",
                }[name]
        summary.attrs["NX_class"] = "NXdata"
        summary.attrs["signal"] = "margin_counts"
        summary.attrs["axes"] = ["margin_edges"]
        summary.attrs["margin_edges_indices"] = 0
        summary["margin_edges"].attrs["units"] = "logit"
        if "scan" in self._file:
            scan = self._file["scan"]
            scan.attrs["NX_class"] = "NXdata"
            scan.attrs["signal"] = "margin"


class Totals:
    """What is counted over all segments."""

    def __init__(self, classes: int) -> None:
        self.scanned = 0
        self.degenerate = 0
        self.labelled = 0
        self.correct = 0
        self.pairs = np.zeros((classes, classes), dtype=np.int64)
        self.margin_counts = np.zeros(len(MARGIN_EDGES) - 1, dtype=np.int64)

    def add(self, found: SegmentFindings) -> None:
        """Count one segment in."""
        self.scanned += found.scanned
        self.degenerate += found.degenerate
        self.labelled += found.labelled
        self.correct += found.correct
        self.margin_counts += found.margin_counts
        np.add.at(self.pairs, (found.classes[:, 0], found.classes[:, 1]), 1)


def check_output(out: Path) -> None:
    """Only findings may be overwritten.

    Raises:
        OutputError: `out` is a directory, or a file that holds something else.
    """
    if not os.path.isdir(out.parent):
        raise OutputError(f"{out.parent}: no such directory; create it, or name another with -o")
    if os.path.isdir(out):
        raise OutputError(f"{out}: a directory; name a file with -o")
    if os.path.exists(out):
        try:
            with hdf5.open_file(out, FindingsError, missing=FindingsError, what="findings") as file:
                schema = hdf5.text_attribute(file, "schema") or ""
                is_findings = schema.startswith("audit-findings/")
        except FindingsError:
            is_findings = False
        if not is_findings:
            raise OutputError(f"{out}: exists and is not a findings file; name another with -o")


def _remove(scratch: Path) -> None:
    """Gone, if it can be: the error that led here must stay the one shown."""
    with contextlib.suppress(OSError):
        scratch.unlink()


def _created(scratch: Path, out: Path) -> DiskFile:
    try:
        return DiskFile(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as exc:
        raise OutputError(
            f"{out}: can't be written ({exc.strerror}); name another with -o"
        ) from exc


def _create_rows(group: h5py.Group, name: str, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
    row_bytes = max(1, int(np.prod(row)) * dtype.itemsize)
    group.create_dataset(
        name,
        shape=(0, *row),
        maxshape=(None, *row),
        chunks=(max(1, min(4096, CHUNK_BYTES // row_bytes)), *row),
        dtype=dtype,
    )


def _create_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    group.create_dataset(name, data=values, chunks=values.shape)


def _extend(dataset: h5py.Dataset, rows: NDArray[Any]) -> None:
    if len(rows):
        start = len(dataset)
        dataset.resize(start + len(rows), axis=0)
        dataset[start:] = rows


@contextlib.contextmanager
def _disk_errors(out: Path) -> Any:
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or " ".join(str(exc).split())
        raise OutputError(f"{out}: writing failed ({reason}); nothing was left there") from exc


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
