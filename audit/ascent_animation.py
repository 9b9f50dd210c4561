"""The animation of one ascent: the input, what changed so far, and the probabilities up to there.

A GIF has 256 colours. They are chosen once for all its frames, and the most frequent ones are kept
as they are: white, black and the colour of "no change" are among them.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from audit.ascent_curves import draw_probability
from audit.ascent_record import AscentRecord
from audit.ascent_sheet import MAX_NAMED, title_of
from audit.ascent_view import view_of_ascent
from audit.figure_sheet import wrapped

SIZE = (7.2, 3.0)  # inches
DPI = 100
NOTES_WIDTH = 120
MILLISECONDS, LAST_MILLISECONDS = 500, 2500
COLORS = 256
EXACT_COLORS = 160
BLOCK = 4096  # colours whose distances to the palette are in memory at a time

Pixels = NDArray[np.uint8]


def gif_from_ascent(ascent: AscentRecord) -> bytes:
    """Draw it with matplotlib's settings as they are; see `audit.ascent_figure`."""
    return _gif_from_pixels(_frames(ascent))


def _frames(ascent: AscentRecord) -> Pixels:
    """Every input that was kept, uint8 (F, height, width, 3)."""
    sheet = Figure(figsize=SIZE, layout="constrained", dpi=DPI)
    canvas = FigureCanvasAgg(sheet)
    sheet.suptitle(title_of(ascent), fontsize=11)
    view = view_of_ascent(ascent.inputs[0], ascent.inputs, ascent.changes, ascent.feature_names)
    sheet.supxlabel(wrapped(view.notes, NOTES_WIDTH), fontsize=6.5, color="0.25")
    place = sheet.add_gridspec(1, 3, width_ratios=(1, 1, 1.25))
    inputs, changes, curve = (sheet.add_subplot(place[which]) for which in range(3))
    colored = view.draw_change(changes, 0)
    if colored is not None:
        bar = sheet.colorbar(colored, ax=changes, shrink=0.7, aspect=25)
        bar.ax.tick_params(labelsize=6)
    frames = []
    for which, step in enumerate(ascent.input_steps):
        for axes in (inputs, changes, curve):
            axes.clear()
        inputs.set_title(f"step {step} of {ascent.steps}", fontsize=9)
        view.draw_input(inputs, which)
        view.draw_names(inputs)
        if view.features > MAX_NAMED:
            inputs.tick_params(axis="y", labelsize=5)
        changes.set_title("change so far", fontsize=9)
        view.draw_change(changes, which)
        draw_probability(curve, ascent, until=step)
        canvas.draw()  # type: ignore[no-untyped-call]
        # Arranged once: nothing but the values may move.
        sheet.set_layout_engine("none")
        pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
        frames.append(np.asarray(pixels)[..., :3].copy())
    return np.stack(frames)


def _gif_from_pixels(frames: Pixels) -> bytes:
    """(F, height, width, 3) → a GIF that repeats forever and holds its last frame longer."""
    codes = (frames.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32)
    found, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colors = _colors_of_codes(found)
    palette = _palette(colors, counts)
    numbers = _nearest(colors, palette)[where.reshape(codes.shape)]
    images = []
    for each in numbers:
        image = Image.fromarray(each, mode="P")
        image.putpalette(palette.tobytes())
        images.append(image)
    content = io.BytesIO()
    images[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=[MILLISECONDS] * (len(images) - 1) + [LAST_MILLISECONDS],
        loop=0,
        optimize=False,
    )
    return content.getvalue()


def _colors_of_codes(codes: NDArray[np.uint32]) -> Pixels:
    shifted = codes[:, None] >> np.array([16, 8, 0], np.uint32)
    return (shifted & 0xFF).astype(np.uint8)


def _palette(colors: Pixels, counts: NDArray[np.int64]) -> Pixels:
    """At most 256 colours (n, 3): the most frequent as they are, the others' median cut."""
    if len(colors) <= COLORS:
        return colors
    order = np.argsort(-counts, kind="stable")
    rest = colors[order[EXACT_COLORS:]]
    cut = Image.fromarray(rest[None], mode="RGB").quantize(
        COLORS - EXACT_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    chosen = np.array(cut.getpalette(), np.uint8).reshape(-1, 3)[: COLORS - EXACT_COLORS]
    return np.concatenate([colors[order[:EXACT_COLORS]], chosen])


def _nearest(colors: Pixels, palette: Pixels) -> Pixels:
    """For each colour the nearest one of the palette, uint8 (n,); a colour of it is its own."""
    wide = palette.astype(np.int32)
    numbers = [
        ((block[:, None].astype(np.int32) - wide) ** 2).sum(-1).argmin(1).astype(np.uint8)
        for block in np.split(colors, range(BLOCK, len(colors), BLOCK))
    ]
    return np.concatenate(numbers)
