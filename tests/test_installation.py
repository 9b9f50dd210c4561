"""ONNX Runtime comes from exactly one of two distributions; anything else is one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import Run

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

sys.meta_path.insert(0, Hidden())
"""


def installed(directory: Path, *names: str) -> None:
    """What pip leaves of an installed distribution, as far as Python asks."""
    for name in names:
        info = directory / f"{name.replace('-', '_')}-1.20.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "site").mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "AUDIT_MODEL"}
    return kept | {"PYTHONPATH": str(tmp_path / "site")}


def test_both(environment: dict[str, str], tmp_path: Path, mnist_h5: Path, run_audit: Run) -> None:
    installed(tmp_path / "site", "onnxruntime", "onnxruntime-gpu")
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--limit", "1", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install 'near-tie-audit[cpu]' or "
        "'near-tie-audit[gpu]'\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_neither(
    environment: dict[str, str], tmp_path: Path, mnist_h5: Path, run_audit: Run
) -> None:
    (tmp_path / "site/sitecustomize.py").write_text(HIDE)
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--limit", "1", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: ONNX Runtime is not installed: pip install 'near-tie-audit[cpu]', or "
        "'near-tie-audit[gpu]' on a machine with an NVIDIA GPU\n"
    )
    assert not (tmp_path / "mnist.findings.h5").exists()
    # What needs no ONNX Runtime works without.
    assert run_audit("info", "mnist", env=environment).returncode == 0


def test_one_of_them(
    environment: dict[str, str], tmp_path: Path, mnist_h5: Path, run_audit: Run
) -> None:
    """The same environment without the fault: what made the others fail was the fault."""
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--limit", "1", "--quiet", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "mnist.findings.h5").exists()
