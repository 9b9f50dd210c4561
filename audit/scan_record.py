"""What an interrupted scan says of itself, so that the same scan can go on, and no other does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import version
from typing import Any

import numpy as np

from audit.bundle import Bundle
from audit.cascade import Choice
from audit.dataset import Dataset, FileState
from audit.errors import OutputError
from audit.findings import SCHEMA
from audit.forward import import_onnxruntime
from audit.guard import Guard
from audit.options import ScanOptions

# What can change a bit of the findings, under the name that its user gave it.
OPTIONS = (
    "eps",
    "min_logit",
    "keep_all",
    "no_gradients",
    "limit",
    "batch_size",
    "segment_samples",
    "device",
    "precision",
)
LEVELS = ("int8", "float32")  # precisions of graphs
PACKAGES = ("near-tie-audit", "torch", "numpy")


@dataclass(frozen=True)
class ScanRecord:
    """Which scan it is, and what was measured and chosen for it.

    Attributes:
        identity: What must be the same in whoever goes on, in the user's words, JSON-ready.
        file: The dataset's file as it was.
        choices: Graphs and guards; they hang on the machine's speed and on what a guard met.
        rescans: Passes that a broken guard has cost so far.
    """

    identity: dict[str, Any]
    file: FileState
    choices: tuple[Choice, ...]
    rescans: int = 0

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        levels = [
            {"precision": choice.precision, **asdict(choice.guard)} for choice in self.choices
        ]
        return {
            "identity": self.identity,
            "file": self.file._asdict(),
            "levels": levels,
            "rescans": self.rescans,
        }


def record_from_document(document: Mapping[str, Any]) -> ScanRecord:
    """What `ScanRecord.document` gave.

    Raises:
        ValueError: It can't have been.
    """
    try:
        choices = tuple(_choice_from_document(level) for level in document["levels"])
        file, identity = FileState(**document["file"]), dict(document["identity"])
        record = ScanRecord(identity, file, choices, int(document["rescans"]))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as exc:
        raise ValueError("isn't one that a scan writes") from exc
    if not choices:
        raise ValueError("isn't one that a scan writes")
    return record


def _choice_from_document(level: Mapping[str, Any]) -> Choice:
    guard = Guard(**{each.name: float(level[each.name]) for each in fields(Guard)})
    if level["precision"] not in LEVELS or not min(astuple(guard)) > 0:
        raise ValueError(level)
    return Choice(level["precision"], guard)


def identity_of(dataset: Dataset, bundle: Bundle, options: ScanOptions) -> dict[str, Any]:
    """What must be the same, so that segments of two runs make one findings file."""
    given = {f"--{name.replace('_', '-')}": _plain(getattr(options, name)) for name in OPTIONS}
    versions = {name: version(name) for name in PACKAGES}
    return {
        "dataset": dataset.fingerprint,
        "--images": dataset.images_name,
        "--labels": dataset.labels_name,
        "bundle": bundle.manifest_sha256,
        **given,
        "trusted": bundle.trusted,
        "schema": SCHEMA,
        **versions,
        "onnxruntime": import_onnxruntime().__version__,
    }


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """Raise where an interrupted scan isn't the one that is to go on.

    Args:
        there: Its identity.
        here: That of the scan that is asked for.
        where: What holds the former, for the message.

    Raises:
        OutputError: They differ; says in what.
    """
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        differences = "; ".join(
            f"{name} {_shown(there.get(name))} there, {_shown(here.get(name))} here"
            for name in names
        )
        raise OutputError(
            f"{where}: is of another scan ({differences}); give that one's arguments to go on with "
            "it, or --restart to drop what it kept"
        )


def _plain(value: Any) -> Any:
    """Of a numpy number, which a caller may give and JSON can't say, its own."""
    return value.item() if isinstance(value, np.generic) else value


def _shown(value: Any) -> str:
    if value is None or value is False:
        return "not given"
    if value is True:
        return "given"
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
