"""The flagged samples that the page shows, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.findings_bundle import bundle_of_findings
from audit.near_tie import forward_from_bundle, preprocess_of_findings
from audit.reporting.names import ClassNames, shortened
from audit.strict_json import finite

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from audit.comparison import Comparison
    from audit.findings import Findings
    from audit.preprocess import Preprocess
    from audit.reporting.ladder import Encoding
    from audit.reporting.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What is embedded of the samples, JSON-ready.

    Attributes:
        samples: An object each; `docs/report.md` says of what.
        picture: How their pictures are encoded.
        class_names: Of the classes that occur, by number.
    """

    samples: list[dict[str, Any]]
    picture: dict[str, Any]
    class_names: dict[int, str]


def gallery_of(
    findings: Findings,
    comparison: Comparison | None,
    *,
    max_samples: int,
    model: str | os.PathLike[str] | None,
) -> Gallery:
    """Of smallest margin, at most so many; with a baseline the new ones come first.

    Raises:
        FindingsError: The arrays don't fit each other, or only the bundle could tell what the
            stored samples mean in input space and it isn't there.
        OptionError: `model` is another bundle than the one scanned with.
        InstallationError: `model` is given, and what runs its graph isn't installed.
        BundleError: `model` is no bundle, or its graph fails.
    """
    from audit.reporting.ladder import choose_encoding
    from audit.reporting.pictures import pictures_of
    from audit.reporting.top_logits import top_logits

    bundle = bundle_of_findings(findings, model)
    preprocess = preprocess_of_findings(findings, bundle)
    forward = None if bundle is None else forward_from_bundle(bundle, explicit=model is not None)
    names = ClassNames(findings)
    new = _is_new(findings, comparison)
    rows = closest_rows(findings.margin, new)[:max_samples].tolist()
    encoding = choose_encoding(
        len(rows),
        preprocess.input_shape,
        preprocess.raw_dtype,
        gradients=findings.degenerate is not None,
    )
    samples = [_numbers(findings, row, bool(new[row])) for row in rows]
    pictures = pictures_of(findings, rows[: encoding.pictured], preprocess, encoding)
    for sample, picture in zip(samples, pictures, strict=False):
        sample |= _embedded(picture)
    if forward is not None:
        for sample, logits in zip(samples, top_logits(findings, rows, forward), strict=True):
            sample["logits"] = logits
    return Gallery(
        samples=samples,
        picture=_described(preprocess, encoding),
        class_names={each: names[each] for each in sorted(_classes(samples))},
    )


def closest_rows(margin: NDArray[np.float64], new: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All rows, the new ones first, of each the smallest margin first."""
    import numpy as np

    return np.lexsort((margin, ~new))


def _is_new(findings: Findings, comparison: Comparison | None) -> NDArray[np.bool_]:
    import numpy as np

    new = np.zeros(findings.flagged, dtype=np.bool_)
    if comparison is not None:
        new[comparison.newly] = True
    return new


def _numbers(findings: Findings, row: int, new: bool) -> dict[str, Any]:
    a, b = findings.classes[row].tolist()
    z_a, z_b = findings.logits[row].tolist()
    known = findings.degenerate is not None
    return {
        "index": int(findings.index[row]),
        "a": a,
        "b": b,
        "za": finite(z_a),
        "zb": finite(z_b),
        "margin": finite(findings.margin[row]),
        "label": int(findings.label[row]),
        "l2": finite(findings.distance_l2[row]) if known else None,
        "linf": finite(findings.distance_linf[row]) if known else None,
        "new": new,
        "x": None,
        "g": None,
        "g_scale": None,
        "dots": None,
        "logits": None,
    }


def _embedded(picture: Picture) -> dict[str, Any]:
    if picture.gradients is None:
        return {"x": picture.sample}
    data, scale, products = picture.gradients
    return {"x": picture.sample, "g": data, "g_scale": scale, "dots": products}


def _described(preprocess: Preprocess, encoding: Encoding) -> dict[str, Any]:
    return {
        "input": preprocess.input_shape,
        "shape": encoding.shape,
        "dtype": encoding.dtype,
        "scale": preprocess.scale,
        "offset": preprocess.offset,
        "factor": encoding.factor,
        "gradient": encoding.gradient,
        "pictured": encoding.pictured,
    }


def _classes(samples: list[dict[str, Any]]) -> set[int]:
    found = {each for sample in samples for each in (sample["a"], sample["b"], sample["label"])}
    found |= {each for sample in samples for each, _ in sample["logits"] or ()}
    return found - {-1}


def shown_feature_names(names: Sequence[str] | None) -> list[str] | None:
    """As the page shows them."""
    return None if names is None else [shortened(name) for name in names]
