"""Two findings of the same dataset: which near ties are new, gone, or still there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.errors import FindingsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.findings import Findings


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became a near tie, what stopped being one. Rows are in ascending order of `index`.

    Attributes:
        old: The earlier findings.
        new: The later ones.
        common: Samples that both scanned, the first of the dataset; what only one scanned is in
            none of the following.
        newly: Rows of `new` that are no near tie in `old`, int64.
        left: Rows of `old` that are no near tie in `new`, int64.
        still_old: Rows of `old` that are near ties in both, int64.
        still_new: The same samples' rows of `new`, int64.
    """

    old: Findings
    new: Findings
    common: int
    newly: NDArray[np.int64]
    left: NDArray[np.int64]
    still_old: NDArray[np.int64]
    still_new: NDArray[np.int64]

    @property
    def same_bundle(self) -> bool:
        """Whether both scans were with the very same bundle."""
        digest = self.old.bundle.get("manifest_sha256")
        return digest is not None and digest == self.new.bundle.get("manifest_sha256")

    @property
    def same_thresholds(self) -> bool:
        """Whether ε and the least logit were the same."""
        return (self.old.eps, self.old.min_logit) == (self.new.eps, self.new.min_logit)

    @property
    def class_flips(self) -> NDArray[np.bool_]:
        """Whether the predicted class changed, of the samples still tied, bool (still,)."""
        flips: NDArray[np.bool_] = (
            self.old.classes[self.still_old, 0] != self.new.classes[self.still_new, 0]
        )
        return flips

    @property
    def pair_changes(self) -> NDArray[np.bool_]:
        """Whether the confusion pair {a, b} changed, of the samples still tied, bool (still,)."""
        import numpy as np

        before = np.sort(self.old.classes[self.still_old], axis=1)
        changes: NDArray[np.bool_] = (
            before != np.sort(self.new.classes[self.still_new], axis=1)
        ).any(axis=1)
        return changes


def compare(old: Findings, new: Findings) -> Comparison:
    """Match the near ties of two scans by their position in the dataset.

    Raises:
        FindingsError: They are of different datasets, or of classes that differ, or a position
            isn't one.
    """
    import numpy as np

    check_comparable(old, new)
    for findings in (old, new):
        _check_positions(findings)
    common = min(old.scanned, new.scanned)
    in_old, in_new = old.index < common, new.index < common
    still, still_old, still_new = np.intersect1d(
        old.index, new.index, assume_unique=True, return_indices=True
    )
    return Comparison(
        old=old,
        new=new,
        common=common,
        newly=np.flatnonzero(in_new & ~np.isin(new.index, still)),
        left=np.flatnonzero(in_old & ~np.isin(old.index, still)),
        still_old=still_old,
        still_new=still_new,
    )


def check_comparable(old: Findings, new: Findings) -> None:
    """Raise `FindingsError` unless both are of the same dataset and the same classes."""
    for findings in (old, new):
        if findings.dataset.get("fingerprint") is None:
            raise FindingsError(
                f"{findings.path}: made during training, of no dataset; expected findings of "
                "'audit scan'"
            )
    if old.dataset["fingerprint"] != new.dataset["fingerprint"]:
        raise FindingsError(
            f"{old.path} and {new.path}: of different datasets ({_described(old)} and "
            f"{_described(new)}); compare scans of the same samples and labels"
        )
    if old.bundle.get("classes") != new.bundle.get("classes"):
        raise FindingsError(
            f"{old.path} and {new.path}: the bundles' class names differ; compare models of the "
            "same classes"
        )


def _check_positions(findings: Findings) -> None:
    """What matching by position relies on."""
    for name, index in (("flagged", findings.index), ("nonfinite", findings.nonfinite_index)):
        if (index[1:] <= index[:-1]).any() or (
            len(index) and not (index[0] >= 0 and index[-1] < findings.scanned)
        ):
            raise FindingsError(
                f"{findings.path}: /{name}/index isn't ascending within the {findings.scanned} "
                "samples scanned; scan again"
            )


def _described(findings: Findings) -> str:
    dataset = findings.dataset
    return (
        f"{dataset.get('path')}: {dataset.get('samples')} samples of shape {dataset.get('shape')}, "
        f"fingerprint {str(dataset['fingerprint'])[:12]}"
    )
