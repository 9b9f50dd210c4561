"""A history as a person or a spreadsheet reads it."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from audit.findings_text import one_line, shortened, shown_date
from audit.history import History, HistoryRow
from audit.text_table import aligned, shown_distance

COLUMNS = (
    "created", "dataset", "dataset_fingerprint", "bundle", "manifest_sha256", "eps", "min_logit",
    "scanned", "flagged", "rate", "nonfinite", "accuracy", "median_distance_l2", "worst_pair_a",
    "worst_pair_b", "worst_pair_count", "path",
)  # fmt: skip
# A spreadsheet takes a cell that begins with one of these for a formula, which can call programs
# and fetch addresses. https://owasp.org/www-community/attacks/CSV_Injection
FULLWIDTH = ("\uff1d", "\uff0b", "\uff0d", "\uff20")  # = + - @
FORMULA = ("=", "+", "-", "@", *FULLWIDTH)


def text_from_history(history: History) -> str:
    """A table, a line a scan."""
    datasets = dataset_names(history)
    header = ["date (UTC)", "dataset", "bundle", "ε", "scanned", "flagged", "rate"]
    header += ["median L2", "worst pair"]
    rows = [
        [
            shown_date(row.created),
            datasets[row.dataset_fingerprint or row.dataset],
            shortened(row.bundle),
            shown_threshold(row),
            f"{row.scanned:,}",
            f"{row.flagged:,}",
            f"{row.rate:.3%}",
            shown_distance(row.median_distance_l2),
            _shown_pair(row),
        ]
        for row in history.rows
    ]
    lines = [line[2:] for line in aligned([header, *rows])]
    lines += [
        f"warning   {row.nonfinite:,} with NaN or infinite logits in {one_line(str(row.path))}"
        for row in history.rows
        if row.nonfinite
    ]
    lines += [f"note      passed over {one_line(reason)}" for reason in history.passed_over]
    if history.plot is not None:
        lines.append(f"plot      {history.plot}")
    return "\n".join(lines)


def csv_from_history(history: History) -> str:
    """Comma-separated values with a header; text is quoted, numbers are not."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in history.rows:
        document = row.document()
        pair = row.worst_pair or (None, None)
        document["worst_pair_a"], document["worst_pair_b"] = pair
        writer.writerow([_cell(document[column]) for column in COLUMNS])
    return out.getvalue()


def dataset_names(history: History) -> dict[str | None, str]:
    """What each dataset is called here: its file's name, with its fingerprint where two share it.

    Keys are fingerprints; paths where there are none; None: a training's batches.
    """
    files: dict[str | None, str] = {}
    for row in history.rows:
        path = row.dataset
        name = "training" if path is None else shortened(os.path.basename(path))
        files[row.dataset_fingerprint or path] = name
    shared = [*files.values()]
    return {
        key: f"{name} {key[:8]}" if key is not None and shared.count(name) > 1 else name
        for key, name in files.items()
    }


def shown_threshold(row: HistoryRow) -> str:
    """ε, and the least logit where there is one."""
    return f"{row.eps:g}" + ("" if row.min_logit is None else f", z > {row.min_logit:g}")


def _shown_pair(row: HistoryRow) -> str:
    if row.worst_pair is None:
        return "-"
    return f"{' / '.join(map(shortened, row.worst_pair))} ({row.worst_pair_count:,})"


def _cell(value: Any) -> Any:
    """A number as it is; text on one line, which no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    line = "".join(each if each.isprintable() else "�" for each in value)
    return f"'{line}" if line.startswith(FORMULA) else line
