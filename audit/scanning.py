"""The line of a scan, and nothing else: open, load, plan, segments, join."""

from __future__ import annotations

import functools
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audit.bundle import ONNX, TORCHSCRIPT, Bundle, load_bundle
from audit.config import find_model
from audit.dataset import Dataset
from audit.decide import GuardBroken
from audit.errors import OutputError
from audit.findings import Findings, load_findings
from audit.findings_writer import FindingsWriter, check_output
from audit.forward import Forward, available_threads, default_batch_size
from audit.guard import Guard
from audit.options import ScanOptions
from audit.scan import Progress
from audit.segment import Line, plan_segments, scan_segment

if TYPE_CHECKING:
    from audit.gradients import Canonical

CHECKS = 256  # samples a scan that are decided though they weren't proposed
SEED = 0


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
        check_output(out)
        scan = _Scan(dataset, bundle, options, progress)
        guard, rescans = bundle.guard, 0
        while True:
            try:
                scan.write(out, guard, rescans)
                break
            except GuardBroken as broken:
                guard, rescans = guard.widened(broken.disagreement), rescans + 1
    return load_findings(out)


class _Scan:
    """What stays the same when a pass is repeated with a wider guard."""

    def __init__(
        self, dataset: Dataset, bundle: Bundle, options: ScanOptions, progress: Progress
    ) -> None:
        threads = options.threads or available_threads()
        self._dataset = dataset
        self._bundle = bundle
        self._options = options
        self._progress = progress
        self._threads = threads
        self._samples = min(dataset.stored, options.limit or dataset.stored)
        input_size = int(np.prod(bundle.manifest.preprocess.input_shape))
        self._sample_size = input_size + len(bundle.manifest.classes)
        self._batch_size = options.batch_size or default_batch_size(input_size)
        self._forward = Forward(
            bundle.read(ONNX),
            device=options.device,
            threads=threads,
            source=str(bundle.path / ONNX),
        )
        rng = np.random.default_rng(SEED)
        count = min(CHECKS, self._samples)
        self._checks = np.sort(rng.choice(self._samples, count, replace=False))

    @functools.cached_property
    def _canonical(self) -> Canonical:
        from audit.gradients import Canonical  # imports torch, a second of a short scan

        return Canonical(
            self._bundle.read(TORCHSCRIPT),
            device=self._options.device,
            threads=self._threads,
            source=str(self._bundle.path / TORCHSCRIPT),
        )

    def write(self, out: Path, guard: Guard, rescans: int) -> None:
        """One pass over all segments with this guard, into `out`."""
        done = checked = 0
        disagreement = 0.0

        def advance(samples: int) -> None:
            nonlocal done
            done += samples
            self._progress(done, self._samples)

        line = Line(
            dataset=self._dataset,
            manifest=self._bundle.manifest,
            forward=self._forward,
            canonical=lambda: self._canonical,
            guard=guard,
            checks=self._checks,
            batch_size=self._batch_size,
            options=self._options,
            progress=advance,
        )
        with FindingsWriter(out, self._bundle, self._options) as writer:
            for segment in plan_segments(
                self._samples, self._dataset.block_rows, self._sample_size
            ):
                found = scan_segment(line, segment)
                checked += found.checked
                disagreement = max(disagreement, found.disagreement)
                writer.append(found)
            engine = self._describe(guard, rescans, checked, disagreement)
            writer.finish(self._dataset, engine)

    def _describe(
        self, guard: Guard, rescans: int, checked: int, disagreement: float
    ) -> dict[str, Any]:
        """How the scan was done, for the findings' attribute `engine`."""
        return {
            "device": self._options.device,
            "precision": "float32",
            "batch_size": self._batch_size,
            "threads": self._threads,
            "guard": guard.value,
            "guard_logit_scale": guard.logit_scale,
            "guard_at_export": self._bundle.guard.value,
            "max_disagreement": disagreement,
            "rescans": rescans,
            "checked": checked,
            # Of n random samples none was a near tie that the fast pass had missed: with 95 %
            # confidence at most 3/n of those not proposed are (rule of three).
            "miss_rate_bound": 3 / checked if checked else None,
            "versions": {name: version(name) for name in ("torch", "numpy", "h5py")}
            | self._forward.version,
        }
