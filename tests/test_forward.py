"""The fast path: a sample's logits are its own, whatever is computed beside it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from audit.batch_size import SMALLEST
from audit.bundle import ONNX, Bundle
from audit.forward import Forward
from networks import NETWORKS

SAMPLES = 136


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_same_bits_in_every_batch(
    name: str, network_bundle: Callable[[str], Bundle]
) -> None:
    """The batch size is found while scanning, and two scans are to agree bit for bit."""
    model = network_bundle(name).read(ONNX)
    shape = NETWORKS[name][1]
    x = np.random.default_rng(0).standard_normal((SAMPLES, *shape)).astype(np.float32)
    alone = Forward(model, device="cpu", threads=1, source=name)
    expected = alone.logits(x)
    for size in (SMALLEST, 9, 15, 32, 100):
        starts = range(0, SAMPLES - SMALLEST, size)
        found = [alone.logits(x[i : i + size]) for i in starts if SAMPLES - i >= SMALLEST]
        np.testing.assert_array_equal(np.concatenate(found), expected[: sum(map(len, found))])
    shared = Forward(model, device="cpu", threads=2, source=name)
    np.testing.assert_array_equal(shared.logits(x), expected)


def test_one_session_for_all_threads(network_bundle: Callable[[str], Bundle]) -> None:
    forward = Forward(network_bundle("cnn").read(ONNX), device="cpu", threads=1, source="cnn")
    x = np.random.default_rng(0).standard_normal((400, 1, 28, 28)).astype(np.float32)
    expected = forward.logits(x)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: forward.logits(x[i : i + 10]), range(0, 400, 10)))
    np.testing.assert_array_equal(np.concatenate(parts), expected)
