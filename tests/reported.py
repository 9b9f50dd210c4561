"""Reports of real scans, one of each kind of input, for tests that read them in a browser."""

from __future__ import annotations

from collections.abc import Callable
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

    def __init__(
        self, folder: Path, mnist: Callable[[], Path], bundle: Callable[[str], Bundle]
    ) -> None:
        self._folder = folder
        self._mnist = mnist
        self._bundle = bundle
        self._made: dict[str, Report] = {}

    def __getitem__(self, name: str) -> Report:
        if name not in self._made:
            recipe: Recipe = getattr(self, f"_{name}")
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
        model = audit.export(
            seeded("cnn"),
            self._folder / "other",
            input_shape=(1, 28, 28),
            raw_dtype="uint8",
            std=0.02,  # logits as far apart as those of a trained network
        )
        settings = {"eps": MNIST_EPS, "limit": MNIST_LIMIT}
        baseline = self._scanned_mnist("last-night", model=model.path, **settings)
        findings = self._scanned_mnist("nightly", **settings)
        return self._reported("nightly", findings, baseline=baseline)

    def _rgb(self) -> Report:
        model = audit.export(
            seeded("resnet"),
            self._folder / "resnet",
            input_shape=(3, 32, 32),
            raw_dtype="uint8",
            raw_layout="HWC",
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.25, 0.3),
        )
        return self._reported("rgb", self._scanned(model, "rgb", eps=0.002))

    def _signal(self) -> Report:
        return self._reported("signal", self._scanned(self._bundle("signal"), "signal", eps=0.02))

    def _rows(self) -> Report:
        """Inputs of two axes, neither an image nor a signal of channels."""
        return self._reported("rows", self._scanned(self._bundle("sequence"), "rows", eps=0.02))

    def _tabular(self) -> Report:
        findings = self._scanned(self._bundle("tabular"), "tabular", eps=0.02)
        return self._reported("tabular", findings, feature_names=FEATURES)

    def _hostile(self) -> Report:
        """Names that attack, and samples that hold NaN and infinities."""
        torch.manual_seed(0)
        model = audit.export(
            Forgiving(12, len(HOSTILE_CLASSES)).eval(),
            self._folder / "<b onmouseover=alert(1)>bundle",
            input_shape=(12,),
            raw_dtype="float32",
            classes=HOSTILE_CLASSES,
            name=HOSTILE_CLASSES[0],
        )
        findings = self._scanned(model, "<img src=x onerror=1>", eps=0.1, spoil=True)
        names = [*HOSTILE_CLASSES, *FEATURES[3:]]
        return self._reported("hostile", findings, feature_names=names)

    def _missing(self) -> Report:
        """Grey images of floating-point numbers, NaN and infinities among them."""
        torch.manual_seed(0)
        model = audit.export(
            Forgiving(64, 3).eval(),
            self._folder / "missing",
            input_shape=(1, 8, 8),
            raw_dtype="float32",
            raw_layout="HW",
        )
        return self._reported("missing", self._scanned(model, "missing", eps=0.1, spoil=True))

    def _large(self) -> Report:
        """More than a page has room for, as it is."""
        torch.manual_seed(0)
        model = audit.export(
            linear(112 * 112).eval(),
            self._folder / "linear",
            input_shape=(1, 112, 112),
            raw_dtype="uint8",
        )
        return self._reported("large", self._scanned(model, "large", eps=10))

    def _crowd(self) -> Report:
        """A thousand classes."""
        return self._reported("crowd", self._scanned(self._bundle("wide"), "crowd", eps=0.05))

    def _scanned_mnist(self, name: str, **options: Any) -> Findings:
        return audit.scan(self._mnist(), out=self._folder / f"{name}.findings.h5", **options)

    def _scanned(self, model: Bundle, name: str, *, eps: float, spoil: bool = False) -> Findings:
        """Random samples; `spoil` puts NaN and infinities into some."""
        rng = np.random.default_rng(7)
        samples: NDArray[Any] = model.manifest.preprocess.random_raw(300, rng)
        if spoil:
            flat = samples.reshape(len(samples), -1)
            flat[::2, 0], flat[::3, 1], flat[::5, 2] = np.nan, np.inf, -np.inf
        data = self._folder / f"{name}.h5"
        with h5py.File(data, "w") as file:
            file["images"] = samples
            file["labels"] = rng.integers(0, len(model.manifest.classes), len(samples))
        return audit.scan(data, model=model.path, eps=eps, out=self._folder / f"{name}.findings.h5")

    def _reported(self, name: str, findings: Findings, **options: Any) -> Report:
        page = audit.report(findings, out=self._folder / f"{name}.html", **options)
        return Report(page, findings, options.get("baseline"))
