"""What a diff tells its user: as one JSON object, and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.findings_text import bundle_name, class_names
from audit.near_tie import name_of_class
from audit.strict_json import finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.diff import Diff
    from audit.findings import Findings
    from audit.prediction_flips import FlipTotals
    from audit.tie_changes import TieChanges

SHOWN = 5


def summary_from_diff(diff: Diff) -> dict[str, Any]:
    """The summary, JSON-ready: NaN and infinity are null."""
    compared = diff.comparison
    old, new = compared.old, compared.new
    flips = compared.class_flips
    return {
        "old": _scan(old),
        "new": _scan(new),
        "dataset": new.dataset.get("path"),
        "samples": new.dataset.get("samples"),
        "common": compared.common,
        "same_bundle": compared.same_bundle,
        "same_thresholds": compared.same_thresholds,
        "unchanged": diff.unchanged,
        "newly": {
            **_causes(diff.newly),
            "closest": _one_sided(new, compared.newly, "old", old, diff.newly),
        },
        "left": {
            **_causes(diff.left),
            "closest": _one_sided(old, compared.left, "new", new, diff.left),
        },
        "still": {
            "count": len(compared.still_new),
            "moved": int(diff.moved.sum()),
            "class_flips": int(flips.sum()),
            "pair_changes": int(compared.pair_changes.sum()),
            "largest": _largest_changes(diff, flips),
        },
        "nonfinite": {"newly": len(diff.newly_nonfinite), "left": len(diff.left_nonfinite)},
        "flips": None if diff.flips is None else _flips(diff.flips, class_names(new)),
        "without_keep_all": [str(each.path) for each in (old, new) if not each.kept_all],
        "without_gradients": [str(each.path) for each in (old, new) if each.degenerate is None],
        "diff": None if diff.path is None else str(diff.path),
    }


def _scan(findings: Findings) -> dict[str, Any]:
    return {
        "findings": str(findings.path),
        "created": findings.created,
        "bundle": bundle_name(findings),
        "bundle_path": findings.bundle.get("path"),
        "eps": findings.eps,
        "min_logit": findings.min_logit,
        "scanned": findings.scanned,
        "flagged": findings.flagged,
        "nonfinite": findings.nonfinite,
    }


def _causes(changes: TieChanges) -> dict[str, int]:
    from audit.tie_changes import CAUSES

    counts = {name: int((changes.cause == number).sum()) for number, name in enumerate(CAUSES)}
    return {"count": len(changes.cause), **counts}


def _one_sided(
    findings: Findings, rows: NDArray[np.int64], side: str, other: Findings, changes: TieChanges
) -> list[dict[str, Any]]:
    """Of the samples that only `findings` flagged, those of smallest margin, smallest first."""
    from audit.tie_changes import CAUSES, NO_CLASS

    names = class_names(findings)
    closest = []
    for each in findings.margin[rows].argsort(kind="stable")[:SHOWN].tolist():
        row = int(rows[each])
        index = int(findings.index[row])
        recorded = changes.classes[each].tolist()
        closest.append(
            {
                "index": index,
                **_tie(findings, row, names),
                f"{side}_classes": None if recorded[0] == NO_CLASS else recorded,
                f"{side}_names": None if recorded[0] == NO_CLASS else _named(names, recorded),
                f"{side}_margin": finite(changes.margin[each]),
                f"{side}_finite": not _holds(other.nonfinite_index, index),
                "cause": CAUSES[changes.cause[each]],
            }
        )
    return closest


def _tie(findings: Findings, row: int, names: tuple[str, ...]) -> dict[str, Any]:
    classes, label = findings.classes[row].tolist(), int(findings.label[row])
    return {
        "classes": classes,
        "names": _named(names, classes),
        "label": label if label >= 0 else None,
        "label_name": name_of_class(names, label) if label >= 0 else None,
        "margin": finite(findings.margin[row]),
        **{f"distance_{norm}": _distance(findings, norm, row) for norm in ("l2", "linf")},
    }


def _largest_changes(diff: Diff, flips: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Of the samples still tied, those whose margin changed most; rounding is no change."""
    compared, change, moved = diff.comparison, diff.margin_change, diff.moved
    names = class_names(compared.new)
    order = (-abs(change)).argsort(kind="stable")
    return [
        {
            "index": int(compared.new.index[compared.still_new[each]]),
            "margin_change": finite(change[each]),
            "class_flip": bool(flips[each]),
            "old": _tie(compared.old, int(compared.still_old[each]), names),
            "new": _tie(compared.new, int(compared.still_new[each]), names),
        }
        for each in order[(moved | flips)[order]][:SHOWN].tolist()
    ]


def _flips(totals: FlipTotals, names: tuple[str, ...]) -> dict[str, Any]:
    from audit.prediction_flips import KINDS

    # As often: in the order of the classes, whatever the order of the samples.
    ways = sorted(totals.ways.items(), key=lambda way: (-way[1], way[0]))[:SHOWN]
    examples = totals.examples
    return {
        "compared": totals.compared,
        "count": totals.flips,
        **{kind: totals.kinds[kind] for kind in KINDS},
        "ways": [
            {"classes": [*classes], "names": _named(names, classes), "count": count}
            for classes, count in ways
        ],
        "most_confident": []
        if examples is None
        else [
            {
                "index": index,
                "classes": classes,
                "names": _named(names, classes),
                "old_margin": finite(margins[0]),
                "new_margin": finite(margins[1]),
            }
            for index, classes, margins in zip(
                examples.index.tolist(),
                examples.classes.tolist(),
                examples.margin.tolist(),
                strict=True,
            )
        ],
    }


def _distance(findings: Findings, norm: str, row: int) -> float | None:
    if findings.degenerate is None:
        return None
    return finite(getattr(findings, f"distance_{norm}")[row])


def _named(names: tuple[str, ...], classes: Any) -> list[str]:
    return [name_of_class(names, each) for each in classes]


def _holds(ascending: NDArray[np.int64], value: int) -> bool:
    place = int(ascending.searchsorted(value))
    return place < len(ascending) and int(ascending[place]) == value
