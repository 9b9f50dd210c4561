"""The whole audit of the shipped 10,000 images against a competent torch pipeline.

The peer reads contiguous batches, runs the eager float32 model, and computes batched gradients of
the flagged samples; it decides in float32 and writes nothing.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

import audit
from audit.bundle import PT2, Bundle
from audit.mnist import write_mnist
from train_mnist import MEAN, STD, SmallCNN

EPS = 0.1
BATCH = 1024


class Flagged(NamedTuple):
    rows: NDArray[np.int64]
    gradient: NDArray[np.float32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "mnist.h5"
    write_mnist(path)
    return path


def _eager(bundle: Bundle) -> nn.Module:
    program = torch.export.load(io.BytesIO(bundle.read(PT2)))
    model = SmallCNN()
    prefix = "network."
    model.load_state_dict(
        {k.removeprefix(prefix): v for k, v in program.state_dict.items() if k.startswith(prefix)}
    )
    return model.eval().requires_grad_(False)


def _torch_pipeline(model: nn.Module, path: Path) -> Flagged:
    index, gradients = [], []
    with h5py.File(path) as file:
        images = file["images"]
        for start in range(0, len(images), BATCH):
            x = torch.from_numpy(images[start : start + BATCH]).unsqueeze(1).float() / 255
            with torch.no_grad():
                top2 = model((x - MEAN) / STD).topk(2)
            rows = torch.nonzero(top2.values[:, 0] - top2.values[:, 1] < EPS)[:, 0]
            if len(rows):
                inputs = x[rows].requires_grad_()
                logits = model((inputs - MEAN) / STD).gather(1, top2.indices[rows])
                a, b = logits.sum(0)
                (of_a,) = torch.autograd.grad(a, inputs, retain_graph=True)
                (of_b,) = torch.autograd.grad(b, inputs)
                index.append(rows.numpy() + start)
                gradients.append(torch.stack([of_a, of_b], 1).numpy())
    return Flagged(np.concatenate(index), np.concatenate(gradients))


@pytest.mark.parametrize("contestant", ["torch", "audit"])
def test_scan(
    benchmark: BenchmarkFixture,
    contestant: str,
    data: Path,
    tmp_path: Path,
    mnist_bundle: Bundle,
) -> None:
    benchmark.group = "whole audit, 10,000 MNIST images, shipped CNN"
    model = _eager(mnist_bundle)
    expected = _torch_pipeline(model, data)
    if contestant == "torch":
        flagged = benchmark(_torch_pipeline, model, data)
        np.testing.assert_array_equal(flagged.rows, expected.rows)
        return
    found = benchmark(audit.scan, data, eps=EPS, out=tmp_path / "findings.h5")
    np.testing.assert_array_equal(found.index, expected.rows)
    np.testing.assert_allclose(found.gradient, expected.gradient, atol=1e-4)
