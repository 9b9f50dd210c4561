"""What is mutated, and the program's own readers that must bear it to the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import h5py
import numpy as np
import torch

import audit
import audit.figure_sheet  # and matplotlib with it, before the forks
import audit.report
import audit.reporting.overview
from audit.ascent import Ascents, load_ascents
from audit.ascent_figure import ascent_figures
from audit.ascent_record import record_of_ascent
from audit.bundle import MANIFEST, ONNX, load_bundle
from audit.check_markdown import markdown_from_check
from audit.check_text import text_from_check
from audit.config import effective, load_config, text_from_value
from audit.dataset import Dataset
from audit.diff_summary import summary_from_diff
from audit.diff_text import text_from_summary as text_from_diff
from audit.errors import AuditError
from audit.findings import Findings
from audit.forward import Forward
from audit.gates.thresholds import read_gates
from audit.history_text import csv_from_history, text_from_history
from audit.info import info
from audit.junit import junit_from_check
from audit.weights import load_weights
from fuzzing.kind import SEEDS, Kind, check_message
from oracles import read

SELDOM = 64  # what takes long is done of one in so many
MOST_ROWS = 3  # of ascents, each of which is several arrays


def _read_dataset(path: Path, number: int) -> None:
    """What is read must be what h5py reads, which makes up zeros where it finds no chunk."""
    info(path)
    with Dataset(path) as dataset, h5py.File(path) as file:
        for block in dataset.blocks(0, dataset.stored):
            got = read(dataset, block)
            expected = file[dataset.images_name][block.start : block.stop]
            found = expected != 0
            np.testing.assert_array_equal(got[found], expected[found])
            dataset.labels(block.start, block.stop)
        dataset.check_against(load_bundle(SEEDS / "bundle").manifest)


def _read_findings(path: Path, number: int) -> None:
    findings = audit.load_findings(path)
    _each_array(findings, Findings)
    _quietly(lambda: findings.rows("gradient", range(findings.flagged)))
    _quietly(lambda: findings.scan_rows(0, findings.scanned))
    info(path)
    _quietly(lambda: CONSUMERS[number % len(CONSUMERS)](path))
    if number % SELDOM == 0:
        _quietly(lambda: audit.report(path, out=path.with_suffix(".html")))
        _quietly(lambda: audit.figure(path, path.with_name("figures"), closest=1))


def _history(path: Path) -> None:
    history = audit.history(path)
    text_from_history(history)
    csv_from_history(history)


def _diff(path: Path) -> None:
    text_from_diff(summary_from_diff(audit.diff(path, _original())))


def _check(path: Path) -> None:
    result = audit.check(path, baseline=_original(), gates={"max_class_rate": 0.5})
    text_from_check(result, 80)
    markdown_from_check(result)
    junit_from_check(result)
    json.dumps(result.document(), allow_nan=False)


CONSUMERS = (_history, _check, _diff)


def _read_ascents(path: Path, number: int) -> None:
    ascents = load_ascents(path)
    _each_array(ascents, Ascents)
    info(path)
    for row in range(min(ascents.count, MOST_ROWS)):
        _quietly(lambda row=row: record_of_ascent(ascents, row))  # type: ignore[misc]
    if number % SELDOM == 0:
        wanted = ascents.index[:1].tolist()
        _quietly(lambda: ascent_figures(ascents, path.with_name("a"), index=wanted, format="png"))


def _read_diff(path: Path, number: int) -> None:
    info(path)


def _read_manifest(path: Path, number: int) -> None:
    folder = _bundle_with(path.parent, MANIFEST, path.read_bytes())
    info(folder)
    bundle = load_bundle(folder, trust=True)  # or no file that can run code is read
    for name in bundle.manifest.files:
        bundle.read(name)


def _read_onnx(path: Path, number: int) -> None:
    """Its manifest vouches for the mutated graph, so that it gets to ONNX Runtime."""
    graph = path.read_bytes()
    manifest = json.loads((SEEDS / "bundle" / MANIFEST).read_text())
    manifest["files"][ONNX] = {"sha256": hashlib.sha256(graph).hexdigest(), "size": len(graph)}
    folder = _bundle_with(path.parent, MANIFEST, json.dumps(manifest).encode())
    (folder / ONNX).write_bytes(graph)
    forward = Forward(load_bundle(folder).read(ONNX), device="cpu", threads=1, source="model.onnx")
    forward.logits(np.ones((5, 4), np.float32))


def _read_config(path: Path, number: int) -> None:
    path.rename(path.with_name("audit.toml"))
    found = effective(load_config(path.parent))
    read_gates(found.gates)
    for setting in (*found.values.values(), *found.gates.values()):
        text_from_value(setting.value)


def _read_weights(path: Path, number: int) -> None:
    load_weights(torch.nn.Linear(4, 3), path)


def _each_array(opened: object, kind: type) -> None:
    """Every lazily read array; each may be refused."""
    for name, member in vars(kind).items():
        if isinstance(member, cached_property):
            _quietly(lambda name=name: getattr(opened, name))  # type: ignore[misc]


def _quietly(action: Callable[[], object]) -> None:
    """An error of ours is no reason not to go on with the other things."""
    try:
        action()
    except AuditError as exc:
        check_message(exc)


def _bundle_with(folder: Path, name: str, content: bytes) -> Path:
    bundle = folder / "bundle"
    if not bundle.exists():
        shutil.copytree(SEEDS / "bundle", bundle)
    (bundle / name).write_bytes(content)
    return bundle


@cache
def _original() -> Path:
    """The seed of findings, in a file that stays as long as the process that reads."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / "findings.h5"
    path.write_bytes(KINDS["findings"].seeds[0])
    return path


KINDS = {
    kind.name: kind
    for kind in (
        Kind("dataset", "dataset-*.h5", _read_dataset),
        Kind("findings", "findings*.h5.gz", _read_findings),
        Kind("ascents", "ascents.h5.gz", _read_ascents),
        Kind("diff", "diff.h5.gz", _read_diff),
        Kind("manifest", f"bundle/{MANIFEST}", _read_manifest, ".json"),
        Kind("onnx", f"bundle/{ONNX}", _read_onnx, ".onnx"),
        Kind("config", "audit.toml", _read_config, ".toml"),
        Kind("weights", "weights.pt", _read_weights, ".pt"),
        Kind("safetensors", "weights.safetensors", _read_weights, ".safetensors"),
    )
}
