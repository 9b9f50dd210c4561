"""`model.int8.onnx`: another graph for the same logits, with a guard that holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import audit
from audit.bundle import ONNX, ONNX_INT8, TORCHSCRIPT, Bundle, load_bundle
from audit.errors import DatasetError, ModelError, OptionError
from audit.forward import Forward
from audit.gradients import Canonical
from audit.guard import QUANTISED_SAFETY, Guard, margin
from audit.options import ExportOptions
from audit.quantiser import LAYERS, Quantiser, Setting
from audit.samples import CALIBRATED, HELD_OUT, calibration_samples
from conftest import Run
from networks import NETWORKS, seeded
from oracles import write_dataset

SAMPLES = CALIBRATED[0] + HELD_OUT[0]


def raw_samples(count: int, shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return rng.standard_normal((count, *shape)).astype(dtype)


def quantised(
    model: nn.Module, out: Path, raw: NDArray[Any], shape: tuple[int, ...], **given: Any
) -> Bundle:
    data = write_dataset(out.with_name("data.h5"), raw)
    return audit.export(
        model, out, input_shape=shape, parity_data=data, int8=True, calibration=data, **given
    )


def logits_of(bundle: Bundle, name: str, raw: NDArray[Any]) -> NDArray[np.float32]:
    return Forward(bundle.read(name), device="cpu", threads=1, source=name).logits(raw)


def operators(graph: bytes) -> list[str]:
    return [each.op_type for each in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name: str, tmp_path: Path) -> None:
    shape = NETWORKS[name][1]
    layout = {3: "CHW", 2: "CL", 1: "F"}[len(shape)]
    raw = raw_samples(SAMPLES + 300, shape)
    bundle = quantised(seeded(name), tmp_path / "b", raw, shape, raw_layout=layout)
    record, guard = bundle.manifest.int8, bundle.int8_guard
    assert record is not None
    assert guard == Guard(record.guard, record.logit_scale, QUANTISED_SAFETY)
    assert (record.source, record.held_out) == ("data.h5", SAMPLES + 300 - record.samples)
    graph = bundle.read(ONNX_INT8)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    assert "QuantizeLinear" in operators(graph)
    assert operators(graph)[-1] != "DequantizeLinear"

    # What the record says of the held-out samples is what they show.
    preprocess = bundle.manifest.preprocess
    held_out = calibration_samples(str(tmp_path / "data.h5"), preprocess).held_out
    canonical = Canonical(bundle.read(TORCHSCRIPT), device="cpu", threads=2, source=name)
    exact = canonical.logits(preprocess.to_input_space(held_out))
    fast = logits_of(bundle, ONNX_INT8, held_out)
    disagreement = guard.disagreement(fast, exact)
    for quantile, value in record.disagreement.items():
        assert value == pytest.approx(np.quantile(disagreement, float(quantile)), rel=1e-3)
    assert record.guard == pytest.approx(QUANTISED_SAFETY * disagreement.max(), rel=1e-3)
    single = logits_of(bundle, ONNX, held_out)
    assert disagreement.max() > 10 * bundle.guard.disagreement(single, exact).max()
    for eps, share in record.proposed.items():
        assert share == pytest.approx((margin(fast) < float(eps) + record.guard).mean(), abs=2e-3)

    # It holds for samples that it never saw, in any batch.
    fresh = np.random.default_rng(1).standard_normal((300, *shape)).astype(np.float32)
    exact = canonical.logits(preprocess.to_input_space(fresh))
    assert guard.disagreement(logits_of(bundle, ONNX_INT8, fresh), exact).max() <= guard.value
    alone = logits_of(bundle, ONNX_INT8, fresh[:1])
    assert guard.disagreement(alone, exact[:1]).max() <= guard.value


def test_parts_of_the_calibration_data_share_no_sample(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    preprocess = network_bundle("tabular").manifest.preprocess
    for count in (SAMPLES, 1800, 5000):
        raw = np.arange(count * 12, dtype=np.float32).reshape(count, 12)
        path = write_dataset(tmp_path / f"{count}.h5", raw)
        parts = calibration_samples(str(path), preprocess)
        used = np.concatenate([parts.calibrated[:, 0], parts.held_out[:, 0]])
        assert len(np.unique(used)) == len(used)
        assert CALIBRATED[0] <= len(parts.calibrated) <= CALIBRATED[1]
        assert HELD_OUT[0] <= len(parts.held_out) <= HELD_OUT[1]
        assert len(used) == min(count, CALIBRATED[1] + HELD_OUT[1])


def test_uint8_samples_are_taken_as_quantised(tmp_path: Path) -> None:
    """Into a linear layer they go as they are, with nothing in float32 before it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    raw = raw_samples(SAMPLES, (4, 4, 3), "uint8")
    bundle = quantised(model, tmp_path / "b", raw, (3, 4, 4), mean=0.4, std=0.3)
    graph = bundle.read(ONNX_INT8)
    assert "Cast" in operators(bundle.read(ONNX))
    assert not {"Cast", "QuantizeLinear"} & set(operators(graph))
    fast, single = (logits_of(bundle, each, raw[:50]) for each in (ONNX_INT8, ONNX))
    assert np.abs(fast - single).max() < 0.05 * np.abs(single).max()


@pytest.fixture
def quantiser(network_bundle: Callable[[str], Bundle], tmp_path: Path) -> Quantiser:
    raw = raw_samples(64, NETWORKS["cnn"][1])
    return Quantiser(network_bundle("cnn").read(ONNX), tmp_path, raw)


def weights_of(graph: bytes) -> list[NDArray[np.int8]]:
    found = [onnx.numpy_helper.to_array(w) for w in onnx.load_from_string(graph).graph.initializer]
    return [each for each in found if each.dtype == np.int8 and each.ndim > 1]


def test_each_switch_does_what_it_says(quantiser: Quantiser) -> None:
    seven, eight = (
        weights_of(quantiser.graph(Setting("minmax", reduce_range=reduced)))
        for reduced in (True, False)
    )
    assert len(seven) == len(eight) == len(quantiser.layers) == 2
    assert [int(np.abs(each).max()) for each in seven] == [64, 64]
    assert [int(np.abs(each).max()) for each in eight] == [127, 127]
    kept = Setting("minmax", float_first=True)
    assert quantiser.float_nodes(kept) == quantiser.layers[:1]
    assert len(weights_of(quantiser.graph(kept))) == 1
    everything, layers = (
        operators(quantiser.graph(Setting("minmax", layers_only=only))) for only in (False, True)
    )
    assert everything != layers
    graphs = {quantiser.graph(Setting(method)) for method in ("minmax", "percentile", "entropy")}
    assert len(graphs) == 3
    assert set(LAYERS) >= {"Conv", "Gemm"}


def test_export_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    handlers, level = list(logging.root.handlers), logging.root.manager.disable
    quantised(seeded("tabular"), tmp_path / "b", raw_samples(SAMPLES, (12,)), (12,))
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert (list(logging.root.handlers), logging.root.manager.disable) == (handlers, level)


def test_option_arrives_and_is_shown(tmp_path: Path, run_audit: Run) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Linear(6, 3)"
    )
    write_dataset(tmp_path / "data.h5", raw_samples(SAMPLES, (6,)))
    options = "--input-shape 6 --int8 --calibration data.h5 -o bundle"
    done = run_audit("export", "nets.py:net", *options.split())
    assert (done.returncode, done.stderr) == (0, "")
    record = load_bundle(tmp_path / "bundle").manifest.int8
    assert record is not None
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["int8"] == (
        f"1000 data.h5 samples: guard {record.guard:.2g}, {record.proposed['0.1']:.2%} proposed at "
        f"eps 0.1, {record.speedup:.2g} times as fast"
    )
    assert lines["bundle"] == "bundle (model.onnx, model.ts, model.int8.onnx)"
    told = run_audit("info", "bundle")
    assert (told.returncode, told.stderr) == (0, "")
    assert "reduce_range" in told.stdout
    # Replaced by one without.
    done = run_audit("export", "nets.py:net", "--input-shape", "6", "-o", "bundle")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "bundle" / ONNX_INT8).exists()
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.int8, bundle.int8_guard) == (None, None)


class Attention(nn.Module):
    """No layer has weights of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean(1, keepdim=True)


def test_networks_that_cannot_be_quantised(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer with constant weights"):
        quantised(Attention().eval(), tmp_path / "b", raw_samples(SAMPLES, (6,)), (6,))
    assert not (tmp_path / "b").exists()


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ONNX Runtime can't quantise the network: .*int8 out$"):
        Quantiser(b"nothing", tmp_path, raw_samples(8, (6,)))


class Overflows(nn.Module):
    """Squares what quantisation has made larger than float32's root."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x) / (x.abs().amin(1, keepdim=True))
        return logits


def test_logits_that_become_infinite(tmp_path: Path) -> None:
    """0.001 is 0 once the range up to 1000 has 256 steps."""
    raw = np.abs(raw_samples(SAMPLES, (6,))) + 0.001
    raw[::3] *= 1000
    raw[1::3, 0] = 0.001
    with pytest.raises(ModelError, match=r"logits are NaN or infinite .*; leave --int8 out"):
        quantised(Overflows().eval(), tmp_path / "b", raw, (6,))
    assert not (tmp_path / "b").exists()


@pytest.mark.timeout(60)
def test_outliers_leave_the_histograms_out(tmp_path: Path) -> None:
    """One of a billion bins would fill the memory, or take for ever; minimum and maximum do."""
    raw = raw_samples(SAMPLES, (6,))
    raw[::7] *= 1e6
    ordinary = raw[np.abs(raw).max(axis=1) < 100]
    samples = np.concatenate([ordinary[:40], raw[:40]])
    network = audit.export(seeded_linear(), tmp_path / "float", input_shape=(6,))
    quantiser = Quantiser(network.read(ONNX), tmp_path, samples)
    for method in ("percentile", "entropy"):
        with pytest.raises(ModelError, match="too far for a histogram"):
            quantiser.graph(Setting(method))
    assert quantiser.graph(Setting("minmax"))
    ordered = write_dataset(tmp_path / "data.h5", raw)
    bundle = audit.export(
        seeded_linear(), tmp_path / "b", input_shape=(6,), int8=True, calibration=ordered
    )
    assert bundle.manifest.int8 is not None


def seeded_linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 3).eval()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"int8": True}, "--int8: needs --calibration DATA.h5"),
        ({"calibration": "data.h5"}, "--calibration data.h5: is for --int8; add it"),
    ],
)
def test_options_that_belong_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ExportOptions(input_shape=(6,), **given)


def few(path: Path) -> None:
    write_dataset(path, raw_samples(SAMPLES - 1, (6,)))


def of_another_shape(path: Path) -> None:
    write_dataset(path, raw_samples(SAMPLES, (7,)))


def of_another_dtype(path: Path) -> None:
    write_dataset(path, raw_samples(SAMPLES, (6,), "uint8"))


def infinite(path: Path) -> None:
    raw = raw_samples(SAMPLES, (6,))
    raw[::2] = np.inf
    write_dataset(path, raw)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (few, f"{SAMPLES - 1} samples; --calibration needs {SAMPLES} and more: 128 to find"),
        (of_another_shape, r"calibration samples are float32 \(7,\); the bundle takes float32 \(6"),
        (of_another_dtype, r"calibration samples are uint8 \(6,\); the bundle takes float32 \(6,"),
        (infinite, "logits of calibration samples are NaN or infinite; leave such samples out"),
        (lambda path: None, r"cal\.h5"),
        (lambda path: h5py.File(path, "w").close(), r"cal\.h5: no dataset 'images'"),
    ],
)
def test_calibration_data_that_does_not_do(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "cal.h5")
    with pytest.raises(DatasetError, match=message) as caught:
        audit.export(
            nn.Linear(6, 3),
            tmp_path / "b",
            input_shape=6,
            int8=True,
            calibration=tmp_path / "cal.h5",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()
