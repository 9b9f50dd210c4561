"""The largest logits of samples, where the bundle can still be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from audit.near_tie import canonical_logits

if TYPE_CHECKING:
    from audit.findings import Findings
    from audit.forward import Forward

TOP = 10  # of a sample
BATCH = 16

Logits = list[list[Any]]  # class and logit, largest first


def top_logits(findings: Findings, rows: Sequence[int], forward: Forward) -> Iterator[Logits]:
    """Compute each row's by the fast graph, those of a and b canonical.

    Raises:
        BundleError: The graph fails.
    """
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for z in canonical_logits(findings, batch, findings.rows("input", batch), forward):
            order = (-z).argsort(kind="stable")[:TOP]
            yield [[int(each), float(f"{z[each]:.6g}")] for each in order]
