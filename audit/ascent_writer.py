"""Writes an ascent file, group by group. `docs/ascent.md` is the schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from audit.ascent import OUTCOMES, SCHEMA
from audit.bundle import Bundle
from audit.climb import Climbed
from audit.hdf5_writer import NewFile, check_output, create_rows, extend

CLIMBED = ("outcome", "steps", "final", "final_class")  # of /ascent, what `Climbed` holds
OUTCOME_TYPE = h5py.enum_dtype({name: i for i, name in enumerate(OUTCOMES)}, basetype="i1")


@dataclass(frozen=True, kw_only=True)
class Minimal:
    """Of R ascents: the closest input of the target class; arrays as in `docs/ascent.md`."""

    input: NDArray[np.float64]
    rounded: NDArray[Any]
    survives_rounding: NDArray[np.bool_]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AscentRows:
    """R ascents in a row; arrays as in `docs/ascent.md`."""

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    start_class: NDArray[np.int64]
    target: NDArray[np.int64]
    success: NDArray[np.bool_]
    step_size: NDArray[np.float64]
    input: NDArray[Any]
    rounded: NDArray[Any]
    survives_rounding: NDArray[np.bool_]
    distance_l2: NDArray[np.float64]
    distance_linf: NDArray[np.float64]
    first_order_l2: NDArray[np.float64]
    first_order_linf: NDArray[np.float64]
    climbed: Climbed
    minimal: Minimal | None


class AscentWriter(NewFile):
    """Appends ascents; a context manager that leaves nothing behind unless finished."""

    def __init__(self, out: Path, bundle: Bundle, minimal: bool) -> None:
        """Create the temporary file beside `out`.

        Raises:
            OutputError: It can't be created, or `out` is something that isn't an ascent file.
        """
        check_ascent_output(out)
        self._bundle = bundle
        self._minimal = minimal
        self._succeeded = 0
        super().__init__(out)

    def append(self, rows: AscentRows) -> None:
        """Add the next ascents.

        Raises:
            OutputError: The disk is full or gone.
        """
        climbed = rows.climbed
        with self.disk_errors():
            for name, dataset in self.file["ascent"].items():
                extend(dataset, getattr(climbed if name in CLIMBED else rows, name))
            for group, lengths in (
                ("path", climbed.path_length),
                ("frame", climbed.frame_length),
            ):
                offset = self.file[group]["offset"]
                extend(offset, offset[-1] + np.cumsum(lengths))
            extend(self.file["path/probability"], climbed.path_probability)
            extend(self.file["path/margin"], climbed.path_margin)
            extend(self.file["frame/step"], climbed.frame_step)
            extend(self.file["frame/input"], climbed.frame_input)
            if rows.minimal is not None:
                for name, dataset in self.file["minimal"].items():
                    extend(dataset, getattr(rows.minimal, name))
        self._succeeded += int(rows.success.sum())

    def finish(
        self,
        *,
        options: dict[str, Any],
        source: dict[str, Any],
        dataset: dict[str, Any],
        engine: dict[str, Any],
    ) -> None:
        """Write the attributes, each JSON-ready, then give the file its name.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self.disk_errors():
            root = self.file.attrs
            self.stamp(SCHEMA)
            root["ascents"] = len(self.file["ascent/index"])
            root["succeeded"] = self._succeeded
            root["minimised"] = self._minimal
            for name, document in (
                ("options", options),
                ("source", source),
                ("dataset", dataset),
                ("bundle", self._bundle.describe()),
                ("engine", engine),
            ):
                root[name] = json.dumps(document, allow_nan=False)
        self.commit()

    def _create(self) -> None:
        preprocess = self._bundle.manifest.preprocess
        stored, space = preprocess.raw_shape, preprocess.input_shape
        raw, real, whole = np.dtype(preprocess.raw_dtype), np.dtype("f8"), np.dtype("i8")
        truth = np.dtype(bool)
        rounded = {
            "rounded": (raw, stored),
            "survives_rounding": (truth, ()),
            "distance_l2": (real, ()),
            "distance_linf": (real, ()),
        }
        layout = {
            "ascent": {
                **dict.fromkeys(("index", "label", "start_class", "target"), (whole, ())),
                **dict.fromkeys(("final_class", "steps"), (whole, ())),
                "success": (truth, ()),
                "outcome": (OUTCOME_TYPE, ()),
                **dict.fromkeys(("step_size", "first_order_l2", "first_order_linf"), (real, ())),
                "input": (raw, stored),
                "final": (real, space),
                **rounded,
            },
            "path": {"offset": (whole, ()), "probability": (real, (2,)), "margin": (real, ())},
            "frame": {
                "offset": (whole, ()),
                "step": (whole, ()),
                "input": (np.dtype("f4"), space),
            },
        }
        if self._minimal:
            layout["minimal"] = {"input": (real, space), **rounded}
        for group, arrays in layout.items():
            node = self.file.create_group(group)
            for name, (dtype, row) in arrays.items():
                create_rows(node, name, dtype, row)
        for group in ("path", "frame"):
            extend(self.file[group]["offset"], np.zeros(1, dtype=np.int64))
        self._write_nexus(len(space))

    def _write_nexus(self, rank: int) -> None:
        """What a viewer opens first, and as what it draws it."""
        self.file.attrs["NX_class"] = "NXroot"
        self.file.attrs["default"] = "ascent"
        ascent = self.file["ascent"]
        ascent.attrs["NX_class"] = "NXdata"
        ascent.attrs["signal"] = "final"
        kind = "image" if rank == 3 else "spectrum"
        for name in ("ascent/input", "ascent/final", "ascent/rounded", "frame/input"):
            self.file[name].attrs["interpretation"] = kind


def check_ascent_output(out: Path) -> None:
    """Only an ascent file may be overwritten.

    Raises:
        OutputError: `out` is a directory, or a file that holds something else.
    """
    check_output(out, "audit-ascent/", "an ascent file")
