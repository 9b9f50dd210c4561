"""`top2_margin` against torch.topk, by shape; every result is compared with the reference's.

All get the threads that torch takes. On a GPU, time runs until the device has finished.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

import audit_kernels

PEER = "torch.topk"
GOALS = {(70_000, 10): 6.0, (8192, 1000): 5.0, (512, 50_257): 7.0}
BATCHES = 8

every_shape = pytest.mark.parametrize("shape", GOALS, ids="{0[0]}x{0[1]}".format)


class Work(NamedTuple):
    logits: NDArray[np.float32]
    margin: NDArray[np.float32]


@cache
def work(shape: tuple[int, int]) -> Work:
    logits = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    margin = audit_kernels.get("reference")(logits, classes=False).margin
    return Work(logits, margin.astype(np.float32, copy=False))


def topk(logits: torch.Tensor) -> torch.Tensor:
    values = logits.topk(2).values
    return values[:, 0] - values[:, 1]


def on_arrays(name: str) -> Callable[[NDArray[np.float32]], Any]:
    if name == PEER:
        return lambda logits: topk(torch.from_numpy(logits)).numpy()
    if name == "torch":
        tensors = audit_kernels.get("torch")
        return lambda logits: tensors(torch.from_numpy(logits), classes=False).margin.numpy()
    arrays: Any = audit_kernels.get(name)
    threads = torch.get_num_threads()
    return lambda logits: arrays(logits, classes=False, threads=threads).margin


def on_the_gpu(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    kernel: Any = None if name == PEER else audit_kernels.get(name)

    def run(logits: torch.Tensor) -> torch.Tensor:
        margin = kernel(logits, classes=False).margin if kernel else topk(logits)
        torch.cuda.synchronize()
        assert isinstance(margin, torch.Tensor)
        return margin

    return run


def describe(benchmark: BenchmarkFixture, group: str, contestant: str, peer: str) -> None:
    benchmark.group = group
    benchmark.extra_info["contestant"] = contestant
    benchmark.extra_info["peer"] = peer


@every_shape
@pytest.mark.parametrize("name", [PEER, "reference", "numpy", "cpu", "torch"])
def test_top2_margin(benchmark: BenchmarkFixture, name: str, shape: tuple[int, int]) -> None:
    describe(benchmark, f"top2_margin {shape}", name, PEER)
    if name == "cpu":
        benchmark.extra_info["goal"] = GOALS[shape]
    logits, expected = work(shape)
    function = on_arrays(name)
    function(logits)  # compiles
    np.testing.assert_array_equal(benchmark(function, logits), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda device")
@every_shape
@pytest.mark.parametrize("name", [PEER, "torch", "triton"])
def test_top2_margin_on_a_gpu(
    benchmark: BenchmarkFixture, name: str, shape: tuple[int, int]
) -> None:
    describe(benchmark, f"top2_margin {shape} on a GPU", name, PEER)
    logits, expected = work(shape)
    function, tensor = on_the_gpu(name), torch.from_numpy(logits).cuda()
    function(tensor)  # compiles
    np.testing.assert_array_equal(benchmark(function, tensor).cpu().numpy(), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_on_threads_of_their_own(benchmark: BenchmarkFixture, threads: int) -> None:
    """A thread that calls the kernel doesn't stop another one that does."""
    describe(benchmark, f"top2_margin of {BATCHES} batches", f"{threads} threads", "1 threads")
    logits, expected = work((70_000, 10))
    kernel = audit_kernels.get("cpu")
    kernel(logits, classes=False)  # compiles
    with ThreadPoolExecutor(threads) as pool:
        found = benchmark(
            lambda: list(pool.map(lambda batch: kernel(batch, classes=False), [logits] * BATCHES))
        )
    for top2 in found:
        np.testing.assert_array_equal(top2.margin, expected)
