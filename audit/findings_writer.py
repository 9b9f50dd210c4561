"""Writes a findings file: what was found is appended, the summary comes at the end.

The layout follows NeXus (https://manual.nexusformat.org/classes/base_classes/NXdata.html), so that
viewers such as H5Web, silx and NeXpy plot it by themselves. `docs/findings.md` is the schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.findings import SCHEMA
from audit.found import MARGIN_EDGES, Found, Totals
from audit.hdf5_writer import NewFile, check_output, create_array, create_rows, extend
from audit.preprocess import Preprocess

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


@dataclass(frozen=True, kw_only=True)
class FindingsLayout:
    """What is known of a findings file before anything is found.

    Attributes:
        preprocess: From samples as stored to input space.
        classes: Number of classes C.
        bundle: What the model was, JSON-ready.
        eps: Near-tie threshold.
        min_logit: Least largest logit of a flagged sample, or None.
        keep_all: With `/scan`, every sample's margin and classes.
        no_gradients: Without gradients and distances.
    """

    preprocess: Preprocess
    classes: int
    bundle: dict[str, Any]
    eps: float
    min_logit: float | None = None
    keep_all: bool = False
    no_gradients: bool = False


class FoundWriter(NewFile):
    """Appends what was found; a context manager that leaves nothing behind unless committed."""

    def __init__(
        self, out: Path, layout: FindingsLayout, *, scratch_in: Path | None = None
    ) -> None:
        """Create the temporary file, beside `out` or in another directory of its file system.

        Raises:
            OutputError: It can't be created.
        """
        self._layout = layout
        self._totals = Totals(layout.classes)
        super().__init__(out, scratch_in=scratch_in)

    def append(self, found: Found) -> None:
        """Add what the next samples brought.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            for name in self.file["flagged"]:
                extend(self.file["flagged"][name], getattr(found, name))
            extend(self.file["nonfinite/index"], found.nonfinite_index)
            if self._layout.keep_all:
                extend(self.file["scan/margin"], found.scan_margin)
                extend(self.file["scan/classes"], found.scan_classes)
        self._totals.add(found)

    def _create(self) -> None:
        preprocess = self._layout.preprocess
        shapes = {
            "classes": (2,),
            "logits": (2,),
            "input": preprocess.raw_shape,
            "gradient": (2, *preprocess.input_shape),
        }
        flagged = self.file.create_group("flagged")
        for name, dtype in ROWS.items():
            if name in NEEDS_GRADIENT and self._layout.no_gradients:
                continue
            kind = np.dtype(dtype or preprocess.raw_dtype)
            create_rows(flagged, name, kind, shapes.get(name, ()))
        create_rows(self.file.create_group("nonfinite"), "index", np.dtype(np.int64), ())
        if self._layout.keep_all:
            scan = self.file.create_group("scan")
            create_rows(scan, "margin", np.dtype(np.float32), ())
            create_rows(scan, "classes", np.dtype(np.int32), (2,))


class FindingsWriter(FoundWriter):
    """A findings file: what was found, and in the end its summary."""

    def __init__(
        self, out: Path, layout: FindingsLayout, *, scratch_in: Path | None = None
    ) -> None:
        """As of `FoundWriter`.

        Raises:
            OutputError: It can't be created, or `out` is something that isn't findings.
        """
        check_findings_output(out)
        super().__init__(out, layout, scratch_in=scratch_in)

    def finish(self, dataset: dict[str, Any], engine: dict[str, Any]) -> None:
        """Write summary and attributes, then give the file its name.

        Args:
            dataset: What was read, JSON-ready.
            engine: How it was scanned, JSON-ready.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            self._write_summary()
            self._write_attributes(dataset, engine)
        self.commit()

    def row_kinds(self) -> dict[str, np.dtype[Any]]:
        """Every dataset that grows by rows: its name and the dtype, with the shape, of a row."""
        kinds: dict[str, np.dtype[Any]] = {}
        for group in ("flagged", "nonfinite", "scan"):
            for name, rows in self.file.get(group, {}).items():
                kinds[f"{group}/{name}"] = np.dtype((rows.dtype, rows.shape[1:]))
        return kinds

    def extend(self, name: str, rows: NDArray[Any]) -> None:
        """Append rows to one dataset; whoever does appends as many to the others, and `count`s.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            extend(self.file[name], rows)

    def count(self, totals: Totals) -> None:
        """Count in what appended rows were counted as."""
        self._totals.merge(totals)

    def _write_summary(self) -> None:
        summary = self.file.create_group("summary")
        totals = self._totals
        create_array(summary, "pairs", totals.pairs)
        create_array(summary, "labels", totals.label_counts)
        create_array(summary, "margin_edges", MARGIN_EDGES)
        create_array(summary, "margin_counts", totals.margin_counts)
        summary.attrs["degenerate"] = -1 if self._layout.no_gradients else totals.degenerate
        summary.attrs["labelled"] = int(totals.label_counts.sum())
        summary.attrs["correct"] = totals.correct

    def _write_attributes(self, dataset: dict[str, Any], engine: dict[str, Any]) -> None:
        layout, root = self._layout, self.file.attrs
        self.stamp(SCHEMA)
        root["eps"] = layout.eps
        root["min_logit"] = np.nan if layout.min_logit is None else layout.min_logit
        root["scanned"] = self._totals.scanned
        root["flagged"] = len(self.file["flagged/index"])
        root["nonfinite"] = len(self.file["nonfinite/index"])
        root["dataset"] = json.dumps(dataset)
        root["bundle"] = json.dumps(layout.bundle)
        root["engine"] = json.dumps(engine)
        self._write_nexus()

    def _write_nexus(self) -> None:
        """What a viewer opens first, and as what it draws it."""
        self.file.attrs["NX_class"] = "NXroot"
        self.file.attrs["default"] = "flagged" if self.file.attrs["flagged"] else "summary"
        flagged, summary = self.file["flagged"], self.file["summary"]
        flagged.attrs["NX_class"] = "NXdata"
        flagged.attrs["signal"] = "margin" if self._layout.no_gradients else "gradient"
        rank = flagged[flagged.attrs["signal"]].ndim
        flagged.attrs["axes"] = ["index", *["."] * (rank - 1)]
        flagged.attrs["index_indices"] = 0
        shape = self._layout.preprocess.input_shape
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
        if "scan" in self.file:
            scan = self.file["scan"]
            scan.attrs["NX_class"] = "NXdata"
            scan.attrs["signal"] = "margin"


def check_findings_output(out: Path, option: str = "-o") -> None:
    """Only findings may be overwritten; the user named `out` with that option.

    Raises:
        OutputError: `out` is a directory, or a file that holds something else.
    """
    check_output(out, "audit-findings/", "a findings file", option)
