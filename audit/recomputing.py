"""Findings computed anew from the dataset and the bundle, without the line of the scan.

One sample at a time, on one thread, in float64, by the TorchScript module: nothing that a scan's
batches, threads, graphs or guards could have done wrong is repeated. What is compared was computed
in float64 as well, in batches, so that it differs by rounding: less than `ROUNDING` of the size of
the numbers that were added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.bundle import TORCHSCRIPT, Bundle, load_bundle
from audit.consistency import FLOAT32, SMALLEST, Compared, slices
from audit.dataset import Dataset
from audit.decide import ROUNDING
from audit.errors import OptionError
from audit.findings import Findings
from audit.findings_bundle import bundle_of_findings
from audit.found import count_labels

if TYPE_CHECKING:
    from audit.options import VerifyOptions

ROWS_AT_ONCE = 256


class _Sources(NamedTuple):
    """What findings are computed anew from."""

    findings: Findings
    dataset: Dataset
    bundle: Bundle


def recomputed(findings: Findings, options: VerifyOptions) -> Iterator[Compared]:
    """Whether dataset and bundle are those of the findings, and then the findings anew.

    Raises:
        OptionError: There is nothing to compute them from.
        DatasetError: The dataset can't be read.
        BundleError: There is no such bundle.
        UntrustedError: There is a dataset, and nobody vouches for the bundle.
    """
    if findings.bundle.get("manifest_sha256") is None:
        raise OptionError(
            f"{findings.path}: made in training, without a dataset and a bundle; leave --dataset "
            "and --bundle out"
        )
    bundle = _bundle(findings, options)
    yield Compared(
        "bundle", len(bundle.manifest.files) + 1, "file", _bundle_problems(findings, bundle)
    )
    if options.dataset is None:
        return
    bundle.require_trust()
    images, labels = findings.dataset.get("images"), findings.dataset.get("labels")
    with Dataset(
        options.dataset,
        images=str(images),
        labels=None if labels is None else str(labels),
        allow_external=options.allow_external,
    ) as dataset:
        yield Compared("dataset", dataset.stored, "sample", _dataset_problems(findings, dataset))
        dataset.check_against(bundle.manifest)
        yield from _samples(_Sources(findings, dataset, bundle), options)


def _bundle(findings: Findings, options: VerifyOptions) -> Bundle:
    named = bundle_of_findings(findings) if options.bundle is None else options.bundle
    if named is None:
        raise OptionError(
            f"{findings.path}: its bundle {findings.bundle.get('path')!r} isn't there any more, or "
            "was changed; name it with --bundle"
        )
    return load_bundle(named, trust=options.trust)


def _bundle_problems(findings: Findings, bundle: Bundle) -> Iterator[str]:
    recorded = findings.bundle.get("files")
    files = recorded if isinstance(recorded, dict) else {}
    for name, record in bundle.manifest.files.items():
        bundle.check_file(name)
        if files.get(name) != record.sha256:
            yield f"{bundle.path / name}: not the one that was scanned with (SHA-256 differs)"
    if bundle.manifest_sha256 != findings.bundle["manifest_sha256"]:
        yield f"{bundle.path}: not the bundle that was scanned with (its manifest differs)"


def _dataset_problems(findings: Findings, dataset: Dataset) -> Iterator[str]:
    if dataset.fingerprint != findings.dataset.get("fingerprint"):
        yield f"{dataset.path}: not the dataset that was scanned (its fingerprint differs)"
        return
    if findings.scanned > dataset.stored:
        yield f"{findings.scanned} samples scanned of a dataset of {dataset.stored}"
        return
    crc32 = findings.dataset.get("crc32")  # None: scanned by an older version
    if crc32 is not None and dataset.crc32(0, findings.scanned) != crc32:
        yield f"{dataset.path}: samples were changed since they were scanned (their CRC-32 differs)"
    counts = np.zeros_like(findings.label_counts)
    for rows in slices(findings.scanned, 8):
        counts += count_labels(dataset.labels(rows.start, rows.stop), len(counts))
    if (counts != findings.label_counts).any():
        yield "/summary/labels doesn't count the dataset's labels"


def _samples(sources: _Sources, options: VerifyOptions) -> Iterator[Compared]:
    """What was flagged, what isn't finite, and what is neither."""
    findings, anew = sources.findings, _Anew(sources)
    named = np.sort(np.concatenate([findings.index, findings.nonfinite_index]))
    rng = np.random.default_rng(options.seed)
    for name, count, problems in (
        ("near ties", findings.flagged, anew.ties),
        ("non-finite", findings.nonfinite, anew.nonfinite),
        ("the others", findings.scanned - len(named), lambda ranks: anew.others(named, ranks)),
    ):
        looked_at = count if options.all else min(count, options.samples)
        blocks = _chosen(count, looked_at, rng)
        yield Compared(name, looked_at, "sample", chain.from_iterable(map(problems, blocks)))


def _chosen(count: int, looked_at: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """So many of so many, ascending, some at once; all of them are never listed."""
    if looked_at < count:
        drawn = np.sort(rng.choice(count, looked_at, replace=False))
        for start in range(0, looked_at, ROWS_AT_ONCE):
            yield drawn[start : start + ROWS_AT_ONCE]
        return
    for start in range(0, count, ROWS_AT_ONCE):
        yield np.arange(start, min(start + ROWS_AT_ONCE, count))


class _Anew:
    """Samples of the dataset, evaluated one at a time; each method yields what differs."""

    def __init__(self, sources: _Sources) -> None:
        from audit.gradients import Canonical

        self._findings, self._dataset, bundle = sources
        self._preprocess = bundle.manifest.preprocess
        self._guard = bundle.guard if self._findings.engine.get("decided_by") == "onnx" else None
        self._canonical = Canonical(
            bundle.read(TORCHSCRIPT),
            device="cpu",
            threads=1,
            source=str(bundle.path / TORCHSCRIPT),
        )

    def ties(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Rows of /flagged, against the dataset and the network."""
        findings, positions = self._findings, self._findings.index[rows]
        raw = self._dataset.samples(positions)
        stored = findings.rows("input", rows.tolist())
        logits = self._canonical.logits_alone(self._preprocess.to_input_space(raw))
        for place, (row, position) in enumerate(
            zip(rows.tolist(), positions.tolist(), strict=True)
        ):
            problems = [
                *_input_problems(stored[place], raw[place]),
                *self._label_problems(row, position),
                *self._logit_problems(logits[place], row),
            ]
            if not problems and findings.degenerate is not None:
                problems += self._gradient_problems(row, raw[place], logits[place])
            yield from (f"sample {position}: {problem}" for problem in problems)

    def nonfinite(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Rows of /nonfinite."""
        positions = self._findings.nonfinite_index[rows]
        finite = np.isfinite(self._logits(positions)).all(axis=1)
        for position in positions[finite].tolist():
            yield f"sample {position}: its logits are finite"

    def others(self, named: NDArray[np.int64], ranks: NDArray[np.int64]) -> Iterator[str]:
        """Samples of these ranks among those that aren't `named`."""
        positions = ranks + np.searchsorted(named - np.arange(len(named)), ranks, side="right")
        logits = self._logits(positions)
        for position, z in zip(positions.tolist(), logits, strict=True):
            if not np.isfinite(z).all():
                yield f"sample {position}: has NaN or infinite logits, and isn't in /nonfinite"
            elif self._is_tied(z):
                yield f"sample {position}: is a near tie, and isn't in /flagged"

    def _logits(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        raw = self._dataset.samples(positions)
        return self._canonical.logits_alone(self._preprocess.to_input_space(raw))

    def _is_tied(self, z: NDArray[np.float64]) -> bool:
        """Beyond what rounding explains."""
        z_b, z_a = np.sort(z)[-2:]
        least = -np.inf if self._findings.min_logit is None else self._findings.min_logit
        rounding = self._allowed(z_a, z_b)
        return bool(z_a - z_b < self._findings.eps - rounding and z_a > least + rounding)

    def _allowed(self, z_a: float, z_b: float) -> float:
        """What the recorded logits may differ by: rounding, or where a graph decided, its guard."""
        allowed = _rounding(z_a, z_b)
        if self._guard is not None:
            size = max(abs(z_a), abs(z_b))
            allowed += self._guard.value * max(1.0, size / self._guard.logit_scale)
        return allowed

    def _logit_problems(self, z: NDArray[np.float64], row: int) -> Iterator[str]:
        if not np.isfinite(z).all():
            yield "has NaN or infinite logits"
            return
        classes, stored = self._findings.classes[row], self._findings.logits[row]
        a, b = classes.tolist()
        allowed = self._allowed(z[a], z[b])
        if (np.abs(z[classes] - stored) > allowed).any():
            recorded = f"{stored[0]:.12g} and {stored[1]:.12g}"
            yield f"its logits are {z[a]:.12g} and {z[b]:.12g}, not {recorded}"
        # Of logits that differ by rounding alone any may have come first.
        if z[a] < z.max() - allowed or z[b] < np.delete(z, a).max() - allowed:
            yield f"its largest logits aren't those of {a} and {b}"

    def _label_problems(self, row: int, position: int) -> Iterator[str]:
        label, recorded = self._dataset.labels(position, position + 1)[0], self._findings.label[row]
        if label != recorded:
            yield f"its label is {label}, not {recorded}"

    def _gradient_problems(
        self, row: int, raw: NDArray[Any], z: NDArray[np.float64]
    ) -> Iterator[str]:
        findings, classes = self._findings, self._findings.classes[row]
        z_a, z_b = z[classes]
        gradient = self._canonical.pair_gradients(
            self._preprocess.to_input_space(raw[None]), classes[None], np.array([z_a - z_b])
        ).gradient[0]
        if not _same_gradient(findings.rows("gradient", [row])[0], gradient):
            yield "its gradients differ"
        flat, margin, rounding = gradient.reshape(2, -1), z_a - z_b, _rounding(z_a, z_b)
        for norm, order in (("l2", 2), ("linf", 1)):
            stored = getattr(findings, f"distance_{norm}")[row]
            length = float(np.linalg.norm(flat[0] - flat[1], order))
            # What the difference may have lost, of the size of both.
            lost = ROUNDING * float(np.linalg.norm(flat, order, axis=1).sum())
            if length > lost and not _is_quotient(stored, margin, rounding, length, lost):
                yield f"its distance_{norm} is {margin / length:.12g}, not {stored:.12g}"


def _input_problems(stored: NDArray[Any], raw: NDArray[Any]) -> Iterator[str]:
    if stored.tobytes() != raw.tobytes():
        yield "/flagged/input isn't what the dataset has there"


def _same_gradient(stored: NDArray[np.float32], gradient: NDArray[np.float64]) -> bool:
    """But for the rounding of the evaluation, and that to float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = gradient.astype(np.float32)
        size = np.abs(gradient)
        allowed = FLOAT32 * size + ROUNDING * size.max(initial=0) + SMALLEST
        near = np.abs(stored - gradient) <= allowed
    return bool((near | (stored == rounded) | (np.isnan(stored) & np.isnan(rounded))).all())


def _is_quotient(
    distance: float, margin: float, rounding: float, length: float, lost: float
) -> bool:
    """Whether it is margin ÷ length for some margin and length as near as rounding leaves them."""
    least, most = (margin - rounding) / (length + lost), (margin + rounding) / (length - lost)
    return least <= distance <= most


def _rounding(z_a: float, z_b: float) -> float:
    """What two float64 evaluations of these logits may differ by."""
    return ROUNDING * max(1.0, abs(z_a), abs(z_b))
