"""A sealed segment: what `scan_segment` found, on the disk until all segments are joined.

Its rows are laid out as those of findings; what was counted stands in `/summary` and attributes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audit import digest
from audit.errors import FindingsError
from audit.fast_pass import Segment
from audit.findings_writer import FindingsLayout, FindingsWriter, FoundWriter
from audit.found import MARGIN_EDGES, Totals
from audit.hdf5_reader import ResultReader
from audit.hdf5_writer import create_array
from audit.segment import SegmentFindings, Tally

SCHEMA = "audit-segment/1"
WHAT = "a segment sealed by 'audit scan'"
JOINED_BYTES = 4 * 2**20  # read and written at once


class SegmentWriter(FoundWriter):
    """Appends the parts of one segment; a context manager that leaves nothing unless sealed."""

    def __init__(self, out: Path, layout: FindingsLayout, tally: Tally) -> None:
        """Create the temporary file beside `out`; `tally` has counted nothing yet.

        Raises:
            OutputError: It can't be created.
        """
        self._tally = tally
        super().__init__(out, layout)

    def append_part(self, part: SegmentFindings) -> None:
        """Add a part.

        Raises:
            OutputError: The disk is full or gone.
        """
        self.append(part)
        self._tally.add(part)

    def seal(self, segment: Segment) -> None:
        """Write what was counted, then give the file its name.

        Raises:
            OutputError: The disk is full or gone.
        """
        totals, tally, root = self._totals, self._tally, self.file.attrs
        with self.disk_errors():
            self.stamp(SCHEMA)
            root["start"], root["stop"] = segment.start, segment.stop
            root["degenerate"], root["correct"] = totals.degenerate, totals.correct
            root["disagreement"], root["crc32"] = tally.disagreement, tally.crc32
            root["undecided"] = tally.undecided
            summary = self.file.create_group("summary")
            create_array(summary, "pairs", totals.pairs)
            create_array(summary, "labels", totals.label_counts)
            create_array(summary, "margin_counts", totals.margin_counts)
            create_array(summary, "passed_on", np.array(tally.passed_on))
            create_array(summary, "checked", np.array(tally.checked))
        self.commit()


class SegmentFile:
    """A sealed segment that is read again.

    Attributes:
        totals: What was counted of its samples.
        tally: How they were found.
    """

    def __init__(self, path: Path, segment: Segment, classes: int, empty: Tally) -> None:
        """Read what was counted, and check that it is all there.

        Args:
            path: The file.
            segment: Which it must be.
            classes: Number of classes C.
            empty: A tally of the same cascade that has counted nothing; it is filled.

        Raises:
            FindingsError: The file is damaged, or of another segment.
        """
        self._reader = ResultReader(path, FindingsError, WHAT)
        self.totals, self.tally = Totals(classes), empty
        with self._reader.open() as file:
            checked = digest.check(file)
            if checked is None or checked.problems:
                raise self._reader.wrong("was changed since")
            self._read_attributes(file.attrs, segment)
            self._read_summary(file, classes)

    def join(self, findings: FindingsWriter) -> None:
        """Append to the findings what this segment holds.

        Raises:
            FindingsError: The file is damaged.
            OutputError: The disk is full or gone.
        """
        with self._reader.open() as file:
            for name, kind in findings.row_kinds().items():
                rows = self._reader.checked(file, name, str(kind.base), None, *kind.shape)
                step = max(1, JOINED_BYTES // max(1, kind.itemsize))
                for start in range(0, len(rows), step):
                    findings.extend(name, rows[start : start + step])
        findings.count(self.totals)

    def _read_attributes(self, root: Any, segment: Segment) -> None:
        try:
            found = root["schema"], int(root["start"]), int(root["stop"])
            self.totals.degenerate = int(root["degenerate"])
            self.totals.correct = int(root["correct"])
            self.tally.disagreement = float(root["disagreement"])
            self.tally.crc32 = int(root["crc32"])
            self.tally.undecided = int(root["undecided"])
        except (KeyError, TypeError, ValueError) as exc:
            raise self._reader.wrong("attributes are missing") from exc
        if found != (SCHEMA, segment.start, segment.stop):
            raise self._reader.wrong("is another one")
        self.totals.scanned = self.tally.samples = segment.stop - segment.start

    def _read_summary(self, file: Any, classes: int) -> None:
        def array(name: str, *shape: int) -> Any:
            return self._reader.checked(file, f"summary/{name}", "int64", *shape)[()]

        levels = len(self.tally.checked)
        self.totals.pairs = array("pairs", classes, classes)
        self.totals.label_counts = array("labels", classes)
        self.totals.margin_counts = array("margin_counts", len(MARGIN_EDGES) - 1)
        self.tally.passed_on = array("passed_on", levels).tolist()
        self.tally.checked = array("checked", levels).tolist()
