"""The GPU path. Skipped, and counted as such, where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import audit
from audit.forward import PROVIDERS, import_onnxruntime


def _has(device: str) -> bool:
    return (
        torch.cuda.is_available()
        and PROVIDERS[device] in import_onnxruntime().get_available_providers()
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    "device",
    [
        pytest.param(name, marks=pytest.mark.skipif(not _has(name), reason=f"no {name} device"))
        for name in ("cuda", "tensorrt")
    ],
)
def test_a_gpu_gives_the_same_answer(device: str, mnist_h5: Path, tmp_path: Path) -> None:
    cpu = audit.scan(mnist_h5, eps=0.1, out=tmp_path / "cpu.h5")
    gpu = audit.scan(mnist_h5, eps=0.1, device=device, out=tmp_path / "gpu.h5")
    assert gpu.engine["device"] == device
    np.testing.assert_array_equal(gpu.index, cpu.index)
    np.testing.assert_array_equal(gpu.classes, cpu.classes)
    np.testing.assert_allclose(gpu.margin, cpu.margin, rtol=0, atol=1e-12)
    np.testing.assert_allclose(gpu.gradient, cpu.gradient, rtol=1e-6, atol=1e-9)
