"""The largest logits of samples, where the bundle can still be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from audit.errors import InstallationError

if TYPE_CHECKING:
    from audit.bundle import Bundle
    from audit.findings import Findings
    from audit.forward import Forward

TOP = 10  # of a sample
BATCH = 16

Logits = list[list[Any]]  # class and logit, largest first


def top_logits(findings: Findings, rows: Sequence[int], bundle: Bundle) -> Iterator[Logits | None]:
    """Compute each row's by the fast graph, those of a and b canonical; None: can't be had here.

    Raises:
        BundleError: The graph fails.
    """
    forward = _forward(bundle)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        if forward is None:
            yield from [None] * len(batch)
            continue
        # Rounding could swap two that nearly tie.
        for row, logits in zip(batch, forward.logits(findings.rows("input", batch)), strict=True):
            z = logits.astype("float64")
            for each, value in zip(findings.classes[row], findings.logits[row], strict=True):
                if 0 <= each < len(z):
                    z[each] = value
            order = (-z).argsort(kind="stable")[:TOP]
            yield [[int(each), float(f"{z[each]:.6g}")] for each in order]


def _forward(bundle: Bundle) -> Forward | None:
    from audit.bundle import ONNX
    from audit.forward import Forward, available_threads

    try:
        return Forward(
            bundle.read(ONNX),
            device="cpu",
            threads=available_threads(),
            source=str(bundle.path / ONNX),
        )
    except InstallationError:
        return None  # findings are looked at where nothing is scanned, too
