"""Completion, in the shells themselves: each sits at a terminal and is typed to.

What was completed shows in what the finished line does, not in what the screen looks like.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from audit.cli import cli
from audit.cli.completion import PathType
from test_public import HEAVY, commands

SHELLS = {"bash": ("bash", "--norc", "-i"), "zsh": ("zsh", "-f", "-i"), "fish": ("fish", "-i")}
DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"
PROGRAM = Path(sys.executable).with_name("audit")


def environment(home: Path) -> dict[str, str]:
    """Of a terminal that shows nothing, and a user who has set nothing."""
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}


def typed(command: tuple[str, ...], lines: Sequence[str], folder: Path, seconds: float = 60) -> str:
    """What a program at a terminal shows while these lines are typed, until it ends."""
    # Without it, fish would first read every manual page of the machine.
    (folder / ".local/share/fish/generated_completions").mkdir(parents=True)
    child, terminal = pty.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.execvpe(command[0], command, environment(folder))
        finally:
            os._exit(127)
    shown = b""
    end = time.monotonic() + seconds
    try:
        for line in lines:
            os.write(terminal, f"{line}\n".encode())
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                part = os.read(terminal, 65536)
                if not part:
                    break
                shown += part
    except OSError:  # how a terminal without a program ends
        pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    return shown.decode(errors="replace")


def documented(shell: str) -> list[str]:
    """The lines that the document has for this shell."""
    (block,) = re.findall(rf"```{shell}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block).splitlines()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} isn't installed")
    return name


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("audit inf\t --help", "Say what a dataset"),
        ("audit scan --hel\t", "Find the near ties of a dataset"),
        ("audit data mn\t --help", "10,000-image test split"),
        ("audit info da\t", "data.h5: not an HDF5 file"),
        ("audit info 'my\t", "my file.h5: not an HDF5 file"),
        ("audit info bun\tman\t", "manifest.json: not an HDF5 file"),
        ("audit scan data.h5 --eps 1 --device tens\t --model mn\t", "data.h5: not an HDF5"),
        ("audit scan data.h5 --eps 1 --model bun\t", "data.h5: not an HDF5"),
        ("audit scan data.h5 --eps 1 --device x\t", "'x' is not one of 'cpu', 'cuda'"),
    ],
)
def test_a_line_is_completed(shell: str, line: str, words: str, tmp_path: Path) -> None:
    for name in ("data.h5", "my file.h5"):
        (tmp_path / name).write_text("text")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "manifest.json").write_text("text")
    shown = typed(SHELLS[shell], (*documented(shell), f"{line} >out.txt 2>&1", "exit"), tmp_path)
    out = tmp_path / "out.txt"
    assert out.exists(), shown
    assert words in out.read_text(), shown


def test_without_completion_the_line_is_wrong(shell: str, tmp_path: Path) -> None:
    """So the test above can fail."""
    typed(SHELLS[shell], ("audit inf\t --help >out.txt 2>&1", "exit"), tmp_path)
    assert "No such command 'inf'" in (tmp_path / "out.txt").read_text()


def completions(
    words: Sequence[str], folder: Path, *flags: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """What bash is told that the last word may become."""
    asked: Mapping[str, str] = {
        "_AUDIT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    return subprocess.run(
        [sys.executable, *flags, PROGRAM],
        cwd=folder, env={**os.environ, **asked, **environ}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip


def test_every_command_is_offered(tmp_path: Path) -> None:
    offered = completions(["audit", ""], tmp_path).stdout.split()
    assert offered == [f"plain,{name}" for name in sorted(cli.commands)]


def test_a_broken_configuration_is_nothing_to_completion(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text("eps =")
    done = completions(["audit", "scan", "data.h5", "--dev"], tmp_path)
    assert (done.stdout, done.stderr) == ("plain,--device\n", "")


@pytest.mark.parametrize("words", [["audit", ""], ["audit", "scan", "--"], ["audit", "scan", "x",
                                   "--model", ""]])  # fmt: skip
def test_completion_is_light(words: list[str], tmp_path: Path) -> None:
    done = completions(words, tmp_path, "-X", "importtime")
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click.shell_completion" in modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()


@pytest.mark.parametrize("name", commands())
def test_every_path_is_completed(name: str) -> None:
    path = re.compile(r"\.h5|\.html|FILE|DIR|BUNDLE")
    paths = [each for each in commands()[name].params if path.search(each.metavar or "")]
    assert [each.name for each in paths if not isinstance(each.type, PathType)] == []
