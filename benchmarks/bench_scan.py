"""A whole scan, by model, storage and precision, against the peers; and its share of the limit.

Every scan must flag exactly what the float64 eager network flags; float32 peers may differ where
float32 can't decide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import audit
from audit.bundle import Bundle
from benchmarks import peers, stages
from benchmarks.conftest import Work
from benchmarks.contest import Claim, Contest
from benchmarks.reference import FLOAT32, assert_gradients

EPS = 0.1
MAKE = Callable[[str], Work]

gpu = pytest.mark.gpu
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda device")


def title(work: Work, storage: str, precision: str = "float32") -> str:
    """What is done, for tables."""
    kind = "RGB 32x32" if work.raw.ndim == 4 else "MNIST"
    what = f"{len(work.raw):,} {kind}, {work.model.name}, {storage}"
    return what if precision == "float32" else f"{what}, {precision}"


def scan(
    work: Work, storage: str, out: Path, *, precision: str = "float32", device: str = "cpu",
    bundle: Bundle | None = None,
) -> Callable[[], audit.Findings]:  # fmt: skip
    """Ours."""
    return partial(
        audit.scan, work.path(storage), model=bundle or work.bundle, eps=EPS,
        out=out / "findings.h5", precision=precision, device=device,
    )  # fmt: skip


def assert_same_audit(work: Work, ours: audit.Findings, peer: peers.Found) -> None:
    """As `assert_exact`; the peer's flags and gradients as float32 has them."""
    assert_exact(ours, work)
    work.reference.assert_peer_found(peer.index, EPS)
    own = ours.gradient[np.isin(ours.index, peer.index)]
    theirs = peer.gradient[np.isin(peer.index, ours.index)]
    assert_gradients(theirs, own)


def assert_exact(findings: audit.Findings, work: Work) -> None:
    """Flagged set and classes are those of the float64 evaluation."""
    flagged = work.reference.flagged(EPS)
    assert len(flagged) > 0
    np.testing.assert_array_equal(findings.index, flagged)
    np.testing.assert_array_equal(findings.classes, work.reference.classes[flagged])


@pytest.mark.parametrize(
    ("storage", "batch", "goal"),
    [
        ("contiguous", 64, 4.5),
        ("contiguous", 1024, 3.0),
        ("gzip", 64, 5.0),
        ("gzip", 1024, 5.0),
        ("gzip 256", 64, 5.0),
        ("gzip 256", 1024, 5.0),
    ],
)
def test_linear_against_an_onnxruntime_loop(
    contest: Contest, work: MAKE, tmp_path: Path, storage: str, batch: int, goal: float
) -> None:
    linear = work("linear")
    claim = Claim(
        work=title(linear, storage),
        against=f"onnxruntime loop, h5py, numpy top-2, batch {batch}",
        goal=goal,
    )
    graph, path = peers.onnx_from_model(linear.model), linear.path(storage)
    loop = partial(peers.onnxruntime_loop, graph, linear.model, path, batch=batch, eps=EPS)

    def check(ours: audit.Findings, peer: NDArray[np.int64]) -> None:
        assert_exact(ours, linear)
        linear.reference.assert_peer_found(peer, EPS)

    contest.run(claim, scan(linear, storage, tmp_path), loop, check)


@pytest.mark.parametrize(
    ("model", "storage", "goal"),
    [
        ("linear", "contiguous", 2.5),
        ("linear", "gzip", 4.0),
        ("linear", "gzip 256", 4.0),
        ("cnn", "contiguous", 4.0),
        ("cnn", "gzip", 2.5),
        ("cnn", "gzip 256", 2.5),
    ],
)
def test_whole_audit_against_a_torch_pipeline(
    contest: Contest, work: MAKE, tmp_path: Path, model: str, storage: str, goal: float
) -> None:
    this = work(model)
    claim = Claim(
        work=title(this, storage),
        against="torch pipeline: aligned h5py reads, eager, batched gradients, written",
        goal=goal,
    )
    eager = this.model.from_input_space().eval()
    pipeline = partial(
        peers.torch_pipeline, eager, this.path(storage), tmp_path / "peer.h5", eps=EPS
    )
    contest.run(claim, scan(this, storage, tmp_path), pipeline, partial(assert_same_audit, this))


@pytest.mark.parametrize(
    ("model", "storage", "precision", "goal"),
    [
        ("cnn", "contiguous", "float32", 1.0),
        ("cnn", "gzip", "float32", 1.0),
        ("cnn", "gzip 256", "float32", 1.0),
        ("cnn", "contiguous", "int8", None),
        ("cnn", "contiguous", "auto", 1.0),
        ("resnet", "contiguous", "float32", 0.98),
        ("resnet", "contiguous", "int8", 1.7),
        ("resnet", "contiguous", "auto", None),
    ],
)
def test_scan_against_the_best_session(
    contest: Contest,
    work: MAKE,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    model: str,
    storage: str,
    precision: str,
    goal: float | None,
) -> None:
    this = work(model)
    bundle = this.bundle
    if model == "cnn" and precision != "float32":
        bundle = request.getfixturevalue("quantised_cnn")
    session, x = peers.session(peers.onnx_from_model(this.model)), this.model.preprocessed(this.raw)
    some = x[:1024]
    batch = contest.best_of(
        {size: partial(peers.forward_alone, session, some, batch=size)
         for size in peers.SESSION_BATCHES}
    )  # fmt: skip
    claim = Claim(
        work=title(this, storage, precision),
        against="best float32 onnxruntime session: forward alone, preprocessed, in memory",
        goal=goal,
    )

    def check(ours: audit.Findings, logits: NDArray[np.float32]) -> None:
        assert_exact(ours, this)
        if precision != "auto":
            assert ours.engine["precision"] == precision
        top2 = np.sort(logits, axis=1)[:, -2:]
        margin = this.reference.margin
        np.testing.assert_allclose(top2[:, 1] - top2[:, 0], margin, rtol=0, atol=FLOAT32)

    contest.run(
        claim,
        scan(this, storage, tmp_path, precision=precision, bundle=bundle),
        partial(peers.forward_alone, session, x, batch=batch),
        check,
    )


@pytest.mark.parametrize(
    ("model", "storage", "precision", "goal"),
    [
        ("linear", "contiguous", "float32", None),
        ("linear", "gzip", "float32", 0.8),
        ("linear", "gzip 256", "float32", 0.8),
        ("cnn", "contiguous", "float32", 0.9),
        ("cnn", "gzip", "float32", 0.9),
        ("cnn", "gzip 256", "float32", 0.9),
        ("resnet", "contiguous", "float32", 0.9),
        ("resnet", "contiguous", "int8", None),
    ],
)
def test_share_of_the_limit(
    contest: Contest,
    work: MAKE,
    tmp_path: Path,
    model: str,
    storage: str,
    precision: str,
    goal: float | None,
) -> None:
    this = work(model)
    ways = stages.forwards(this.bundle, precision, this.raw)
    way = contest.best_of(ways)
    alone = {
        "reading and decoding on all processors": stages.reading(this.path(storage)),
        f"forward of the bundle's {precision} graph: {way}": ways[way],
    }
    slowest = contest.slowest_of(alone)
    claim = Claim(work=title(this, storage, precision), against=slowest, limit=True, goal=goal)
    contest.run(
        claim,
        scan(this, storage, tmp_path, precision=precision),
        alone[slowest],
        lambda ours, _: assert_exact(ours, this),
    )


@gpu
@on_cuda
@pytest.mark.parametrize("model", ["linear", "cnn", "resnet"])
def test_gpu_scan_against_a_torch_pipeline(
    contest: Contest, work: MAKE, tmp_path: Path, model: str
) -> None:
    this = work(model)
    claim = Claim(
        work=f"{title(this, 'contiguous')}, --device cuda",
        against="torch pipeline on the GPU: aligned h5py reads, eager, batched gradients, written",
    )
    eager = this.model.from_input_space().eval().cuda()
    try:
        pipeline = partial(
            peers.torch_pipeline, eager, this.path("contiguous"), tmp_path / "peer.h5", eps=EPS,
            device="cuda",
        )  # fmt: skip
        contest.run(
            claim,
            scan(this, "contiguous", tmp_path, device="cuda"),
            pipeline,
            partial(assert_same_audit, this),
        )
    finally:
        eager.cpu()
