"""What is asked for is what is given, and nothing else is imported for it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

import audit_kernels

HEAVY = ("numba", "llvmlite", "torch", "triton", "onnxruntime")


def imported(code: str) -> set[str]:
    """Which of `HEAVY` a new process has imported once it ran the code."""
    report = f"import sys; print(*{HEAVY!r} & sys.modules.keys())"
    command = [sys.executable, "-c", f"{code}\n{report.replace(repr(HEAVY), repr(set(HEAVY)))}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_what_needs_nothing_imports_nothing() -> None:
    code = """
import numpy
import audit_kernels
for name in ("reference", "numpy"):
    audit_kernels.get(name)(numpy.ones((2, 3)), classes=True)
"""
    assert imported(code) == set()


def test_the_test_above_can_fail() -> None:
    code = "import audit_kernels; audit_kernels.get('cpu')"
    assert imported(code) == {"numba", "llvmlite"}


def test_the_table() -> None:
    assert audit_kernels.names() == ("reference", "numpy", "cpu", "torch", "triton")
    for name in audit_kernels.names():
        row = audit_kernels.implementation(name)
        assert row.name == name
        assert find_spec(row.module) is not None
        assert row.takes == ("array" if row.devices == ("cpu",) else "tensor")
        assert audit_kernels.get(name).__module__ == row.module


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(KeyError, match="'gpu'; known: reference, numpy, cpu, torch, triton"):
        audit_kernels.get("gpu")


@pytest.mark.parametrize(("name", "package"), [("cpu", "numba"), ("triton", "triton")])
def test_without_its_package_there_is_no_other_in_its_place(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in list(sys.modules):
        if module.startswith(("audit_kernels.cpu", "audit_kernels.comp", "audit_kernels.triton")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"kernel '{name}' needs {package}: pip install"):
        audit_kernels.get(name)
