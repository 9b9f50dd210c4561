"""The callback's options: frozen, checked once, passed whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from audit.errors import OptionError

STAGES = ("train", "validation")  # the number of a stage in findings is its place here

LogitsFunction = Callable[[nn.Module, Tensor], Tensor]
BatchFunction = Callable[[Any], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class CallbackOptions:
    """What is looked at during training, and what is done with it.

    Attributes:
        top_k: Near ties of a batch that are plotted, closest first.
        projection_factor: k of the plotted x + k · gradient.
        min_logit_value: Only samples whose largest logit exceeds it are flagged; None: all are.
        logging_batch_interval: Every so many batches one is looked at.
        max_logit_difference: A sample is flagged where its margin is below it, strictly.
        save_to: Findings file to write; None: none.
        watch: Which stages' batches: "train", "validation".
        logits_fn: From the module and samples to logits (N, C); None: the module's own.
        batch_fn: From a batch to samples and their labels, or None for those; None: by its form.
        class_names: One a class; None: "0", "1", …
        feature_names: One a feature, of tabular samples (N, F).

    Raises:
        OptionError: An option is out of range.
    """

    top_k: int
    projection_factor: float = 3
    min_logit_value: float | None = 5.0
    logging_batch_interval: int = 20
    max_logit_difference: float = 0.1
    save_to: Path | None = None
    watch: tuple[str, ...] = ("train",)
    logits_fn: LogitsFunction | None = None
    batch_fn: BatchFunction | None = None
    class_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("top_k", "logging_batch_interval"):
            value = getattr(self, name)
            if not (isinstance(value, Integral) and int(value) >= 1):
                raise OptionError(f"{name}={value!r}: expected an integer of 1 or more")
        if not _is_finite(self.projection_factor):
            raise OptionError(f"projection_factor={self.projection_factor!r}: expected a number")
        if not (_is_finite(self.max_logit_difference) and self.max_logit_difference > 0):
            raise OptionError(
                f"max_logit_difference={self.max_logit_difference!r}: expected a finite number "
                "above 0, such as 0.1"
            )
        if self.min_logit_value is not None and not _is_finite(self.min_logit_value):
            raise OptionError(
                f"min_logit_value={self.min_logit_value!r}: expected a finite number, or None"
            )
        if not self.watch or not set(self.watch) <= set(STAGES):
            raise OptionError(f"watch={self.watch!r}: expected some of {', '.join(STAGES)}")
        for name in ("logits_fn", "batch_fn"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise OptionError(f"{name}={getattr(self, name)!r}: expected a function")
        for name in ("class_names", "feature_names"):
            names = getattr(self, name)
            if names is not None and not all(isinstance(each, str) for each in names):
                raise OptionError(f"{name}={names!r}: expected strings")

    @property
    def key(self) -> str:
        """Differs where options do; functions have no lasting name, and are left out."""
        shown = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if not each.name.endswith("_fn")
        }
        return repr(shown)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
