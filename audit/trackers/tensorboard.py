"""Findings to a TensorBoard event file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from audit.trackers.record import GROUP, Record

if TYPE_CHECKING:
    from audit.options import LogOptions

PACKAGE = "tensorboard"


def send(record: Record, options: LogOptions) -> str:
    """Log it to a folder of event files, DIR/EXPERIMENT/RUN.

    TensorBoard keeps no files beside them: the findings and the report are named in a text.

    Returns:
        The folder.
    """
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(options.uri or "runs", *filter(None, (options.experiment, options.run)))
    step = options.step or 0
    writer = SummaryWriter(str(folder))
    try:
        for name, metric in record.metrics.items():
            writer.add_scalar(name, metric, step)
        for picture in record.pictures:
            pixels = np.asarray(picture.image())
            writer.add_image(picture.tag, pixels, step, dataformats="HWC")
        table = _table(record)
        writer.add_text(f"{GROUP}/parameters", table, step)
    finally:
        writer.close()
    return str(folder)


def _table(record: Record) -> str:
    """Markdown, of parameters and files."""
    rows: list[tuple[str, object]] = [
        (name.removeprefix(f"{GROUP}/"), value) for name, value in record.parameters.items()
    ]
    rows += [("file", path.resolve()) for path in record.files]
    rows += [("note", note) for note in record.notes]
    lines = ["| | |", "| --- | --- |"]
    lines += [f"| {name} | `{str(value).replace('|', chr(92) + '|')}` |" for name, value in rows]
    return "\n".join(lines)
