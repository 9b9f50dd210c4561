"""Near ties of any shape, for what draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

from audit.near_tie import NearTie

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOGITS = np.array([0.5, -1.25, 2.0, 7.5, -3.0, 0.25, 1.0, 7.4375, 4.0, -0.5])


def near_tie(shape: tuple[int, ...], **changes: Any) -> NearTie:
    """Of random values: 'three' or 'seven'; `changes` replace what is said of it."""
    rng = np.random.default_rng(5)
    said: dict[str, Any] = {
        "index": 41,
        "x": rng.normal(size=shape).astype(np.float32),
        "gradient": (rng.normal(size=(2, *shape)) * 0.1).astype(np.float32),
        "classes": (3, 7),
        "logits": (7.5, 7.4375),
        "margin": 0.0625,
        "label": 7,
        "distance_l2": 0.125,
        "distance_linf": 0.015625,
        "class_names": CLASSES,
        "all_logits": LOGITS.copy(),
    }
    return NearTie(**said | changes)
