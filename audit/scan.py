"""`audit.scan`: a dataset and a bundle → findings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from audit.memory import parse_size
from audit.options import ScanOptions

if TYPE_CHECKING:
    from audit.findings import Findings

Progress = Callable[[int, int], None]


def scan(
    dataset: str | os.PathLike[str],
    *,
    eps: float,
    model: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    min_logit: float | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    keep_all: bool = False,
    no_gradients: bool = False,
    limit: int | None = None,
    images: str | None = None,
    labels: str | None = None,
    allow_external: bool = False,
    segment_samples: int | None = None,
    resume: bool | None = None,
    trust: bool = False,
    memory_limit: int | str | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Find the near ties of a dataset and what in the input would tip each.

    What is found is kept segment by segment beside the output, in `OUT.partial/`, so that a scan
    that was interrupted goes on from there.

    Args:
        dataset: HDF5 file with samples (N, …) and, optionally, labels (N,).
        eps: Near-tie threshold ε in logit units; flagged is margin < eps, strictly.
        model: Bundle directory or name of a shipped bundle; by default `AUDIT_MODEL`, `model` in
            `audit.toml`, or the file's attribute `audit_bundle`.
        out: Findings file; by default `NAME.findings.h5` here, for a dataset `NAME.h5`. Findings
            of an earlier scan there are replaced once the new ones are complete.
        min_logit: Flag only samples whose largest logit exceeds this.
        batch_size: Samples a forward call; can't change the findings.
        threads: Threads of the computation; can't change the findings.
        device: cpu, cuda or tensorrt; an error where it can't be had.
        precision: Precision of the fast pass; can't change the findings.
        keep_all: Record every sample's fast margin and top-2 classes as well.
        no_gradients: Leave out pair gradients and boundary distances.
        limit: Scan the first so many samples.
        images: Name of the sample dataset in the file.
        labels: Name of the label dataset in the file.
        allow_external: Follow links and storage that lead out of the file.
        segment_samples: Samples after which what was found is on the disk; by default 2¹⁹, or as
            many as are 512 MiB as stored.
        resume: What becomes of an earlier scan of the same output that was interrupted. None: it
            goes on where its dataset, bundle and options are these, and is an error otherwise;
            True: it must be there; False: it is dropped.
        trust: Load the bundle's TorchScript, which can run code, whoever made it.
        memory_limit: Bytes that this process may have resident, or text such as "1GiB"; refused at
            the start where it can't be kept.
        progress: Called with (samples done, samples in all).

    Returns:
        The findings, arrays read when asked for.

    Raises:
        OptionError: An option is out of range.
        DatasetError: The dataset can't be read, or doesn't fit the bundle.
        BundleError: There is no such bundle, or it was changed.
        UntrustedError: Nobody vouches for the bundle.
        OutputError: The findings can't be written, or another scan is writing them, or left some
            of its own.
        DeviceError: The device can't be had.
        InstallationError: ONNX Runtime isn't installed, or twice.
    """
    options = ScanOptions(
        eps=eps,
        min_logit=min_logit,
        batch_size=batch_size,
        threads=threads,
        device=device,
        precision=precision,
        keep_all=keep_all,
        no_gradients=no_gradients,
        limit=limit,
        images=images,
        labels=labels,
        allow_external=allow_external,
        segment_samples=segment_samples,
        resume=resume,
        trust=trust,
        memory_limit=None if memory_limit is None else parse_size(memory_limit),
    )
    from audit.scanning import scan_dataset

    target = Path(out if out is not None else f"{Path(dataset).stem}.findings.h5")
    return scan_dataset(Path(dataset), model, target, options, progress or _silent)


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
