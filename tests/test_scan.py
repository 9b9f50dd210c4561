"""What a scan does with its options, and what can't change its answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import audit
from audit.bundle import Bundle
from audit.errors import DatasetError, OptionError
from networks import linear
from oracles import all_logits, arrays, art_network, write_dataset

EPS = 0.1


@pytest.fixture(scope="module")
def images(mnist_h5: Path) -> NDArray[np.uint8]:
    with h5py.File(mnist_h5) as file:
        return np.asarray(file["images"][:2000])


@pytest.fixture(scope="module")
def art_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """About one near tie in seven."""
    out = tmp_path_factory.mktemp("art") / "art"
    return audit.export(art_network(), out, input_shape=(1, 28, 28), raw_dtype="uint8")


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, art_bundle: Bundle, images: NDArray[np.uint8]
) -> audit.Findings:
    folder = tmp_path_factory.mktemp("reference")
    data = write_dataset(folder / "data.h5", images)
    return audit.scan(data, model=art_bundle.path, eps=EPS, out=folder / "findings.h5")


def _assert_equal_to_rounding(got: audit.Findings, expected: audit.Findings) -> None:
    np.testing.assert_array_equal(got.index, expected.index)
    np.testing.assert_array_equal(got.classes, expected.classes)
    np.testing.assert_allclose(got.margin, expected.margin, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.gradient, expected.gradient, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got.distance_l2, expected.distance_l2, rtol=1e-9)
    np.testing.assert_array_equal(got.pairs, expected.pairs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_batch_size_and_threads_change_nothing(
    batch_size: int,
    threads: int,
    art_bundle: Bundle,
    images: NDArray[np.uint8],
    reference: audit.Findings,
    tmp_path: Path,
) -> None:
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(
        data, model=art_bundle.path, eps=EPS, batch_size=batch_size, threads=threads,
        out=tmp_path / "findings.h5",
    )  # fmt: skip
    assert found.engine["batch_size"] == batch_size
    assert found.flagged > 200
    _assert_equal_to_rounding(found, reference)


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": True, "compression": "gzip"},
        {"chunks": (256, 28, 28), "compression": "gzip"},
        {"chunks": (7, 28, 28), "compression": "lzf", "shuffle": True},
        {"chunks": (2000, 2, 2)},
    ],
)
def test_storage_changes_nothing(
    storage: dict[str, Any],
    art_bundle: Bundle,
    images: NDArray[np.uint8],
    reference: audit.Findings,
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("images", data=images, **storage)
    found = audit.scan(
        tmp_path / "data.h5", model=art_bundle.path, eps=EPS, out=tmp_path / "findings.h5"
    )
    _assert_equal_to_rounding(found, reference)
    assert found.dataset["fingerprint"] == reference.dataset["fingerprint"]


def test_order_changes_nothing(
    art_bundle: Bundle, images: NDArray[np.uint8], reference: audit.Findings, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(len(images))
    data = write_dataset(tmp_path / "data.h5", images[order])
    found = audit.scan(data, model=art_bundle.path, eps=EPS, out=tmp_path / "findings.h5")
    back = np.argsort(order[found.index])
    np.testing.assert_array_equal(order[found.index][back], reference.index)
    np.testing.assert_array_equal(found.classes[back], reference.classes)
    np.testing.assert_allclose(found.margin[back], reference.margin, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.gradient[back], reference.gradient, rtol=1e-6, atol=1e-9)


def test_two_runs_agree_bit_for_bit(
    art_bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data.h5", images)
    runs = []
    for name in ("first.h5", "second.h5"):
        audit.scan(data, model=art_bundle.path, eps=EPS, keep_all=True, out=tmp_path / name)
        runs.append(arrays(tmp_path / name))
    assert runs[0].keys() == runs[1].keys()
    for name, values in runs[0].items():
        assert values.tobytes() == runs[1][name].tobytes(), name


def test_segments_change_nothing(
    art_bundle: Bundle,
    images: NDArray[np.uint8],
    reference: audit.Findings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("audit.segment.SEGMENT_BYTES", 300 * 784)
    monkeypatch.setattr("audit.dataset.BLOCK_BYTES", 150 * 784)
    steps: list[int] = []
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(
        data, model=art_bundle.path, eps=EPS, out=tmp_path / "findings.h5",
        progress=lambda done, total: steps.append(done),
    )  # fmt: skip
    assert steps == sorted(steps)
    assert 7 <= len(set(steps)) <= 14  # seven segments of two blocks each
    assert steps[-1] == 2000
    _assert_equal_to_rounding(found, reference)


@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_planted_ties_are_found(batch_size: int, images: NDArray[np.uint8], tmp_path: Path) -> None:
    """Class 9 is given class 3's row: wherever one leads, the two tie, and nothing tips them."""
    model = art_network()
    head = model[4]  # type: ignore[index]
    with torch.no_grad():
        head.weight[9], head.bias[9] = head.weight[3], head.bias[3]
    bundle = audit.export(model, tmp_path / "b", input_shape=(1, 28, 28), raw_dtype="uint8")
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(
        data, model=bundle.path, eps=1e-9, batch_size=batch_size, out=tmp_path / "findings.h5"
    )
    x = (images[:, None] / 255).astype(np.float32)
    leads = np.flatnonzero(all_logits(model.double(), x)[:, :9].argmax(axis=1) == 3)
    assert len(leads) > 20
    np.testing.assert_array_equal(found.index, leads)
    assert (found.classes == [3, 9]).all()
    assert (found.margin == 0).all()
    assert found.degenerate == len(leads)
    assert np.isnan(found.distance_l2).all()
    assert np.isnan(found.distance_linf).all()


def test_dead_logits_are_degenerate(tmp_path: Path) -> None:
    """All-zero ReLU'd logits: equal, and without a gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    bundle = audit.export(model, tmp_path / "relu", input_shape=(4,))
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=EPS, out=tmp_path / "findings.h5")
    dead = (all_logits(model.double(), x) == 0).all(axis=1)
    assert dead.sum() > 10
    assert found.degenerate == dead.sum()
    assert np.isin(np.flatnonzero(dead), found.index).all()
    rows = np.isin(found.index, np.flatnonzero(dead))
    assert (found.classes[rows] == [0, 1]).all()
    assert np.isnan(found.distance_l2[rows]).all()
    assert np.isfinite(found.distance_l2[~rows]).all()


def test_eps_is_strict(tmp_path: Path) -> None:
    """Margins of exactly ½, in numbers that neither float32 nor float64 rounds."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    x = np.array([[1.0, 0.5], [1.0, 0.5 + 2**-20], [0.5, 1.0], [3.0, 3.0]], dtype=np.float32)
    bundle = audit.export(model, tmp_path / "eye", input_shape=(2,))
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=0.5, out=tmp_path / "findings.h5")
    assert found.index.tolist() == [1, 3]
    above = np.nextafter(0.5, 1)
    found = audit.scan(data, model=bundle.path, eps=above, out=tmp_path / "findings.h5")
    assert found.index.tolist() == [0, 1, 2, 3]


def test_nonfinite_samples_are_listed(
    network_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    data = write_dataset(tmp_path / "clean.h5", x)
    bundle = network_bundle("tabular")
    clean = audit.scan(data, model=bundle.path, eps=EPS, out=tmp_path / "clean.findings.h5")
    broken = x.copy()
    broken[3, 0], broken[150], broken[299, 5] = np.nan, np.inf, np.nan
    data = write_dataset(tmp_path / "data.h5", broken)
    found = audit.scan(data, model=bundle.path, eps=EPS, keep_all=True, out=tmp_path / "f.h5")
    # An infinite feature saturates the first layer's units: infinity minus infinity is NaN.
    assert found.nonfinite_index.tolist() == [3, 150, 299]
    assert found.nonfinite == 3
    expected = clean.index[~np.isin(clean.index, [3, 150, 299])]
    np.testing.assert_array_equal(found.index, expected)
    assert np.flatnonzero(np.isnan(found.scan_margin)).tolist() == [3, 150, 299]
    assert found.margin_counts.sum() == 297


def test_overflow_of_the_fast_pass_alone_is_decided(tmp_path: Path) -> None:
    """Logits beyond float32, within float64: finite by the canonical evaluation."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e3, 0.0], [0.0, 1e3]]))
    x = np.array([[1e37, 1e37], [2e37, 1e37], [0.1, 0.2]], dtype=np.float32)
    bundle = audit.export(model, tmp_path / "big", input_shape=(2,))
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(data, model=bundle.path, eps=EPS, out=tmp_path / "findings.h5")
    assert found.index.tolist() == [0]
    assert found.nonfinite == 0


def test_labels_and_accuracy(network_bundle: Callable[[str], Bundle], tmp_path: Path) -> None:
    from networks import seeded

    x = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)
    labels = np.random.default_rng(1).integers(-1, 2, 500)
    data = write_dataset(tmp_path / "data.h5", x, labels)
    found = audit.scan(
        data, model=network_bundle("tabular").path, eps=EPS, out=tmp_path / "findings.h5"
    )
    right = all_logits(seeded("tabular").double(), x).argmax(axis=1) == labels
    assert found.labelled == (labels >= 0).sum()
    np.testing.assert_array_equal(found.label_counts, np.bincount(labels[labels >= 0]))
    assert found.correct == right.sum()
    np.testing.assert_array_equal(found.label, labels[found.index])


def test_without_labels(reference: audit.Findings) -> None:
    assert reference.accuracy is None
    assert (reference.label == -1).all()


def test_limit(
    art_bundle: Bundle, images: NDArray[np.uint8], reference: audit.Findings, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(
        data, model=art_bundle.path, eps=EPS, limit=777, out=tmp_path / "findings.h5"
    )
    assert found.scanned == 777
    np.testing.assert_array_equal(found.index, reference.index[reference.index < 777])


def test_no_gradients_flags_the_same(
    art_bundle: Bundle, images: NDArray[np.uint8], reference: audit.Findings, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data.h5", images)
    found = audit.scan(
        data, model=art_bundle.path, eps=EPS, no_gradients=True, out=tmp_path / "findings.h5"
    )
    np.testing.assert_array_equal(found.index, reference.index)
    np.testing.assert_array_equal(found.margin, reference.margin)
    assert found.degenerate is None
    assert "flagged/gradient" not in arrays(found.path)


def test_inputs_are_kept_as_stored(reference: audit.Findings, images: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(reference.input, images[reference.index])
    assert reference.input.dtype == np.uint8


def test_pairs_count_the_flagged(reference: audit.Findings) -> None:
    expected = np.zeros((10, 10), dtype=np.int64)
    for a, b in reference.classes:
        expected[a, b] += 1
    np.testing.assert_array_equal(reference.pairs, expected)


def test_callers_torch_settings_are_kept(
    art_bundle: Bundle, images: NDArray[np.uint8], reference: audit.Findings, tmp_path: Path
) -> None:
    """And don't reach the scan: not grad mode, nor inference mode, nor autocast, nor threads."""
    data = write_dataset(tmp_path / "data.h5", images)
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = audit.scan(
            data, model=art_bundle.path, eps=EPS, threads=1, out=tmp_path / "findings.h5"
        )
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    _assert_equal_to_rounding(found, reference)


def test_rgb_stored_channels_last(network_bundle: Callable[[str], Bundle], tmp_path: Path) -> None:
    from networks import seeded

    raw = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    mean, std = (0.49, 0.48, 0.45), (0.2, 0.21, 0.26)
    model = seeded("resnet")
    bundle = audit.export(
        model, tmp_path / "rgb", input_shape=(3, 32, 32), raw_dtype="uint8", raw_layout="HWC",
        mean=mean, std=std,
    )  # fmt: skip
    data = write_dataset(tmp_path / "data.h5", raw)
    found = audit.scan(data, model=bundle.path, eps=0.05, out=tmp_path / "findings.h5")
    x = (raw.transpose(0, 3, 1, 2) / 255).astype(np.float32).astype(np.float64)
    x = (x - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    ordered = np.sort(all_logits(model.double(), x), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    np.testing.assert_array_equal(found.index, np.flatnonzero(margin < 0.05))
    np.testing.assert_allclose(found.margin, margin[found.index], rtol=0, atol=1e-12)
    assert found.gradient.shape == (found.flagged, 2, 3, 32, 32)
    assert found.input.shape == (found.flagged, 32, 32, 3)


def test_damaged_data_leaves_no_findings(
    art_bundle: Bundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "images", data=images, chunks=(100, 28, 28), compression="gzip", fletcher32=True
        )
        offset = data.id.get_chunk_info(15).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset + 50)
        stream.write(b"\xff" * 20)
    with pytest.raises(DatasetError, match="damaged"):
        audit.scan(path, model=art_bundle.path, eps=EPS, out=tmp_path / "findings.h5")
    assert [each.name for each in tmp_path.iterdir()] == ["data.h5"]


@pytest.mark.parametrize(
    "options",
    [{"eps": 0}, {"eps": float("nan")}, {"eps": 1, "limit": 0}, {"eps": 1, "device": "x"}],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        audit.scan("data.h5", **options)


MEASURE = """
import sys, audit
from pathlib import Path
audit.scan(sys.argv[1], model=sys.argv[2], eps=1e-4, out=sys.argv[3])
# Not ru_maxrss, in which what started this process counts, too.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = audit.export(linear(), tmp_path / "linear", input_shape=(1, 28, 28), raw_dtype="uint8")
    images = np.random.default_rng(0).integers(0, 256, (40_000, 28, 28), dtype=np.uint8)
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.h5"
        with h5py.File(path, "w") as file:
            data = file.create_dataset("images", (times * len(images), 28, 28), np.uint8)
            for start in range(0, len(data), len(images)):
                data[start : start + len(images)] = images
        command = [sys.executable, "-c", MEASURE, str(path), str(bundle.path), str(tmp_path / "f")]
        peaks.append(int(subprocess.check_output(command)))
        path.unlink()
    assert peaks[1] <= 1.05 * peaks[0]


@pytest.mark.parametrize("batch_size", [1, 5, 64, 1024])
def test_batches_have_the_size_that_was_asked_for(
    batch_size: int, network_bundle: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Also where a block of storage holds fewer samples than a batch."""
    from audit.forward import Forward

    sizes: list[int] = []
    plain = Forward.logits

    def counting(self: Forward, raw: NDArray[Any]) -> NDArray[np.float32]:
        sizes.append(len(raw))
        return plain(self, raw)

    monkeypatch.setattr(Forward, "logits", counting)
    monkeypatch.setattr("audit.dataset.BLOCK_BYTES", 27 * 12 * 4)
    x = np.random.default_rng(0).standard_normal((100, 12)).astype(np.float32)
    data = write_dataset(tmp_path / "data.h5", x)
    found = audit.scan(
        data, model=network_bundle("tabular").path, eps=EPS, batch_size=batch_size,
        keep_all=True, out=tmp_path / "findings.h5",
    )  # fmt: skip
    assert sum(sizes) == 100
    assert max(sizes) == min(batch_size, 100)
    if batch_size == 64:
        assert sorted(sizes) == [17, 19, 64]  # blocks of 81 and 19
    from networks import seeded

    ordered = np.sort(all_logits(seeded("tabular").double(), x), axis=1)
    np.testing.assert_allclose(found.scan_margin, ordered[:, -1] - ordered[:, -2], atol=1e-5)
