"""Small networks of every kind that an export must serve, each with its input shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNet(nn.Module):
    """BatchNorm and Dropout between convolutions."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 13 * 13, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual blocks for 32 x 32 RGB."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


class VisionTransformer(nn.Module):
    """Patches, a class token that takes the batch size from x.shape, `nn.TransformerEncoder`."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, batch_first=True, activation="gelu", norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        logits: Tensor = self.head(self.norm(self.encoder(x))[:, 0])
        return logits


class SequenceEncoder(nn.Module):
    """A transformer over a sequence that mentions dtypes, which tracing freezes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None]
        position = torch.sin(steps * torch.arange(1, 17, device=x.device).to(x.dtype) / 16)
        logits: Tensor = self.head(self.encoder(self.embed(x) + position).mean(1))
        return logits


class GroupNormNet(nn.Module):
    """GroupNorm, LayerNorm, SiLU and GELU."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Conv2d(8, 16, 3, 2),
            nn.GroupNorm(4, 16),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(16),
            nn.Linear(16, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def signal_net(classes: int = 4) -> nn.Module:
    """1-D convolutions over two-channel signals."""
    return nn.Sequential(
        nn.Conv1d(2, 8, 5),
        nn.BatchNorm1d(8),
        nn.ELU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def tabular_net(classes: int = 2) -> nn.Module:
    """Twelve features, two classes."""
    return nn.Sequential(
        nn.BatchNorm1d(12),
        nn.Linear(12, 32),
        nn.LeakyReLU(),
        nn.Linear(32, 32),
        nn.Tanh(),
        nn.Linear(32, classes),
    )


def wide_mlp(classes: int = 1000) -> nn.Module:
    """A thousand classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, classes))


def linear(features: int = 784, classes: int = 10) -> nn.Module:
    """Gradients are rows of its weight matrix."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (ConvNet, (1, 28, 28)),
    "resnet": (ResNet, (3, 32, 32)),
    "vit": (VisionTransformer, (3, 32, 32)),
    "sequence": (SequenceEncoder, (9, 6)),
    "groupnorm": (GroupNormNet, (3, 32, 32)),
    "signal": (signal_net, (2, 64)),
    "tabular": (tabular_net, (12,)),
    "wide": (wide_mlp, (1, 28, 28)),
}


def seeded(name: str, seed: int = 0) -> nn.Module:
    """The network of that name, its batch statistics those of random data, in evaluation mode."""
    factory, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = factory()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(32, *shape))
    return model.eval()
