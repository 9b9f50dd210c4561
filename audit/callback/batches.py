"""What a batch holds: samples and, where they can be told, their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audit.callback.options import BatchFunction
from audit.dataset import UNKNOWN_LABEL
from audit.errors import ModelError

SAMPLES = ("images", "image", "pixel_values", "x", "input", "inputs", "data", "features")
LABELS = ("labels", "label", "y", "target", "targets")
WAY_OUT = "give batch_fn, a function from a batch to (samples, labels or None)"


class Batch(NamedTuple):
    """Of N samples.

    Attributes:
        x: As the module gets them, floating-point or uint8 (N, …).
        labels: Whatever stood for labels, or None.
    """

    x: Tensor
    labels: Any


def batch_from(given: Any, batch_fn: BatchFunction | None) -> Batch:
    """Samples and labels of a training batch of any usual form.

    A tensor is the samples. Of a tuple or list they are the first element, and labels the second.
    Of a dict, a dataclass or another object with attributes both are known by their usual names.

    Args:
        given: As Lightning passes it to `training_step`.
        batch_fn: The user's own way, which comes first.

    Raises:
        ModelError: There are no samples to be found, or none that have a gradient.
    """
    batch = _by_form(given) if batch_fn is None else _by_function(given, batch_fn)
    x = batch.x
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        what = type(x).__name__ if not isinstance(x, Tensor) else f"a tensor of layout {x.layout}"
        raise ModelError(f"a batch's samples are {what}; expected one dense tensor: {WAY_OUT}")
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise ModelError(
            f"a batch's samples are {x.dtype}, and only floating-point numbers have a gradient; "
            "of tokens take the embeddings, with batch_fn and logits_fn"
        )
    if x.ndim < 2:
        raise ModelError(f"a batch's samples have shape {tuple(x.shape)}; expected (N, …)")
    return batch


def _by_function(given: Any, batch_fn: BatchFunction) -> Batch:
    made = batch_fn(given)
    if not isinstance(made, tuple) or len(made) != 2:
        raise ModelError(
            f"batch_fn returned {type(made).__name__}; expected a tuple (samples, labels or None)"
        )
    return Batch(*made)


def _by_form(given: Any) -> Batch:
    if isinstance(given, Tensor):
        return Batch(given, None)
    names = _named(given)
    samples = [names[name] for name in SAMPLES if name in names]
    labels = [names[name] for name in LABELS if name in names]
    if samples:
        return Batch(samples[0], labels[0] if labels else None)
    if isinstance(given, tuple | list) and given:
        return Batch(given[0], given[1] if len(given) > 1 else None)
    held = f" and holds {', '.join(map(repr, names))}" if names else ""
    raise ModelError(
        f"a batch is of type {type(given).__name__}{held}; expected a tensor, samples and labels, "
        f"or one of the names {', '.join(SAMPLES)}: {WAY_OUT}"
    )


def _named(given: Any) -> Mapping[str, Any]:
    """What it holds by name: all of a mapping, the usual names of what has attributes."""
    if isinstance(given, Mapping):
        return given
    # By hasattr, since attributes may be slots or properties.
    return {name: getattr(given, name) for name in (*SAMPLES, *LABELS) if hasattr(given, name)}


def labels_from(labels: Any, samples: int, classes: int) -> NDArray[np.int64]:
    """True classes, int64 (N,); -1 where unknown.

    Known are those given as integers (N,) or one-hot (N, C); mixed labels name no one class.
    """
    unknown = np.full(samples, UNKNOWN_LABEL, dtype=np.int64)
    if not isinstance(labels, Tensor) or len(labels.shape) == 0 or len(labels) != samples:
        return unknown
    values = labels.detach()
    if values.shape == (samples, classes):
        one_hot = ((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1)
        indices = torch.where(one_hot, values.to(torch.float32).argmax(1), UNKNOWN_LABEL)
        return indices.cpu().numpy()
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        return unknown
    if values.shape not in ((samples,), (samples, 1)):
        return unknown
    known = values.reshape(samples).to(torch.int64).cpu().numpy()
    return np.where((known >= 0) & (known < classes), known, UNKNOWN_LABEL)


def array_from(x: Tensor) -> NDArray[Any]:
    """Samples as findings store them; bfloat16, which numpy doesn't know, as float32."""
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()
