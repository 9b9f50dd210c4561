"""`audit figure` of an ascent file: contact sheets and animations, one of each ascent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import OptionError
from audit.figure import (
    WAY_OUT,
    check_feature_names,
    check_formats,
    import_matplotlib,
    plain_settings,
    save_figure,
)
from audit.output_file import make_directory, write_file

if TYPE_CHECKING:
    from audit.ascent import Ascents

ANIMATION = "gif"
FORMATS = ("png", "svg", "pdf", ANIMATION)
DEFAULT_FORMATS = ("png", ANIMATION)
FIRST = 5


def ascent_figures(
    ascents: Ascents,
    out_dir: str | os.PathLike[str],
    *,
    index: Sequence[int] | None = None,
    format: str | Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw ascents, each as `ascent-INDEX-to-TARGET.FORMAT`, the target by its number.

    Args:
        ascents: What `audit.load_ascents` returns.
        out_dir: Directory of the files; it is made where it isn't there.
        index: Positions in the dataset, each with all its targets; None: the first 5 ascents.
        format: png, svg and pdf are contact sheets, gif is an animation; None: png and gif.
        feature_names: Of the features of tabular samples.

    Returns:
        The files, in the order of `index`.

    Raises:
        OptionError: A format isn't one of these, no ascent is of that index, or the feature names
            don't fit.
        AscentError: The file's arrays can't be read, or don't fit each other.
        OutputError: A file can't be written.
        InstallationError: matplotlib isn't installed.
    """
    formats = _formats(format)
    rows = _rows(ascents, index)
    check_feature_names(feature_names, ascents.preprocess.input_shape)
    names = None if feature_names is None else tuple(feature_names)
    import_matplotlib()
    from audit.ascent_animation import gif_from_ascent
    from audit.ascent_record import record_of_ascent
    from audit.ascent_sheet import sheet_from_ascent

    paths = []
    for row in rows:
        ascent = record_of_ascent(ascents, row, names)
        make_directory(Path(out_dir), WAY_OUT)
        for name in formats:
            path = Path(out_dir) / f"ascent-{ascent.index}-to-{ascent.target}.{name}"
            if name == ANIMATION:
                with plain_settings():
                    content = gif_from_ascent(ascent)
                write_file(path, content, WAY_OUT)
            else:
                with plain_settings():
                    sheet = sheet_from_ascent(ascent)
                save_figure(sheet, path)
            paths.append(path)
    return paths


def _formats(wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return DEFAULT_FORMATS
    formats = (wanted,) if isinstance(wanted, str) else tuple(dict.fromkeys(wanted))
    check_formats(formats, FORMATS)
    return formats


def _rows(ascents: Ascents, wanted: Sequence[int] | None) -> list[int]:
    """The rows of the file that are asked for."""
    if wanted is None:
        return list(range(min(ascents.count, FIRST)))
    rows_of: dict[int, list[int]] = {}
    for row, position in enumerate(ascents.index.tolist()):
        rows_of.setdefault(position, []).append(row)
    for position in wanted:
        if position not in rows_of:
            raise OptionError(
                f"--index {position}: {ascents.path} has no ascent of it; {_what_it_has(rows_of)}"
            )
    return [row for position in dict.fromkeys(wanted) for row in rows_of[position]]


def _what_it_has(rows_of: dict[int, list[int]]) -> str:
    if not rows_of:
        return "it has none at all"
    named = ", ".join(map(str, list(rows_of)[:4]))
    more = f" and {len(rows_of) - 4} more" if len(rows_of) > 4 else ""
    return f"it has those of {named}{more}"
