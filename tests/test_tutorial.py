"""The tutorial's commands, as they stand in the document, on fewer images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from audit.ascent import load_ascents
from audit.findings import load_findings
from oracles import write_dataset

ROOT = Path(__file__).parents[1]
TRAINED_ON = 6000


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """The folder in which everything was run."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "mnist.h5").symlink_to(mnist_h5)
    with h5py.File(mnist_h5) as file:
        write_dataset(
            folder / "mnist-train.h5", file["images"][:TRAINED_ON], file["labels"][:TRAINED_ON]
        )
    commands = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input="".join(commands),
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "tutorial"


def pixels(picture: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("network", ["linear", "cnn"])
def test_training_leaves_figures_findings_and_weights(network: str, walked: Path) -> None:
    findings = load_findings(walked / network / "confused.h5")
    assert findings.scanned > 0
    assert (findings.margin < 0.1).all()
    assert (findings.logits[:, 0] > 5).all()
    (events,) = (walked / network).glob("tensorboard/version_*/")
    logged = EventAccumulator(str(events), size_guidance={IMAGES: 0})
    logged.Reload()
    figures = [event for tag in logged.Tags()["images"] for event in logged.Images(tag)]
    assert len(figures) <= findings.flagged
    assert bool(figures) == bool(findings.flagged)
    assert (walked / network / "weights.ckpt").exists()


def test_gradients_are_noise_before_and_structure_after(walked: Path) -> None:
    """What the picture of the linear classifier claims, in numbers: neighbours come to agree."""
    import torch

    state = torch.load(walked / "linear/weights.ckpt", weights_only=True)["state_dict"]
    after = state["network.1.weight"].reshape(10, 28, 28).numpy()
    before = np.random.default_rng(0).uniform(-1, 1, after.shape)

    def of_neighbours(weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        inner = weights[:, 6:22, 6:22]
        return float(np.corrcoef(inner[..., 1:].ravel(), inner[..., :-1].ravel())[0, 1])

    assert abs(of_neighbours(before)) < 0.1
    assert of_neighbours(after) > 0.3
    assert len(np.unique(pixels(walked / "linear/before-after.png").reshape(-1, 3), axis=0)) > 500


def test_scan_figures_and_ascent(walked: Path) -> None:
    findings = load_findings(walked / "cnn/findings.h5")
    ascents = load_ascents(walked / "cnn/ascent.h5")
    assert findings.flagged > 0
    assert len(ascents.index) == findings.flagged
    assert ascents.success.all()
    for folder in ("cnn/figures", "cnn/ascent-figures"):
        pictures = [each for each in (walked / folder).iterdir() if each.suffix == ".png"]
        assert pictures
        for picture in pictures:
            assert len(np.unique(pixels(picture).reshape(-1, 3), axis=0)) > 50
    assert list((walked / "cnn/ascent-figures").glob("*.gif"))
