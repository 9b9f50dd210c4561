"""Any configuration, any JSON in findings: a right result, or an error of ours.

Of manifests, see `test_any_value_anywhere_loads_or_is_one_error` in `test_bundle.py`.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audit
from audit.config import EXPECTED, effective, load_config, text_from_value
from audit.errors import AuditError
from audit.gates import KNOWN
from audit.gates.thresholds import read_gates
from audit.history_text import csv_from_history, text_from_history
from audit.info import info
from audit.manifest import manifest_from_json
from fuzzing.kind import SEEDS
from made_findings import BUNDLE, DATASET, Tie, write_findings

ANY = settings(max_examples=100, deadline=None, derandomize=True, database=None)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans())
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXT, inner)),
    max_leaves=8,
)
TOML = st.recursive(
    st.one_of(NUMBERS, TEXT, st.datetimes()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def toml(value: Any) -> str:
    """As TOML has it; every value fits into one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value) if isinstance(value, str) else str(value)


def read_config(folder: Path, content: bytes) -> None:
    (folder / "audit.toml").write_bytes(content)
    with contextlib.suppress(AuditError):
        found = effective(load_config(folder))
        read_gates(found.gates)
        for setting in (*found.values.values(), *found.gates.values()):
            assert "\n" not in text_from_value(setting.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@ANY
@given(st.one_of(st.binary(), TEXT.map(str.encode)))
def test_any_bytes_are_no_configuration(folder: Path, content: bytes) -> None:
    read_config(folder, content)


@ANY
@given(st.sampled_from([*EXPECTED, *(f"gates.{name}" for name in KNOWN)]), TOML)
def test_any_value_of_any_key(folder: Path, key: str, value: Any) -> None:
    read_config(folder, f"{key} = {toml(value)}\n".encode())


@ANY
@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_no_manifest(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        manifest_from_json(content)
        pytest.fail("a manifest")


def test_the_seed_is_a_manifest() -> None:
    assert manifest_from_json((SEEDS / "bundle" / "manifest.json").read_bytes()).name == "bundle"


@pytest.fixture(scope="module")
def findings_h5(folder: Path) -> Path:
    return write_findings(folder / "f.h5", [Tie(3)], created="2026-01-02T03:04:05+00:00")


@settings(ANY, max_examples=25)
@given(
    st.sampled_from(["dataset", "bundle", "engine"]),
    st.one_of(TEXT, st.sampled_from([*DATASET, *BUNDLE, "classes", "raw", "input", "parity"])),
    JSON,
)
def test_any_json_in_findings(findings_h5: Path, name: str, key: str, value: Any) -> None:
    with h5py.File(findings_h5, "r+") as file:
        before = file.attrs[name]
        file.attrs[name] = json.dumps(json.loads(before) | {key: value})
    try:
        for use in (_describe, _list, _judge):
            with contextlib.suppress(AuditError):
                use(findings_h5)
    finally:
        with h5py.File(findings_h5, "r+") as file:
            file.attrs[name] = before


def _describe(path: Path) -> None:
    json.dumps(info(path))
    _ = audit.load_findings(path).preprocess


def _list(path: Path) -> None:
    found = audit.history(path)
    assert len(text_from_history(found).splitlines()) <= 3
    csv_from_history(found)


def _judge(path: Path) -> None:
    audit.check(path, baseline=path, gates={"max_class_rate": 0.5, "max_parity": 1.0}).document()
