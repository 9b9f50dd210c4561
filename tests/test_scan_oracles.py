"""The whole path, export → scan → HDF5, against answers that this project didn't compute."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import audit
from audit.bundle import PT2, Bundle
from networks import NETWORKS, linear, seeded
from oracles import (
    ART,
    all_logits,
    art_network,
    expected_near_ties,
    one_gradient,
    relative_errors,
    write_dataset,
)
from train_mnist import MEAN, STD, SmallCNN

EVERYTHING = 1e6  # an ε that flags every sample


def test_linear_model_in_closed_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = linear(12, 5)
    layer = model[1]  # type: ignore[index]
    weight = layer.weight.detach().double().numpy()
    bias = layer.bias.detach().double().numpy()
    x = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)
    bundle = audit.export(model, tmp_path / "linear", input_shape=(12,))
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=0.2, out=tmp_path / "findings.h5")

    logits = x.astype(np.float64) @ weight.T + bias
    order = np.argsort(-logits, axis=1)[:, :2]
    margin = np.take_along_axis(logits, order, 1) @ [1.0, -1.0]
    index = np.flatnonzero(margin < 0.2)
    assert 20 < len(index) < 200
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.classes, order[index])
    np.testing.assert_allclose(found.margin, margin[index], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.gradient, weight[order[index]].astype(np.float32))
    a, b = weight[order[index]].swapaxes(0, 1)
    l2, l1 = np.linalg.norm(a - b, axis=1), np.abs(a - b).sum(axis=1)
    np.testing.assert_allclose(found.distance_l2, margin[index] / l2, rtol=1e-10)
    np.testing.assert_allclose(found.distance_linf, margin[index] / l1, rtol=1e-10)


def test_distance_reaches_the_boundary_of_a_linear_model(tmp_path: Path) -> None:
    """A step of that length along the difference of the gradients ties the two logits."""
    torch.manual_seed(0)
    model = linear(12, 5)
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    bundle = audit.export(model, tmp_path / "linear", input_shape=(12,))
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=0.2, out=tmp_path / "findings.h5")
    for row in range(found.flagged):
        direction = (found.gradient[row, 1] - found.gradient[row, 0]).astype(np.float64)
        step = found.distance_l2[row] * direction / np.linalg.norm(direction)
        logits = all_logits(model.double(), (found.input[row] + step)[None])[0]
        a, b = found.classes[row]
        assert logits[a] == pytest.approx(logits[b], abs=1e-6)


@pytest.mark.parametrize("name", ["cnn", "resnet", "vit", "sequence", "tabular", "wide"])
def test_networks_against_float64_eager(
    name: str, network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle, model = network_bundle(name), seeded(name).double()
    x = np.random.default_rng(3).standard_normal((300, *NETWORKS[name][1])).astype(np.float32)
    margins = -np.diff(np.sort(all_logits(model, x), axis=1)[:, :-3:-1], axis=1)[:, 0]
    eps = float(np.quantile(margins, 0.1))
    expected = expected_near_ties(model, x, eps)
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=eps, out=tmp_path / "findings.h5")
    assert len(expected.index) >= 10
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.margin, expected.margin, rtol=0, atol=1e-12)
    assert relative_errors(found.gradient, expected.gradient).max() < 1e-6
    _check_finite_differences(model, found)


def _check_finite_differences(model: nn.Module, found: audit.Findings) -> None:
    """A few input elements of the first finding, central differences in float64."""
    x = found.input[0].astype(np.float64)
    step = 1e-5
    for element in np.random.default_rng(0).choice(x.size, 6, replace=False):
        delta = np.zeros(x.size)
        delta[element] = step
        moved = np.stack([x + delta.reshape(x.shape), x - delta.reshape(x.shape)])
        slope = np.subtract(*all_logits(model, moved)) / (2 * step)
        for side in (0, 1):
            got = found.gradient[0, side].reshape(-1)[element]
            assert got == pytest.approx(slope[found.classes[0, side]], rel=1e-4, abs=1e-6)


def test_shipped_bundle_against_float64_eager(
    mnist_bundle: Bundle, mnist_h5: Path, tmp_path: Path
) -> None:
    """All 10,000 images; the eager network gets its weights from another file than the scan."""
    program = torch.export.load(io.BytesIO(mnist_bundle.read(PT2)))
    weights = {
        name.removeprefix("network."): value
        for name, value in program.state_dict.items()
        if name.startswith("network.")
    }
    model = SmallCNN()
    model.load_state_dict(weights)
    found = audit.scan(mnist_h5, eps=0.1, keep_all=True, out=tmp_path / "findings.h5")
    network = _InInputSpace(model).double().eval()
    import h5py

    with h5py.File(mnist_h5) as file:
        x = file["images"][()][:, None] / 255
        labels = file["labels"][()]
    expected = expected_near_ties(network, x, 0.1)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_array_equal(found.label, labels[expected.index])
    # The oracle divides in float64, the input space is float32: 6e-8 of the pixels apart.
    np.testing.assert_allclose(found.margin, expected.margin, rtol=0, atol=2e-6)
    assert relative_errors(found.gradient, expected.gradient).max() < 1e-5
    right = expected.logits.argmax(axis=1) == labels
    assert found.correct == right.sum()
    assert found.accuracy == right.mean() >= 0.99
    assert found.margin_counts.sum() == found.scanned == 10_000
    ordered = np.sort(expected.logits, axis=1)
    np.testing.assert_allclose(found.scan_margin, ordered[:, -1] - ordered[:, -2], atol=2e-5)


class _InInputSpace(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((x - MEAN) / STD)
        return logits


@pytest.fixture(scope="module")
def art_expected() -> dict[str, list[float]]:
    expected: dict[str, list[float]] = json.loads((ART / "expected.json").read_text())
    return expected


def _scan_art(model: nn.Module, data: Path, tmp_path: Path, eps: float) -> audit.Findings:
    bundle = audit.export(model, tmp_path / "art", input_shape=(1, 28, 28), raw_dtype="uint8")
    return audit.scan(data, model=bundle.path, eps=eps, limit=100, out=tmp_path / "findings.h5")


def test_peer_logits(art_expected: dict[str, list[float]], mnist_h5: Path, tmp_path: Path) -> None:
    found = _scan_art(art_network(), mnist_h5, tmp_path, EVERYTHING)
    logits = np.array(art_expected["predict_first"])
    top2 = np.argsort(-logits)[:2]
    np.testing.assert_array_equal(found.index, np.arange(100))
    np.testing.assert_array_equal(found.classes[0], top2)
    np.testing.assert_allclose(found.logits[0], logits[top2], atol=5e-7)


def test_peer_gradients(
    art_expected: dict[str, list[float]], mnist_h5: Path, tmp_path: Path
) -> None:
    """A bias lifts each image's two asked-for logits to the top; gradients don't change by it."""
    labels = art_expected["labels"]
    own = int(labels[0])
    model = art_network()
    with torch.no_grad():
        model[4].bias[[5, own]] += torch.tensor([200.0, 100.0])  # type: ignore[index]
    found = _scan_art(model, mnist_h5, tmp_path, EVERYTHING)
    np.testing.assert_array_equal(found.classes[0], [5, own])
    for side, prefix in enumerate(("class5", "own")):
        gradient = found.gradient[0, side, 0]
        np.testing.assert_allclose(gradient[14, :], art_expected[f"{prefix}_row14"], atol=5e-8)
        np.testing.assert_allclose(gradient[:, 14], art_expected[f"{prefix}_col14"], atol=5e-8)
    # Every other image of the same call, too, has its own gradient.
    network = model.double()
    for row in (1, 50, 99):
        x = (found.input[row] / 255)[None].astype(np.float32)
        for side in (0, 1):
            expected = one_gradient(network, x, int(found.classes[row, side]))
            np.testing.assert_allclose(found.gradient[row, side], expected, atol=1e-7)


def test_the_peer_network_is_a_dense_case(mnist_h5: Path, tmp_path: Path) -> None:
    bundle = audit.export(
        art_network(), tmp_path / "art", input_shape=(1, 28, 28), raw_dtype="uint8"
    )
    found = audit.scan(mnist_h5, model=bundle.path, eps=0.1, out=tmp_path / "findings.h5")
    assert found.flagged == 1416
