"""Whole commands as a shell runs them, against Python importing the same packages and no more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

import audit
from audit.mnist import write_mnist
from benchmarks.contest import Claim, Contest

AUDIT = Path(sys.executable).with_name("audit")
FLAGGED = "flagged   12 near ties"


class Command(NamedTuple):
    """A command line, the packages that it can't do without, and what it prints."""

    arguments: tuple[str, ...]
    packages: str
    prints: str


COMMANDS = (
    Command(("scan", "mnist.h5", "--eps", "0.1"), "torch, onnxruntime, h5py", FLAGGED),
    Command(("--help",), "click", "Usage: audit"),
    Command(("info", "mnist.h5"), "click, h5py", "dataset"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the shipped dataset in it."""
    folder = tmp_path_factory.mktemp("startup")
    write_mnist(folder / "mnist.h5")
    return folder


def process(folder: Path, *command: str | Path) -> Callable[[], str]:
    """Runs it to its end, and gives what it printed."""
    return partial(subprocess.check_output, command, cwd=folder, text=True)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.arguments[0].strip("-"))
def test_startup(contest: Contest, folder: Path, command: Command) -> None:
    imports = f"import {command.packages}"
    claim = Claim(
        work=f"audit {' '.join(command.arguments)}",
        against=f"python -c '{imports}'",
        at_most=1.5,
    )

    def check(ours: str, peer: str) -> None:
        assert command.prints in ours
        assert peer == ""
        if command.arguments[0] == "scan":
            assert audit.load_findings(folder / "mnist.findings.h5").flagged == 12

    contest.run(
        claim,
        process(folder, AUDIT, *command.arguments),
        process(folder, sys.executable, "-c", imports),
        check,
    )
