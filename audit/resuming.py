"""What an interrupted scan has left, checked before the same scan goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from audit.bundle import Bundle
from audit.dataset import Dataset
from audit.errors import FindingsError, OptionError, OutputError
from audit.fast_pass import Segment
from audit.options import ScanOptions
from audit.partial import Partial
from audit.scan_record import ScanRecord, check_same, identity_of, record_from_document
from audit.segment_file import SegmentFile


def interrupted_scan(
    partial: Partial, dataset: Dataset, bundle: Bundle, options: ScanOptions
) -> ScanRecord | None:
    """What this very scan said of itself before it was interrupted; None: it wasn't.

    Raises:
        OptionError: There is nothing to resume, though it was asked for.
        OutputError: What is there is of another scan, or can't be read.
    """
    if partial.document is None:
        if options.resume:
            raise OptionError(
                f"--resume: no interrupted scan is in {partial.path}; leave --resume out to begin"
            )
        return None
    try:
        record = record_from_document(partial.document)
    except ValueError as exc:
        raise OutputError(
            f"{partial.path}: its record {exc}; --restart drops what was kept of that scan"
        ) from exc
    check_same(record.identity, identity_of(dataset, bundle, options), str(partial.path))
    return record


def sealed_segments(
    partial: Partial,
    record: ScanRecord,
    dataset: Dataset,
    segments: Sequence[Segment],
    opened: Callable[[int], SegmentFile],
) -> set[int]:
    """Numbers of the segments that needn't be scanned again; the others' files are deleted.

    Where the dataset's file was touched since, the samples of each are read and compared with what
    was read when it was sealed.

    Args:
        partial: The directory.
        record: What is said of them.
        dataset: As it is now.
        segments: All of the scan's.
        opened: Opens the file of the segment of that number.

    Raises:
        OutputError: The dataset isn't the one that they are of.
        DatasetError: The stored bytes are damaged.
    """
    touched = dataset.state != record.file
    sealed = set()
    for number, segment in enumerate(segments):
        if not partial.segment(number).exists():
            continue
        try:
            file = opened(number)
        except FindingsError:  # damaged: as if it had never been sealed
            partial.forget(number)
            continue
        if touched and dataset.crc32(segment.start, segment.stop) != file.tally.crc32:
            raise OutputError(
                f"{partial.path}: samples {segment.start} to {segment.stop - 1} of {dataset.path} "
                "have changed since they were scanned; --restart scans them all again"
            )
        sealed.add(number)
    if touched:
        partial.write(replace(record, file=dataset.state).document())
    return sealed
