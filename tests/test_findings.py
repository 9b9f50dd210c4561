"""The findings file: what is written is what is read, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import audit
from audit.bundle import Bundle
from audit.dataset import Dataset
from audit.errors import FindingsError, NotRecordedError
from audit.findings import Findings, load_findings
from audit.findings_writer import ROWS, FindingsLayout, FindingsWriter
from audit.found import MARGIN_EDGES
from audit.info import info
from audit.segment import SegmentFindings

# Attribute of Findings → name in the file.
ARRAYS = {
    **{name: f"flagged/{name}" for name in ROWS},
    "nonfinite_index": "nonfinite/index",
    "pairs": "summary/pairs",
    "label_counts": "summary/labels",
    "margin_edges": "summary/margin_edges",
    "margin_counts": "summary/margin_counts",
    "scan_margin": "scan/margin",
    "scan_classes": "scan/classes",
}
FLAGGED = 13


def segment(rng: np.random.Generator, start: int, flagged: int, scanned: int) -> SegmentFindings:
    """Anything of the right types; the values need no sense for a file to hold them."""
    rows = np.sort(rng.choice(scanned, flagged, replace=False)) + start
    classes = np.array([rng.choice(10, 2, replace=False) for _ in range(flagged)]).reshape(-1, 2)
    logits = rng.normal(size=(flagged, 2))
    distance = np.where(rng.random(flagged) < 0.2, np.nan, rng.random(flagged))
    return SegmentFindings(
        scanned=scanned,
        index=rows,
        classes=classes.astype(np.int64),
        logits=logits,
        margin=logits[:, 0] - logits[:, 1],
        label=rng.integers(-1, 10, flagged),
        input=rng.integers(0, 255, (flagged, 28, 28), np.uint8),
        gradient=rng.normal(size=(flagged, 2, 1, 28, 28)).astype(np.float32),
        distance_l2=distance,
        distance_linf=distance / 2,
        degenerate=int(np.isnan(distance).sum()),
        nonfinite_index=np.sort(rng.choice(scanned, 2, replace=False)) + start,
        margin_counts=rng.integers(0, 9, len(MARGIN_EDGES) - 1),
        label_counts=rng.multinomial(scanned - 3, np.full(10, 0.1)),
        correct=scanned - 5,
        scan_margin=rng.random(scanned, dtype=np.float32),
        scan_classes=rng.integers(0, 10, (scanned, 2), dtype=np.int32),
        passed_on=(0,),
        checked=(0,),
        disagreement=0.0,
        crc32=0,
        undecided=0,
    )


def segments(flagged: tuple[int, ...] = (5, 0, 8)) -> list[SegmentFindings]:
    rng = np.random.default_rng(3)
    return [segment(rng, 40 * i, count, 40) for i, count in enumerate(flagged)]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, mnist_h5: Path) -> Path:
    """120 images of MNIST. Read only."""
    path = tmp_path_factory.mktemp("samples") / "samples.h5"
    with h5py.File(mnist_h5) as source, h5py.File(path, "w") as file:
        for name in ("images", "labels"):
            file[name] = source[name][:120]
    return path


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, mnist_bundle: Bundle, samples: Path) -> Write:
    """Writes the segments and gives the path."""

    def written(parts: list[SegmentFindings], **options: Any) -> Path:
        out = tmp_path / "f.h5"
        layout = FindingsLayout(
            preprocess=mnist_bundle.manifest.preprocess,
            classes=10,
            bundle=mnist_bundle.describe(),
            **({"eps": 0.25, "keep_all": True} | options),
        )
        with FindingsWriter(out, layout) as writer, Dataset(samples) as dataset:
            for part in parts:
                writer.append(part)
            writer.finish(dataset.describe(), {"device": "cpu", "guard": 1e-5})
        return out

    return written


@pytest.fixture
def findings_h5(write: Write) -> Path:
    return write(segments())


def joined(parts: list[SegmentFindings], name: str) -> NDArray[Any]:
    if name == "pairs":
        pairs = np.zeros((10, 10), np.int64)
        for a, b in np.concatenate([part.classes for part in parts]):
            pairs[a, b] += 1
        return pairs
    if name == "margin_edges":
        return MARGIN_EDGES
    if name in ("label_counts", "margin_counts"):
        counts: NDArray[Any] = np.stack([getattr(part, name) for part in parts]).sum(axis=0)
        return counts
    return np.concatenate([getattr(part, name) for part in parts])


@pytest.mark.parametrize("flagged", [(5, 0, 8), (0, 0), (1,)], ids=str)
def test_round_trip(flagged: tuple[int, ...], write: Write, mnist_bundle: Bundle) -> None:
    parts = segments(flagged)
    findings = load_findings(write(parts, min_logit=-2.5))
    for name in ARRAYS:
        expected, value = joined(parts, name), getattr(findings, name)
        assert value.dtype == expected.dtype, name
        np.testing.assert_array_equal(value, expected, err_msg=name)
    count = len(flagged)
    assert findings.eps == 0.25
    assert findings.min_logit == -2.5
    assert findings.scanned == 40 * count
    assert findings.flagged == sum(flagged)
    assert findings.nonfinite == 2 * count
    assert findings.degenerate == sum(part.degenerate for part in parts)
    assert (findings.labelled, findings.correct) == (37 * count, 35 * count)
    assert findings.rate == sum(flagged) / (40 * count)
    assert findings.accuracy == 35 / 37
    assert findings.tool_version == "0.1.0"
    assert findings.created.endswith("+00:00")
    assert findings.engine == {"device": "cpu", "guard": 1e-5}
    assert findings.bundle["name"] == "mnist"
    assert findings.bundle["classes"] == [str(digit) for digit in range(10)]
    assert findings.bundle["manifest_sha256"] == mnist_bundle.manifest_sha256
    assert findings.dataset["samples"] == 120
    assert findings.dataset["shape"] == [28, 28]
    assert findings.dataset["dtype"] == "uint8"


def test_no_labels_no_min_logit(write: Write) -> None:
    parts = [replace(part, label_counts=np.zeros(10, np.int64), correct=0) for part in segments()]
    findings = load_findings(write(parts))
    assert findings.min_logit is None
    assert findings.accuracy is None


@pytest.mark.parametrize("name", ARRAYS)
def test_each_array_is_read_when_asked_for(name: str, findings_h5: Path) -> None:
    findings, early = load_findings(findings_h5), load_findings(findings_h5)
    before = getattr(early, name)
    with h5py.File(findings_h5, "a") as file:
        del file[ARRAYS[name]]
    with pytest.raises(FindingsError):
        getattr(findings, name)
    for other in ARRAYS.keys() - {name}:
        assert getattr(findings, other) is not None
    assert getattr(early, name) is before  # read once


def test_not_recorded(write: Write) -> None:
    empty = np.empty(0)
    parts = [replace(part, distance_l2=empty, degenerate=0) for part in segments()]
    findings = load_findings(write(parts, keep_all=False, no_gradients=True))
    assert findings.degenerate is None
    for name in ("gradient", "distance_l2", "distance_linf"):
        with pytest.raises(NotRecordedError, match=rf"no /flagged/{name}.*gradients"):
            getattr(findings, name)
    for name in ("scan_margin", "scan_classes"):
        with pytest.raises(NotRecordedError, match=r"no /scan/.*--keep-all"):
            getattr(findings, name)
    assert len(findings.margin) == len(findings.input) == FLAGGED


def test_what_is_always_recorded_is_never_not_recorded(findings_h5: Path) -> None:
    findings = load_findings(findings_h5)
    with h5py.File(findings_h5, "a") as file:
        del file["flagged/input"], file["summary/pairs"]
    for name in ("input", "pairs"):
        with pytest.raises(FindingsError) as caught:
            getattr(findings, name)
        assert not isinstance(caught.value, NotRecordedError)


def test_what_makes_input_space_of_a_sample_is_recorded(
    findings_h5: Path, mnist_bundle: Bundle
) -> None:
    assert load_findings(findings_h5).preprocess == mnist_bundle.manifest.preprocess


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw": {"shape": [28, 27], "dtype": "uint8", "layout": "HW"}}, "don't fit"),
        ({"raw": 7}, "raw"),
        ({"input": {}}, "shape"),
    ],
)
def test_a_record_of_preprocessing_that_can_not_be(
    change: dict[str, Any], message: str, findings_h5: Path
) -> None:
    with h5py.File(findings_h5, "r+") as file:
        file.attrs["bundle"] = json.dumps(json.loads(file.attrs["bundle"]) | change)
    with pytest.raises(FindingsError, match=message):
        _ = load_findings(findings_h5).preprocess


def test_older_findings_do_not_say_how_to_preprocess(findings_h5: Path) -> None:
    with h5py.File(findings_h5, "r+") as file:
        bundle = json.loads(file.attrs["bundle"])
        del bundle["raw"]
        file.attrs["bundle"] = json.dumps(bundle)
    assert load_findings(findings_h5).preprocess is None


def test_replaced_file(write: Write) -> None:
    findings = load_findings(write(segments()))
    assert len(findings.index) == FLAGGED
    path = write(segments((1, 1)))
    with pytest.raises(FindingsError, match="replaced by another scan"):
        _ = findings.margin
    assert len(findings.index) == FLAGGED
    path.unlink()
    with pytest.raises(FindingsError, match="no such file"):
        _ = findings.label


# What a stranger may have done to a findings file.
def attribute(where: str, name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file[where].attrs[name]
        else:
            file[where].attrs[name] = value

    return change


def moved_out(name: str) -> Callable[[h5py.File], None]:
    """The group moves to another file, to which an external link leads."""

    def change(file: h5py.File) -> None:
        with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
            file.copy(name, other, name)
        del file[name]
        file[name] = h5py.ExternalLink("other.h5", f"/{name}")

    return change


def replaced(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "schema of the future": attribute("/", "schema", "audit-findings/2"),
    "no schema": attribute("/", "schema", None),
    **{
        f"no {name}": attribute("/", name, None)
        for name in ("tool_version", "created", "eps", "min_logit", "scanned", "flagged")
    },
    **{f"no {name}": attribute("/", name, None) for name in ("nonfinite", "dataset", "engine")},
    **{f"no {name}": attribute("summary", name, None) for name in ("degenerate", "correct")},
    "eps NaN": attribute("/", "eps", np.nan),
    "eps text": attribute("/", "eps", "small"),
    "eps array": attribute("/", "eps", [1.0, 2.0]),
    "nothing scanned": attribute("/", "scanned", 0),
    "scanned infinite": attribute("/", "scanned", np.inf),
    "more flagged than listed": attribute("/", "flagged", FLAGGED + 1),
    "negative count": attribute("/", "nonfinite", -1),
    "dataset not JSON": attribute("/", "dataset", "{"),
    "dataset no object": attribute("/", "dataset", "[]"),
    "dataset deep": attribute("/", "dataset", "[" * 60_000),
    "engine NaN": attribute("/", "engine", '{"guard": NaN}'),
    "no /flagged": lambda file: file.__delitem__("flagged"),
    "no /summary": lambda file: file.__delitem__("summary"),
    "no /nonfinite": lambda file: file.__delitem__("nonfinite"),
    "/flagged outside": moved_out("flagged"),
    "/summary outside": moved_out("summary"),
    "/nonfinite outside": moved_out("nonfinite"),
    "/summary is data": replaced("summary", data=[1]),
    "/flagged/index is a group": lambda file: (
        file.__delitem__("flagged/index"),
        file.create_group("flagged/index"),
    )[0],
    "/flagged/index declared": replaced(
        "flagged/index", shape=(FLAGGED,), dtype=np.int64, chunks=(1,)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_findings(name: str, findings_h5: Path) -> None:
    with h5py.File(findings_h5, "a") as file:
        HOSTILE[name](file)
    for read in (load_findings, info):
        with pytest.raises(FindingsError if read is load_findings else audit.AuditError) as caught:
            read(findings_h5)
        assert str(findings_h5) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (replaced("flagged/gradient", shape=(10**12, 2), dtype="f4", chunks=(9, 2)), "gradient"),
        (replaced("flagged/gradient", shape=(10**12, 2), dtype="f4"), "gradient"),
        (replaced("flagged/margin", data=["text"] * FLAGGED), "margin"),
        (replaced("flagged/margin", data=np.zeros((FLAGGED, 2))), "margin"),
        (replaced("flagged/classes", data=np.zeros((FLAGGED - 1, 2), int)), "classes"),
        (replaced("flagged/label", data=np.zeros(FLAGGED)), "label"),
        (replaced("scan/margin", data=np.zeros(3, "f4")), "scan_margin"),
        (replaced("summary/pairs", data=np.zeros(100, int)), "pairs"),
    ],
    ids=["gigantic", "never written", "text", "rank", "rows", "dtype", "scanned", "summary"],
)
def test_arrays_that_are_not_what_they_should_be(
    change: Callable[[h5py.File], None], name: str, findings_h5: Path
) -> None:
    with h5py.File(findings_h5, "a") as file:
        change(file)
    findings = load_findings(findings_h5)
    with pytest.raises(FindingsError, match=ARRAYS[name]):
        getattr(findings, name)


def test_every_truncation_is_refused(findings_h5: Path) -> None:
    whole = findings_h5.read_bytes()
    for size in range(0, len(whole), 4999):
        findings_h5.write_bytes(whole[:size])
        with pytest.raises(FindingsError):
            load_findings(findings_h5)


def plotted(file: h5py.File) -> h5py.Group:
    """The group that a NeXus viewer opens first."""
    node: Any = file
    while node.attrs.get("NX_class") != "NXdata":
        node = node[node.attrs["default"]]
    assert isinstance(node, h5py.Group)
    return node


def check_nxdata(group: h5py.Group) -> None:
    """The rules of https://manual.nexusformat.org/classes/base_classes/NXdata.html."""
    attributes = group.attrs
    signal = group[attributes["signal"]]
    assert isinstance(signal, h5py.Dataset)
    assert signal.dtype.kind in "iuf"
    for auxiliary in attributes.get("auxiliary_signals", ()):
        assert group[auxiliary].shape == signal.shape
    axes = attributes.get("axes", ["."] * signal.ndim)
    assert len(axes) == signal.ndim
    for dimension, axis in enumerate(axes):
        if axis == ".":
            continue
        # A histogram has an edge more than bins.
        assert group[axis].ndim == 1
        assert len(group[axis]) - signal.shape[dimension] in (0, 1)
        if not axis.endswith("edges"):
            assert len(group[axis]) == signal.shape[dimension]
        assert attributes.get(f"{axis}_indices", dimension) == dimension


@pytest.mark.parametrize("flagged", [(5, 0, 8), (0,)], ids=str)
@pytest.mark.parametrize("options", [{}, {"no_gradients": True}, {"keep_all": False}], ids=str)
def test_viewers_find_what_to_plot(
    options: dict[str, Any], flagged: tuple[int, ...], write: Write
) -> None:
    with h5py.File(write(segments(flagged), **options)) as file:
        assert file.attrs["NX_class"] == "NXroot"
        group = plotted(file)
        if sum(flagged):
            shown = "/flagged/margin" if options.get("no_gradients") else "/flagged/gradient"
            assert group[group.attrs["signal"]].name == shown
        else:
            assert group[group.attrs["signal"]].name == "/summary/margin_counts"
        groups = [node for node in file.values() if node.attrs.get("NX_class") == "NXdata"]
        assert len(groups) == (2 if options.get("keep_all") is False else 3)
        for each in groups:
            check_nxdata(each)


def test_h5py_alone_reads_it(findings_h5: Path) -> None:
    """In a process that has h5py and nothing of ours; every dataset is chunked."""
    program = """
import sys, json, h5py
seen = {}
with h5py.File(sys.argv[1]) as file:
    file.visititems(lambda name, node: seen.update({name: node})
                    if isinstance(node, h5py.Dataset) else None)
    print(json.dumps({name: [str(node.dtype), list(node.shape), list(node.chunks), node[()].size]
                      for name, node in seen.items()}))
assert "audit" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program, findings_h5], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    m, n, bins = FLAGGED, 120, len(MARGIN_EDGES) - 1
    assert {name: (dtype, tuple(shape)) for name, (dtype, shape, _, _) in found.items()} == {
        "flagged/index": ("int64", (m,)),
        "flagged/classes": ("int64", (m, 2)),
        "flagged/logits": ("float64", (m, 2)),
        "flagged/margin": ("float64", (m,)),
        "flagged/label": ("int64", (m,)),
        "flagged/input": ("uint8", (m, 28, 28)),
        "flagged/gradient": ("float32", (m, 2, 1, 28, 28)),
        "flagged/distance_l2": ("float64", (m,)),
        "flagged/distance_linf": ("float64", (m,)),
        "nonfinite/index": ("int64", (6,)),
        "summary/pairs": ("int64", (10, 10)),
        "summary/labels": ("int64", (10,)),
        "summary/margin_edges": ("float64", (bins + 1,)),
        "summary/margin_counts": ("int64", (bins,)),
        "scan/margin": ("float32", (n,)),
        "scan/classes": ("int32", (n, 2)),
    }


def test_killed_writer_leaves_nothing_under_the_name(tmp_path: Path, samples: Path) -> None:
    """Killed when all is written but the file hasn't got its name."""
    program = f"""
import os, signal, audit.findings_writer as writer, audit
def kill(self, *_):
    print("killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
writer.FindingsWriter.finish = kill
audit.scan({str(samples)!r}, eps=1.0, model="mnist", out="f.h5")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "killed\n")
    assert not (tmp_path / "f.h5").exists()
    audit.scan(samples, eps=1.0, model="mnist", out=tmp_path / "f.h5")  # what is left is no harm
    assert load_findings(tmp_path / "f.h5").scanned == 120


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("earlier", [False, True])
def test_error_within_a_scan_leaves_no_file(
    earlier: bool, error: type[BaseException], samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "f.h5"
    if earlier:
        audit.scan(samples, eps=1.0, model="mnist", out=out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(done: int, total: int) -> None:
        if done > 60:
            raise error

    with pytest.raises(error):
        audit.scan(samples, eps=1.0, model="mnist", out=out, batch_size=32, progress=interrupt)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture(scope="module")
def none_flagged(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Findings:
    out = tmp_path_factory.mktemp("none") / "f.h5"
    return audit.scan(samples, eps=1e-300, model="mnist", out=out)


def test_no_near_tie(none_flagged: Findings) -> None:
    """M = 0 from a real scan: every array is there, empty and of the right shape."""
    assert (none_flagged.flagged, none_flagged.rate, none_flagged.degenerate) == (0, 0.0, 0)
    shapes = {name: getattr(none_flagged, name).shape for name in ROWS}
    assert shapes == {
        **dict.fromkeys(("index", "margin", "label", "distance_l2", "distance_linf"), (0,)),
        **dict.fromkeys(("classes", "logits"), (0, 2)),
        "input": (0, 28, 28),
        "gradient": (0, 2, 1, 28, 28),
    }
    assert none_flagged.pairs.sum() == 0
    assert none_flagged.margin_counts.sum() == 120
    assert none_flagged.accuracy is not None
    assert info(none_flagged.path)["flagged"] == 0


def test_file_has_the_permissions_of_any_other(findings_h5: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert os.stat(findings_h5).st_mode == os.stat(tmp_path / "plain").st_mode


def test_copy_is_as_good(findings_h5: Path, tmp_path: Path) -> None:
    shutil.copy(findings_h5, tmp_path / "copy.h5")
    copy, original = load_findings(tmp_path / "copy.h5"), load_findings(findings_h5)
    assert replace(copy, path=original.path) == original


@pytest.mark.parametrize("limit", [0, 500, 50_000, 150_000])
def test_full_disk(limit: int, tmp_path: Path, samples: Path) -> None:
    """Wherever the disk fills up: an error, no file, and the process lives (HDF5 crashes it)."""
    program = f"""
import resource, audit
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    audit.scan({str(samples)!r}, eps=8.0, model="mnist", out="f.h5", keep_all=True)
except OSError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = "f.h5: writing failed (File too large); no half-written file is left\n"
    assert done.stdout == said
    assert not (tmp_path / "f.h5").exists()
    assert list(tmp_path.iterdir()) == []
