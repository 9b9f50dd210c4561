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
import audit_kernels
from audit.bundle import ONNX, Bundle
from audit.guard import FLOOR, INCOMPARABLE, SAFETY, Guard
from oracles import all_logits, arrays, art_network, expected_near_ties, with_onnx, write_dataset

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
    size = bundle.guard.value / 10_000  # the folded weights meet raw values up to 255
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


def _top2(logits: NDArray[np.float32]) -> audit_kernels.Top2:
    return audit_kernels.get("reference")(logits, classes=False)


def test_guard_follows_from_the_disagreement() -> None:
    exact = np.array([[5.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    fast = exact.astype(np.float32) + np.array([[0, 0, 0.5], [0, 0, 0]], np.float32)
    assert Guard.measured(fast, exact) == Guard(SAFETY * 0.5, 5.0)
    assert Guard.measured(exact.astype(np.float32), exact) == Guard(FLOOR * 5.0, 5.0)
    guard = Guard(1e-4, 5.0)
    assert guard.widened(1.0).value == SAFETY
    logits = np.array([[1, 2, 0], [-1e9, 3, 50], [np.nan, 1, 0], [np.inf, 0, 0]], np.float32)
    np.testing.assert_allclose(guard.of(_top2(logits)) / 1e-4, [1, 10, 1, 1])
    assert guard.of(_top2(logits[:1])) == guard.value


@pytest.mark.parametrize(
    ("fast", "canonical", "expected"),
    [
        pytest.param([1, 2, 0], [1.5, 2, 0], 0.5, id="margin"),
        pytest.param([1, 2, 0], [1, 2, -0.25], 0.25, id="a class outside the top-2"),
        pytest.param([2, 3, 0], [1, 2, 0], 1.0, id="another class than the top-2"),
        pytest.param([2, 3, 0], [1, 2, -1], 0.0, id="all by as much"),
        pytest.param([3, 1, 0], [0, 1, -3], 3.0, id="another class is the largest"),
        pytest.param([0, 20, 0], [0, 21, 0], 0.5, id="twice the scale"),
        pytest.param([0, 1, -1e9], [0, 1, -1e9 - 64], 6.4e-8, id="a masked class"),
        pytest.param([np.nan, 0, 1], [0, 0, 1], 0.0, id="proposed anyhow"),
        pytest.param([0, 0, 1], [np.inf, 0, 1], INCOMPARABLE, id="canonical not finite"),
    ],
)
def test_disagreement(fast: list[float], canonical: list[float], expected: float) -> None:
    guard = Guard(1e-4, 10.0)
    got = guard.disagreement(np.array([fast], np.float32), np.array([canonical]))
    np.testing.assert_allclose(got, [expected], rtol=1e-6)


def test_a_masked_class_leaves_the_answer_alone(tmp_path: Path) -> None:
    """The usual -1e9 of a class that must not be predicted; rounding is relative to the others."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 5)
            self.register_buffer("mask", torch.tensor([0.0, 0.0, -1e9, 0.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(x) + self.mask
            return logits

    torch.manual_seed(0)
    model = Masked()
    x = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32)
    bundle = audit.export(model, tmp_path / "masked", input_shape=(8,))
    assert bundle.guard.value < 1e-3
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=0.01, out=tmp_path / "findings.h5")
    expected = expected_near_ties(model.double(), x, 0.01)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.margin, expected.margin, rtol=0, atol=1e-12)


def test_an_error_outside_the_top_2_is_seen(tmp_path: Path) -> None:
    """ONNX lowers a class that ties in a few samples, far from every sample that is checked."""
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    with torch.no_grad():
        assert model.bias is not None
        model.bias[2] = -20.0
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 8)).astype(np.float32)
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    tied = np.arange(15_000, 15_010)
    for row in tied:  # moved until class 2 ties with the better of the others
        z = weight @ x[row] + bias
        best = int(z[:2].argmax())
        difference = weight[best] - weight[2]
        x[row] -= ((z[best] - z[2] - 0.05) * difference / (difference @ difference)).astype("f4")
    bundle = audit.export(model, tmp_path / "linear", input_shape=(8,))
    lowered = _disturbed(bundle, lambda _, w: w - [0, 0, 3] if w.shape == (3,) else w)
    wrong = with_onnx(bundle, tmp_path / "wrong", lowered)
    data = write_dataset(tmp_path / "data.h5", x)
    expected = expected_near_ties(model.double(), x, EPS)
    assert np.isin(tied, expected.index).any()
    found = audit.scan(data, model=wrong.path, eps=EPS, out=tmp_path / "findings.h5")
    assert found.engine["rescans"] == 1
    np.testing.assert_array_equal(found.index, expected.index)


def test_random_check_is_counted_with_its_bound(art: tuple[Bundle, Path]) -> None:
    engine = audit.load_findings(art[1]).engine
    assert 200 <= engine["checked"] <= 256
    assert engine["miss_rate_bound"] == 3 / engine["checked"]
