"""A trained model → a bundle: traced, exported, proven to agree, written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from audit.options import ExportOptions

if TYPE_CHECKING:
    from torch import nn

    from audit.bundle import Bundle


def export(
    model: nn.Module,
    out: str | os.PathLike[str],
    *,
    input_shape: int | Sequence[int],
    weights: str | os.PathLike[str] | None = None,
    raw_dtype: str | None = None,
    raw_layout: str | None = None,
    scale: float | None = None,
    offset: float = 0.0,
    mean: float | Iterable[float] | None = None,
    std: float | Iterable[float] | None = None,
    classes: Sequence[str] | None = None,
    parity_data: str | os.PathLike[str] | None = None,
    pt2: bool = False,
    int8: bool = False,
    calibration: str | os.PathLike[str] | None = None,
    images: str | None = None,
    name: str | None = None,
) -> Bundle:
    """Export a trained classifier to a bundle that `audit.scan` can use.

    The model itself is left as it is: its parameters, devices, gradients and training flags. It is
    exported in evaluation mode.

    Args:
        model: Maps network inputs (N, *input_shape), float32, to logits (N, C).
        out: Directory of the bundle; an older bundle there is replaced.
        input_shape: Shape of one sample as the network takes it, e.g. (1, 28, 28).
        weights: `.safetensors`, state dict or Lightning checkpoint to load first.
        raw_dtype: Dtype of the samples as stored: uint8, float16, float32 or float64. By default
            that of `parity_data`, else float32.
        raw_layout: Axes of a sample as stored: HW, HWC, CHW; F, L, LC, CL; DHW, DHWC, CDHW. By
            default found from the shapes, where there is one way.
        scale: Input space is raw · scale + offset. By default 1/255 for uint8, else 1.
        offset: See `scale`.
        mean: Network input is (input space - mean) / std: a number, or one a channel.
        std: See `mean`.
        classes: Class names, one a logit.
        parity_data: HDF5 dataset whose samples prove the exports equal; by default random ones.
        pt2: Also write `model.pt2`, a `torch.export` program that gives the same gradients.
        int8: Also write `model.int8.onnx`, a quantised graph with a guard of its own; a scan lets
            it propose, and decides as ever.
        calibration: HDF5 dataset to quantise by, samples like those that will be scanned: some to
            find ranges, others to measure the guard.
        images: Name of the samples in `parity_data` and `calibration`; by default the usual names
            are tried.
        name: Name in the manifest; by default that of the directory.

    Returns:
        The bundle as written.

    Raises:
        OptionError: An option is out of range or contradicts another, or AUDIT_TRUST_KEY is short.
        ModelError: The model can't be exported or audited; the message says how to mend it.
        ParityError: The exports disagree with the model.
        DatasetError: The parity or calibration data can't be read, or doesn't fit.
        OutputError: The bundle can't be written.
        InstallationError: ONNX Runtime isn't installed, or twice.
    """
    options = ExportOptions(
        input_shape=(input_shape,) if isinstance(input_shape, int) else tuple(input_shape),
        raw_dtype=raw_dtype,
        raw_layout=raw_layout,
        scale=scale,
        offset=offset,
        mean=_numbers(mean),
        std=_numbers(std),
        classes=None if classes is None else tuple(classes),
        parity_data=None if parity_data is None else os.fspath(parity_data),
        pt2=pt2,
        int8=int8,
        calibration=None if calibration is None else os.fspath(calibration),
        images=images,
        name=name,
    )
    from audit.exporting import export_bundle

    return export_bundle(model, weights, out, options)


def _numbers(value: float | Iterable[float] | None) -> tuple[float, ...] | None:
    """One number or several (a list, an array of any kind) as a tuple."""
    if value is None:
        return None
    several = isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0
    return tuple(map(float, value if several else [value]))  # type: ignore[arg-type]
