"""What a user gets from pip: built from a copy of this tree, unpacked and run."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "*.h5", "*.partial"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    tree = tmp_path_factory.mktemp("tree") / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "out", tree],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return tree / "out"


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.parser.BytesParser().parsebytes(wheel.read(name))


def sources() -> set[str]:
    """Every file of the two import packages, as it should lie in the wheel."""
    return {
        str(path.relative_to(base))
        for base, package in ((ROOT, "audit"), (ROOT / "kernels", "audit_kernels"))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert {name.partition("/")[0] for name in names} == {"audit", "audit_kernels"}
    assert names >= {
        "audit/py.typed",
        "audit_kernels/py.typed",
        "audit/cli/__init__.py",
        "audit/shipped/mnist/manifest.json",
        "audit/shipped/mnist/model.onnx",
        "audit/shipped/mnist/model.ts",
        "audit/shipped/mnist-data/t10k-images-idx3-ubyte.gz",
        "audit/shipped/mnist-data/LICENSE",
    }


def test_size(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.compress_size for entry in wheel.infolist()) < 4 * 2**20


def test_metadata(metadata: email.message.Message, wheel: zipfile.ZipFile) -> None:
    assert metadata["Name"] == "near-tie-audit"
    requires = metadata.get_all("Requires-Dist") or []
    by_extra = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}
    for extra, distribution in by_extra.items():
        assert extra in (metadata.get_all("Provides-Extra") or [])
        (requirement,) = [each for each in requires if f'extra == "{extra}"' in each]
        assert requirement.startswith(f"{distribution}>=")
    assert not any(each.startswith("onnxruntime") and "extra" not in each for each in requires)
    assert "LICENSE" in (metadata.get_all("License-File") or [])
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(name).decode())
    assert dict(entry_points["console_scripts"]) == {"audit": "audit.cli:main"}
    assert dict(entry_points["pytest11"]) == {"near_ties": "audit.pytest_plugin"}


def test_extras_are_declared_as_conflicting() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert document["tool"]["uv"]["conflicts"] == [[{"extra": "cpu"}, {"extra": "gpu"}]]


def test_sdist_holds_the_sources(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kernels = {f"kernels/{name}" for name in sources() if name.startswith("audit_kernels/")}
    package = {name for name in sources() if name.startswith("audit/")}
    assert names >= package | kernels | {"pyproject.toml", "README.md", "LICENSE"}


def test_unpacked_wheel_runs(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """With the files of the wheel, and not those of this tree."""
    wheel.extractall(tmp_path / "site")

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert f"{tmp_path}/site/audit/__init__.py" in run("-c", "import audit; print(audit.__file__)")
    run("-m", "audit", "data", "mnist")
    assert "scanned   50 samples" in run(
        "-m", "audit", "scan", "mnist.h5", "--eps", "1", "--limit", "50"
    )
    assert "PASS: " in run("-m", "audit", "check", "mnist.findings.h5", "--gate", "complete=false")
    run("-m", "audit", "report", "mnist.findings.h5", "-o", "report.html")
    assert "uPlot" in (tmp_path / "report.html").read_text(encoding="utf-8")
