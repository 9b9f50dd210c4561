"""How a stored sample becomes the network's input, once, for both paths.

raw (as stored) → input space → network input

- raw → input space: axes in the network's order, then `raw · scale + offset`, as float32;
- input space → network input: `(x - mean) / std`.

numpy does it for the canonical path (`to_input_space`), the graph itself for the fast path
(`audit.folding`). `InputSpaceToLogits` is what the TorchScript module holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audit.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

# The order in which torch's layers take the axes of a sample of each rank.
NETWORK_AXES = {1: "F", 2: "CL", 3: "CHW", 4: "CDHW"}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What a bundle knows of its input.

    Attributes:
        raw_shape: Shape of one sample as stored.
        raw_dtype: Dtype of a stored sample: uint8, float16, float32 or float64.
        raw_layout: Axis letters of a stored sample: F, L, CL, LC, HW, HWC, CHW, …
        input_shape: Shape of one sample in input space, the network's own, channels first.
        scale: Input space is raw · scale + offset.
        offset: See `scale`.
        mean: Network input is (x - mean) / std: one number, or one a channel.
        std: See `mean`.
    """

    raw_shape: tuple[int, ...]
    raw_dtype: str
    raw_layout: str
    input_shape: tuple[int, ...]
    scale: float
    offset: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_input_space(self, raw: NDArray[np.generic]) -> NDArray[np.float32]:
        """Stored samples (N, *raw_shape) as float32 (N, *input_shape), rounded once."""
        # What float32 can't hold becomes infinite, and its sample is reported as non-finite.
        with np.errstate(over="ignore"):
            return self.before_rounding(raw).astype(np.float32)

    def before_rounding(self, raw: NDArray[np.generic]) -> NDArray[np.float64]:
        """As `to_input_space`, in float64."""
        x = raw.transpose(0, *(axis + 1 for axis in self.axes)).reshape(-1, *self.input_shape)
        with np.errstate(over="ignore", invalid="ignore"):
            # In C order: networks may view what they take as flat.
            return np.asarray(x.astype(np.float64, order="C") * self.scale + self.offset)

    def to_raw(self, x: NDArray[np.floating]) -> NDArray[np.generic]:
        """Input-space samples (N, *input_shape) as they would be stored, (N, *raw_shape).

        The inverse of `to_input_space`, rounded to the nearest value of the raw dtype: what lies
        beyond the range of uint8 saturates, what float16 or float32 can't hold becomes infinite.
        """
        raw = (x.astype(np.float64) - self.offset) / self.scale
        shape = [self.raw_shape[axis] for axis in self.axes]
        raw = raw.reshape(-1, *shape).transpose(0, *(np.argsort(self.axes) + 1))
        dtype = np.dtype(self.raw_dtype)
        if dtype.kind == "u":
            raw = raw.round().clip(0, np.iinfo(dtype).max)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(raw, dtype=dtype)

    def random_raw(self, count: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """Random samples (count, *raw_shape) that fill the range of the raw dtype.

        uint8: noise of any brightness and contrast. Floating point: about standard normal once
        it is the network's input.
        """
        shape = (count, *self.raw_shape)
        if self.raw_dtype == "uint8":
            each = (count,) + (1,) * len(self.raw_shape)
            low, high = np.sort(rng.uniform(0, 255, (2, *each)), axis=0)
            return rng.uniform(low, high, shape).round().astype(np.uint8)
        mean, std = float(np.mean(self.mean)), float(np.mean(self.std))
        x = rng.standard_normal(shape) * std + mean
        return np.asarray((x - self.offset) / self.scale, dtype=self.raw_dtype)

    @property
    def axes(self) -> tuple[int, ...]:
        """For each axis of the network's input that the raw sample has, its place there."""
        network = NETWORK_AXES.get(len(self.input_shape), self.raw_layout)
        return tuple(self.raw_layout.index(axis) for axis in network if axis in self.raw_layout)


def plan_preprocess(
    *,
    input_shape: tuple[int, ...],
    raw_shape: tuple[int, ...] | None,
    raw_dtype: str,
    raw_layout: str | None,
    scale: float | None,
    offset: float,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Preprocess:
    """Fill in what was left open; `raw_shape` is that of a dataset at hand, else None.

    Raises:
        OptionError: The layout is ambiguous, or sizes contradict each other.
    """
    if raw_layout is None:
        raw_layout = _find_layout(input_shape, raw_shape)
    expected = raw_shape_of(input_shape, raw_layout)
    if raw_shape is not None and raw_shape != expected:
        raise OptionError(
            f"the parity data's samples have shape {raw_shape}; --input-shape {input_shape} with "
            f"--raw-layout {raw_layout} expects {expected}"
        )
    if scale is None:
        scale = 1 / 255 if raw_dtype == "uint8" else 1.0
    return Preprocess(
        raw_shape=expected,
        raw_dtype=raw_dtype,
        raw_layout=raw_layout,
        input_shape=input_shape,
        scale=scale,
        offset=offset,
        mean=_per_channel("--mean", mean, 0.0, input_shape),
        std=_per_channel("--std", std, 1.0, input_shape),
    )


def layouts_of(input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Every way to store a sample of this network input: layout → raw shape."""
    network = NETWORK_AXES.get(len(input_shape))
    if network is None:
        return {"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(input_shape)]: input_shape}
    layouts = {network: input_shape}
    if len(network) > 1:
        channels, *rest = input_shape
        layouts[f"{network[1:]}C"] = (*rest, channels)
        if channels == 1:
            layouts[network[1:]] = tuple(rest)
    return layouts


def raw_shape_of(input_shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape of a stored sample in this layout.

    Raises:
        OptionError: The network's input has no such layout.
    """
    layouts = layouts_of(input_shape)
    if layout not in layouts:
        hint = " (HW needs one channel)" if layout == "HW" and len(input_shape) == 3 else ""
        raise OptionError(
            f"--raw-layout {layout}: a network input of shape {input_shape} can be stored as "
            f"{', '.join(layouts)}{hint}"
        )
    return layouts[layout]


def _find_layout(input_shape: tuple[int, ...], raw_shape: tuple[int, ...] | None) -> str:
    layouts = layouts_of(input_shape)
    if raw_shape is not None:
        layouts = {name: shape for name, shape in layouts.items() if shape == raw_shape}
        if not layouts:
            raise OptionError(
                f"the parity data's samples have shape {raw_shape}, which no layout turns into "
                f"--input-shape {input_shape}"
            )
    elif input_shape[0] == 1 and len(input_shape) > 1:
        # One channel is stored without an axis for it: MNIST is (N, 28, 28).
        return NETWORK_AXES[len(input_shape)][1:]
    elif len(input_shape) == 2:
        # Two axes are tokens or signals; nobody's convention puts the channels last.
        return NETWORK_AXES[2]
    if len(layouts) > 1:
        ways = " or ".join(f"{name} {shape}" for name, shape in layouts.items())
        raise OptionError(
            f"--input-shape {input_shape} may be stored as {ways}: say which with --raw-layout, "
            "or give --parity-data"
        )
    return next(iter(layouts))


def _per_channel(
    option: str, values: tuple[float, ...] | None, default: float, input_shape: tuple[int, ...]
) -> tuple[float, ...]:
    if values is None:
        return (default,)
    if len(values) not in (1, input_shape[0]):
        raise OptionError(
            f"{option}: got {len(values)} numbers; expected 1, or {input_shape[0]} (one a channel "
            f"of --input-shape {input_shape})"
        )
    return values


def input_space_to_logits(network: nn.Module, preprocess: Preprocess) -> nn.Module:
    """The network with its normalisation inside: (N, *input_shape) in input space → logits."""
    import torch
    from torch import Tensor, nn

    class InputSpaceToLogits(nn.Module):
        # Three float32 numbers hold the 53 bits of a float64: their sum is exact in float64, and
        # the nearest float32 in float32. A float64 buffer would need `.to(x.dtype)`, which tracing
        # freezes. Exact, since where a network has a kink (equal values in a max-pooling window)
        # the last bit decides which of two gradients is the gradient.
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            rank = len(preprocess.input_shape)
            for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
                rest = torch.tensor(values, dtype=torch.float64).reshape(-1, *(1,) * (rank - 1))
                parts = []
                for _ in range(3):
                    parts.append(rest.float())
                    rest = rest - parts[-1].double()
                self.register_buffer(name, torch.stack(parts))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network((x - self.mean.sum(0)) / self.std.sum(0))
            return logits

    if set(preprocess.mean) == {0.0} and set(preprocess.std) == {1.0}:
        return network
    return InputSpaceToLogits()
