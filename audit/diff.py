"""`audit diff`: two scans of one dataset, sample by sample."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.comparison import Comparison, compare
from audit.findings import Findings, findings_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.diff_writer import DiffWriter
    from audit.prediction_flips import FlipTotals
    from audit.tie_changes import TieChanges


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed between two scans, among the samples that both scanned.

    Attributes:
        comparison: The two findings, and which rows of them are newly tied, no longer tied, or
            still tied.
        newly: Of `comparison.newly`: what the old scan made of them, and why they are new.
        left: Of `comparison.left`: what the new scan made of them, and why they are gone.
        newly_nonfinite: Samples with NaN or infinite logits in the new scan only, int64.
        left_nonfinite: Samples with NaN or infinite logits in the old scan only, int64.
        flips: Predictions that changed, of all samples; None: not both scans kept all.
        path: The diff file; None: none was asked for.
    """

    comparison: Comparison
    newly: TieChanges
    left: TieChanges
    newly_nonfinite: NDArray[np.int64]
    left_nonfinite: NDArray[np.int64]
    flips: FlipTotals | None
    path: Path | None

    @property
    def margin_change(self) -> NDArray[np.float64]:
        """New margin - old margin, of the samples still tied, float64 (still,)."""
        compared = self.comparison
        change: NDArray[np.float64] = (
            compared.new.margin[compared.still_new] - compared.old.margin[compared.still_old]
        )
        return change

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Whether the margin changed by more than rounding, of the still tied, bool (still,)."""
        import numpy as np

        from audit.decide import ROUNDING

        compared = self.comparison
        size = np.maximum(
            np.abs(compared.old.logits[compared.still_old]).max(axis=1, initial=1.0),
            np.abs(compared.new.logits[compared.still_new]).max(axis=1, initial=1.0),
        )
        moved: NDArray[np.bool_] = ~(np.abs(self.margin_change) <= ROUNDING * size)
        return moved

    @property
    def unchanged(self) -> bool:
        """Whether nothing that both scans recorded differs by more than rounding."""
        compared = self.comparison
        return not (
            len(compared.newly)
            or len(compared.left)
            or len(self.newly_nonfinite)
            or len(self.left_nonfinite)
            or compared.class_flips.any()
            or compared.pair_changes.any()
            or self.moved.any()
            or (self.flips is not None and self.flips.flips)
        )


def diff(
    old: Findings | str | os.PathLike[str],
    new: Findings | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
) -> Diff:
    """Compare two scans of the same dataset: two models, two ε or two nights.

    Args:
        old: Findings of the earlier scan, or their path.
        new: Findings of the later scan, or their path.
        out: Diff file, with a row a sample; None: none is written.

    Raises:
        FindingsError: The findings can't be read, or are of different datasets or classes.
        OutputError: The diff file can't be written.
    """
    old, new = findings_from(old), findings_from(new)
    comparison = compare(old, new)
    if out is None:
        return _diff(comparison, None, None)
    from audit.diff_writer import DiffWriter

    path = Path(out)
    with DiffWriter(path, with_flips=old.kept_all and new.kept_all) as writer:
        found = _diff(comparison, path, writer)
        writer.finish(found)
    return found


def _diff(comparison: Comparison, path: Path | None, writer: DiffWriter | None) -> Diff:
    import numpy as np

    from audit.tie_changes import newly_tied, no_longer_tied

    before, now = (
        each.nonfinite_index[each.nonfinite_index < comparison.common]
        for each in (comparison.old, comparison.new)
    )
    return Diff(
        comparison=comparison,
        newly=newly_tied(comparison),
        left=no_longer_tied(comparison),
        newly_nonfinite=np.setdiff1d(now, before, assume_unique=True),
        left_nonfinite=np.setdiff1d(before, now, assume_unique=True),
        flips=_flips(comparison, writer),
        path=path,
    )


def _flips(comparison: Comparison, writer: DiffWriter | None) -> FlipTotals | None:
    """One pass over what both scans recorded of every sample."""
    if not (comparison.old.kept_all and comparison.new.kept_all):
        return None
    from audit.prediction_flips import FlipTotals, flip_blocks

    totals = FlipTotals()
    for block in flip_blocks(comparison):
        totals.add(block)
        if writer is not None:
            writer.append(block.flips)
    return totals
