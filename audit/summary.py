"""What a scan tells its user at the end: as one JSON object, and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.findings_text import one_line, shortened
from audit.strict_json import finite
from audit.text_table import aligned, shown_distance

if TYPE_CHECKING:
    from audit.findings import Findings

CLOSEST = 5


def summary_from_findings(findings: Findings, seconds: float | None = None) -> dict[str, Any]:
    """The summary, JSON-ready: NaN and infinity are null.

    Args:
        findings: Of the scan.
        seconds: Wall time of the scan, where known.
    """
    return {
        "dataset": findings.dataset["path"],
        "images": findings.dataset["images"],
        "labels": findings.dataset["labels"],
        "bundle": findings.bundle["name"],
        "bundle_path": findings.bundle["path"],
        "eps": findings.eps,
        "min_logit": findings.min_logit,
        "scanned": findings.scanned,
        "resumed": findings.engine.get("resumed", 0),
        "flagged": findings.flagged,
        "rate": findings.rate,
        "accuracy": findings.accuracy,
        "accuracy_flagged": findings.accuracy_flagged,
        "degenerate": findings.degenerate,
        "nonfinite": findings.nonfinite,
        "closest": _closest(findings),
        "guard": findings.engine["guard"],
        "rescans": findings.engine["rescans"],
        "checked": findings.engine["checked"],
        "miss_rate_bound": findings.engine["miss_rate_bound"],
        "decided_by": findings.engine.get("decided_by", "torchscript"),
        "undecided": findings.engine.get("undecided", 0),
        "seconds": seconds,
        "findings": str(findings.path),
    }


def _closest(findings: Findings) -> list[dict[str, Any]]:
    """The flagged samples of smallest margin, smallest first."""
    names = findings.bundle["classes"]
    has_distances = findings.degenerate is not None
    rows = findings.margin.argsort(kind="stable")[:CLOSEST]
    closest = []
    for row in rows.tolist():
        a, b = findings.classes[row].tolist()
        label = int(findings.label[row])
        closest.append(
            {
                "index": int(findings.index[row]),
                "classes": [a, b],
                "names": [names[a], names[b]],
                "margin": float(findings.margin[row]),
                "label": label if label >= 0 else None,
                "label_name": names[label] if label >= 0 else None,
                "distance_l2": finite(findings.distance_l2[row]) if has_distances else None,
                "distance_linf": finite(findings.distance_linf[row]) if has_distances else None,
            }
        )
    return closest


def text_from_summary(summary: dict[str, Any]) -> str:
    """The summary as a person reads it."""
    lines = [
        f"scanned   {summary['scanned']:,} samples of {_source(summary)}",
        f"model     {shortened(summary['bundle'])}"
        + ("" if summary["bundle_path"] is None else f" ({one_line(summary['bundle_path'])})"),
        f"flagged   {summary['flagged']:,} near ties at ε = {summary['eps']:g}"
        + ("" if summary["min_logit"] is None else f", largest logit > {summary['min_logit']:g}")
        + f" ({summary['rate']:.3%})",
    ]
    if summary["resumed"]:
        lines.insert(
            1, f"resumed   {summary['resumed']:,} of them were kept from an interrupted scan"
        )
    if summary["accuracy"] is not None:
        line = f"accuracy  {summary['accuracy']:.2%}"
        if summary["accuracy_flagged"] is not None:
            line += f"; among the flagged {summary['accuracy_flagged']:.2%}"
        lines.append(line)
    if summary["degenerate"]:
        lines.append(
            f"          {summary['degenerate']:,} of them degenerate: equal logits that no change "
            "of the input tips"
        )
    if summary["nonfinite"]:
        noun = "sample" if summary["nonfinite"] == 1 else "samples"
        lines.append(f"warning   {summary['nonfinite']:,} {noun} with NaN or infinite logits")
    if summary["rescans"]:
        lines.append(
            f"note      the fast pass was off by more than its guard; scanned again with a guard "
            f"of {summary['guard']:.2g}"
        )
    if summary["decided_by"] == "onnx":
        lines.append(
            "note      decided by the ONNX graph alone, since nobody vouches for the bundle; "
            f"samples that its rounding leaves open: {summary['undecided']:,}"
        )
    if summary["closest"]:
        lines += ["closest ties", *_table(summary["closest"])]
    lines.append(f"findings  {summary['findings']}")
    return "\n".join(lines)


def _source(summary: dict[str, Any]) -> str:
    if summary["dataset"] is None:
        return "a training's batches"
    names = [name for name in (summary["images"], summary["labels"]) if name]
    return f"{one_line(summary['dataset'])} ({', '.join(map(shortened, names))})"


def _table(closest: list[dict[str, Any]]) -> list[str]:
    header = ["index", "classes", "label", "margin", "distance L2", "distance L∞"]
    rows = [
        [
            str(tie["index"]),
            " / ".join(map(shortened, tie["names"])),
            "unknown" if tie["label"] is None else shortened(tie["label_name"]),
            f"{tie['margin']:.6f}",
            shown_distance(tie["distance_l2"]),
            shown_distance(tie["distance_linf"]),
        ]
        for tie in closest
    ]
    return aligned([header, *rows])
