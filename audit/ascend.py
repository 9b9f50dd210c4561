"""`audit.ascend`: findings, or samples of a dataset, pushed to another class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.options import AscendOptions
from audit.scan import Progress

if TYPE_CHECKING:
    from audit.ascent import Ascents


def ascend(
    source: str | os.PathLike[str],
    *,
    index: int | Sequence[int] | None = None,
    target: int | str = "second",
    norm: str = "l2",
    objective: str = "prob",
    step: float | None = None,
    max_steps: int = 1000,
    clip: tuple[float, float] | None = None,
    minimal: bool = False,
    frames: int = 8,
    model: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    images: str | None = None,
    labels: str | None = None,
    allow_external: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Ascents:
    """Push samples up a gradient until the network says another class.

    Args:
        source: Findings of a scan, or an HDF5 dataset (then with `index`).
        index: Positions in the dataset; by default all samples of the findings.
        target: "second": the class with the second-largest logit; "all": every other class, a row
            each; or a class by number or name. A text that could be both number and name is a
            name; a class called "second" or "all" goes by its number. A sample that is of that
            class already succeeds with 0 steps.
        norm: l2: steps along the gradient; linf: along its signs.
        objective: What is ascended: prob (the target's probability), logit (its logit) or margin
            (its logit less the largest other).
        step: Length of a step in `norm`; by default a tenth of the first-order distance between
            the sample and the target, for each sample its own.
        max_steps: Steps before an ascent is given up.
        clip: Least and greatest value in input space; by default what uint8 can hold, and none
            for floating-point samples. Infinite: no bound.
        minimal: Then look for the smallest perturbation in `norm`.
        frames: Inputs kept along each ascent, at most; 0: none.
        model: Bundle directory or name of a shipped bundle; by default the one that was scanned
            with, or, of a dataset, the one that `audit.scan` would take.
        out: Ascent file; by default `NAME.ascent.h5` here. An earlier one there is replaced once
            the new one is complete.
        threads: Threads of the computation; can't change the result.
        device: cpu, cuda or tensorrt; an error where it can't be had.
        images: Of a dataset: name of the samples in the file.
        labels: Of a dataset: name of the labels in the file.
        allow_external: Of a dataset: follow links and storage that lead out of the file.
        trust: Load the bundle's TorchScript, which can run code, whoever made it.
        progress: Called with (ascents done, ascents in all).

    Returns:
        What became of each, arrays read when asked for.

    Raises:
        OptionError: An option is out of range, or names what there isn't.
        DatasetError: The dataset can't be read, or doesn't fit the bundle.
        FindingsError: The findings can't be read, or don't fit the bundle.
        BundleError: There is no such bundle, or it was changed.
        UntrustedError: Nobody vouches for the bundle.
        OutputError: The ascent file can't be written.
        DeviceError: The device can't be had.
    """
    positions = index if index is None or isinstance(index, Iterable) else (index,)
    options = AscendOptions(
        index=None if positions is None else tuple(positions),
        target=target,
        norm=norm,
        objective=objective,
        step=step,
        max_steps=max_steps,
        clip=clip,
        minimal=minimal,
        frames=frames,
        threads=threads,
        device=device,
        images=images,
        labels=labels,
        allow_external=allow_external,
        trust=trust,
    )
    from audit.ascending import ascend_samples

    name = Path(source).stem.removesuffix(".findings")
    written = Path(out if out is not None else f"{name}.ascent.h5")
    return ascend_samples(Path(source), model, written, options, progress or _silent)


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
