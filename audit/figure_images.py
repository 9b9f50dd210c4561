"""Samples that are seen as images: grey, RGB, mosaics of channels or slices, heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from audit.figure_scale import (
    HIDDEN,
    MISSING,
    Fields,
    Limits,
    Values,
    diverging,
    limits_of,
    symmetric_limit,
)
from audit.figure_text import shown_number

MAX_TILES = 16
MAX_SHARP = 300  # more pixels than a field has are averaged, fewer are shown as they are
MAX_STRETCH = 5  # an image longer than so many times its width fills its field instead


class Tiles(NamedTuple):
    """A mosaic: images side by side, a pixel between them."""

    chosen: tuple[int, ...]  # which of the images there are
    columns: int
    height: int  # of one
    width: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Row and column of each one's first pixel."""
        places = (divmod(number, self.columns) for number in range(len(self.chosen)))
        return [(row * (self.height + 1), column * (self.width + 1)) for row, column in places]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Which pixels of the mosaic are an image's."""
        return np.isfinite(self.join(np.zeros((max(self.chosen) + 1, self.height, self.width))))

    def join(self, images: Values) -> Values:
        """(n, H, W) → the chosen ones in one image, NaN between them."""
        rows = math.ceil(len(self.chosen) / self.columns)
        size = (rows * (self.height + 1) - 1, self.columns * (self.width + 1) - 1)
        joined = np.full(size, np.nan)
        for index, (row, column) in zip(self.chosen, self.corners, strict=True):
            joined[row : row + self.height, column : column + self.width] = images[index]
        return joined


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How an array of the input's shape becomes an image.

    Attributes:
        sample: (*input_shape) → (H, W), or (H, W, 3) of RGB.
        gradient: (*input_shape) → (H, W).
        colors: Colour map of a sample that isn't RGB.
        tiles: Where it is a mosaic.
        numbered: Rows and columns are counted at the edges.
        notes: What is left out or put together.
    """

    sample: Callable[[Values], Values]
    gradient: Callable[[Values], Values]
    colors: str = "gray"
    tiles: Tiles | None = None
    numbered: bool = False
    notes: tuple[str, ...] = ()


class ImageView:
    """An image each."""

    def __init__(self, fields: Fields) -> None:
        picture = picture_of(fields.gradient)
        self._picture = picture
        self._sample = picture.sample(fields.sample)
        self._gradients = [picture.gradient(each) for each in fields.gradient]
        self._projections = [picture.sample(each) for each in fields.projections]
        self._limits = limits_of(self._sample)
        self._projection_limits = self._limits
        self._bound = symmetric_limit(np.stack(self._gradients))
        both = f"both projections (k = {shown_number(fields.factor)})"
        if picture.numbered or not fields.clipped:
            self._projection_limits = limits_of(self._sample, *self._projections)
            note = f"Sample shown from {self._limits}, {both} from {self._projection_limits}."
        else:
            # A picture that saturates, as a real one would, shows more than one on a scale that
            # holds what no picture has.
            reach = limits_of(*self._projections)
            note = (
                f"Sample and projections shown from {self._limits}; {both}, clipped to that, go "
                f"from {reach}."
            )
        self.notes = [*picture.notes, note]

    def draw_sample(self, axes: Axes) -> None:
        """On its own scale."""
        self._draw_values(axes, self._sample, self._limits)
        tiles = self._picture.tiles
        if tiles is None:
            return
        box = {"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0}
        for index, (row, column) in zip(tiles.chosen, tiles.corners, strict=True):
            axes.text(column, row, str(index), fontsize=6, color="white", va="top", bbox=box)

    def draw_gradient(self, axes: Axes, which: int) -> ScalarMappable:
        """White at zero, both on one scale."""
        norm = Normalize(-self._bound, self._bound)
        return self._show(axes, self._gradients[which], cmap=diverging(), norm=norm)

    def draw_projection(self, axes: Axes, which: int) -> None:
        """Both on one scale."""
        self._draw_values(axes, self._projections[which], self._projection_limits)

    def _draw_values(self, axes: Axes, values: Values, limits: Limits) -> None:
        if values.ndim == 3:
            scaled = (values - limits.low) / (limits.high - limits.low)
            self._show(axes, scaled.clip(0, 1))
            return
        colors = colormaps[self._picture.colors].with_extremes(bad=HIDDEN)
        self._show(axes, values, cmap=colors, norm=Normalize(*limits))

    def _show(self, axes: Axes, values: Values, **kwargs: Any) -> ScalarMappable:
        height, width = values.shape[:2]
        stretched = max(height, width) > MAX_STRETCH * min(height, width)
        fills = stretched or self._picture.numbered
        aspect: Literal["auto", "equal"] = "auto" if fills else "equal"
        sharp = "nearest" if max(height, width) <= MAX_SHARP else "auto"
        image = axes.imshow(values, aspect=aspect, interpolation=sharp, **kwargs)
        missing: NDArray[np.bool_] = np.any(np.isnan(values).reshape(height, width, -1), axis=2)
        tiles = self._picture.tiles
        if tiles is not None:
            missing = missing & tiles.covered
            axes.set_frame_on(False)
            for row, column in tiles.corners:
                corner = (column - 0.5, row - 0.5)
                frame = Rectangle(
                    corner, tiles.width, tiles.height, fill=False, linewidth=0.6, clip_on=False
                )
                axes.add_patch(frame)
        if missing.any():
            marks = np.full((height, width, 4), HIDDEN)
            marks[missing] = to_rgba(MISSING)
            axes.imshow(marks, aspect=aspect, interpolation="nearest")
        if self._picture.numbered:
            axes.tick_params(labelsize=7)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        return image


def picture_of(gradient: Values) -> Picture:
    """The picture for the shape of these pair gradients, (2, *input_shape)."""
    shape = gradient.shape[1:]
    if len(shape) == 2:
        return Picture(sample=np.asarray, gradient=np.asarray, colors="viridis", numbered=True)
    if len(shape) == 4:
        return _slices(gradient)
    channels, height, width = shape
    if channels == 1:
        return Picture(sample=_only, gradient=_only)
    if channels == 3:
        note = "RGB gradients: of the three channels the value of largest size, with its sign."
        return Picture(sample=_channels_last, gradient=largest_channel, notes=(note,))
    tiles = _tiles(channels, height, width)
    note = f"{channels} channels."
    if channels > MAX_TILES:
        note = (
            f"{MAX_TILES} of {channels} channels, evenly spaced; {channels - MAX_TILES} left out."
        )
    return Picture(sample=tiles.join, gradient=tiles.join, tiles=tiles, notes=(note,))


def _slices(gradient: Values) -> Picture:
    """Of a volume, slices of the channel with the largest gradient."""
    channels, depth, height, width = gradient.shape[1:]
    size = np.nan_to_num(np.abs(gradient)).max(axis=(0, 2, 3, 4))
    channel = int(size.argmax())
    tiles = _tiles(depth, height, width)
    left_out = depth - len(tiles.chosen)
    note = f"{depth} slices."
    if left_out:
        note = f"{len(tiles.chosen)} of {depth} slices, evenly spaced; {left_out} left out."
    if channels > 1:
        note = f"Channel {channel} of {channels}, which has the largest gradient. {note}"

    def join(volume: Values) -> Values:
        return tiles.join(volume[channel])

    return Picture(sample=join, gradient=join, tiles=tiles, notes=(note,))


def largest_channel(gradient: Values) -> Values:
    """(C, H, W) → (H, W): of the channels the value of largest size, with its sign."""
    size = np.nan_to_num(np.abs(gradient), nan=np.inf)  # NaN must not hide
    chosen = size.argmax(axis=0)
    values: Values = np.take_along_axis(gradient, chosen[None], axis=0)[0]
    return values


def _only(values: Values) -> Values:
    channel: Values = values[0]
    return channel


def _channels_last(values: Values) -> Values:
    return np.moveaxis(values, 0, -1)


def _tiles(count: int, height: int, width: int) -> Tiles:
    chosen = np.linspace(0, count - 1, min(count, MAX_TILES)).round().astype(int).tolist()
    columns = round(math.sqrt(len(chosen) * height / width))  # about as wide as high
    return Tiles(tuple(chosen), min(max(columns, 1), len(chosen)), height, width)
