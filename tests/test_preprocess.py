"""raw → input space → network input, by numpy and inside the graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from audit.errors import OptionError
from audit.folding import raw_graphs
from audit.forward import OUTPUT, Forward
from audit.graphs import NETWORK_INPUT, OPSET
from audit.preprocess import (
    Preprocess,
    input_space_to_logits,
    layouts_of,
    plan_preprocess,
)


def plan(input_shape: tuple[int, ...], **given: Any) -> Preprocess:
    options: dict[str, Any] = {
        "raw_shape": None,
        "raw_dtype": "float32",
        "raw_layout": None,
        "scale": None,
        "offset": 0.0,
        "mean": None,
        "std": None,
    }
    return plan_preprocess(input_shape=input_shape, **(options | given))


def by_graph(p: Preprocess, raw: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What a network that only flattens gives behind each graph's preprocessing."""
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in ((NETWORK_INPUT, p.input_shape), (OUTPUT, [int(np.prod(p.input_shape))]))
    ]
    node = helper.make_node("Flatten", [NETWORK_INPUT], [OUTPUT])
    graph = helper.make_graph([node], "flatten", declared[:1], declared[1:])
    opset = [helper.make_opsetid("", OPSET)]
    network = helper.make_model(graph, ir_version=10, opset_imports=opset).SerializeToString()
    graphs = raw_graphs(network, p)._asdict()
    return {
        name: Forward(data, device="cpu", threads=1, source=name).logits(raw)
        for name, data in graphs.items()
        if data is not None
    }


# layout, raw shape, input shape, and the same by numpy's own words
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "F": ((5,), (5,), "nf->nf"),
    "L": ((5,), (1, 5), "nl->nl"),
    "CL": ((2, 5), (2, 5), "ncl->ncl"),
    "LC": ((5, 2), (2, 5), "nlc->ncl"),
    "HW": ((4, 5), (1, 4, 5), "nhw->nhw"),
    "CHW": ((3, 4, 5), (3, 4, 5), "nchw->nchw"),
    "HWC": ((4, 5, 3), (3, 4, 5), "nhwc->nchw"),
    "DHW": ((2, 4, 5), (1, 2, 4, 5), "ndhw->ndhw"),
    "CDHW": ((3, 2, 4, 5), (3, 2, 4, 5), "ncdhw->ncdhw"),
    "DHWC": ((2, 4, 5, 3), (3, 2, 4, 5), "ndhwc->ncdhw"),
    "ABCDE": ((3, 2, 2, 4, 5), (3, 2, 2, 4, 5), "nabcde->nabcde"),
}
RAW: dict[str, dict[str, Any]] = {
    "uint8": {},
    "float16": {"scale": 0.25, "offset": -0.1},
    "float32": {"scale": 3.0, "offset": 0.7},
    "float64": {"scale": 1e-3, "offset": 1.0},
}


def random_raw(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, (3, *shape), dtype=np.uint8)
    return rng.standard_normal((3, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", RAW)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: str) -> None:
    raw_shape, input_shape, axes = LAYOUTS[layout]
    channels = input_shape[0]
    mean, std = (tuple(0.1 * k + start for k in range(channels)) for start in (0.3, 0.8))
    p = plan(input_shape, raw_layout=layout, raw_dtype=dtype, mean=mean, std=std, **RAW[dtype])
    assert (p.raw_shape, p.raw_layout, p.input_shape) == (raw_shape, layout, input_shape)
    raw = random_raw(dtype, raw_shape)

    x = p.to_input_space(raw)
    moved = np.einsum(axes, raw.astype(np.float64)).reshape(3, *input_shape)
    expected = moved * (p.scale) + p.offset
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x, expected.astype(np.float32))

    per_channel = (-1,) + (1,) * (len(input_shape) - 1)
    normalised = (expected - np.reshape(mean, per_channel)) / np.reshape(std, per_channel)
    # `Flatten` tells every axis from every other.
    exact = input_space_to_logits(nn.Flatten(), p).double()(torch.from_numpy(x).double())
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact.numpy(), normalised.reshape(3, -1), rtol=2e-7, atol=2e-7)
    inside = by_graph(p, raw)
    # float32 data times 3 may overflow, and float64 data keeps its digits: one graph for those.
    assert inside.keys() == ({"plain"} if dtype in ("float32", "float64") else {"plain", "folded"})
    for logits in inside.values():
        np.testing.assert_allclose(logits, normalised.reshape(3, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_lists_them(layout: str) -> None:
    raw_shape, input_shape, _ = LAYOUTS[layout]
    assert layouts_of(input_shape)[layout] == raw_shape


def test_normalisation_is_exact_in_float64() -> None:
    """Constants travel in float32 parts, and lose no bit of float64 by that."""
    mean, std = np.random.default_rng(0).uniform(0.1, 1, (2, 50)).tolist()
    p = plan((50,), mean=tuple(mean), std=tuple(std))
    module = input_space_to_logits(nn.Flatten(), p).float()
    x = torch.rand(5, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean64, std64 = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    assert torch.equal(module.double()(x), (x - mean64) / std64)
    single = (x.float() - mean64.float()) / std64.float()
    assert torch.equal(module.float()(x.float()), single)


def test_no_normalisation_is_no_module() -> None:
    network = nn.Flatten()
    assert input_space_to_logits(network, plan((3,))) is network


def test_uint8_is_divided_by_255_to_the_last_bit() -> None:
    p = plan((256,), raw_dtype="uint8")
    raw = np.arange(256, dtype=np.uint8)
    expected = raw.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(p.to_input_space(raw[None])[0], expected)
    # In the graphs it is a multiplication in float32, at most two roundings away.
    for inside in by_graph(p, raw[None]).values():
        np.testing.assert_array_max_ulp(inside[0], expected, maxulp=1)


def test_float64_keeps_its_digits_under_a_huge_offset() -> None:
    p = plan((4,), raw_dtype="float64", scale=1.0, offset=-1e9)
    small = np.array([[0.0, 0.125, -0.5, 3.0]])
    for x in (p.to_input_space(small + 1e9), *by_graph(p, small + 1e9).values()):
        np.testing.assert_array_equal(x, small.astype(np.float32))
    assert np.float32(1e9 + 3.0) - np.float32(1e9) != 3.0  # in float32 they'd be gone


@pytest.mark.parametrize(
    ("input_shape", "raw_shape", "layout"),
    [
        ((5,), None, "F"),
        ((1,), None, "F"),
        ((1, 28, 28), None, "HW"),
        ((1, 28, 28), (28, 28), "HW"),
        ((1, 28, 28), (1, 28, 28), "CHW"),
        ((1, 28, 28), (28, 28, 1), "HWC"),
        ((3, 32, 32), (3, 32, 32), "CHW"),
        ((3, 32, 32), (32, 32, 3), "HWC"),
        ((1, 64), None, "L"),
        ((2, 64), None, "CL"),
        ((2, 64), (64, 2), "LC"),
        ((1, 8, 8, 8), None, "DHW"),
        ((2, 2, 2, 2, 2), None, "ABCDE"),
    ],
)
def test_layout_found(
    input_shape: tuple[int, ...], raw_shape: tuple[int, ...] | None, layout: str
) -> None:
    assert plan(input_shape, raw_shape=raw_shape).raw_layout == layout


WAY_OUT = "say which with --raw-layout, or give --parity-data"


@pytest.mark.parametrize(
    ("input_shape", "given", "message"),
    [
        ((3, 32, 32), {}, f"CHW (3, 32, 32) or HWC (32, 32, 3): {WAY_OUT}"),
        ((2, 8, 8, 8), {}, f"CDHW (2, 8, 8, 8) or DHWC (8, 8, 8, 2): {WAY_OUT}"),
        ((3, 3, 3), {"raw_shape": (3, 3, 3)}, f"CHW (3, 3, 3) or HWC (3, 3, 3): {WAY_OUT}"),
        ((3, 3), {"raw_shape": (3, 3)}, f"CL (3, 3) or LC (3, 3): {WAY_OUT}"),
        (
            (3, 32, 32),
            {"raw_layout": "HW"},
            "--raw-layout HW: a network input of shape (3, 32, 32) can be stored as CHW, HWC (HW",
        ),
        ((1, 4, 4), {"raw_layout": "WH"}, "--raw-layout WH: a network input of shape (1, 4, 4)"),
        ((5,), {"raw_layout": "HWC"}, "can be stored as F"),
        ((1, 4, 4), {"raw_shape": (4, 5)}, "(4, 5), which no layout turns into --input-shape (1,"),
        (
            (1, 4, 4),
            {"raw_shape": (4, 4), "raw_layout": "CHW"},
            "samples have shape (4, 4); --input-shape (1, 4, 4) with --raw-layout CHW expects (1,",
        ),
        (
            (3, 4, 4),
            {"raw_layout": "CHW", "mean": (0.1, 0.2)},
            "--mean: got 2 numbers; expected 1, or 3 (one a channel of --input-shape (3, 4, 4))",
        ),
        ((3, 4, 4), {"raw_layout": "CHW", "std": (1.0,) * 4}, "--std: got 4 numbers; expected 1"),
        ((3,), {"mean": ()}, "--mean: got 0 numbers; expected 1, or 3"),
    ],
)
def test_refused(input_shape: tuple[int, ...], given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan(input_shape, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", RAW)
def test_random_samples_look_like_data(dtype: str) -> None:
    p = plan((3, 8, 8), raw_layout="HWC", raw_dtype=dtype, mean=(0.4, 0.5, 0.6), **RAW[dtype])
    raw = p.random_raw(64, np.random.default_rng(0))
    assert raw.shape == (64, 8, 8, 3)
    assert raw.dtype == dtype
    x = p.to_input_space(raw)
    if dtype == "uint8":
        assert raw.min() < 16
        assert raw.max() > 239
    else:
        assert abs(x.mean() - 0.5) < 0.05
        assert abs(x.std() - 1) < 0.05
