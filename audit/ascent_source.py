"""The samples that are to be pushed: rows of findings, or samples of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import hdf5
from audit.bundle import Bundle, load_bundle
from audit.config import find_model
from audit.dataset import Dataset
from audit.errors import DatasetNotFoundError, FindingsError, OptionError
from audit.findings import Findings, load_findings
from audit.findings_bundle import bundle_of_findings
from audit.options import AscendOptions

WHAT = "findings made by 'audit scan', or a dataset"


@dataclass(frozen=True)
class Source:
    """N samples, and the network that they are pushed by.

    Attributes:
        bundle: The network.
        origin: What the samples come from, JSON-ready.
        dataset: The dataset they are of, JSON-ready.
        index: Positions in it, ascending, int64 (N,).
        label: True classes, int64 (N,); -1 where unknown.
        read: Rows start to stop as stored, (stop - start, *raw_shape).
    """

    bundle: Bundle
    origin: dict[str, Any]
    dataset: dict[str, Any]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    read: Callable[[int, int], NDArray[Any]]


@contextmanager
def open_source(
    path: Path, model: str | os.PathLike[str] | None, options: AscendOptions
) -> Iterator[Source]:
    """What `path` and `options.index` name; the file stays open until the end.

    Raises:
        OptionError: There is no such position, or an option isn't for this kind of file.
        DatasetError: The dataset can't be read, or doesn't fit the bundle.
        FindingsError: The findings can't be read, or don't fit the bundle.
        BundleError: There is no such bundle.
    """
    schema = hdf5.schema_of(path, DatasetNotFoundError, WHAT)
    if schema.startswith("audit-findings/"):
        yield _from_findings(load_findings(path), model, options)
        return
    if schema.startswith("audit-"):
        raise OptionError(f"{path}: of schema {schema!r}; expected {WHAT}")
    if options.index is None:
        raise OptionError(
            f"{path}: a dataset; say which of its samples with --index, or scan it and ascend the "
            "findings"
        )
    with Dataset(
        path, images=options.images, labels=options.labels, allow_external=options.allow_external
    ) as dataset:
        yield _from_dataset(dataset, model, options.index, options.trust)


def _from_dataset(
    dataset: Dataset,
    model: str | os.PathLike[str] | None,
    wanted: tuple[int, ...],
    trust: bool,
) -> Source:
    bundle = load_bundle(find_model(model, dataset.path, dataset.audit_bundle), trust=trust)
    dataset.check_against(bundle.manifest)
    index = np.array(sorted(set(wanted)), dtype=np.int64)
    if index[-1] >= dataset.stored:
        raise OptionError(
            f"--index {index[-1]}: {dataset.path} has {dataset.stored} samples; expected 0 to "
            f"{dataset.stored - 1}"
        )
    labels = [dataset.labels(position, position + 1) for position in index.tolist()]
    return Source(
        bundle=bundle,
        origin={"kind": "dataset", "path": os.path.abspath(dataset.path)},
        dataset=dataset.describe(),
        index=index,
        label=np.concatenate(labels),
        read=lambda start, stop: dataset.samples(index[start:stop]),
    )


def _from_findings(
    findings: Findings, model: str | os.PathLike[str] | None, options: AscendOptions
) -> Source:
    for name in ("images", "labels"):
        value = getattr(options, name)
        if value is not None:
            raise OptionError(
                f"--{name} {value}: is for a dataset, and {findings.path} is findings; leave it out"
            )
    bundle = _bundle(findings, model, options.trust)
    rows = _rows(findings, options.index)
    raw = bundle.manifest.preprocess

    def read(start: int, stop: int) -> NDArray[Any]:
        samples = findings.rows("input", rows[start:stop].tolist())
        if samples.shape[1:] != raw.raw_shape or str(samples.dtype) != raw.raw_dtype:
            raise FindingsError(
                f"{findings.path}: its samples are {samples.dtype} {samples.shape[1:]}; the "
                f"bundle {bundle.manifest.name!r} takes {raw.raw_dtype} {raw.raw_shape}"
            )
        return samples

    return Source(
        bundle=bundle,
        origin={
            "kind": "findings",
            "path": os.path.abspath(findings.path),
            "created": findings.created,
            "eps": findings.eps,
        },
        dataset=findings.dataset,
        index=findings.index[rows],
        label=findings.label[rows],
        read=read,
    )


def _bundle(findings: Findings, model: str | os.PathLike[str] | None, trust: bool) -> Bundle:
    if findings.bundle.get("manifest_sha256") is None:
        if model is None:
            raise OptionError(
                f"{findings.path}: made in training, without a bundle; export the model with "
                "'audit export' and name it with --model"
            )
        return load_bundle(model, trust=trust)
    bundle = bundle_of_findings(findings, model, trust=trust)
    if bundle is None:
        raise OptionError(
            f"{findings.path}: its bundle {findings.bundle.get('path')!r} isn't there any more, or "
            "was changed; name it with --model, or scan again"
        )
    return bundle


def _rows(findings: Findings, wanted: tuple[int, ...] | None) -> NDArray[np.int64]:
    if wanted is None:
        return np.arange(findings.flagged)
    index = findings.index
    positions = np.unique(np.array(wanted, dtype=np.int64))
    missing = positions[~np.isin(positions, index)]
    if len(missing):
        nearest = ""
        if len(index):
            nearest = f"; the nearest is {index[np.abs(index - missing[0]).argmin()]}"
        raise OptionError(
            f"--index {missing[0]}: not among the {len(index)} near ties of {findings.path}"
            f"{nearest}. Ascend the dataset itself for other samples"
        )
    return np.flatnonzero(np.isin(index, positions))
