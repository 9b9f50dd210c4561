"""`top2_margin` against torch.topk, by shape; every result is compared with the reference's.

All get the threads that torch takes. On a GPU, time runs until the device has finished.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import audit_kernels
from benchmarks.contest import Claim, Contest

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


def title(shape: tuple[int, int], name: str, where: str = "") -> str:
    return f"top-2 margins ({shape[0]:,}, {shape[1]:,}){where}, {name}"


def assert_both(expected: NDArray[np.float32], ours: Any, peer: Any) -> None:
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(peer, expected)


@every_shape
@pytest.mark.parametrize("name", ["reference", "numpy", "cpu", "torch"])
def test_top2_margin(contest: Contest, name: str, shape: tuple[int, int]) -> None:
    goal = GOALS[shape] if name == "cpu" else None
    logits, expected = work(shape)
    ours, peer = on_arrays(name), on_arrays(PEER)
    ours(logits)  # compiles
    claim = Claim(work=title(shape, name), against=PEER, goal=goal)
    contest.run(claim, partial(ours, logits), partial(peer, logits), partial(assert_both, expected))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda device")
@every_shape
@pytest.mark.parametrize("name", ["torch", "triton"])
def test_top2_margin_on_a_gpu(contest: Contest, name: str, shape: tuple[int, int]) -> None:
    logits, expected = work(shape)
    ours, peer, tensor = on_the_gpu(name), on_the_gpu(PEER), torch.from_numpy(logits).cuda()
    ours(tensor)  # compiles
    claim = Claim(work=title(shape, name, " on a GPU"), against=PEER)

    def check(own: torch.Tensor, theirs: torch.Tensor) -> None:
        assert_both(expected, own.cpu().numpy(), theirs.cpu().numpy())

    contest.run(claim, partial(ours, tensor), partial(peer, tensor), check)


def test_batches_on_threads_of_their_own(contest: Contest) -> None:
    """A thread that calls the kernel doesn't stop another one that does."""
    logits, expected = work((70_000, 10))
    kernel = audit_kernels.get("cpu")
    kernel(logits, classes=False)  # compiles
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:

        def margins(pool: ThreadPoolExecutor) -> list[Any]:
            tasks = [pool.submit(kernel, logits, classes=False) for _ in range(BATCHES)]
            return [task.result().margin for task in tasks]

        def check(ours: list[Any], peer: list[Any]) -> None:
            for both in zip(ours, peer, strict=True):
                assert_both(expected, *both)

        contest.run(
            Claim(work=f"top-2 margins of {BATCHES} batches, 2 threads", against="1 thread"),
            partial(margins, two),
            partial(margins, one),
            check,
        )
