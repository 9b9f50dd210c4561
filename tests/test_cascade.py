"""int8 proposes, float32 narrows, float64 decides: the answer is that of float64 alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from audit import cascade
from audit.bundle import ONNX, ONNX_INT8, Bundle
from audit.cascade import Trial
from audit.errors import OptionError
from audit.forward import Forward
from audit.guard import Guard
from conftest import Run
from oracles import arrays, art_network, with_onnx, write_dataset

EPS = 0.02


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> tuple[Bundle, Path]:
    """A bundle with a quantised graph of a network with many near ties, and the honest findings."""
    folder = tmp_path_factory.mktemp("int8")
    bundle = audit.export(
        art_network(), folder / "art", input_shape=(1, 28, 28), raw_dtype="uint8",
        parity_data=mnist_h5, int8=True, calibration=mnist_h5,
    )  # fmt: skip
    audit.scan(mnist_h5, model=bundle, eps=EPS, precision="float32", out=folder / "honest.h5")
    return bundle, folder / "honest.h5"


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Settles by word what a measurement settles on the machine at hand."""

    def settle(whether: bool) -> None:
        monkeypatch.setattr(Trial, "pays", property(lambda _: whether))

    return settle


def _assert_same_answer(found: audit.Findings, honest: Path) -> None:
    got, expected = arrays(found.path), arrays(honest)
    assert found.flagged > 100
    for name in expected:
        if name == "summary/margin_counts":
            assert got[name].sum() == expected[name].sum()
        elif expected[name].dtype.kind == "f":
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert found.accuracy == audit.load_findings(honest).accuracy


@pytest.mark.parametrize("options", [{}, {"batch_size": 7, "threads": 1}, {"batch_size": 1024}])
def test_the_cascade_gives_the_same_answer(
    options: dict[str, Any], art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path
) -> None:
    bundle, honest = art
    found = audit.scan(
        mnist_h5, model=bundle, eps=EPS, precision="int8", out=tmp_path / "f.h5", **options
    )
    _assert_same_answer(found, honest)
    assert found.engine["precision"] == "int8"
    assert found.engine["rescans"] == 0
    quantised, single = found.engine["levels"]
    assert quantised["guard"] > 10 * single["guard"]
    assert found.flagged <= single["passed_on"] < quantised["passed_on"] < 5000
    # One in a hundred at least, and the checks of the last level that int8 hadn't proposed either.
    assert 256 <= quantised["checked"] <= 512
    assert quantised["miss_rate_bound"] == 3 / quantised["checked"]
    assert single["checked"] == found.engine["checked"] > 100


def test_an_input_that_int8_doesnt_propose_isnt_computed_again(
    art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, int] = {}
    plain = Forward.logits

    def counting(self: Forward, raw: NDArray[Any]) -> NDArray[np.float32]:
        name = Path(self._source).name
        counts[name] = counts.get(name, 0) + len(raw)
        return plain(self, raw)

    monkeypatch.setattr(Forward, "logits", counting)
    found = audit.scan(mnist_h5, model=art[0], eps=EPS, precision="int8", out=tmp_path / "f.h5")
    quantised, _ = found.engine["levels"]
    tried = 65  # and the first once more
    assert counts[ONNX_INT8] == 10_000 + tried
    assert counts[ONNX] == quantised["passed_on"] + quantised["checked"] + tried


def _scaled(bundle: Bundle, factor: float) -> bytes:
    """The quantised graph with every logit multiplied."""
    model = onnx.load_from_string(bundle.read(ONNX_INT8))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [output.name]))
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_guard_that_does_not_hold_here_is_widened_before_the_scan(
    precision: str,
    art: tuple[Bundle, Path],
    mnist_h5: Path,
    tmp_path: Path,
    pays: Callable[[bool], None],
) -> None:
    """As on a processor where 8 bits saturate: far other logits than on the exporting machine."""
    pays(True)
    bundle, honest = art
    wrong = with_onnx(bundle, tmp_path / "wrong", _scaled(bundle, 1.5), ONNX_INT8)
    assert bundle.int8_guard is not None
    found = audit.scan(mnist_h5, model=wrong, eps=EPS, precision=precision, out=tmp_path / "f.h5")
    assert found.engine["levels"][0]["guard"] > 1.5 * bundle.int8_guard.value
    _assert_same_answer(found, honest)


@pytest.mark.parametrize(("precision", "ends"), [("int8", "int8"), ("auto", "float32")])
def test_a_guard_that_breaks_in_the_scan(
    precision: str,
    ends: str,
    art: tuple[Bundle, Path],
    mnist_h5: Path,
    tmp_path: Path,
    pays: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trial saw too little: asked for, int8 goes on with a wider guard; else it is left out."""
    pays(True)
    bundle, honest = art
    assert bundle.manifest.int8 is not None
    assert bundle.int8_guard is not None
    small = replace(bundle.manifest.int8, guard=bundle.int8_guard.value / 4)
    unlucky = with_onnx(bundle, tmp_path / "small", bundle.read(ONNX_INT8), ONNX_INT8, int8=small)
    plain = cascade._try

    def blind(*args: Any) -> Trial:
        return plain(*args)._replace(guard=args[2])

    monkeypatch.setattr(cascade, "_try", blind)
    found = audit.scan(mnist_h5, model=unlucky, eps=EPS, precision=precision, out=tmp_path / "f.h5")
    assert found.engine["rescans"] >= 1
    assert found.engine["precision"] == ends
    _assert_same_answer(found, honest)


def test_auto_takes_what_pays(
    art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path, pays: Callable[[bool], None]
) -> None:
    bundle, honest = art
    for whether, precision in ((True, "int8"), (False, "float32")):
        pays(whether)
        found = audit.scan(mnist_h5, model=bundle, eps=EPS, out=tmp_path / "f.h5")
        assert found.engine["precision"] == precision
        _assert_same_answer(found, honest)


def test_auto_leaves_int8_out_where_it_would_propose_everything(
    art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path
) -> None:
    found = audit.scan(
        mnist_h5, model=art[0], eps=100, limit=200, no_gradients=True, out=tmp_path / "f.h5"
    )
    assert found.engine["precision"] == "float32"


def test_recorded_margins_are_float32s(
    art: tuple[Bundle, Path], mnist_h5: Path, tmp_path: Path, pays: Callable[[bool], None]
) -> None:
    pays(True)
    found = audit.scan(mnist_h5, model=art[0], eps=EPS, keep_all=True, out=tmp_path / "f.h5")
    assert found.engine["precision"] == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keep_all": True},
            "--precision int8: --keep-all records every sample's margin",
        ),
        ({"device": "cuda"}, "--precision int8: runs on the CPU; got --device cuda"),
    ],
)
def test_what_int8_cannot_do(
    options: dict[str, Any],
    message: str,
    art: tuple[Bundle, Path],
    mnist_h5: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cascade, "_forward", lambda *_: None)  # there is no GPU to ask
    with pytest.raises(OptionError, match=message):
        audit.scan(
            mnist_h5, model=art[0], eps=EPS, precision="int8", out=tmp_path / "f.h5", **options
        )


def _shifted(by: float) -> bytes:
    """A graph that adds to the first of two logits, which are the two features."""
    helper = onnx.helper
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2])
        for name in ("raw", "logits")
    ]
    shift = numpy_helper.from_array(np.array([[by, 0]], np.float32), "shift")
    node = helper.make_node("Add", ["raw", "shift"], ["logits"])
    graph = helper.make_graph([node], "shifted", values[:1], values[1:], [shift])
    opset = [helper.make_opsetid("", 20)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return data


def test_guards_add_up(tmp_path: Path) -> None:
    """int8 is off from float32 by nearly its guard, float32 from float64 by nearly its own."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 2), np.float32)
    x[:, 0] = rng.uniform(1, 5, len(x))
    tied = np.sort(rng.choice(len(x), 50, replace=False))
    x[tied, 0] = 0.0999
    data = write_dataset(tmp_path / "data.h5", x)
    bundle = audit.export(
        model.eval(), tmp_path / "a", input_shape=(2,), parity_data=data, int8=True,
        calibration=data,
    )  # fmt: skip
    assert bundle.manifest.int8 is not None
    parity = replace(bundle.manifest.parity, guard=0.05, logit_scale=10.0)
    int8 = replace(bundle.manifest.int8, guard=0.1, logit_scale=10.0)
    off = with_onnx(bundle, tmp_path / "b", _shifted(0.04), ONNX, parity=parity)
    off = with_onnx(off, tmp_path / "c", _shifted(0.04 + 0.09), ONNX_INT8, int8=int8)
    found = audit.scan(data, model=off, eps=0.1, precision="int8", out=tmp_path / "f.h5")
    assert found.engine["rescans"] == 0
    np.testing.assert_array_equal(found.index, tied)


@pytest.mark.parametrize(
    ("proposed", "quantised", "single", "pays"),
    [(0.0, 0.5, 1.0, True), (0.6, 0.5, 1.0, False), (0.0, 0.99, 1.0, False), (0.3, 0.5, 1, True)],
)
def test_what_pays(proposed: float, quantised: float, single: float, pays: bool) -> None:
    assert Trial(Guard(1, 1), proposed, quantised, single).pays is pays


def test_without_a_quantised_graph(mnist_h5: Path, tmp_path: Path, run_audit: Run) -> None:
    with pytest.raises(OptionError, match=r"no model\.int8\.onnx; export it with --int8"):
        audit.scan(mnist_h5, eps=EPS, precision="int8", out=tmp_path / "f.h5")
    result = run_audit("scan", str(mnist_h5), "--eps", "0.1", "--precision", "int8")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "f.h5").exists()


def test_values_that_nothing_was_calibrated_on_are_proposed(tmp_path: Path) -> None:
    """The quantised graph clamps them, and may then see a large margin where there is none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 12)).astype(np.float32)
    calibration = write_dataset(tmp_path / "calibration.h5", x[:4000])
    bundle = audit.export(
        model, tmp_path / "bundle", input_shape=(12,), parity_data=calibration, int8=True,
        calibration=calibration,
    )  # fmt: skip
    far = rng.choice(20_000, 60, replace=False)
    x[far] *= rng.uniform(5, 50, (60, 1)).astype(np.float32)
    x[far[:3], 0] = np.nan
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle, eps=EPS, precision="int8", out=tmp_path / "f.h5")
    exact = audit.scan(data, model=bundle, eps=EPS, precision="float32", out=tmp_path / "g.h5")
    assert found.engine["precision"] == "int8"
    np.testing.assert_array_equal(found.index, exact.index)
    np.testing.assert_array_equal(found.nonfinite_index, exact.nonfinite_index)
    assert found.engine["levels"][0]["passed_on"] >= 60
    assert found.engine["rescans"] == 0
