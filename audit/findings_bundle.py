"""The bundle that findings were made with, where it can still be had."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from audit.errors import BundleError, OptionError

if TYPE_CHECKING:
    from audit.bundle import Bundle
    from audit.findings import Findings


def bundle_of_findings(
    findings: Findings, model: str | os.PathLike[str] | None = None, *, trust: bool = False
) -> Bundle | None:
    """The very bundle that was scanned with, known by its manifest's SHA-256.

    Args:
        findings: Of the scan.
        model: Where it is; None: where the scan found it, or the shipped one of that name.
        trust: As of `load_bundle`.

    Returns:
        The bundle; None where `model` is None and the bundle isn't there any more, has changed,
        or where there was none (findings of a training callback).

    Raises:
        OptionError: `model` is another bundle, or there was none.
        BundleError: `model` is no bundle.
    """
    from audit.bundle import load_bundle

    recorded = findings.bundle.get("manifest_sha256")
    if model is not None:
        if recorded is None:
            raise OptionError(
                f"--model {model}: {findings.path} was made without a bundle, in training; leave "
                "it out"
            )
        bundle = load_bundle(model, trust=trust)
        if bundle.manifest_sha256 != recorded:
            raise OptionError(
                f"--model {model}: not the bundle that {findings.path} was scanned with (the "
                "manifests differ); name that one, or scan again with this one"
            )
        return bundle
    if recorded is None:
        return None
    for place in _recorded_places(findings):
        try:
            bundle = load_bundle(place, trust=trust)
        except BundleError:
            continue  # moved or overwritten since: as good as gone
        if bundle.manifest_sha256 == recorded:
            return bundle
    return None


def _recorded_places(findings: Findings) -> list[str]:
    """Path and name as the file has them; it may come from a stranger."""
    from audit.bundle import SHIPPED_NAMES

    path, name = findings.bundle.get("path"), findings.bundle.get("name")
    places = [path] if isinstance(path, str) and path and "\0" not in path else []
    return places + [shipped for shipped in SHIPPED_NAMES if shipped == name]
