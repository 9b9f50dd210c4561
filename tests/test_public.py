"""What is public: names, commands, options; and that asking for them is cheap."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import audit
from audit.cli import cli
from conftest import Run

HEAVY = {"torch", "onnx", "onnxruntime", "h5py", "numpy", "onnxscript", "safetensors", "matplotlib"}
COMMANDS = {
    "ascend",
    "check",
    "config",
    "data",
    "diff",
    "export",
    "figure",
    "history",
    "info",
    "log",
    "report",
    "scan",
    "trust",
    "verify",
    "view",
}
SCAN = (
    "--eps --model --min-logit --batch-size --threads --device --precision --keep-all "
    "--no-gradients --limit --images --labels --strict --json --quiet -o --out"
)
EXPORT = (
    "--weights --input-shape --raw-dtype --raw-layout --scale --offset --mean --std --classes "
    "--parity-data --pt2 -o"
)


def test_exported_names() -> None:
    exported = {
        name
        for name, value in vars(audit).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    verbs = {name for name in exported if name.islower()}
    assert verbs == {
        "ascend",
        "check",
        "diff",
        "export",
        "figure",
        "history",
        "load_ascents",
        "load_findings",
        "log",
        "report",
        "scan",
        "verify",
        "view",
    }
    assert exported - verbs == {
        "Ascents",
        "AuditError",
        "CheckResult",
        "Diff",
        "Findings",
        "GateResult",
        "History",
        "Verification",
        "Verified",
    }
    assert all(callable(getattr(audit, name)) for name in exported)


def heavy_imports(*args: str) -> set[str]:
    """Heavy packages that `python ARGS…` imports, as the interpreter itself tells."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args], capture_output=True, text=True, check=True
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "encodings" in modules
    return {module.partition(".")[0] for module in modules} & HEAVY


@pytest.mark.parametrize(
    "args",
    [
        ("-c", "import audit"),
        ("-m", "audit", "--help"),
        ("-m", "audit", "--version"),
        *[("-m", "audit", command, "--help") for command in sorted(COMMANDS)],
    ],
    ids=" ".join,
)
def test_is_light(args: tuple[str, ...]) -> None:
    assert heavy_imports(*args) == set()


def test_that_test_can_fail() -> None:
    assert heavy_imports("-c", "import audit.dataset") >= {"h5py", "numpy"}
    assert "torch" in heavy_imports("-c", "import audit, audit.gradients")


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[" ".join((*path, name))] = command
        if isinstance(command, click.Group):
            found |= commands(command, (*path, name))
    return found


def test_commands() -> None:
    assert {name for name in commands() if " " not in name} == COMMANDS
    assert "data mnist" in commands()


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name: str, run_audit: Run) -> None:
    command = commands()[name]
    assert command.help
    for flag in ("--help", "-h"):
        done = run_audit(*name.split(), flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert command.help.split("\n")[0][:40] in done.stdout
        for parameter in command.params:
            assert all(option in done.stdout for option in parameter.opts if "-" in option)


@pytest.mark.parametrize(("name", "fixed"), [("scan", SCAN), ("export", EXPORT)])
def test_fixed_options(name: str, fixed: str) -> None:
    options = {option for each in commands()[name].params for option in each.opts}
    assert set(fixed.split()) - options == set()


@pytest.mark.parametrize("program", ["module", "script"])
def test_version(program: str, run_audit: Run) -> None:
    expected = f"audit, version {importlib.metadata.version('near-tie-audit')}\n"
    if program == "module":
        done = run_audit("--version")
    else:
        script = Path(sys.executable).with_name("audit")
        done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_without_a_command_it_shows_help(run_audit: Run) -> None:
    done = run_audit()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr
    assert "Traceback" not in done.stderr
