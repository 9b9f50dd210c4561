"""One near tie, with all that is said and drawn of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.errors import FindingsError, InstallationError

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from audit.bundle import Bundle
    from audit.findings import Findings
    from audit.forward import Forward
    from audit.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class NearTie:
    """A sample whose two largest logits nearly tie.

    Attributes:
        index: Its position in the dataset.
        x: The sample in input space, (*input_shape), channels first as the network takes it.
        gradient: ∂z_a/∂x and ∂z_b/∂x, (2, *input_shape).
        classes: a, b.
        logits: z_a, z_b, canonical.
        margin: z_a - z_b.
        label: True class; -1: unknown.
        distance_l2: First-order L2 distance to the a/b boundary; NaN: degenerate.
        distance_linf: That in L∞.
        class_names: One a class.
        all_logits: Every class's logit, (C,), those of a and b as in `logits`; None: not known.
    """

    index: int
    x: NDArray[np.floating]
    gradient: NDArray[np.floating]
    classes: tuple[int, int]
    logits: tuple[float, float]
    margin: float
    label: int
    distance_l2: float
    distance_linf: float
    class_names: tuple[str, ...]
    all_logits: NDArray[np.floating] | None

    def name(self, class_index: int) -> str:
        """That class's name; of one that has none, its number."""
        return name_of_class(self.class_names, class_index)

    def projections(self, factor: float) -> NDArray[np.float64]:
        """Compute x + factor · gradient, for a and b, float64 (2, *input_shape)."""
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):
            return self.x.astype(np.float64) + factor * self.gradient.astype(np.float64)


def name_of_class(names: Sequence[str], class_index: int) -> str:
    """That class's name; of one that has none, its number."""
    return names[class_index] if 0 <= class_index < len(names) else f"class {class_index}"


def near_ties_from_findings(
    findings: Findings, rows: Sequence[int], *, model: str | os.PathLike[str] | None = None
) -> Iterator[NearTie]:
    """Read some near ties, one at a time.

    Args:
        findings: Of the scan.
        rows: Which, as rows of its arrays.
        model: The bundle that was scanned with; None: it is looked for where the scan found it.
            Without it, there are no `all_logits`.

    Raises:
        NotRecordedError: The scan was told to leave out the gradients.
        FindingsError: The arrays don't fit each other, or only the bundle could tell what the
            stored samples mean in input space and it isn't there.
        OptionError: `model` is another bundle than the one scanned with.
        BundleError: `model` is no bundle, or its graph fails.
    """
    from audit.findings_bundle import bundle_of_findings

    bundle = bundle_of_findings(findings, model)
    preprocess = preprocess_of_findings(findings, bundle)
    forward = None if bundle is None else forward_from_bundle(bundle, explicit=model is not None)
    names = class_names_of_findings(findings)
    return (_near_tie(findings, row, preprocess, names, forward) for row in rows)


def _near_tie(
    findings: Findings,
    row: int,
    preprocess: Preprocess,
    names: tuple[str, ...],
    forward: Forward | None,
) -> NearTie:
    raw, gradient = findings.rows("input", [row]), findings.rows("gradient", [row])[0]
    _check_shape(findings, "input", raw.shape[1:], preprocess.raw_shape)
    _check_shape(findings, "gradient", gradient.shape, (2, *preprocess.input_shape))
    if str(raw.dtype) != preprocess.raw_dtype:
        raise FindingsError(
            f"{findings.path}: /flagged/input is {raw.dtype}; expected {preprocess.raw_dtype}, as "
            "the bundle takes it"
        )
    a, b = findings.classes[row].tolist()
    z_a, z_b = findings.logits[row].tolist()
    return NearTie(
        index=int(findings.index[row]),
        x=preprocess.to_input_space(raw)[0],
        gradient=gradient,
        classes=(a, b),
        logits=(z_a, z_b),
        margin=float(findings.margin[row]),
        label=int(findings.label[row]),
        distance_l2=float(findings.distance_l2[row]),
        distance_linf=float(findings.distance_linf[row]),
        class_names=names,
        all_logits=None if forward is None else canonical_logits(findings, [row], raw, forward)[0],
    )


def preprocess_of_findings(findings: Findings, bundle: Bundle | None) -> Preprocess:
    """What the stored samples are in input space, by the findings or else by their bundle.

    Raises:
        FindingsError: Only the bundle could tell, and it isn't there.
    """
    if findings.preprocess is not None:
        return findings.preprocess
    if bundle is not None:
        return bundle.manifest.preprocess
    raise FindingsError(
        f"{findings.path}: doesn't say what its samples are in input space, as findings of "
        "version 0.1.0 don't, and its bundle isn't where it was; name it with --model"
    )


def canonical_logits(
    findings: Findings, rows: Sequence[int], raw: NDArray[Any], forward: Forward
) -> NDArray[np.float64]:
    """Compute all logits of some near ties, float64 (rows, C).

    By the fast graph, but a and b canonical: rounding could swap two that nearly tie.

    Args:
        findings: Of the scan.
        rows: Which, as rows of its arrays.
        raw: Their samples as stored, (rows, *raw_shape).
        forward: The fast graph.

    Raises:
        BundleError: The graph fails.
    """
    logits: NDArray[np.float64] = forward.logits(raw).astype("float64")
    for z, row in zip(logits, rows, strict=True):
        for each, value in zip(findings.classes[row], findings.logits[row], strict=True):
            if 0 <= each < len(z):
                z[each] = value
    return logits


def forward_from_bundle(bundle: Bundle, *, explicit: bool) -> Forward | None:
    """The fast graph on the CPU; None where ONNX Runtime isn't installed.

    Raises:
        InstallationError: It isn't, and the bundle was asked for: `explicit`.
        BundleError: The graph can't be loaded.
    """
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
        if explicit:
            raise
        return None  # findings are looked at where nothing is scanned, too


def class_names_of_findings(findings: Findings) -> tuple[str, ...]:
    """Those of the bundle.

    Raises:
        FindingsError: The record of it has none.
    """
    names = findings.bundle.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FindingsError(f"{findings.path}: its record of the bundle has no class names")
    return tuple(names)


def _check_shape(
    findings: Findings, name: str, actual: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if actual != expected:
        raise FindingsError(
            f"{findings.path}: a row of /flagged/{name} has shape {actual}; expected {expected}"
        )
