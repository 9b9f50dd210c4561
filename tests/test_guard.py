"""Promise 1: one answer, whatever the fast pass gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import audit
from audit.bundle import ONNX, Bundle
from audit.guard import FLOOR, SAFETY, Guard
from oracles import all_logits, arrays, art_network, with_onnx, write_dataset

EPS = 0.1


def _disturbed(bundle: Bundle, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> bytes:
    model = onnx.load_from_string(bundle.read(ONNX))
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype == np.float32:
            changed = change(initializer.name, values).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(changed, initializer.name))
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> tuple[Bundle, Path]:
    """The dense case, and its honest findings."""
    folder = tmp_path_factory.mktemp("art")
    bundle = audit.export(
        art_network(), folder / "art", input_shape=(1, 28, 28), raw_dtype="uint8",
        parity_data=mnist_h5,
    )  # fmt: skip
    audit.scan(mnist_h5, model=bundle.path, eps=EPS, out=folder / "honest.h5")
    return bundle, folder / "honest.h5"


def _scan(bundle: Bundle, data: Path, tmp_path: Path, **options: Any) -> audit.Findings:
    return audit.scan(data, model=bundle.path, eps=EPS, out=tmp_path / "findings.h5", **options)


def _assert_same_answer(found: Path, honest: Path) -> None:
    got, expected = arrays(found), arrays(honest)
    for name in expected:
        if name.startswith("summary/margin"):
            continue  # of the fast pass, by definition
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_noise_below_the_guard_changes_nothing(
    art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path
) -> None:
    bundle, honest = art
    rng = np.random.default_rng(0)
    size = bundle.guard.value / 400
    noisy = with_onnx(
        bundle,
        tmp_path / "noisy",
        _disturbed(bundle, lambda _, w: w + rng.uniform(-size, size, w.shape)),
    )
    found = _scan(noisy, mnist_h5, tmp_path)
    honest_disagreement = audit.load_findings(honest).engine["max_disagreement"]
    assert honest_disagreement < found.engine["max_disagreement"] <= bundle.guard.value
    assert found.engine["rescans"] == 0
    _assert_same_answer(found.path, honest)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rng: lambda _, w: w + rng.normal(0, 1e-3, w.shape), id="noise"),
        # Every margin tripled: most near ties look decided, and only the random check can tell.
        pytest.param(
            lambda rng: lambda _, w: 3 * w if w.shape in {(10, 25), (10,)} else w, id="x3"
        ),
        pytest.param(lambda rng: lambda _, w: -w if w.shape == (10, 25) else w, id="other model"),
    ],
)
def test_a_broken_guard_is_widened_and_the_answer_stays(
    change: Any, art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path
) -> None:
    bundle, honest = art
    data = _disturbed(bundle, change(np.random.default_rng(0)))
    found = _scan(with_onnx(bundle, tmp_path / "wrong", data), mnist_h5, tmp_path)
    assert found.engine["rescans"] >= 1
    assert found.engine["guard"] > bundle.guard.value
    assert found.engine["max_disagreement"] <= found.engine["guard"]
    _assert_same_answer(found.path, honest)


@pytest.mark.parametrize("min_logit", [0.3, 1.0])
def test_min_logit_is_decided_in_float64(
    min_logit: float, art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path
) -> None:
    bundle, honest = art
    everyone = audit.load_findings(honest)
    rng = np.random.default_rng(0)
    noisy = with_onnx(
        bundle,
        tmp_path / "noisy",
        _disturbed(bundle, lambda _, w: w + rng.normal(0, 1e-3, w.shape)),
    )
    found = _scan(noisy, mnist_h5, tmp_path, min_logit=min_logit)
    expected = everyone.index[everyone.logits[:, 0] > min_logit]
    assert 0 < len(expected) < everyone.flagged
    np.testing.assert_array_equal(found.index, expected)


def test_the_guard_grows_with_the_logits(tmp_path: Path) -> None:
    """Near ties among logits a million times those of the proof, where float32 loses some."""
    torch.manual_seed(0)
    features, classes = 16, 4
    model = nn.Linear(features, classes)
    bundle = audit.export(model, tmp_path / "linear", input_shape=(features,))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, features)).astype(np.float32)
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    planted = rng.choice(len(x), 300, replace=False)
    for row in planted:
        huge = x[row].astype(np.float64) * 1e6
        for _ in range(3):
            order = np.argsort(-(weight @ huge + bias))[:2]
            difference = weight[order[0]] - weight[order[1]]
            gap = difference @ huge + bias[order[0]] - bias[order[1]]
            huge -= (gap - 0.05) * difference / (difference @ difference)
        x[row] = huge
    logits = all_logits(model.double(), x)
    ordered = np.sort(logits, axis=1)
    expected = np.flatnonzero(ordered[:, -1] - ordered[:, -2] < EPS)
    fast = np.sort((x @ weight.T.astype(np.float32) + bias.astype(np.float32)), axis=1)
    missed = ~(fast[expected, -1] - fast[expected, -2] < EPS + bundle.guard.value)
    assert missed.any(), "float32 alone must lose some, or this shows nothing"
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=EPS, out=tmp_path / "findings.h5")
    np.testing.assert_array_equal(found.index, expected)


def test_guard_follows_from_the_disagreement() -> None:
    guard = Guard.from_disagreement(1e-4, logit_scale=5.0)
    assert guard.value == SAFETY * 1e-4
    assert Guard.from_disagreement(0.0, 100.0).value == FLOOR * 100
    assert guard.widened(1.0).value == SAFETY
    logits = np.array([[1, 2], [-50, 3], [np.nan, 1], [np.inf, 0]], dtype=np.float32)
    np.testing.assert_allclose(guard.of(logits) / guard.value, [1, 10, 1, 1])
    assert guard.of(logits[:1]) == guard.value


def test_disagreement_is_that_of_margins_and_largest_logits() -> None:
    guard = Guard(1e-4, 10.0)
    fast = np.array([[1, 2, 0], [0, 20, 0], [np.nan, 0, 1]], dtype=np.float32)
    canonical = np.array([[1.5, 2, 0], [0, 21, 0], [0, 0, 1]], dtype=np.float64)
    np.testing.assert_allclose(guard.disagreement(fast, canonical), [0.5, 0.5, 0.0])


def test_random_check_is_counted_with_its_bound(art: tuple[Bundle, Path]) -> None:
    engine = audit.load_findings(art[1]).engine
    assert 200 <= engine["checked"] <= 256
    assert engine["miss_rate_bound"] == 3 / engine["checked"]
