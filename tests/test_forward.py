"""The fast path: a sample's logits are its own, whatever is computed beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import audit
from audit.batch_size import SIZES
from audit.bundle import ONNX, Bundle
from audit.forward import Forward
from conftest import Run
from networks import NETWORKS

SAMPLES = 277  # as the rows of a block, no multiple of anything


def _assert_same_bits(model: bytes, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((SAMPLES, *shape)).astype(np.float32)
    forward = Forward(model, device="cpu", threads=1, source="test")
    expected = forward.logits(x)
    assert SIZES[0] == 16
    for size in (16, 48, 64, 256):
        starts = range(0, SAMPLES, size)
        found = np.concatenate([forward.logits(x[i : i + size]) for i in starts])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_same_bits_in_every_batch(
    name: str, network_bundle: Callable[[str], Bundle]
) -> None:
    """The batch size is found while scanning, and two scans are to agree bit for bit."""
    _assert_same_bits(network_bundle(name).read(ONNX), NETWORKS[name][1])


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ELU, nn.Softplus, nn.Mish, nn.GELU, nn.Tanh])
def test_same_bits_of_odd_widths(activation: type[nn.Module], tmp_path: Path) -> None:
    """A vector of results may reach over the end of one sample and into the next."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 33), activation(), nn.Linear(33, 7))
    bundle = audit.export(model.eval(), tmp_path / "odd", input_shape=(13,))
    _assert_same_bits(bundle.read(ONNX), (13,))


def test_one_session_for_all_threads(network_bundle: Callable[[str], Bundle]) -> None:
    forward = Forward(network_bundle("cnn").read(ONNX), device="cpu", threads=1, source="cnn")
    x = np.random.default_rng(0).standard_normal((400, 1, 28, 28)).astype(np.float32)
    expected = forward.logits(x)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: forward.logits(x[i : i + 10]), range(0, 400, 10)))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_onnx_runtime_reports_to_nobody(mnist_h5: Path, tmp_path: Path, run_audit: Run) -> None:
    """What it means to send is in the user's cache first, unless it takes this for a test."""
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    scan = ("scan", mnist_h5, "--eps", "0.1", "--model", "mnist", "--limit", "64")
    run_audit(*scan, check=True, env=env | {"HOME": str(home)})
    assert list(home.rglob("*")) == []
