"""Inputs and changes of one ascent, drawn by the views that near ties have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from audit.ascent_record import AscentRecord
from audit.figure_images import picture_of
from audit.figure_scale import Fields, Values, drawable, limits_of
from audit.figure_text import shown_class
from audit.figure_views import MAX_FEATURES, BarView, LineView, View, view_of_fields

NAME_LIMIT = 24


@dataclass(frozen=True, kw_only=True)
class AscentView:
    """How the inputs and the changes of one ascent are drawn, each kind on one scale.

    Attributes:
        view: Its projections are inputs, its gradients changes.
        channels: Lines of a signal; 0: it is none.
        features: Bars; 0: it has none.
        notes: What a reader must know of it, a sentence each.
    """

    view: View
    channels: int
    features: int
    notes: list[str]

    def draw_input(self, axes: Axes, which: int) -> None:
        """As samples of near ties are drawn; behind lines and bars, the sample itself."""
        self.view.draw_projection(axes, which)

    def draw_change(self, axes: Axes, which: int) -> ScalarMappable | None:
        """Zero is neutral; what a colour bar explains, if it takes colours to read it."""
        return self.view.draw_gradient(axes, which)

    def draw_names(self, axes: Axes) -> None:
        """Of features or channels; an image's parts have none."""
        if isinstance(self.view, BarView):
            self.view.draw_names(axes)
        if self.channels > 1:
            names = [f"channel {number}" for number in range(self.channels)]
            lines = axes.lines[-self.channels :]
            axes.legend(lines, names, fontsize=6, framealpha=0.7, borderpad=0.3)


def view_of_ascent(
    sample: Values, inputs: Values, changes: Values, feature_names: tuple[str, ...] | None
) -> AscentView:
    """The view of these inputs (N, *input_shape) and changes (D, *input_shape) of the sample."""
    fields = Fields(
        sample=drawable(sample),
        gradient=drawable(changes),
        projections=drawable(inputs),
        factor=1.0,
    )
    view = view_of_fields(fields, feature_names)
    return AscentView(
        view=view,
        channels=len(sample) if isinstance(view, LineView) else 0,
        features=min(sample.size, MAX_FEATURES) if isinstance(view, BarView) else 0,
        notes=_notes(view, fields),
    )


def name_in_figure(ascent: AscentRecord, class_index: int, limit: int = NAME_LIMIT) -> str:
    """The class's name, as far as there is room."""
    return shown_class(ascent, class_index, limit)


def _notes(view: View, fields: Fields) -> list[str]:
    if isinstance(view, BarView):
        count = fields.sample.size
        few = f"The {MAX_FEATURES} of {count:,} features that change most."
        notes = [few] if count > MAX_FEATURES else []
        notes += ["All inputs on one scale, all changes on another; the black tick is the sample."]
    elif isinstance(view, LineView):
        notes = ["All inputs on one scale, all changes on another; the sample in grey."]
    else:
        # A view of images speaks of gradients, in whose place there are changes here.
        notes = [each.replace("gradient", "change") for each in picture_of(fields.gradient).notes]
        notes.append("Changes are white at zero.")
        notes += [f"All inputs shown from {limits_of(fields.sample, fields.projections)}."]
    if np.isnan(fields.projections).any() or np.isnan(fields.gradient).any():
        notes.append("Values that are no finite numbers are left out (magenta).")
    return notes
