"""Reports of real scans, one of each kind of input, for tests that read them in a browser."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import audit
from audit.bundle import Bundle
from audit.findings import Findings
from networks import linear, seeded

MNIST_EPS, MNIST_LIMIT = 1.5, 2000
FEATURES = tuple(
    f"{name} {unit}" for name in ("flow", "heat", "load", "wear") for unit in ("min", "mean", "max")
)
# What a stranger's file can say: markup, quotes, an override that turns the text around, a line
# separator that ends a JavaScript string, nothing visible.
ATTACK = "document.documentElement.dataset.attacked=1"
HOSTILE_CLASSES = (
    f"</script><img src=x onerror={ATTACK}>",
    f"\"'`><svg onload={ATTACK}>&amp;&lt;${{7*7}}{{{{7*7}}}}",
    "\u202eright to left\u2028next line\u0000end\ufeff",
)
LONG_NAMES = tuple(f"Streptococcus species {each:04}, of the third kind" for each in range(1000))


class Report(NamedTuple):
    """A page and what it is of."""

    page: Path
    findings: Findings
    baseline: Findings | None = None


class Forgiving(nn.Module):
    """Has finite logits of any input, NaN and infinities among them."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.nan_to_num(x).clamp(-1, 1).flatten(1))
        return logits


Recipe = Callable[[], Report]


class Reports:
    """Each made when it is first asked for, once a session. Read only."""

    def __init__(self, folder: Path, mnist: Callable[[], Path]) -> None:
        self._folder = folder
        self._mnist = mnist
        self._made: dict[str, Report] = {}

    def __getitem__(self, name: str) -> Report:
        if name not in self._made:
            recipe: Recipe = getattr(self, f"_{name}")
            torch.manual_seed(0)
            self._made[name] = recipe()
        return self._made[name]

    def _grey(self) -> Report:
        findings = self._scanned_mnist("grey", eps=MNIST_EPS, limit=MNIST_LIMIT)
        return self._reported("grey", findings)

    def _many(self) -> Report:
        return self._reported("many", self._scanned_mnist("many", eps=3))

    def _bare(self) -> Report:
        """Without gradients."""
        findings = self._scanned_mnist("bare", eps=MNIST_EPS, limit=MNIST_LIMIT, no_gradients=True)
        return self._reported("bare", findings)

    def _none(self) -> Report:
        """Nothing flagged."""
        return self._reported("none", self._scanned_mnist("none", eps=1e-9, limit=MNIST_LIMIT))

    def _nightly(self) -> Report:
        """With a baseline, of another model over the same images."""
        # `std`: logits as far apart as those of a trained network.
        model = self._exported("other", seeded("cnn"), (1, 28, 28), raw_dtype="uint8", std=0.02)
        settings = {"eps": MNIST_EPS, "limit": MNIST_LIMIT}
        baseline = self._scanned_mnist("last-night", model=model.path, **settings)
        findings = self._scanned_mnist("nightly", **settings)
        return self._reported("nightly", findings, baseline=baseline)

    def _rgb(self) -> Report:
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)
        model = self._exported(
            "rgb",
            nn.Sequential(*layers),
            (3, 32, 32),
            raw_dtype="uint8",
            raw_layout="HWC",
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.25, 0.3),
        )
        return self._reported("rgb", self._scanned(model, "rgb", eps=0.02))

    def _signal(self) -> Report:
        model = self._exported("signal", seeded("signal"), (2, 64), raw_layout="CL")
        return self._reported("signal", self._scanned(model, "signal", eps=0.02))

    def _rows(self) -> Report:
        """Inputs of two axes, neither an image nor a signal of channels."""
        model = self._exported("rows", linear(54), (9, 6), raw_layout="CL")
        return self._reported("rows", self._scanned(model, "rows", eps=0.02))

    def _tabular(self) -> Report:
        findings = self._scanned(self._features, "tabular", eps=0.02)
        return self._reported("tabular", findings, feature_names=FEATURES)

    def _unlabelled(self) -> Report:
        findings = self._scanned(self._features, "unlabelled", eps=0.02, labels=False)
        return self._reported("unlabelled", findings)

    def _hostile(self) -> Report:
        """Names that attack, and samples that hold NaN and infinities."""
        model = self._exported(
            "<b onmouseover=alert(1)>bundle",
            Forgiving(12, len(HOSTILE_CLASSES)),
            (12,),
            classes=HOSTILE_CLASSES,
            name=HOSTILE_CLASSES[0],
        )
        findings = self._scanned(model, "<img src=x onerror=1>", eps=0.1, spoil=True)
        names = [*HOSTILE_CLASSES, *FEATURES[3:]]
        return self._reported("hostile", findings, feature_names=names)

    def _missing(self) -> Report:
        """Grey images of floating-point numbers, NaN and infinities among them."""
        model = self._exported("missing", Forgiving(64, 3), (1, 8, 8), raw_layout="HW")
        return self._reported("missing", self._scanned(model, "missing", eps=0.1, spoil=True))

    def _large(self) -> Report:
        """More than a page has room for, as it is."""
        model = self._exported("large", linear(112 * 112), (1, 112, 112), raw_dtype="uint8")
        return self._reported("large", self._scanned(model, "large", eps=10))

    def _crowd(self) -> Report:
        """A thousand classes of long names."""
        model = self._exported("crowd", linear(12, len(LONG_NAMES)), (12,), classes=LONG_NAMES)
        return self._reported("crowd", self._scanned(model, "crowd", eps=0.1))

    @cached_property
    def _features(self) -> Bundle:
        return self._exported("features", seeded("tabular"), (12,))

    def _exported(
        self, folder: str, model: nn.Module, input_shape: tuple[int, ...], **options: Any
    ) -> Bundle:
        """A bundle without what only the tests of exports need."""
        options = {"raw_dtype": "float32"} | options
        out = self._folder / f"{folder}.bundle"
        return audit.export(model.eval(), out, input_shape=input_shape, **options)

    def _scanned_mnist(self, name: str, **options: Any) -> Findings:
        return audit.scan(self._mnist(), out=self._folder / f"{name}.findings.h5", **options)

    def _scanned(
        self, model: Bundle, name: str, *, eps: float, spoil: bool = False, labels: bool = True
    ) -> Findings:
        """Random samples; `spoil` puts NaN and infinities into some."""
        rng = np.random.default_rng(7)
        samples: NDArray[Any] = model.manifest.preprocess.random_raw(300, rng)
        if spoil:
            flat = samples.reshape(len(samples), -1)
            flat[::2, 0], flat[::3, 1], flat[::5, 2] = np.nan, np.inf, -np.inf
        data = self._folder / f"{name}.h5"
        with h5py.File(data, "w") as file:
            file["images"] = samples
            if labels:
                file["labels"] = rng.integers(0, len(model.manifest.classes), len(samples))
        return audit.scan(data, model=model.path, eps=eps, out=self._folder / f"{name}.findings.h5")

    def _reported(self, name: str, findings: Findings, **options: Any) -> Report:
        page = audit.report(findings, out=self._folder / f"{name}.html", **options)
        return Report(page, findings, options.get("baseline"))
