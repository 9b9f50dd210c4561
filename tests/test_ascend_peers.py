"""`audit ascend --minimal` beside Foolbox's attacks, on the same network and the same images.

DeepFool and the others look for any other class, so they are compared with the closest of all nine.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import audit
from ascents import Shipped
from audit.bundle import Bundle

with warnings.catch_warnings():
    # Foolbox 3.3.4 imports scipy.ndimage.filters, and eagerpy and its attacks old names of others.
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

IMAGES = 100


def smallest(found: audit.Ascents, norm: str) -> NDArray[np.float64]:
    """Of each image over its targets."""
    distance = {"l2": found.minimal_distance_l2, "linf": found.minimal_distance_linf}[norm]
    assert found.succeeded == found.count
    return np.asarray(distance.reshape(-1, 9).min(axis=1))


def distances(
    attack: str, network: torch.nn.Module, x: NDArray[np.float64], norm: str
) -> NDArray[np.float64]:
    """How far the attack had to go for another class, infinite where it found none."""
    # Foolbox's own names aren't exported explicitly, which mypy asks for.
    model = vars(foolbox)["PyTorchModel"](network, bounds=(0, 1), device="cpu")
    images = torch.from_numpy(x)
    start = network(images).argmax(1)
    there = vars(foolbox.attacks)[attack]()(model, images, start, epsilons=None)[1]
    difference = (there - images).flatten(1)
    length = difference.norm(dim=1) if norm == "l2" else difference.abs().amax(1)
    flipped = network(there).argmax(1) != start
    return np.asarray(torch.where(flipped, length, torch.inf).detach().numpy())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_not_worse_than_deepfool(
    norm: str, mnist_bundle: Bundle, mnist_h5: Path, tmp_path: Path
) -> None:
    found = audit.ascend(
        mnist_h5, index=range(IMAGES), target="all", norm=norm, minimal=True, frames=0,
        model="mnist", out=tmp_path / "a.h5",
    )  # fmt: skip
    ours = smallest(found, norm)
    with h5py.File(mnist_h5) as file:
        x = (file["images"][:IMAGES][:, None] / 255).astype(np.float32).astype(np.float64)
    deepfool = {"l2": "L2DeepFoolAttack", "linf": "LinfDeepFoolAttack"}[norm]
    theirs = distances(deepfool, Shipped(mnist_bundle), x, norm)
    assert np.isfinite(theirs).all()
    assert np.median(ours) <= np.median(theirs)
    assert np.mean(ours <= theirs) > 0.95
    assert np.median(ours / theirs) < 0.8
    if norm == "l2":  # DDN, Rony et al. 2019: a minimal-norm method, and not only a fast one
        assert np.median(ours / distances("DDNAttack", Shipped(mnist_bundle), x, norm)) <= 1.0
