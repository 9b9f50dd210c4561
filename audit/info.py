"""What a dataset, bundle or findings file holds."""

from __future__ import annotations

import os
from typing import Any

from audit.errors import AuditError, FindingsError
from audit.findings import load_findings


def info(
    path: str | os.PathLike[str],
    *,
    images: str | None = None,
    labels: str | None = None,
    allow_external: bool = False,
) -> dict[str, Any]:
    """Describe a dataset, a bundle (or a shipped one's name) or a findings file.

    Args:
        path: Which.
        images: Of a dataset file: name of the samples in it.
        labels: Of a dataset file: name of the labels in it.
        allow_external: Of a dataset file: follow links that lead out of it.

    Returns:
        JSON-ready; "kind" is "dataset", "bundle" or "findings".

    Raises:
        AuditError: It is none of them, or damaged.
    """
    from audit.bundle import SHIPPED_NAMES

    if os.path.isdir(path) or (str(path) in SHIPPED_NAMES and not os.path.exists(path)):
        return _of_bundle(path)
    if _is_findings(path):
        return _of_findings(path)
    return _of_dataset(path, images, labels, allow_external)


def _is_findings(path: str | os.PathLike[str]) -> bool:
    from audit import hdf5

    with hdf5.open_file(
        path,
        AuditError,
        missing=FindingsError,
        what="a dataset, a bundle's directory, or findings",
    ) as file:
        return (hdf5.text_attribute(file, "schema") or "").startswith("audit-findings/")


def _of_bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from audit.bundle import load_bundle

    bundle = load_bundle(path)
    for name in bundle.manifest.files:
        bundle.read(name)
    manifest = asdict(bundle.manifest)
    return {"kind": "bundle", "path": str(bundle.path), **manifest}


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
