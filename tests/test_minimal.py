"""The smallest perturbation, against closed forms and scipy's solvers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls
from torch import nn

import audit
from audit.bundle import TORCHSCRIPT, Bundle
from audit.gradients import Canonical
from audit.minimal import Boundary
from audit.projection import Box, Planes, to_both, to_hyperplane
from networks import linear
from oracles import write_dataset

UNBOUNDED = Box(-np.inf, np.inf)
UNIT = Box(0.0, 1.0)
NORMS = ("l2", "linf")


def length(d: NDArray[Any], norm: str) -> NDArray[np.float64]:
    return np.linalg.norm(d, axis=1) if norm == "l2" else np.asarray(np.abs(d).max(axis=1))


def closest(
    z: NDArray[Any], normals: NDArray[Any], values: NDArray[Any], norm: str, box: Box
) -> float:
    """Length of the smallest d with normals · d + values ≥ 0 and z + d in the box, by scipy."""
    size = len(z)
    room = np.stack([box.low - z, box.high - z], axis=1)
    if norm == "linf":
        each, one = np.eye(size), np.ones((size, 1))
        bounded = np.block([[-normals, np.zeros((len(normals), 1))], [each, -one], [-each, -one]])
        limits = np.r_[values, np.zeros(2 * size)]
        bounds = [*room.tolist(), (0, None)]
        found = linprog(np.r_[np.zeros(size), 1], bounded, limits, bounds=bounds)
        assert found.success
        return float(found.fun)
    # Lawson & Hanson 1974, chapter 23: least distance programming by non-negative least squares.
    finite = np.isfinite(room)
    inner = np.vstack([normals, np.eye(size)[finite[:, 0]], -np.eye(size)[finite[:, 1]]])
    least = np.r_[-values, room[finite[:, 0], 0], -room[finite[:, 1], 1]]
    system = np.vstack([inner.T, least])
    wanted = np.r_[np.zeros(size), 1.0]
    residual = system @ nnls(system, wanted)[0] - wanted
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def planes(seed: int, count: int = 25, size: int = 9) -> tuple[NDArray[Any], ...]:
    """Points in the unit box, some on its faces, and normals with zeros."""
    rng = np.random.default_rng(seed)
    z = rng.random((count, size))
    z[:, :2] = rng.integers(0, 2, (count, 2))
    first, second = rng.normal(size=(2, count, size))
    first[:, 3] = 0
    return z, first, second, -np.abs(rng.normal(size=(2, count)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [UNIT, UNBOUNDED], ids=["box", "free"])
def test_projection_onto_a_plane(norm: str, box: Box) -> None:
    z, normal, _, (value, _) = planes(0)
    d = to_hyperplane(z, normal, value, norm, box)
    assert np.all((z + d >= box.low - 1e-15) & (z + d <= box.high + 1e-15))
    reached = np.abs(np.einsum("ni,ni->n", normal, d) + value) < 1e-12
    assert reached.sum() >= 20
    for row in np.flatnonzero(reached):
        best = closest(z[row], normal[row, None], value[row, None], norm, box)
        assert length(d, norm)[row] == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_beyond_the_box_is_approached_to_the_nearest_corner(norm: str) -> None:
    z, normal, _, _ = planes(1)
    d = to_hyperplane(z, normal, np.full(len(z), -1e6), norm, UNIT)
    moves = normal != 0
    np.testing.assert_allclose((z + d)[moves], (normal > 0)[moves].astype(float), atol=1e-15)
    np.testing.assert_array_equal(d[~moves], 0)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_projection_has_no_scale(scale: float) -> None:
    z, normal, _, (value, _) = planes(2)
    d = to_hyperplane(z, normal * scale, value * scale, "l2", UNBOUNDED)
    np.testing.assert_allclose(d, to_hyperplane(z, normal, value, "l2", UNBOUNDED), rtol=1e-12)


def test_no_gradient_no_way() -> None:
    z = np.full((1, 4), 0.5)
    np.testing.assert_array_equal(to_hyperplane(z, 0 * z, np.array([-1.0]), "l2", UNIT), 0 * z)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [UNIT, UNBOUNDED], ids=["box", "free"])
def test_two_half_spaces(norm: str, box: Box) -> None:
    z, first, second, (one, other) = planes(3)
    d = to_hyperplane(z, first, one, norm, box)
    meeting = to_both(z, Planes(first, one), Planes(second, other), d, norm, box)
    cornered = 0
    for row in range(len(z)):
        normals, values = np.stack([first[row], second[row]]), np.array([one[row], other[row]])
        if (normals @ meeting.d[row] + values).min() < -1e-6:
            continue  # the box doesn't reach
        best = closest(z[row], normals, values, norm, box)
        assert length(meeting.d, norm)[row] == pytest.approx(best, rel=1e-6)
        cornered += best > length(d, norm)[row] * (1 + 1e-6)
    assert cornered >= 10


@pytest.fixture(scope="module")
def softmax_regression(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, NDArray[np.float64], NDArray[np.float64]]:
    torch.manual_seed(0)
    model = linear(12, 5).eval()
    layer = model[1]  # type: ignore[index]
    bundle = audit.export(model, tmp_path_factory.mktemp("b") / "linear", input_shape=(12,))
    return bundle, layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


Linear = tuple[Bundle, NDArray[np.float64], NDArray[np.float64]]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [None, (-6.0, 6.0)], ids=["free", "wide box"])
def test_near_ties_of_a_linear_model_in_closed_form(
    norm: str,
    clip: tuple[float, float] | None,
    softmax_regression: Linear,
    tmp_path: Path,
) -> None:
    bundle, weight, bias = softmax_regression
    x = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)
    data = write_dataset(tmp_path / "data.h5", x)
    audit.scan(data, model=bundle.path, eps=0.1, out=tmp_path / "f.h5")
    found = audit.ascend(
        tmp_path / "f.h5", norm=norm, minimal=True, clip=clip, out=tmp_path / "a.h5"
    )
    assert found.count == found.succeeded > 20
    a, b = found.start_class, found.target
    logits = found.input @ weight.T + bias
    rows = np.arange(found.count)
    difference = weight[a] - weight[b]
    dual = np.linalg.norm(difference, axis=1) if norm == "l2" else np.abs(difference).sum(axis=1)
    expected = (logits[rows, a] - logits[rows, b]) / dual
    distance = {"l2": found.minimal_distance_l2, "linf": found.minimal_distance_linf}[norm]
    # The projection onto the a/b plane is of the target class, so it is the closest such input.
    direction = difference if norm == "l2" else np.sign(difference)
    there = found.input - expected[:, None] * direction / length(direction, norm)[:, None]
    others = there @ weight.T + bias
    others[rows, b] = -np.inf
    plain = (there @ weight.T + bias)[rows, b] >= others.max(axis=1) - 1e-9
    assert plain.sum() > 20
    np.testing.assert_allclose(distance[plain], expected[plain], rtol=1e-5)
    assert np.all(distance >= expected * (1 - 1e-9))
    first_order = {"l2": found.first_order_l2, "linf": found.first_order_linf}[norm]
    np.testing.assert_allclose(first_order, expected, rtol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [UNBOUNDED, Box(-2.5, 2.5)], ids=["free", "box"])
def test_any_target_of_a_linear_model_against_a_solver(
    norm: str, box: Box, softmax_regression: Linear, tmp_path: Path
) -> None:
    """Most regions are met at a corner of several planes; two are exact, more are close."""
    bundle, weight, bias = softmax_regression
    x = np.random.default_rng(1).uniform(-2.4, 2.4, (40, 12)).astype(np.float32)
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.ascend(
        data, index=range(40), target="all", norm=norm, minimal=True, model=bundle.path,
        clip=None if box is UNBOUNDED else (box.low, box.high), out=tmp_path / "a.h5",
    )  # fmt: skip
    distance = {"l2": found.minimal_distance_l2, "linf": found.minimal_distance_linf}[norm]
    exact = []
    for row in np.flatnonzero(found.success):
        target, z = found.target[row], found.input[row].astype(np.float64)
        rivals = np.delete(np.arange(5), target)
        normals = weight[target] - weight[rivals]
        values = normals @ z + bias[target] - bias[rivals]
        exact.append(closest(z, normals, values, norm, box))
    excess = distance[found.success] / exact - 1
    assert len(exact) > 120
    assert excess.min() > -1e-6
    assert np.quantile(excess, 0.75) < 1e-5
    assert np.quantile(excess, 0.95) < 0.02
    assert excess.max() < 0.1


def test_minimal_is_never_worse_than_the_ascent_along_its_line(
    network_bundle: Callable[[str], Bundle],
) -> None:
    bundle = network_bundle("cnn")
    canonical = Canonical(bundle.read(TORCHSCRIPT), device="cpu", threads=2, source="cnn")
    rng = np.random.default_rng(0)
    x = rng.random((6, 1, 28, 28))
    far = rng.random((6, 1, 28, 28)) * 3
    here, there = (canonical.logits(each).argmax(axis=1) for each in (x, far))
    rows = np.flatnonzero(here != there)
    assert len(rows) >= 2
    boundary = Boundary(canonical, x[rows], there[rows], "l2", UNBOUNDED)
    smallest = boundary.smallest(far[rows])
    np.testing.assert_array_equal(canonical.logits(smallest).argmax(axis=1), there[rows])
    share = np.linspace(0, 1, 200)[:, None, None, None, None]
    line = x[rows] + share * (far[rows] - x[rows])
    classes = canonical.logits(line.reshape(-1, 1, 28, 28)).argmax(axis=1).reshape(200, -1)
    last_other = [np.flatnonzero(classes[:, i] != there[row])[-1] for i, row in enumerate(rows)]
    limit = length((far - x)[rows].reshape(len(rows), -1), "l2") * share[last_other, 0, 0, 0, 0]
    assert np.all(length((smallest - x[rows]).reshape(len(rows), -1), "l2") <= limit + 1e-9)


def test_crossing_is_on_the_boundary_and_on_its_side() -> None:
    """z = (0, x² - 2): from 0 to 2 it is crossed at √2; the other class has the lower number."""

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([0 * x, x * x - 2], 1)

    from audit.torchscript import torchscript_from_module

    data = torchscript_from_module(Square(), torch.zeros(2, 1))
    canonical = Canonical(data, device="cpu", threads=1, source="square")
    boundary = Boundary(canonical, np.zeros((1, 1)), np.array([1]), "l2", UNBOUNDED)
    (root,) = boundary.smallest(np.array([[2.0]])).ravel()
    assert root >= np.sqrt(2)
    assert root == pytest.approx(np.sqrt(2), rel=3e-9)
