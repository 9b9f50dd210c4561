"""What `audit scan` prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from audit.bundle import Bundle
from conftest import Run
from oracles import write_dataset
from processes import running

KEYS = {
    "dataset", "images", "labels", "bundle", "bundle_path", "eps", "min_logit", "scanned",
    "resumed", "flagged", "rate", "accuracy", "accuracy_flagged", "degenerate", "nonfinite",
    "closest", "guard", "rescans", "checked", "miss_rate_bound", "decided_by", "undecided",
    "seconds", "findings",
}  # fmt: skip


def test_summary_names_everything(run_audit: Run, mnist_h5: Path, tmp_path: Path) -> None:
    done = run_audit("scan", mnist_h5, "--eps", "0.1")
    assert done.returncode == 0
    assert done.stderr == ""
    for words in (
        "scanned   10,000 samples",
        "flagged   12 near ties at ε = 0.1 (0.120%)",
        "accuracy  99.52%",
        "closest ties",
        "distance L2",
        "findings  mnist.findings.h5",
    ):
        assert words in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["mnist.findings.h5"]


def test_json_is_the_same_and_nothing_else(run_audit: Run, mnist_h5: Path, tmp_path: Path) -> None:
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--json", "-o", "out.h5")
    assert done.stderr == ""
    summary = json.loads(done.stdout)
    assert summary.keys() == KEYS
    assert summary["scanned"] == 10_000
    assert summary["flagged"] == 12
    assert summary["rate"] == 12 / 10_000
    assert summary["accuracy"] == 0.9952
    with h5py.File(tmp_path / "out.h5") as file:
        flagged = file["flagged"]
        rows = flagged["margin"][:].argsort()[:5]
        for tie, row in zip(summary["closest"], rows, strict=True):
            assert tie["index"] == flagged["index"][row]
            assert tie["classes"] == flagged["classes"][row].tolist()
            assert tie["label"] == flagged["label"][row]
            assert tie["distance_l2"] == flagged["distance_l2"][row]


def test_quiet_prints_nothing(run_audit: Run, mnist_h5: Path, tmp_path: Path) -> None:
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--quiet", "--limit", "100")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "mnist.findings.h5").exists()


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_nonfinite_samples_warn_and_fail_only_if_strict(
    strict: tuple[str, ...],
    code: int,
    run_audit: Run,
    tmp_path: Path,
    network_bundle: Callable[[str], Bundle],
) -> None:
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    x[7] = np.nan
    data = write_dataset(tmp_path / "data.h5", x)
    done = run_audit(
        "scan", data, "--eps", "0.1", "--model", network_bundle("tabular").path, *strict
    )
    assert done.returncode == code
    assert "warning   1 sample with NaN or infinite logits" in done.stdout
    with h5py.File(tmp_path / "data.findings.h5") as file:
        assert file["nonfinite/index"][:].tolist() == [7]


def test_no_gradients_leaves_distances_open(run_audit: Run, mnist_h5: Path) -> None:
    done = run_audit("scan", mnist_h5, "--eps", "0.1", "--no-gradients", "--json")
    summary = json.loads(done.stdout)
    assert summary["flagged"] == 12
    assert summary["degenerate"] is None
    assert summary["closest"][0]["distance_l2"] is None


def test_a_terminal_sees_a_progress_bar(mnist_h5: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "audit", "scan", str(mnist_h5), "--eps", "0.1"]
    subprocess.run(command, cwd=tmp_path, stdout=slave, stderr=slave, check=True, timeout=120)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # how a terminal without a writer ends
            break
        if not part:
            break
        shown += part
    text = shown.decode()
    assert "scanning" in text
    assert "100%" in text
    assert text.index("100%") < text.index("scanned   10,000")


def test_interrupt_ends_in_one_line(mnist_h5: Path, tmp_path: Path) -> None:
    """Sent once the temporary file is there, so in the middle of the scan."""
    with h5py.File(mnist_h5) as file:
        images = np.tile(file["images"][:], (10, 1, 1))
    data = write_dataset(tmp_path / "data.h5", images)
    command = [sys.executable, "-m", "audit", "scan", str(data), "--eps", "0.1", "--model", "mnist",
               "--batch-size", "1"]  # fmt: skip
    with running(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(tmp_path.glob("data.findings.h5.partial/.data.findings.h5*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "Interrupted.\n"
    assert [each.name for each in tmp_path.iterdir()] == ["data.h5"]


STARTS = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            exec("os.kill(os.getpid(), signal.SIGINT)")  # as in the making of a dataclass

sys.meta_path.insert(0, Interrupt())
from audit.cli import main
sys.argv[:2] = ["audit"]
main()
"""


@pytest.mark.parametrize(
    "during", ["click", "audit.cli.scan", "numpy", "h5py", "torch", "torch.jit", "onnxruntime"]
)
def test_interrupt_while_modules_are_imported(during: str, mnist_h5: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS.replace("sys.argv[1]", repr(during)), "-"]
    arguments = ["scan", str(mnist_h5), "--eps", "0.1", "--model", "mnist"]
    done = subprocess.run(
        [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []
