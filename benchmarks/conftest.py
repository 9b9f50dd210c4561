"""Fixtures of the benchmarks, and what their JSON says of the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from audit.bundle import Bundle, load_bundle
from benchmarks import data, models, stages
from benchmarks.contest import Contest
from benchmarks.data import FULL, SMALL, STORAGES, Images, Scale
from benchmarks.models import Model
from benchmarks.reference import Reference, reference

VERSIONS = (
    "near-tie-audit", "torch", "onnxruntime", "onnxruntime-gpu", "numpy", "h5py", "numba",
    "deflate", "captum", "triton",
)  # fmt: skip


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Ratios hang on these as much as on the processor."""
    machine_info["versions"] = {name: each for name in VERSIONS if (each := _version(name))}
    machine_info["processors"] = stages.threads()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class Work(NamedTuple):
    """Something to scan.

    Attributes:
        model: The network as its user has it.
        bundle: The same as a scan takes it; with a quantised graph.
        raw: Images as stored.
        path: Writes them to a file, once for each storage.
        reference: What must be found.
    """

    model: Model
    bundle: Bundle
    raw: NDArray[np.uint8]
    path: Callable[[str], Path]
    reference: Reference


@pytest.fixture
def contest(benchmark: BenchmarkFixture) -> Contest:
    """Measures both contestants in turn."""
    return Contest(benchmark)


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    """In full where anything is measured, else as little as shows that it works."""
    config = request.config
    measured = config.getoption("benchmark_enable") or not config.getoption("benchmark_disable")
    return FULL if measured else SMALL


@pytest.fixture(scope="session")
def work(scale: Scale, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Work]:
    """By the name of a model: linear, cnn, resnet. Made when it is first asked for."""

    @cache
    def make(name: str) -> Work:
        folder = tmp_path_factory.mktemp(name)
        bundle: Bundle | None = None
        if name == "resnet":
            coloured = models.rgb_images(data.shipped(), scale)
            fit, scanned = coloured.fit, coloured.scanned
            model = models.resnet(fit, scale)
        else:
            fit, scanned = data.shipped(), data.mnist(scale.images)
            fit = fit.part(0, scale.images)
            bundle = None if name == "linear" else load_bundle("mnist")
            model = models.linear(fit) if bundle is None else models.small_cnn(bundle)
        return Work(
            model=model,
            bundle=bundle or models.exported(model, fit, scale, int8=name == "resnet"),
            raw=scanned.images,
            path=cache(lambda storage: _written(scanned, storage, folder)),
            reference=reference(model, scanned.images),
        )

    return make


@pytest.fixture(scope="session")
def quantised_cnn(work: Callable[[str], Work], scale: Scale) -> Bundle:
    """The network of the shipped bundle with a quantised graph beside it."""
    return models.exported(
        work("cnn").model, data.shipped().part(0, scale.images), scale, int8=True
    )


def _written(images: Images, storage: str, folder: Path) -> Path:
    assert storage in STORAGES
    return data.write(folder / f"{storage.replace(' ', '-')}.h5", images, storage)
