"""Preprocessing folded into the first layer: the same logits by fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import audit
from audit.bundle import ONNX, Bundle
from audit.folding import RawGraphs, folded_graph, raw_graphs
from audit.forward import Forward
from audit.graphs import onnx_from_network
from audit.guard import Guard
from audit.parity import FOLDED_GUARD
from audit.preprocess import Preprocess, input_space_to_logits, layouts_of, plan_preprocess
from oracles import write_dataset

CLASSES = 4


class Sequence(nn.Module):
    """A linear layer over every step: MatMul and Add, not Gemm."""

    def __init__(self, *, bias: bool = True, relu: bool = False) -> None:
        super().__init__()
        self.each = nn.Linear(6, 8, bias=bias)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.each(x)).mean(1))
        return logits


class Colliding(nn.Module):
    """Parameters with the names of what an export adds."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(CLASSES, 60))
        self.preprocessed_0 = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.raw, self.preprocessed_0)


class Twice(nn.Module):
    """The input goes two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(60, CLASSES), nn.Linear(60, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.one(x.flatten(1)) + torch.tanh(self.two(x.flatten(1)))
        return logits


class Shared(nn.Module):
    """The first layer's weights serve once more, where nothing is to be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.head = nn.Linear(60, 60), nn.Linear(60, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.square(torch.tanh(self.square(x.view(x.shape[0], -1)))))
        return logits


class Steps(nn.Module):
    """The steps of all samples become one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(6, 8), nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.each(x.reshape(-1, 6)).reshape(-1, 40))
        return logits


def convolution(**given: Any) -> Callable[[], nn.Module]:
    """Conv2d over 3 x 4 x 5 with these arguments."""

    def make() -> nn.Module:
        conv = nn.Conv2d(3, 6, given.pop("kernel_size", 3), **given)
        size = conv(torch.zeros(1, 3, 4, 5)).numel()
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(size, CLASSES))

    return make


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES))


HERE = (3, 4, 5)
# network, input shape, and what is left of the preprocessing's arithmetic once it is folded
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "linear": (linear, HERE, []),
    "linear F": (lambda: nn.Linear(7, CLASSES), (7,), []),
    "linear L": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, CLASSES)), (1, 7), []),
    "linear HW": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES)), (1, 4, 5), []),
    "linear no bias": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES, bias=False)), HERE, []
    ),
    "shared weights": (Shared, HERE, []),
    "colliding names": (Colliding, HERE, []),
    "sequence": (Sequence, (5, 6), []),
    "sequence no bias": (lambda: Sequence(bias=False, relu=True), (5, 6), []),
    "conv": (convolution(), HERE, []),
    "conv strided": (convolution(stride=2, dilation=(1, 2), kernel_size=2), HERE, []),
    "conv no bias": (convolution(bias=False), HERE, []),
    "conv grouped": (convolution(groups=3), HERE, []),
    "conv padded": (convolution(padding=1), HERE, ["Sub"]),
    "conv same": (convolution(padding="same", bias=False), HERE, ["Sub"]),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(HERE), linear()), HERE, ["Sub", "Mul"]),
    "conv 1d": (
        lambda: nn.Sequential(nn.Conv1d(5, 3, 2), nn.Flatten(), nn.Linear(15, CLASSES)), (5, 6), []
    ),
    "steps as batch": (Steps, (5, 6), ["Sub", "Mul"]),
    "two ways": (Twice, HERE, ["Sub", "Mul"]),
}  # fmt: skip
ARITHMETIC = ("Mul", "Add", "Sub", "Div")


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().eval().requires_grad_(False)


def planned(name: str, **given: Any) -> Preprocess:
    options: dict[str, Any] = {
        "raw_shape": None, "raw_dtype": "uint8", "raw_layout": None, "scale": None, "offset": 0.0,
        "mean": (0.4,), "std": (0.3,),
    }  # fmt: skip
    return plan_preprocess(input_shape=CASES[name][1], **{**options, **given})


def network_of(name: str, model: nn.Module) -> bytes:
    return onnx_from_network(model, torch.zeros(3, *CASES[name][1]))


def preprocessing_of(graph: bytes) -> list[str]:
    """The preprocessing's arithmetic: what has a node name of its own."""
    nodes = onnx.load_from_string(graph).graph.node
    mine = [each.op_type for each in nodes if each.name.startswith("preprocess_")]
    return [each for each in mine if each in ARITHMETIC]


def logits_of(graph: bytes, raw: NDArray[Any]) -> NDArray[np.float32]:
    return Forward(graph, device="cpu", threads=1, source=ONNX).logits(raw)


def guards(graphs: RawGraphs, model: nn.Module, p: Preprocess, raw: NDArray[Any]) -> list[float]:
    """Guard of each graph against eager float64."""
    eager = input_space_to_logits(model.double(), p).double()
    exact = eager(torch.from_numpy(p.to_input_space(raw)).double()).numpy()
    model.float()
    return [Guard.measured(logits_of(each, raw), exact).value for each in graphs if each]


@pytest.mark.parametrize("name", CASES)
def test_folded_equals_unfolded(name: str) -> None:
    model = made(name)
    network = network_of(name, model)
    shape = CASES[name][1]
    every = range(shape[0])
    constants: list[dict[str, Any]] = [
        {},
        {"scale": -1 / 3, "offset": 0.2},
        {"mean": tuple(0.1 * k + 0.2 for k in every), "std": tuple(0.1 * k + 0.3 for k in every)},
    ]
    for layout in layouts_of(shape):
        for dtype in ("uint8", "float16", "float32"):
            for given_constants in constants:
                p = planned(name, raw_layout=layout, raw_dtype=dtype, **given_constants)
                graphs = raw_graphs(network, p)
                assert graphs.folded is not None
                onnx.checker.check_model(graphs.folded, full_check=True)
                left = preprocessing_of(graphs.folded)
                if name.startswith("sequence") and len(p.mean) > 1:  # one a step, not a feature
                    assert left == ["Sub", "Mul"]
                else:
                    assert left == CASES[name][2]
                raw = p.random_raw(37, np.random.default_rng(0))
                plain, folded = guards(graphs, model, p, raw)
                assert folded <= FOLDED_GUARD * plain, (layout, dtype, given_constants)
                alone = logits_of(graphs.folded, raw[:1])
                np.testing.assert_allclose(
                    alone, logits_of(graphs.plain, raw[:1]), rtol=2e-5, atol=2e-5
                )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from([each for each in CASES if CASES[each][1] == HERE]),
    layout=st.sampled_from(["CHW", "HWC"]),
    scale=st.floats(0.01, 1),
    offset=st.floats(-1, 1),
    mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.5, 3), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_constants(
    name: str,
    layout: str,
    scale: float,
    offset: float,
    mean: list[float],
    std: list[float],
    seed: int,
    networks: Callable[[str], bytes],
) -> None:
    p = planned(
        name,
        raw_dtype="float32",
        raw_layout=layout,
        scale=scale,
        offset=offset,
        mean=tuple(mean),
        std=tuple(std),
    )
    raw = np.random.default_rng(seed).normal(0, 2 / scale, (5, *p.raw_shape)).astype(np.float32)
    graphs = raw_graphs(networks(name), p)
    assert graphs.folded is not None
    plain, folded = (logits_of(each, raw) for each in (graphs.plain, graphs.folded))
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def networks() -> Callable[[str], bytes]:
    """ONNX of a network of `CASES`, exported once."""
    exported: dict[str, bytes] = {}

    def network(name: str) -> bytes:
        if name not in exported:
            exported[name] = network_of(name, made(name))
        return exported[name]

    return network


def test_nothing_to_do_leaves_no_step() -> None:
    p = planned("layer norm", raw_dtype="float32", mean=None, std=None, raw_layout="CHW")
    graphs = raw_graphs(network_of("layer norm", made("layer norm")), p)
    for graph in graphs:
        assert graph is not None
        first = onnx.load_from_string(graph).graph.node[0]
        assert first.op_type == "LayerNormalization"
        assert first.input[0] == "raw"


@pytest.mark.parametrize(
    "given_constants",
    [
        {"raw_dtype": "float64"},
        {"raw_dtype": "float32", "scale": 2.0},
        {"raw_dtype": "float16", "scale": 1e35},
        {"raw_dtype": "float32", "offset": 1e38, "mean": (1e38,)},
    ],
)
def test_never_folded(given_constants: dict[str, Any]) -> None:
    """float64 keeps its digits; what overflows in input space must not become finite."""
    network = network_of("linear", made("linear"))
    assert folded_graph(network, planned("linear", raw_layout="CHW", **given_constants)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["linear", "conv", "conv padded", "layer norm", "sequence"])
def test_no_raw_value_is_masked(name: str, bad: float) -> None:
    layout = next(iter(layouts_of(CASES[name][1])))
    p = planned(name, raw_dtype="float32", raw_layout=layout)
    graphs = raw_graphs(network_of(name, made(name)), p)
    raw = p.random_raw(3, np.random.default_rng(0))
    raw.reshape(3, -1)[1, 7] = bad
    for graph in graphs:
        assert graph is not None
        finite = np.isfinite(logits_of(graph, raw)).all(axis=1)
        assert finite.tolist() == [True, False, True]


def exported(model: nn.Module, out: Path, raw: NDArray[Any], **given: Any) -> Bundle:
    data = write_dataset(out.with_suffix(".h5"), raw)
    return audit.export(model, out, input_shape=raw.shape[1:], parity_data=data, **given)


@pytest.mark.parametrize(("mean", "kept"), [(0.5, []), (1000.0, ["Sub", "Div"])])
def test_export_keeps_what_is_exact_enough(mean: float, kept: list[str], tmp_path: Path) -> None:
    """Features far from zero lose digits where they are multiplied before they are centred."""
    rng = np.random.default_rng(0)
    raw = rng.normal(mean, 0.3, (64, 7)).astype(np.float32)
    bundle = exported(made("linear F"), tmp_path / "b", raw, mean=mean, std=0.3)
    graph = bundle.read(ONNX)
    assert preprocessing_of(graph) == kept
    p = bundle.manifest.preprocess
    graphs = raw_graphs(network_of("linear F", made("linear F")), p)
    plain, folded = guards(graphs, made("linear F"), p, raw)
    assert (folded <= FOLDED_GUARD * plain) == (kept == [])
    used = plain if kept else folded
    assert bundle.manifest.parity.guard == pytest.approx(used, rel=0.5)


def test_export_whose_folded_graph_is_infinite(tmp_path: Path) -> None:
    """The centre is beyond float32; plain, each step is within it."""
    raw = np.random.default_rng(0).normal(scale=5e37, size=(64, 7)).astype(np.float32)
    model = nn.Sequential(nn.LayerNorm(7), made("linear F")).eval()
    bundle = exported(model, tmp_path / "b", raw, scale=2e-38, offset=30.0, mean=2.0)
    assert preprocessing_of(bundle.read(ONNX)) == ["Mul", "Add", "Sub"]
