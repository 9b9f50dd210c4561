"""The line of a scan, and nothing else: open, load, plan, segments, join."""

from __future__ import annotations

import logging
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
from audit.cascade import Choice, choose_levels, make_levels
from audit.config import find_model
from audit.dataset import Dataset
from audit.decide import GuardBroken
from audit.errors import OutputError
from audit.fast_pass import Line
from audit.findings import Findings, load_findings
from audit.findings_writer import FindingsLayout, FindingsWriter, check_findings_output
from audit.forward import available_threads
from audit.memory_plan import Engines, Plan, check_memory, plan_memory, scale_of
from audit.options import ScanOptions
from audit.partial import Partial
from audit.resuming import interrupted_scan, sealed_segments
from audit.scan import Progress
from audit.scan_record import ScanRecord, identity_of
from audit.segment import Tally, plan_segments, scan_segment
from audit.segment_file import SegmentFile, SegmentWriter
from audit_kernels import Kernel
from audit_kernels import get as get_kernel

if TYPE_CHECKING:
    from audit.gradients import Canonical

logger = logging.getLogger("audit")

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
        named = find_model(model, str(path), dataset.audit_bundle)
        bundle = load_bundle(named, trust=options.trust)
        if not options.no_gradients:
            bundle.require_trust()  # now, not when hours later the first candidate is met
        check_memory(dataset, bundle.manifest, options, _lanes(options))
        dataset.check_against(bundle.manifest)
        if os.path.exists(out) and out.samefile(path):
            raise OutputError(f"{out}: is the dataset itself; name another file with -o")
        check_findings_output(out)
        with Partial(out, restart=options.resume is False) as partial:
            _Scan(dataset, bundle, options, progress, partial).run(out)
    return load_findings(out)


def _lanes(options: ScanOptions) -> int:
    """Threads that read and compute."""
    threads = options.threads or available_threads()
    # On a GPU one thread copies while another computes.
    return threads if options.device == "cpu" else max(2, threads)


class _Scan:
    """What stays the same from segment to segment."""

    def __init__(
        self,
        dataset: Dataset,
        bundle: Bundle,
        options: ScanOptions,
        progress: Progress,
        partial: Partial,
    ) -> None:
        self._dataset = dataset
        self._bundle = bundle
        self._options = options
        self._progress = progress
        self._partial = partial
        self._threads = options.threads or available_threads()
        self._lanes = _lanes(options)
        self._samples = min(dataset.stored, options.limit or dataset.stored)
        self._segments = plan_segments(
            self._samples, dataset.block_rows, dataset.sample_bytes, options.segment_samples
        )
        self._layout = FindingsLayout(
            preprocess=bundle.manifest.preprocess,
            classes=len(bundle.manifest.classes),
            bundle=bundle.describe(),
            eps=options.eps,
            min_logit=options.min_logit,
            keep_all=options.keep_all,
            no_gradients=options.no_gradients,
        )
        self._done = 0
        self._by_graph = options.no_gradients and not bundle.trusted
        record = interrupted_scan(partial, dataset, bundle, options)
        self._canonical = self._in_background()
        self._levels = (
            make_levels(bundle, options, self._samples, record.choices)
            if record
            else choose_levels(bundle, dataset, options, self._samples)
        )
        self._rescans = record.rescans if record else 0
        self._plan = self._planned()
        self._sealed = (
            sealed_segments(partial, record, dataset, self._segments, self._sealed_file)
            if record
            else set()
        )
        self._done = self._resumed = self._samples_sealed()
        self._batch_size = BatchSize(
            input_size=int(np.prod(bundle.manifest.preprocess.input_shape)),
            most=self._plan.batch_rows if self._plan else dataset.block_rows,
            given=self._plan.batch_size if self._plan else options.batch_size,
        )

    def _planned(self) -> Plan | None:
        """How the memory limit is kept, where there is one."""
        limit = self._options.memory_limit
        if limit is None:
            return None
        scale = scale_of(self._dataset, self._bundle.manifest, self._options, self._lanes)
        canonical = None if self._by_graph else self._canonical
        engines = Engines(
            self._bundle.manifest, self._levels, self._kernel(), canonical, self._options
        )
        plan = plan_memory(limit, scale, engines, self._options.batch_size)
        self._dataset.limit(plan.memory)
        return plan

    def _kernel(self) -> Kernel:
        logits = self._samples * len(self._bundle.manifest.classes)
        return get_kernel("cpu" if logits >= COMPILED_FROM else "numpy")

    def _in_background(self) -> Callable[[], Canonical]:
        """The canonical path, made while the fast pass runs: importing torch takes a second."""

        def load() -> Canonical:
            model = self._bundle.read(TORCHSCRIPT)
            from audit.gradients import Canonical

            return Canonical(
                model,
                device=self._options.device,
                threads=self._threads,
                source=str(self._bundle.path / TORCHSCRIPT),
                between=lambda: self._advance(0),  # who watches may stop the scan
            )

        pool = ThreadPoolExecutor(1, thread_name_prefix="audit-canonical")
        canonical = pool.submit(load)
        pool.shutdown(wait=False)
        return canonical.result

    def run(self, out: Path) -> None:
        """Scan what isn't sealed, join all of it into `out`."""
        try:
            while True:
                try:
                    self._scan_segments(out)
                    break
                except GuardBroken as broken:
                    self._widen(broken)
        except BaseException as exc:
            if self._sealed:
                exc.add_note(
                    f"{self._samples_sealed():,} of {self._samples:,} samples are kept in "
                    f"{self._partial.path}; the same command goes on from there"
                )
            raise
        self._clean_up()

    def _clean_up(self) -> None:
        """Drop what is in the findings now; that it can't be costs some bytes, and no result."""
        try:
            self._partial.drop()
        except OutputError as exc:
            logger.warning("the findings are written, but %s", exc)

    def _scan_segments(self, out: Path) -> None:
        """Seal each segment, then join them; one that is all there is needn't be written twice."""
        line = self._line()
        alone = len(self._segments) == 1
        sealed = range(0 if alone else len(self._segments))
        for number in sealed:
            if number not in self._sealed:
                self._seal(line, number)
        tally = self._new_tally()
        with FindingsWriter(out, self._layout, scratch_in=self._partial.path) as writer:
            for number in sealed:
                self._advance(0)
                file = self._sealed_file(number)
                file.join(writer)
                tally.merge(file.tally)
            if alone:
                for part in scan_segment(line, self._canonical, self._segments[0]):
                    writer.append(part)
                    tally.add(part)
                self._dataset.check_unchanged()
            dataset = self._dataset.describe() | {"crc32": tally.crc32}
            writer.finish(dataset, self._describe(tally))

    def _line(self) -> Line:
        return Line(
            dataset=self._dataset,
            manifest=self._bundle.manifest,
            levels=self._levels,
            kernel=self._kernel(),
            batch_size=self._batch_size,
            threads=self._lanes,
            options=self._options,
            progress=self._advance,
            by_graph=self._by_graph,
            memory=self._plan.memory if self._plan else None,
        )

    def _seal(self, line: Line, number: int) -> None:
        segment, tally = self._segments[number], self._new_tally()
        with SegmentWriter(self._partial.segment(number), self._layout, tally) as writer:
            for part in scan_segment(line, self._canonical, segment):
                writer.append_part(part)
            self._dataset.check_unchanged()
            if self._partial.document is None:
                self._partial.write(self._record().document())
            writer.seal(segment)
        self._sealed.add(number)

    def _sealed_file(self, number: int) -> SegmentFile:
        path, classes = self._partial.segment(number), self._layout.classes
        return SegmentFile(path, self._segments[number], classes, self._new_tally())

    def _new_tally(self) -> Tally:
        return Tally(len(self._levels), self._dataset.sample_bytes)

    def _record(self) -> ScanRecord:
        return ScanRecord(
            identity=identity_of(self._dataset, self._bundle, self._options),
            file=self._dataset.state,
            choices=tuple(Choice(level.precision, level.guard) for level in self._levels),
            rescans=self._rescans,
        )

    def _widen(self, broken: GuardBroken) -> None:
        """Prepare for another pass over everything after a guard was found broken."""
        self._partial.drop()
        self._sealed = set()
        self._done = self._resumed = 0
        self._rescans += 1
        if broken.precision == "int8" and self._options.precision == "auto":
            self._levels = self._levels[-1:]
            return
        self._levels = tuple(
            replace(level, guard=level.guard.widened(broken.disagreement))
            if level.precision == broken.precision
            else level
            for level in self._levels
        )

    def _samples_sealed(self) -> int:
        return sum(self._segments[number].samples for number in self._sealed)

    def _advance(self, samples: int) -> None:
        self._done += samples
        self._progress(self._done, self._samples)

    def _describe(self, tally: Tally) -> dict[str, Any]:
        """How the scan was done, for the findings' attribute `engine`."""
        single = self._levels[-1]
        # A graph can't be checked by itself.
        checked = [*tally.checked[:-1], 0 if self._by_graph else tally.checked[-1]]
        return {
            "device": self._options.device,
            "precision": self._levels[0].precision,
            "batch_size": self._batch_size.best,
            "threads": self._threads,
            "segment_samples": self._segments[0].samples,
            "resumed": self._resumed,
            "guard": single.guard.value,
            "guard_logit_scale": single.guard.logit_scale,
            "guard_at_export": self._bundle.guard.value,
            "max_disagreement": tally.disagreement,
            "rescans": self._rescans,
            "checked": checked[-1],
            "miss_rate_bound": _rule_of_three(checked[-1]),
            "decided_by": "onnx" if self._by_graph else "torchscript",
            "undecided": tally.undecided,
            "levels": [
                {
                    "precision": level.precision,
                    "guard": level.guard.value,
                    "passed_on": passed,
                    "checked": count,
                    "miss_rate_bound": _rule_of_three(count),
                }
                for level, passed, count in zip(self._levels, tally.passed_on, checked, strict=True)
            ],
            "versions": {name: version(name) for name in ("torch", "numpy", "h5py")}
            | single.forward.version,
        }


def _rule_of_three(checked: int) -> float | None:
    """Of n random samples none was missed: with 95 % confidence at most 3/n of all are."""
    return 3 / checked if checked else None
