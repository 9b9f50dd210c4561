"""The GPU's pass over a block, on CPU tensors: the same binding, the same proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import audit
from audit import fast_pass
from audit.batch_size import BatchSize
from audit.bundle import ONNX, Bundle
from audit.dataset import Dataset
from audit.device import DevicePass
from audit.fast_pass import Level, Line, Passed, Segment
from audit.forward import Forward
from audit.guard import Guard
from audit.options import ScanOptions
from audit_kernels import get as get_kernel
from oracles import arrays, read, write_dataset

ROWS = 300


def _line(bundle: Bundle, dataset: Dataset, guard: Guard, **options: Any) -> Line:
    forward = Forward(bundle.read(ONNX), device="cpu", threads=1, source="test")
    checks = np.arange(0, ROWS, 9)
    return Line(
        dataset=dataset,
        manifest=bundle.manifest,
        levels=(Level("float32", forward, guard, checks),),
        kernel=get_kernel("numpy"),
        batch_size=BatchSize(10, ROWS),
        threads=2,
        options=ScanOptions(eps=0.3, **options),
        progress=lambda _: None,
    )


def _samples(name: str, bundle: Bundle) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    raw = bundle.manifest.preprocess.random_raw(ROWS, rng)
    if raw.dtype == np.float32:
        flat: NDArray[Any] = raw.reshape(ROWS, -1)
        flat[7, 0], flat[8, 1], flat[9] = np.nan, np.inf, np.finfo(np.float32).max
        flat[20:40] *= 30  # larger logits than the guard was measured on
    return raw


def _assert_same(got: Passed, expected: Passed) -> None:
    for name in vars(expected):
        if name == "kept":
            for each in vars(expected.kept):
                np.testing.assert_array_equal(
                    getattr(got.kept, each), getattr(expected.kept, each), err_msg=each
                )
        else:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("keep_all", [True, False])
@pytest.mark.parametrize("name", ["tabular", "cnn"])
def test_a_block_passes_as_on_the_host(
    name: str,
    keep_all: bool,
    network_bundle: Callable[[str], Bundle],
    tmp_path: Path,
) -> None:
    bundle = network_bundle(name)
    raw = _samples(name, bundle)
    labels = np.random.default_rng(1).integers(-1, len(bundle.manifest.classes), ROWS)
    with Dataset(write_dataset(tmp_path / "data.h5", raw, labels)) as dataset:
        line = _line(bundle, dataset, Guard(0.05, 1.0), keep_all=keep_all)
        there, here = DevicePass(line, "cpu"), fast_pass._HostPass(line)
        batches = [slice(0, 128), slice(128, 129), slice(129, ROWS)]
        span = range(ROWS)
        got = there.finish(span, raw, [there.forward(raw[each]) for each in batches], labels)
        expected = here.finish(span, raw, [here.forward(raw[each]) for each in batches], labels)
    assert 0 < got.kept.proposed.sum() < ROWS
    assert not got.kept.proposed.all()  # checks
    _assert_same(got, expected)


def test_a_whole_scan_through_it(
    mnist_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def on_the_cpu(line: Line) -> DevicePass:
        made.append(DevicePass(line, "cpu"))
        return made[-1]

    audit.scan(mnist_h5, eps=0.1, out=tmp_path / "host.h5")
    monkeypatch.setattr(fast_pass, "_HostPass", on_the_cpu)
    audit.scan(mnist_h5, eps=0.1, out=tmp_path / "device.h5")
    assert made
    got, expected = arrays(tmp_path / "device.h5"), arrays(tmp_path / "host.h5")
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_another_number_of_classes_is_the_bundles_fault(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = network_bundle("tabular")
    raw = _samples("tabular", bundle)
    with Dataset(write_dataset(tmp_path / "data.h5", raw)) as dataset:
        line = _line(bundle, dataset, bundle.guard)
        wrong = replace(line, manifest=replace(bundle.manifest, classes=("a", "b", "c", "d", "e")))
        with pytest.raises(audit.AuditError, match="ONNX Runtime failed"):
            DevicePass(wrong, "cpu").forward(raw)


def test_a_segment_goes_through_the_lanes(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = network_bundle("tabular")
    raw = _samples("tabular", bundle)
    with Dataset(write_dataset(tmp_path / "data.h5", raw)) as dataset:
        line = _line(bundle, dataset, bundle.guard)
        passed = [*fast_pass.fast_pass(line, Segment(0, ROWS), np.full(ROWS, -1))]
        assert sum(each.samples for each in passed) == ROWS
        np.testing.assert_array_equal(read(dataset, range(3)), raw[:3])
