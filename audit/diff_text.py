"""A diff's summary as a person reads it."""

from __future__ import annotations

import os
from typing import Any

from audit.findings_text import one_line, shortened, shown_date
from audit.text_table import aligned, shown_distance


def text_from_summary(summary: dict[str, Any]) -> str:
    """Lines of `audit.diff_summary.summary_from_diff`."""
    lines = [
        *(f"{side}       {_scan(summary[side])}" for side in ("old", "new")),
        f"dataset   {one_line(str(summary['dataset']))}: {_compared(summary)}",
        f"newly     {_count(summary['newly'], 'newly tied', summary)}",
        f"left      {_count(summary['left'], 'no longer tied', summary)}",
        f"still     {_still(summary['still'])}",
        *_nonfinite(summary),
        f"flips     {_flips(summary)}",
        *_notes(summary),
    ]
    for title, table in (
        ("closest of the newly tied", _one_sided(summary["newly"]["closest"], "old", summary)),
        ("closest of the no longer tied", _one_sided(summary["left"]["closest"], "new", summary)),
        ("largest changes of the still tied", _largest(summary["still"]["largest"])),
        *_flip_tables(summary["flips"]),
    ):
        lines += [title, *table] if table else []
    if summary["diff"] is not None:
        lines.append(f"diff      {summary['diff']}")
    return "\n".join(lines)


def _scan(scan: dict[str, Any]) -> str:
    least = "" if scan["min_logit"] is None else f", largest logit > {scan['min_logit']:g}"
    return (
        f"{one_line(scan['findings'])}: {shortened(scan['bundle'])} at ε = {scan['eps']:g}{least}, "
        f"{scan['flagged']:,} near ties of {scan['scanned']:,}, {shown_date(scan['created'])}"
    )


def _compared(summary: dict[str, Any]) -> str:
    common = summary["common"]
    if summary["old"]["scanned"] == summary["new"]["scanned"]:
        return f"{common:,} samples compared"
    shorter = min(("old", "new"), key=lambda side: summary[side]["scanned"])
    return f"the first {common:,} samples compared, since {shorter.upper()} scanned no more"


def _count(counts: dict[str, Any], words: str, summary: dict[str, Any]) -> str:
    line = f"{counts['count']:,} {words}"
    if summary["same_thresholds"] or not counts["count"]:
        return line
    causes = [
        (counts["model"], "since the model changed"),
        (counts["threshold"], f"only since {_threshold(summary)} changed"),
        (counts["unknown"], "for either reason"),
    ]
    return f"{line}: " + ", ".join(f"{count:,} {reason}" for count, reason in causes if count)


def _threshold(summary: dict[str, Any]) -> str:
    old, new = summary["old"], summary["new"]
    changed = [name for name in ("eps", "min_logit") if old[name] != new[name]]
    return " and ".join({"eps": "ε", "min_logit": "the least logit"}[name] for name in changed)


def _still(still: dict[str, Any]) -> str:
    line = f"{still['count']:,} still tied"
    if still["count"]:
        line += (
            f": another margin {still['moved']:,}, another predicted class "
            f"{still['class_flips']:,}, another pair of classes {still['pair_changes']:,}"
        )
    return line


def _nonfinite(summary: dict[str, Any]) -> list[str]:
    newly, left = summary["nonfinite"]["newly"], summary["nonfinite"]["left"]
    if not (newly or left):
        return []
    return [f"warning   NaN or infinite logits: {newly:,} newly, {left:,} no longer"]


def _flips(summary: dict[str, Any]) -> str:
    flips = summary["flips"]
    if flips is None:
        lacking = [side.upper() for side in ("old", "new") if not _keeps(summary, side)]
        which = lacking[0] if len(lacking) == 1 else "both"
        return f"not known: scan {which} again with --keep-all"
    line = f"{flips['count']:,} predictions changed of {flips['compared']:,}"
    if flips["count"]:
        line += f": {flips['tied']:,} while tied, {flips['confident']:,} while confident"
    if flips["unsettled"]:
        line += (
            f", {flips['unsettled']:,} unsettled (not flagged, but below ε or within rounding of "
            "a tie)"
        )
    if flips["compared"] < summary["common"]:
        missing = summary["common"] - flips["compared"]
        line += f"; {missing:,} left out, of NaN or infinite logits"
    return line


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = []
    if os.path.realpath(summary["old"]["findings"]) == os.path.realpath(summary["new"]["findings"]):
        notes.append("OLD and NEW are the same file")
    elif summary["unchanged"]:
        notes.append("nothing changed but by rounding")
    if summary["same_bundle"] and not summary["same_thresholds"]:
        notes.append("both scans are by the same bundle: only thresholds differ")
    if summary["newly"]["unknown"]:
        notes.append(
            "to tell why samples are newly tied, scan OLD again with "
            + ("" if _keeps(summary, "old") else "--keep-all or with ")
            + "the thresholds of NEW"
        )
    for path in summary["without_gradients"]:
        notes.append(f"{one_line(path)} has no distances: it was scanned with --no-gradients")
    return [f"note      {note}" for note in notes]


def _keeps(summary: dict[str, Any], side: str) -> bool:
    return summary[side]["findings"] not in summary["without_keep_all"]


def _one_sided(ties: list[dict[str, Any]], other: str, summary: dict[str, Any]) -> list[str] | None:
    if not ties:
        return None
    header = ["index", "classes", "label", "margin", "distance L2", "distance L∞"]
    header.append({"old": "before", "new": "now"}[other])
    why = not summary["same_thresholds"]
    header += ["since"] if why else []
    rows = []
    for tie in ties:
        row = [
            str(tie["index"]),
            _names(tie),
            _label(tie),
            _margin(tie),
            shown_distance(tie["distance_l2"]),
            shown_distance(tie["distance_linf"]),
            _elsewhere(tie, other, summary),
        ]
        causes = {"model": "model", "threshold": "threshold", "unknown": "either"}
        rows.append([*row, causes[tie["cause"]]] if why else row)
    return aligned([header, *rows])


def _elsewhere(tie: dict[str, Any], other: str, summary: dict[str, Any]) -> str:
    """What the other scan made of it; it wasn't flagged there, which alone says something."""
    if not tie[f"{other}_finite"]:
        return "not finite"
    if tie[f"{other}_margin"] is not None:
        return f"{shortened(tie[f'{other}_names'][0])} by {tie[f'{other}_margin']:.3g}"
    scan = summary[other]
    return f"≥ {scan['eps']:g}" if scan["min_logit"] is None else "-"


def _largest(changes: list[dict[str, Any]]) -> list[str] | None:
    if not changes:
        return None
    header = ["index", "classes", "label", "margin", "distance L2"]
    rows = [
        [
            str(change["index"]),
            _changed(*(_names(change[side]) for side in ("old", "new"))),
            _label(change["new"]),
            _changed(*(_margin(change[side]) for side in ("old", "new"))),
            _changed(*(shown_distance(change[side]["distance_l2"]) for side in ("old", "new"))),
        ]
        for change in changes
    ]
    return aligned([header, *rows])


def _flip_tables(flips: dict[str, Any] | None) -> list[tuple[str, list[str] | None]]:
    if flips is None or not flips["count"]:
        return []
    ways = [[_way(way), f"{way['count']:,}"] for way in flips["ways"]]
    confident = [
        [
            str(flip["index"]),
            _way(flip),
            " → ".join(shown_distance(flip[f"{side}_margin"]) for side in ("old", "new")),
        ]
        for flip in flips["most_confident"]
    ]
    return [
        ("most frequent flips", aligned([["prediction", "samples"], *ways])),
        (
            "most confident flips",
            aligned([["index", "prediction", "margin"], *confident]) if confident else None,
        ),
    ]


def _way(flip: dict[str, Any]) -> str:
    """From class to class."""
    return " → ".join(map(shortened, flip["names"]))


def _names(tie: dict[str, Any]) -> str:
    return " / ".join(map(shortened, tie["names"]))


def _margin(tie: dict[str, Any]) -> str:
    return "-" if tie["margin"] is None else f"{tie['margin']:.6f}"


def _label(tie: dict[str, Any]) -> str:
    return "unknown" if tie["label"] is None else shortened(tie["label_name"])


def _changed(before: str, now: str) -> str:
    return before if before == now else f"{before} → {now}"
