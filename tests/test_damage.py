"""Bytes flipped anywhere: an error of ours, or an answer; never a traceback, never a crash."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import audit
from audit.dataset import Dataset
from audit.errors import AuditError
from oracles import read

SEEDS = range(250)


def _flip(path: Path, seed: int) -> None:
    """One to eight bytes, in the first 8,000: HDF5 keeps its structures there."""
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(0, min(len(data), 8000))] = rng.integers(0, 256)
    path.write_bytes(data)


def _read_dataset(path: Path) -> None:
    with Dataset(path) as dataset:
        dataset.describe()
        for block in dataset.blocks(0, dataset.stored):
            read(dataset, block)


def _read_findings(path: Path) -> None:
    findings = audit.load_findings(path)
    for name in ("index", "classes", "margin", "gradient", "distance_l2", "input", "pairs"):
        getattr(findings, name)


@pytest.mark.parametrize("kind", ["dataset", "findings"])
def test_flipped_bytes(kind: str, mnist_h5: Path, tmp_path: Path) -> None:
    original, damaged = tmp_path / "original.h5", tmp_path / "damaged.h5"
    if kind == "dataset":
        with h5py.File(original, "w") as file:
            images = np.zeros((50, 4, 4), np.uint8)
            file.create_dataset("images", data=images, chunks=(10, 4, 4), compression="gzip")
            file["labels"] = np.arange(50) % 3
            file.attrs["audit_bundle"] = "mnist"
    else:
        audit.scan(mnist_h5, eps=0.1, out=original)
    read = _read_dataset if kind == "dataset" else _read_findings
    refused = 0
    for seed in SEEDS:
        shutil.copy(original, damaged)
        _flip(damaged, seed)
        try:
            read(damaged)
        except AuditError:
            refused += 1
    assert refused > 10
