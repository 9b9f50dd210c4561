"""ResNet-18 for 32x32 RGB, trained for a minute on digits in colour.

The CIFAR variant: a 3x3 stem and no max-pooling; 11 million parameters (He et al. 2016,
https://arxiv.org/abs/1512.03385, with the stem that small images take). Speed doesn't depend on
what the weights are, but the cascade does: random convolutions under a fitted last layer lose so
much to quantisation that three samples of four were proposed. A minute of training is enough.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from networks import Block

WIDTH = 64
CLASSES = 10
MEAN, STD = 0.1, 0.25  # of digits in colour, roughly
STEPS, BATCH, RATE = 120, 64, 0.05


class ResNet18(nn.Module):
    """Logits (N, 10) of normalised images (N, 3, 32, 32)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        blocks = [Block(width, width, 1), Block(width, width, 1)]
        for size in (2 * width, 4 * width, 8 * width):
            blocks += [Block(size // 2, size, 2), Block(size, size, 1)]
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(8 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def fitted(images: NDArray[np.uint8], labels: NDArray[np.int64], width: int = WIDTH) -> ResNet18:
    """The network, in evaluation mode, trained for `STEPS` steps.

    Args:
        images: (N, 32, 32, 3), as they are stored.
        labels: (N,).
        width: Channels of the first stage.
    """
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    # With channels last, oneDNN writes past a buffer in the gradients of a strided 1 x 1 layer of
    # few channels, and hangs or aborts: uxlfoundation/oneDNN#6035, on processors without AVX-512.
    x = x.contiguous()
    classes = torch.from_numpy(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet18(width)
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(x), (BATCH,))
            loss = nn.functional.cross_entropy(model(x[rows]), classes[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()
