"""`audit.verify`: is a result file or a bundle what was written, and are the findings right?"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit.options import VerifyOptions


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One thing that was checked.

    Attributes:
        name: What.
        compared: How many were looked at.
        unit: One of them.
        problems: What differs, a line each; empty: nothing does.
    """

    name: str
    compared: int
    unit: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked.

    Attributes:
        path: Of the file or bundle.
        kind: "findings", "ascent", "diff" or "bundle".
        checks: In the order in which they were made; the first that failed is the last.
    """

    path: Path
    kind: str
    checks: tuple[Verified, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return all(check.passed for check in self.checks)

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "passed": self.passed,
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
        }


def verify(
    path: str | os.PathLike[str],
    *,
    dataset: str | os.PathLike[str] | None = None,
    bundle: str | os.PathLike[str] | None = None,
    samples: int = 64,
    all: bool = False,
    seed: int = 0,
    allow_external: bool = False,
    trust: bool = False,
) -> Verification:
    """Check digests and consistency, and compute findings anew.

    Args:
        path: Findings, an ascent file, a diff file, a bundle's directory or a shipped one's name.
        dataset: Of findings: what was scanned; a random sample of what was flagged, and of what
            wasn't, is then computed from scratch, one sample at a time in float64.
        bundle: Of findings: the bundle that was scanned with; by default where the scan found it.
        samples: So many of each, at most.
        all: Every one of both.
        seed: Of the random sample.
        allow_external: Follow links and storage that lead out of the dataset.
        trust: Load the bundle's TorchScript module, which can run code, even if nobody vouches
            for it.

    Raises:
        OptionError: An option is out of range, or isn't for this kind of file.
        FindingsError: There is no such file, it can't be opened, or carries no digests.
        BundleError: There is no such bundle, or it carries no digests.
        UntrustedError: With a dataset: nobody vouches for the bundle.
        DatasetError: The dataset can't be read.
    """
    options = VerifyOptions(
        dataset=None if dataset is None else os.fspath(dataset),
        bundle=None if bundle is None else os.fspath(bundle),
        samples=samples,
        all=all,
        seed=seed,
        allow_external=allow_external,
        trust=trust,
    )
    from audit.verifying import verify_path

    return verify_path(Path(path), options)
