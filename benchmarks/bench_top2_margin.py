"""`top2_margin` against torch.topk, by shape; every contestant's margins are compared first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

import audit_kernels

SHAPES = [(70_000, 10), (8192, 100), (8192, 1000)]


def _topk(logits: NDArray[np.float32]) -> NDArray[Any]:
    values = torch.from_numpy(logits).topk(2).values
    return (values[:, 0] - values[:, 1]).numpy()


def _kernel(name: str, classes: bool) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    return lambda logits: audit_kernels.get(name)(logits, classes=classes).margin


CONTESTANTS = {
    "torch.topk": _topk,
    "reference": _kernel("reference", classes=True),
    "cpu": _kernel("cpu", classes=False),
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("name", CONTESTANTS)
def test_top2_margin(benchmark: BenchmarkFixture, name: str, shape: tuple[int, int]) -> None:
    benchmark.group = f"top2_margin {shape}"
    logits = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    margin = benchmark(CONTESTANTS[name], logits)
    np.testing.assert_array_equal(margin, _topk(logits))
