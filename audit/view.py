"""`audit view`: the report, opened in the browser."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audit.errors import OutputError
from audit.findings import Findings, findings_from
from audit.output_file import make_directory
from audit.report import MAX_SAMPLES, report

WAY_OUT = "; name a directory that can be written with XDG_CACHE_HOME"


class Viewed(NamedTuple):
    """The page, and whether a browser was started with it."""

    path: Path
    opened: bool


def view(
    findings: Findings | str | os.PathLike[str],
    *,
    baseline: Findings | str | os.PathLike[str] | None = None,
    max_samples: int = MAX_SAMPLES,
    gates: Mapping[str, Any] | None = None,
    feature_names: Sequence[str] | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Viewed:
    """Write the report to the user's cache and open it, with what `webbrowser` finds.

    The same findings' page is written over. Options are those of `audit.report`.

    Raises:
        OptionError: An option is out of range.
        FindingsError: The findings can't be read, or the baseline is of another dataset.
        BundleError: `model` is no bundle.
        OutputError: The cache can't be written.
    """
    import webbrowser

    findings = findings_from(findings)
    folder = _cache()
    make_directory(folder, WAY_OUT)
    path = report(
        findings,
        out=folder / _name(findings.path),
        baseline=baseline,
        max_samples=max_samples,
        gates=gates,
        feature_names=feature_names,
        model=model,
    )
    return Viewed(path, webbrowser.open(path.as_uri()))


def _cache() -> Path:
    """Of the user, not a folder that others can write to as well."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError as exc:
        raise OutputError(f"there is no home directory to write the report to{WAY_OUT}") from exc
    return base / "near-tie-audit"


def _name(findings: Path) -> str:
    """Another one for another file of the same name."""
    digest = hashlib.sha256(os.fsencode(findings.resolve())).hexdigest()[:12]
    return f"{findings.stem}-{digest}.html"
