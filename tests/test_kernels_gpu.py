"""The tensor kernels on a GPU. Skipped, and counted as such, where there is none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import audit_kernels


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda device")
@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(70_001, 10), (8191, 1000), (513, 50_257), (2, 250_000)])
def test_a_gpu_gives_the_definition(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, 2 % shape[1]] = torch.nan
    wide = logits.numpy() if dtype == torch.float64 else logits.float().numpy()
    expected = audit_kernels.get("reference")(wide, classes=True)
    finite = ~np.isnan(expected.margin)
    assert expected.classes is not None
    kernel = audit_kernels.get(name)
    for classes in (True, False):
        found = kernel(logits.cuda(), classes=classes)  # type: ignore[arg-type]
        assert isinstance(found, audit_kernels.TensorTop2)
        np.testing.assert_array_equal(found.margin.cpu().numpy(), expected.margin)
        np.testing.assert_array_equal(found.top.cpu().numpy()[finite], expected.top[finite])
        if found.classes is not None:
            pairs = found.classes.cpu().numpy()
            np.testing.assert_array_equal(pairs[finite], expected.classes[finite])
        positions = sys.modules[kernel.__module__].candidates(
            found.margin, found.margin.new_tensor(0.1)
        )
        below = np.flatnonzero(~(expected.margin >= expected.margin.dtype.type(0.1)))
        np.testing.assert_array_equal(positions.cpu().numpy(), below)
