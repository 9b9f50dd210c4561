"""What the documents show is what happens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

import audit
from audit.bundle import MANIFEST, Bundle, load_bundle
from audit.cli import cli
from conftest import Run

ROOT = Path(__file__).parents[1]


def _block(document: str, language: str, containing: str) -> str:
    """The one fenced block of that language that contains these words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (block,) = [each for each in blocks if containing in each]
    return str(block)


def test_readme_shows_what_a_scan_prints(run_audit: Run) -> None:
    run_audit("data", "mnist", check=True)
    done = run_audit("scan", "mnist.h5", "--eps", "0.1", check=True)
    shown = _block("README.md", "", "scanned")
    path = re.compile(r"\S+/(?=mnist)")  # where the reader has it
    assert path.sub("", done.stdout) == path.sub("", shown)


def test_readme_shows_what_an_ascent_prints(run_audit: Run) -> None:
    run_audit("data", "mnist", check=True)
    run_audit("scan", "mnist.h5", "--eps", "0.1", check=True)
    done = run_audit("ascend", "mnist.findings.h5", "--index", "2018", "--minimal", check=True)
    shown = _block("README.md", "", "ascended")
    path = re.compile(r"\S+/(?=mnist)")
    assert path.sub("", done.stdout) == path.sub("", shown)


def test_readme_goes_on_verifies_and_trusts(
    run_audit: Run, tmp_path: Path, mnist_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "trust"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    run_audit("data", "mnist", check=True)
    theirs = Path(shutil.copytree(mnist_bundle.path, tmp_path / "their-bundle"))
    (theirs / MANIFEST).write_text(replace(mnist_bundle.manifest, name="theirs").to_json())
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=_block("README.md", "sh", "--restart"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("flagged   12 near ties") == 3
    assert "PASS: nothing differs" in done.stdout
    assert "decided by the ONNX graph alone, since nobody vouches for the bundle" in done.stdout
    assert load_bundle(theirs).trusted


def test_findings_example_runs(run_audit: Run, tmp_path: Path) -> None:
    run_audit("data", "mnist", check=True)
    run_audit("scan", "mnist.h5", "--eps", "0.1", check=True)
    example = _block("docs/findings.md", "python", "towards_b")
    command = [sys.executable, "-c", example]
    out = subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()
    assert out[0] == "12 of 10000 at eps 0.1"
    assert re.fullmatch(r"sample \d+: \d or \d\?", out[1])


def test_digests_are_computed_as_documented(mnist_h5: Path, tmp_path: Path) -> None:
    audit.scan(mnist_h5, eps=0.1, keep_all=True, out=tmp_path / "mnist.findings.h5")
    example = _block("docs/findings.md", "python", "hashlib")
    command = [sys.executable, "-c", example]
    out = subprocess.check_output(command, cwd=tmp_path, text=True)
    assert out == "21 objects as they were written\n"
    with h5py.File(tmp_path / "mnist.findings.h5", "r+") as file:
        file["flagged/margin"][3] += 1e-16
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("AssertionError: /flagged/margin\n")


def test_ascent_example_runs(run_audit: Run, tmp_path: Path) -> None:
    run_audit("data", "mnist", check=True)
    run_audit("scan", "mnist.h5", "--eps", "0.1", check=True)
    run_audit("ascend", "mnist.findings.h5", check=True)
    example = _block("docs/ascent.md", "python", "h5py.File")
    out = subprocess.check_output([sys.executable, "-c", example], cwd=tmp_path, text=True)
    assert out.startswith("12 of 12 reached their target\nsample 4860 became 4 in 12 steps")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_readme_lists_every_command(command: str) -> None:
    assert f"| `audit {command}" in (ROOT / "README.md").read_text()


def test_documents_link_to_files_that_exist() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_threat_model_names_modules_and_tests_that_exist() -> None:
    text = (ROOT / "docs/security.md").read_text()
    for path in re.findall(r"`((?:audit|tests)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name


def test_checksums_in_the_documents_are_those_of_the_code() -> None:
    from audit.mnist import FILES

    text = (ROOT / "datasets" / "README.md").read_text()
    for file in FILES.values():
        assert f"| `{file.name}` | `{file.sha256}` |" in text
