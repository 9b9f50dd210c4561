"""The line of a scan, and nothing else: open, load, plan, segments, join."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audit.batch_size import BatchSize
from audit.bundle import TORCHSCRIPT, Bundle, load_bundle
from audit.cascade import choose_levels
from audit.config import find_model
from audit.dataset import Dataset
from audit.decide import GuardBroken
from audit.errors import OutputError
from audit.fast_pass import Level, Line
from audit.findings import Findings, load_findings
from audit.findings_writer import FindingsLayout, FindingsWriter, check_findings_output
from audit.forward import available_threads
from audit.options import ScanOptions
from audit.scan import Progress
from audit.segment import SegmentFindings, plan_segments, scan_segment
from audit_kernels import get as get_kernel

if TYPE_CHECKING:
    from audit.gradients import Canonical

# Importing numba takes half a second, which the compiled kernel has won back after so many logits.
COMPILED_FROM = 2**30


def scan_dataset(
    path: Path,
    model: str | os.PathLike[str] | None,
    out: Path,
    options: ScanOptions,
    progress: Progress,
) -> Findings:
    """See `audit.scan`."""
    with Dataset(
        path, images=options.images, labels=options.labels, allow_external=options.allow_external
    ) as dataset:
        bundle = load_bundle(find_model(model, str(path), dataset.audit_bundle))
        dataset.check_against(bundle.manifest)
        if os.path.exists(out) and out.samefile(path):
            raise OutputError(f"{out}: is the dataset itself; name another file with -o")
        check_findings_output(out)
        scan = _Scan(dataset, bundle, options, progress)
        rescans = 0
        while True:
            try:
                scan.write(out, rescans)
                break
            except GuardBroken as broken:
                scan.widen(broken)
                rescans += 1
    return load_findings(out)


class _Scan:
    """What stays the same when a pass is repeated with a wider guard."""

    def __init__(
        self, dataset: Dataset, bundle: Bundle, options: ScanOptions, progress: Progress
    ) -> None:
        self._dataset = dataset
        self._bundle = bundle
        self._options = options
        self._progress = progress
        self._done = 0
        self._threads = options.threads or available_threads()
        # On a GPU one thread copies while another computes.
        self._lanes = self._threads if options.device == "cpu" else max(2, self._threads)
        self._samples = min(dataset.stored, options.limit or dataset.stored)
        self._canonical = self._in_background()
        self._levels = choose_levels(bundle, dataset, options, self._samples)
        self._batch_size = BatchSize(
            input_size=int(np.prod(bundle.manifest.preprocess.input_shape)),
            most=dataset.block_rows,
            given=options.batch_size,
        )

    def _in_background(self) -> Callable[[], Canonical]:
        """The canonical path, made while the fast pass runs: importing torch takes a second."""

        def load() -> Canonical:
            from audit.gradients import Canonical

            return Canonical(
                self._bundle.read(TORCHSCRIPT),
                device=self._options.device,
                threads=self._threads,
                source=str(self._bundle.path / TORCHSCRIPT),
                between=lambda: self._advance(0),  # who watches may stop the scan
            )

        pool = ThreadPoolExecutor(1, thread_name_prefix="audit-canonical")
        canonical = pool.submit(load)
        pool.shutdown(wait=False)
        return canonical.result

    def widen(self, broken: GuardBroken) -> None:
        """Prepare for another pass after a guard was found broken."""
        if broken.precision == "int8" and self._options.precision == "auto":
            self._levels = self._levels[-1:]
            return
        self._levels = tuple(
            replace(level, guard=level.guard.widened(broken.disagreement))
            if level.precision == broken.precision
            else level
            for level in self._levels
        )

    def write(self, out: Path, rescans: int) -> None:
        """One pass over all segments, into `out`."""
        self._done = 0
        dataset = self._dataset
        logits = self._samples * len(self._bundle.manifest.classes)
        line = Line(
            dataset=dataset,
            manifest=self._bundle.manifest,
            levels=self._levels,
            kernel=get_kernel("cpu" if logits >= COMPILED_FROM else "numpy"),
            batch_size=self._batch_size,
            threads=self._lanes,
            options=self._options,
            progress=self._advance,
        )
        seen = _Seen(self._levels)
        with FindingsWriter(out, self._layout()) as writer:
            for segment in plan_segments(self._samples, dataset.block_rows, dataset.sample_bytes):
                for part in scan_segment(line, self._canonical, segment):
                    seen.add(part)
                    writer.append(part)
            writer.finish(dataset.describe(), self._describe(seen, rescans))

    def _layout(self) -> FindingsLayout:
        return FindingsLayout(
            preprocess=self._bundle.manifest.preprocess,
            classes=len(self._bundle.manifest.classes),
            bundle=self._bundle.describe(),
            eps=self._options.eps,
            min_logit=self._options.min_logit,
            keep_all=self._options.keep_all,
            no_gradients=self._options.no_gradients,
        )

    def _advance(self, samples: int) -> None:
        self._done += samples
        self._progress(self._done, self._samples)

    def _describe(self, seen: _Seen, rescans: int) -> dict[str, Any]:
        """How the scan was done, for the findings' attribute `engine`."""
        single = self._levels[-1]
        return {
            "device": self._options.device,
            "precision": self._levels[0].precision,
            "batch_size": self._batch_size.best,
            "threads": self._threads,
            "guard": single.guard.value,
            "guard_logit_scale": single.guard.logit_scale,
            "guard_at_export": self._bundle.guard.value,
            "max_disagreement": seen.disagreement,
            "rescans": rescans,
            "checked": seen.checked[-1],
            "miss_rate_bound": _rule_of_three(seen.checked[-1]),
            "levels": [
                {
                    "precision": level.precision,
                    "guard": level.guard.value,
                    "passed_on": passed,
                    "checked": checked,
                    "miss_rate_bound": _rule_of_three(checked),
                }
                for level, passed, checked in zip(
                    self._levels, seen.passed_on, seen.checked, strict=True
                )
            ],
            "versions": {name: version(name) for name in ("torch", "numpy", "h5py")}
            | single.forward.version,
        }


def _rule_of_three(checked: int) -> float | None:
    """Of n random samples none was missed: with 95 % confidence at most 3/n of all are."""
    return 3 / checked if checked else None


class _Seen:
    """What is counted of how the levels did."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        self.disagreement = 0.0
        self.passed_on = [0] * len(levels)
        self.checked = [0] * len(levels)

    def add(self, part: SegmentFindings) -> None:
        """Count a part in."""
        self.disagreement = max(self.disagreement, part.disagreement)
        self.passed_on = [a + b for a, b in zip(self.passed_on, part.passed_on, strict=True)]
        self.checked = [a + b for a, b in zip(self.checked, part.checked, strict=True)]
