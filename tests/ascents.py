"""Networks and single steps that an ascent is compared with, without any of its code."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from audit.bundle import PT2, Bundle
from train_mnist import MEAN, STD, SmallCNN


class Shipped(nn.Module):
    """The shipped bundle's network, eager, in float64, from input space; weights of `model.pt2`."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        program = torch.export.load(io.BytesIO(bundle.read(PT2)))
        prefix = "network."
        self.network = SmallCNN()
        self.network.load_state_dict(
            {
                name.removeprefix(prefix): value
                for name, value in program.state_dict.items()
                if name.startswith(prefix)
            }
        )
        self.double().eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((x - MEAN) / STD)
        return logits


def objective_value(logits: torch.Tensor, target: int, objective: str) -> torch.Tensor:
    """What is ascended, of one sample's logits (C,)."""
    if objective == "logit":
        return logits[target]
    if objective == "prob":
        return functional.softmax(logits, 0)[target].log()
    others = torch.cat([logits[:target], logits[target + 1 :]])
    return logits[target] - others.max()


def walk_alone(
    model: nn.Module,
    x: NDArray[Any],
    target: int,
    *,
    step: float,
    steps: int,
    norm: str,
    objective: str,
    clip: tuple[float, float] | None,
) -> list[NDArray[np.float64]]:
    """The inputs of an ascent, one sample alone, written as plainly as it can be."""
    inputs = [x.astype(np.float64)]
    for _ in range(steps):
        here = torch.from_numpy(inputs[-1][None]).requires_grad_()
        value = objective_value(model(here)[0], target, objective)
        (gradient,) = torch.autograd.grad(value, here)
        slope = gradient[0].numpy()
        direction = np.sign(slope) if norm == "linf" else slope / np.linalg.norm(slope)
        moved = inputs[-1] + step * direction
        inputs.append(moved if clip is None else np.clip(moved, *clip))
    return inputs
