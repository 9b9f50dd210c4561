"""What a dataset, bundle, findings, ascent or diff file holds."""

from __future__ import annotations

import os
from typing import Any

from audit.errors import FindingsError
from audit.findings import load_findings

WHAT = "a dataset, a bundle's directory, findings, ascents or a diff"


def info(
    path: str | os.PathLike[str],
    *,
    images: str | None = None,
    labels: str | None = None,
    allow_external: bool = False,
) -> dict[str, Any]:
    """Describe a dataset, a bundle (or a shipped one's name), a findings, ascent or diff file.

    Args:
        path: Which.
        images: Of a dataset file: name of the samples in it.
        labels: Of a dataset file: name of the labels in it.
        allow_external: Of a dataset file: follow links that lead out of it.

    Returns:
        JSON-ready; "kind" is "dataset", "bundle", "findings", "ascent" or "diff".

    Raises:
        AuditError: It is none of them, or damaged.
    """
    from audit.bundle import is_bundle

    if is_bundle(path):
        return _of_bundle(path)
    from audit import hdf5

    schema = hdf5.schema_of(path, FindingsError, WHAT)
    if schema.startswith("audit-findings/"):
        return _of_findings(path)
    if schema.startswith("audit-ascent/"):
        return _of_ascents(path)
    if schema.startswith("audit-diff/"):
        return _of_diff(path)
    return _of_dataset(path, images, labels, allow_external)


def _of_bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from audit.bundle import load_bundle
    from audit.trust import judge

    bundle = load_bundle(path)
    bundle.check_files()
    manifest = asdict(bundle.manifest)
    trusted = judge(bundle).by or "no"
    return {"kind": "bundle", "path": str(bundle.path), "trusted": trusted, **manifest}


def _of_findings(path: str | os.PathLike[str]) -> dict[str, Any]:
    findings = load_findings(path)
    return {
        "kind": "findings",
        "path": str(path),
        "tool_version": findings.tool_version,
        "created": findings.created,
        "eps": findings.eps,
        "min_logit": findings.min_logit,
        "scanned": findings.scanned,
        "flagged": findings.flagged,
        "nonfinite": findings.nonfinite,
        "degenerate": findings.degenerate,
        "rate": findings.rate,
        "accuracy": findings.accuracy,
        "dataset": findings.dataset,
        "bundle": findings.bundle,
        "engine": findings.engine,
    }


def _of_ascents(path: str | os.PathLike[str]) -> dict[str, Any]:
    from audit.ascent import load_ascents

    ascents = load_ascents(path)
    return {
        "kind": "ascent",
        "path": str(path),
        "tool_version": ascents.tool_version,
        "created": ascents.created,
        "ascents": ascents.count,
        "succeeded": ascents.succeeded,
        "minimised": ascents.minimised,
        "options": ascents.options,
        "source": ascents.source,
        "dataset": ascents.dataset,
        "bundle": ascents.bundle,
        "engine": ascents.engine,
    }


def _of_diff(path: str | os.PathLike[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from audit.diff_file import load_diff_record

    return {"kind": "diff", "path": str(path), **asdict(load_diff_record(path))}


def _of_dataset(
    path: str | os.PathLike[str], images: str | None, labels: str | None, allow_external: bool
) -> dict[str, Any]:
    from audit.dataset import Dataset

    with Dataset(path, images=images, labels=labels, allow_external=allow_external) as dataset:
        return {
            "kind": "dataset",
            **dataset.describe(),
            "chunks": dataset.chunks,
            "compression": dataset.compression,
            "audit_bundle": dataset.audit_bundle,
        }
