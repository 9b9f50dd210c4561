"""Fixtures that many test modules share."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import audit
from audit.bundle import Bundle, load_bundle
from networks import seeded

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# What tests export is trusted in a store of their own, also by the processes that they start.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="audit-trust-")
os.environ.pop("AUDIT_TRUST_KEY", None)
# A shell has its jobs in the background ignore it, and what they start, which tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["XDG_DATA_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _interrupts_as_they_were() -> Iterator[None]:
    """`main()`, called in this process, ends by ignoring signals, and children inherit that."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)


@pytest.fixture
def run_audit(tmp_path: Path) -> Run:
    """`audit ARGS…` as a user runs it: another process, in an empty directory."""

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "audit", *map(str, args)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
        options |= {"check": False, **kwargs}
        return subprocess.run(command, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """The same in this process, through `main`: imports are what takes long."""
    from audit.cli import main

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return subprocess.CompletedProcess(
            sys.argv, int(ended.value.code or 0), captured.out, captured.err
        )

    return run


@pytest.fixture(scope="session")
def mnist_bundle() -> Bundle:
    """The bundle that ships."""
    return load_bundle("mnist")


@pytest.fixture(scope="session")
def mnist_h5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that ships, 10,000 images. Read only."""
    from audit.mnist import write_mnist

    path = tmp_path_factory.mktemp("data") / "mnist.h5"
    write_mnist(path)
    return path


@pytest.fixture(scope="session")
def network_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle of `networks.seeded(name)`, raw float32, exported once a session. Read only."""
    from networks import NETWORKS

    made: dict[str, Bundle] = {}

    def bundle(name: str) -> Bundle:
        if name not in made:
            out = tmp_path_factory.mktemp("bundles") / name
            shape = NETWORKS[name][1]
            layout = {3: "CHW", 2: "CL", 1: "F"}[len(shape)]
            made[name] = audit.export(
                seeded(name), out, input_shape=shape, raw_layout=layout, pt2=True
            )
        return made[name]

    return bundle
