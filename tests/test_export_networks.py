"""Every kind of network through export: both graphs, any batch size, and float64 eager."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from audit.bundle import ONNX, PT2, TORCHSCRIPT, Bundle
from audit.forward import Forward
from audit.gradients import Canonical
from networks import NETWORKS, seeded


@pytest.mark.parametrize("name", NETWORKS)
def test_exports_agree_with_float64_eager(
    name: str, network_bundle: Callable[[str], Bundle]
) -> None:
    bundle = network_bundle(name)
    shape = NETWORKS[name][1]
    model = seeded(name).double()
    forward = Forward(bundle.read(ONNX), device="cpu", threads=2, source=name)
    canonical = Canonical(bundle.read(TORCHSCRIPT), device="cpu", threads=2, source=name)
    program = torch.export.load(io.BytesIO(bundle.read(PT2))).module().double()
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 1024 if name in ("tabular", "signal", "wide") else 40):
        x = rng.standard_normal((size, *shape)).astype(np.float32)
        inputs = torch.from_numpy(x).double().requires_grad_()
        logits = model(inputs)
        expected = logits.detach().numpy()
        np.testing.assert_allclose(forward.logits(x), expected, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(canonical.logits(x), expected, atol=1e-12, rtol=1e-12)
        np.testing.assert_allclose(canonical.logits_alone(x[:3]), expected[:3], atol=1e-12)
        classes = np.argsort(-expected, axis=1)[:, :2].copy()
        pair = canonical.pair_gradients(x, classes, np.ones(size)).gradient
        for side in (0, 1):
            chosen = logits[torch.arange(size), torch.from_numpy(classes[:, side])].sum()
            (gradient,) = torch.autograd.grad(chosen, inputs, retain_graph=True)
            np.testing.assert_allclose(pair[:, side], gradient.numpy(), atol=1e-12, rtol=1e-9)
            again = program(inputs)[torch.arange(size), torch.from_numpy(classes[:, side])].sum()
            (gradient_pt2,) = torch.autograd.grad(again, inputs)
            np.testing.assert_allclose(gradient_pt2.numpy(), gradient.numpy(), atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_is_one_valid_file(name: str, network_bundle: Callable[[str], Bundle]) -> None:
    bundle = network_bundle(name)
    model = onnx.load_from_string(bundle.read(ONNX))
    onnx.checker.check_model(model, full_check=True)
    (graph_input,) = model.graph.input
    assert graph_input.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(each.external_data for each in model.graph.initializer)
    assert {each.name for each in bundle.path.iterdir()} == {
        "manifest.json", "model.onnx", "model.ts", "model.pt2",
    }  # fmt: skip
