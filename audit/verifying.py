"""The line of a verification: what kind it is, digests, consistency, everything computed anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit import digest, hdf5
from audit.ascent import load_ascents
from audit.ascent_consistency import compare_ascents
from audit.bundle import MANIFEST, SHIPPED_NAMES, Bundle, is_bundle, load_bundle
from audit.consistency import Compared, compare_findings
from audit.diff_consistency import compare_diff, open_diff
from audit.errors import (
    AscentError,
    AuditError,
    BundleError,
    BundleNotFoundError,
    FindingsError,
    OptionError,
)
from audit.findings import load_findings
from audit.signature import SIGNATURE
from audit.verify import Verification, Verified

if TYPE_CHECKING:
    from audit.options import VerifyOptions


class _Kind(NamedTuple):
    """How a kind of file is read, and what is compared in it."""

    load: Callable[[Path], Any]
    compare: Callable[[Any], Iterator[Compared]]


READERS = {
    "findings": _Kind(load_findings, compare_findings),
    "ascent": _Kind(load_ascents, compare_ascents),
    "diff": _Kind(open_diff, compare_diff),
}
WHAT = "findings, ascents, a diff or a bundle made by audit"
KINDS = {"audit-findings/": "findings", "audit-ascent/": "ascent", "audit-diff/": "diff"}
MOST_PROBLEMS = 5  # of one check that are named


def verify_path(path: Path, options: VerifyOptions) -> Verification:
    """See `audit.verify`."""
    if is_bundle(path):
        _check_is_for("a bundle", options)
        return _verification(path, "bundle", _of_bundle(path))
    schema = hdf5.schema_of(path, FindingsError, WHAT)
    kind = next((name for begin, name in KINDS.items() if schema.startswith(begin)), None)
    if kind is None:
        raise FindingsError(f"{path}: of schema {schema!r}; expected {WHAT}")
    if kind != "findings":
        _check_is_for(f"of kind {kind!r}", options)
    return _verification(path, kind, _of_file(path, kind, options))


def _verification(path: Path, kind: str, comparisons: Iterator[Compared]) -> Verification:
    return Verification(path=path, kind=kind, checks=tuple(_until_one_fails(comparisons)))


def _check_is_for(what: str, options: VerifyOptions) -> None:
    for name in ("dataset", "bundle"):
        if getattr(options, name) is not None:
            raise OptionError(
                f"--{name} {getattr(options, name)}: is for findings, and this is {what}; leave it "
                "out"
            )


def _of_file(path: Path, kind: str, options: VerifyOptions) -> Iterator[Compared]:
    """Each comparison rests on those before it."""
    yield _digests(path)
    reader = READERS[kind]
    try:
        record = reader.load(path)
    except AuditError as exc:
        yield Compared("record", 1, "file", iter([str(exc)]))
        return
    yield from reader.compare(record)
    if options.dataset is not None or options.bundle is not None:
        from audit.recomputing import recomputed

        yield from recomputed(record, options)


def _digests(path: Path) -> Compared:
    with hdf5.open_file(path, FindingsError, missing=FindingsError, what=WHAT) as file:
        try:
            with hdf5.damage_as(FindingsError, path):
                found = digest.check(file)
        except FindingsError as exc:
            return Compared("digests", 0, "array", iter([str(exc)]))
    if found is None:
        raise FindingsError(
            f"{path}: no digests: written by an older version of near-tie-audit; make it again"
        )
    return Compared("digests", found.arrays, "array", iter(found.problems))


def _of_bundle(path: Path) -> Iterator[Compared]:
    if str(path) not in SHIPPED_NAMES and not os.path.lexists(path / MANIFEST):
        raise BundleNotFoundError(f"{path}: no {MANIFEST}; expected {WHAT}")
    try:
        bundle = load_bundle(path)
    except BundleError as exc:
        yield Compared("manifest", 1, "file", iter([str(exc)]))
        return
    if bundle.manifest.sha256 is None:
        raise BundleError(
            f"{bundle.path / MANIFEST}: no digest: written by an older version of near-tie-audit; "
            "export the model again"
        )
    yield Compared("manifest", 1, "file", iter(()))
    files = bundle.manifest.files
    yield Compared("files", len(files), "file", _changed_files(bundle))
    entries = _entries(bundle)
    unexpected = (
        f"{bundle.path / name}: not a file of a bundle"
        for name in entries
        if name not in (MANIFEST, SIGNATURE, *files)
    )
    yield Compared("entries", len(entries), "name", unexpected)


def _entries(bundle: Bundle) -> list[str]:
    try:
        return sorted(os.listdir(bundle.path))
    except OSError as exc:
        raise BundleError(f"{bundle.path}: can't be listed ({exc.strerror})") from exc


def _changed_files(bundle: Bundle) -> Iterator[str]:
    for name in bundle.manifest.files:
        try:
            bundle.check_file(name)
        except BundleError as exc:
            yield str(exc)


def _until_one_fails(comparisons: Iterator[Compared]) -> Iterator[Verified]:
    for compared in comparisons:
        yield (verified := _verified(compared))
        if not verified.passed:
            return


def _verified(compared: Compared) -> Verified:
    """Make the comparison; of many problems the first are named."""
    problems = _told(compared.problems)
    shown = list(islice(problems, MOST_PROBLEMS))
    more = sum(1 for _ in problems)
    if more:
        shown.append(f"and {more:,} more")
    return Verified(
        name=compared.name, compared=compared.size, unit=compared.unit, problems=tuple(shown)
    )


def _told(problems: Iterator[str]) -> Iterator[str]:
    """The problems; a file that can't be read on the way to them is the last one."""
    try:
        yield from problems
    except (FindingsError, AscentError) as exc:
        yield str(exc)
