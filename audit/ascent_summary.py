"""What an ascent tells its user at the end: as one JSON object, and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.ascent import OUTCOMES
from audit.strict_json import finite
from audit.text_table import aligned, shown_distance

if TYPE_CHECKING:
    from audit.ascent import Ascents

SHOWN = 10


def summary_from_ascents(ascents: Ascents, seconds: float | None = None) -> dict[str, Any]:
    """The summary, JSON-ready: NaN and infinity are null.

    Args:
        ascents: What was done.
        seconds: Wall time, where known.
    """
    return {
        "source": ascents.source["path"],
        "bundle": ascents.bundle["name"],
        "bundle_path": ascents.bundle["path"],
        **{name: ascents.options[name] for name in ("target", "norm", "objective", "clip")},
        "raw_dtype": ascents.preprocess.raw_dtype,
        "ascents": ascents.count,
        "succeeded": ascents.succeeded,
        "surviving": int(ascents.survives_rounding.sum()),
        "minimal_surviving": (
            int(ascents.minimal_survives_rounding.sum()) if ascents.minimised else None
        ),
        "outcomes": {
            name: int((ascents.outcome == number).sum()) for number, name in enumerate(OUTCOMES)
        },
        "rows": [_row(ascents, row) for row in range(min(SHOWN, ascents.count))],
        "seconds": seconds,
        "ascent": str(ascents.path),
    }


def _row(ascents: Ascents, row: int) -> dict[str, Any]:
    names = ascents.class_names
    start, target = int(ascents.start_class[row]), int(ascents.target[row])
    label = int(ascents.label[row])
    document: dict[str, Any] = {
        "index": int(ascents.index[row]),
        "label": label if label >= 0 else None,
        "classes": [start, target],
        "names": [names[start], names[target]],
        "outcome": OUTCOMES[ascents.outcome[row]],
        "steps": int(ascents.steps[row]),
        "survives_rounding": bool(ascents.survives_rounding[row]),
    }
    for name in ("distance_l2", "distance_linf", "first_order_l2", "first_order_linf"):
        document[name] = finite(getattr(ascents, name)[row])
    if ascents.minimised:
        for name in ("distance_l2", "distance_linf"):
            document[f"minimal_{name}"] = finite(getattr(ascents, f"minimal_{name}")[row])
        document["minimal_survives_rounding"] = bool(ascents.minimal_survives_rounding[row])
    return document


def text_from_summary(summary: dict[str, Any]) -> str:
    """The summary as a person reads it."""
    succeeded, total = summary["succeeded"], summary["ascents"]
    lines = [
        f"ascended  {total:,} of {summary['source']}",
        f"model     {summary['bundle']} ({summary['bundle_path']})",
        f"reached   {succeeded:,} of {total:,} targets",
    ]
    if succeeded:
        lines[-1] += f"; {summary['surviving']:,} also when rounded to {summary['raw_dtype']}"
        if summary["minimal_surviving"] is not None:
            lines[-1] += f", {summary['minimal_surviving']:,} with the minimal change"
    failed = {
        name: count for name, count in summary["outcomes"].items() if count and name != OUTCOMES[0]
    }
    if failed:
        reasons = ", ".join(f"{count:,} {name}" for name, count in failed.items())
        lines.append(f"failed    {total - succeeded:,}: {reasons}")
    if summary["rows"]:
        shown = len(summary["rows"])
        which = "" if shown == total else f", the first {shown}"
        lines += [f"by {_norm_sign(summary)} steps{which}", *_table(summary)]
    lines.append(f"ascent    {summary['ascent']}")
    return "\n".join(lines)


def _norm_sign(summary: dict[str, Any]) -> str:
    return {"l2": "L2", "linf": "L∞"}[summary["norm"]]


def _table(summary: dict[str, Any]) -> list[str]:
    """One norm's minimal and first-order distances: both would be too wide for a terminal."""
    norm, sign = summary["norm"], _norm_sign(summary)
    minimised = f"minimal_distance_{norm}" in summary["rows"][0]
    header = ["index", "from → to", "steps", "L2", "L∞", f"first order {sign}"]
    header += [f"minimal {sign}"] if minimised else []
    header += [f"{'minimal ' if minimised else ''}as {summary['raw_dtype']}"]
    rows = []
    for each in summary["rows"]:
        reached = each["outcome"] == OUTCOMES[0]
        survives = each["minimal_survives_rounding" if minimised else "survives_rounding"]
        cells = [
            str(each["index"]),
            " → ".join(each["names"]),
            str(each["steps"]) if reached else each["outcome"],
            shown_distance(each["distance_l2"]),
            shown_distance(each["distance_linf"]),
            shown_distance(each[f"first_order_{norm}"]),
        ]
        cells += [shown_distance(each[f"minimal_distance_{norm}"])] if minimised else []
        cells += ["reaches" if survives else "-" if not reached else "falls short"]
        rows.append(cells)
    return aligned([header, *rows])
