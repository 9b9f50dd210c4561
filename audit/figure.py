"""`audit figure`: near ties, each on a sheet of six fields."""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import InstallationError, OptionError
from audit.findings import Findings, findings_from
from audit.output_file import make_directory, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from audit.near_tie import NearTie

FORMATS = ("png", "svg", "pdf")
CLOSEST = 5
WAY_OUT = "; name another directory with -o"
DPI = 120
# Neither the time nor a random number: the same findings give the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
# matplotlib's settings are global. A user's are kept out of the figure, and it leaves no trace;
# names from files are text, never formulas.
SETTINGS: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "near-tie-audit",
}
_settings_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Which near ties are drawn, and how.

    Attributes:
        index: Positions in the dataset; None: the closest ties.
        closest: So many, of smallest margin; None: 5.
        projection_factor: k of x + k · gradient.
        formats: Of the files: png, svg, pdf.
        feature_names: Of the features of tabular samples.

    Raises:
        OptionError: An option is out of range or contradicts another.
    """

    index: tuple[int, ...] | None = None
    closest: int | None = None
    projection_factor: float = 3.0
    formats: tuple[str, ...] = ("png",)
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.index is not None and self.closest is not None:
            raise OptionError("--index and --closest exclude each other; give one")
        if self.closest is not None and not (
            isinstance(self.closest, Integral) and self.closest >= 1
        ):
            raise OptionError(f"--closest {self.closest}: expected 1 or more")
        check_factor(self.projection_factor)
        if "gif" in self.formats:
            raise OptionError(
                f"--format gif: for ascents, which move; expected of {', '.join(FORMATS)}"
            )
        check_formats(self.formats, FORMATS)


def check_formats(formats: Sequence[str], known: Sequence[str]) -> None:
    """Raise `OptionError` where there are none, or one that isn't known."""
    if not formats:
        raise OptionError(f"--format: none given; expected of {', '.join(known)}")
    for name in formats:
        if name not in known:
            raise OptionError(f"--format {name}: expected of {', '.join(known)}")


def check_factor(factor: float) -> None:
    """Raise `OptionError` where k isn't a finite number."""
    if not math.isfinite(factor):
        raise OptionError(f"--projection-factor {factor}: expected a finite number, such as 3")


def figure(
    findings: Findings | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    index: Sequence[int] | None = None,
    closest: int | None = None,
    model: str | os.PathLike[str] | None = None,
    projection_factor: float = 3.0,
    format: str | Sequence[str] = "png",
    feature_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw near ties of findings, each as `near-tie-INDEX.FORMAT`.

    Args:
        findings: Of a scan, or their path.
        out_dir: Directory of the files; it is made where it isn't there.
        index: Positions in the dataset, of flagged samples; None: the closest ties.
        closest: How many; None: 5.
        model: The bundle that was scanned with; None: it is looked for where the scan found it.
            Without it, the sheets show no logits but those of the two tied classes.
        projection_factor: k of x + k · gradient.
        format: png, svg, pdf, or several of them.
        feature_names: Of the features of tabular samples.

    Returns:
        The files, in the order of `index`, or the closest tie's first.

    Raises:
        OptionError: An option is out of range, or a sample isn't flagged.
        FindingsError: The findings can't be read, or were made without gradients.
        BundleError: `model` is no bundle.
        OutputError: A file can't be written.
        InstallationError: matplotlib isn't installed.
    """
    options = FigureOptions(
        index=None if index is None else tuple(index),
        closest=closest,
        projection_factor=projection_factor,
        formats=(format,) if isinstance(format, str) else tuple(dict.fromkeys(format)),
        feature_names=None if feature_names is None else tuple(feature_names),
    )
    findings = findings_from(findings)
    rows = _rows(findings, options)
    import_matplotlib()
    if not rows:
        return []
    return list(_write_all(findings, rows, Path(out_dir), options, model))


def near_tie_figure(
    tie: NearTie,
    *,
    projection_factor: float = 3.0,
    feature_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The sheet of one near tie: the sample, both gradients, both projections, and the numbers.

    Args:
        tie: The near tie.
        projection_factor: k of x + k · gradient.
        feature_names: Of the features of a tabular sample; None: their numbers.
        title: Above the sheet; None: the sample's index and the two classes.

    Raises:
        OptionError: The number of feature names isn't the number of features.
        InstallationError: matplotlib isn't installed.
    """
    check_factor(projection_factor)
    check_feature_names(feature_names, tie.x.shape)
    import_matplotlib()
    from audit.figure_sheet import sheet_from_near_tie

    with plain_settings():
        return sheet_from_near_tie(tie, projection_factor, feature_names, title)


def check_feature_names(names: Sequence[str] | None, shape: tuple[int, ...]) -> None:
    """Raise `OptionError` where they aren't one a feature of samples of this shape."""
    if names is not None and (len(shape) != 1 or len(names) != shape[0]):
        expected = f"{shape[0]}" if len(shape) == 1 else "none, they are for samples of one axis"
        raise OptionError(
            f"--feature-names: got {len(names)} names for samples of shape {shape}; expected "
            f"{expected}"
        )


def import_matplotlib() -> Any:
    """The module `matplotlib`.

    Raises:
        InstallationError: It isn't installed.
    """
    try:
        import matplotlib
    except ImportError as exc:
        raise InstallationError(
            "matplotlib is not installed: pip install 'near-tie-audit[plot]'"
        ) from exc
    return matplotlib


@contextlib.contextmanager
def plain_settings() -> Iterator[None]:
    """Set what matplotlib itself sets, until the end of the block."""
    import_matplotlib()
    import matplotlib.style

    # Two threads that save and restore in turn would leave the one's settings behind.
    with _settings_lock, matplotlib.style.context(["default", SETTINGS]):
        yield


def save_figure(sheet: Figure, path: Path) -> None:
    """Write to a temporary file, which is renamed when complete; the suffix is the format.

    Raises:
        OutputError: It can't be written.
    """
    write_file(path, bytes_from_figure(sheet, path.suffix[1:]), WAY_OUT)


def bytes_from_figure(sheet: Figure, format: str) -> bytes:
    """The file of that format; the same for the same figure."""
    content = io.BytesIO()
    with plain_settings():
        sheet.savefig(content, format=format, dpi=DPI, metadata=METADATA[format])
    return content.getvalue()


def _write_all(
    findings: Findings,
    rows: list[int],
    out_dir: Path,
    options: FigureOptions,
    model: str | os.PathLike[str] | None,
) -> Iterator[Path]:
    from audit.near_tie import near_ties_from_findings

    ties = near_ties_from_findings(findings, rows, model=model)
    for tie in ties:
        sheet = near_tie_figure(
            tie,
            projection_factor=options.projection_factor,
            feature_names=options.feature_names,
        )
        make_directory(out_dir, WAY_OUT)
        for format in options.formats:
            path = out_dir / f"near-tie-{tie.index}.{format}"
            save_figure(sheet, path)
            yield path


def _rows(findings: Findings, options: FigureOptions) -> list[int]:
    """The rows of the findings that the options ask for."""
    if options.index is None:
        closest = findings.margin.argsort(kind="stable")
        rows: list[int] = closest[: options.closest or CLOSEST].tolist()
        return rows
    row_of = {position: row for row, position in enumerate(findings.index.tolist())}
    for position in options.index:
        if position not in row_of:
            raise OptionError(
                f"--index {position}: not a near tie of {findings.path}; "
                f"{_flagged_near(findings.index, position)}"
            )
    return [row_of[position] for position in dict.fromkeys(options.index)]


def _flagged_near(index: NDArray[Any], position: int) -> str:
    if not len(index):
        return "it has none"
    nearest = sorted(index.tolist(), key=lambda each: abs(each - position))[:4]
    named = ", ".join(map(str, sorted(nearest)))
    return f"it has {len(index)}" + (f", next to it {named}" if len(index) > 4 else f": {named}")
