"""Manifests there and back, and bundles that came from a stranger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.bundle import MANIFEST, ONNX, ONNX_INT8, PT2, TORCHSCRIPT, Bundle, Int8, load_bundle
from audit.errors import BundleError, BundleNotFoundError
from audit.guard import QUANTISED_SAFETY, Guard
from audit.manifest import manifest_from_json


@pytest.fixture
def copied(mnist_bundle: Bundle, tmp_path: Path) -> Path:
    """The shipped bundle, to be broken."""
    return Path(shutil.copytree(mnist_bundle.path, tmp_path / "bundle"))


def document_of(bundle: Path) -> dict[str, Any]:
    """The manifest, to be changed: without its SHA-256, which older versions didn't write."""
    document: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    del document["sha256"]
    return document


def test_manifest_round_trip(mnist_bundle: Bundle, copied: Path) -> None:
    manifest = replace(
        mnist_bundle.manifest,
        name="ünïcode “name”",
        classes=("a", "b c", ""),
        preprocess=replace(
            mnist_bundle.manifest.preprocess,
            raw_shape=(4, 5, 3),
            raw_layout="HWC",
            raw_dtype="float16",
            input_shape=(3, 4, 5),
            scale=1 / 3,
            offset=-1e-300,
            mean=(0.1, 0.2, 0.3),
            std=(1.0, 2.5, 1e10),
        ),
    )
    (copied / MANIFEST).write_text(manifest.to_json())
    loaded = load_bundle(copied)
    assert loaded.manifest == manifest
    assert loaded.manifest.to_json() == manifest.to_json()
    assert loaded.path == copied


QUANTISED = Int8(
    method="entropy",
    activations="uint8",
    weights="int8",
    per_channel=True,
    reduce_range=True,
    layers_only=False,
    float_nodes=("node_Conv_51", "ünïcode"),
    source="data.h5",
    samples=512,
    held_out=2048,
    raw_range=(-1.5, 250.0),
    disagreement={"0.5": 0.1, "1": 0.25},
    logit_scale=7.5,
    guard=0.375,
    proposed={"0.01": 0.0, "0.1": 0.007},
    speedup=1.25,
)


@pytest.fixture
def with_int8(mnist_bundle: Bundle, copied: Path) -> Path:
    """As `copied`, with a file for the quantised graph and a record of it."""
    manifest = mnist_bundle.manifest
    (copied / ONNX_INT8).write_bytes(mnist_bundle.read(ONNX))
    files = {**manifest.files, ONNX_INT8: manifest.files[ONNX]}
    (copied / MANIFEST).write_text(replace(manifest, files=files, int8=QUANTISED).to_json())
    return copied


def test_quantised_graph_round_trip(with_int8: Path) -> None:
    bundle = load_bundle(with_int8)
    assert bundle.manifest.int8 == QUANTISED
    assert load_bundle(with_int8).manifest.to_json() == (with_int8 / MANIFEST).read_text()
    assert bundle.int8_guard == Guard(0.375, 7.5, QUANTISED_SAFETY)
    assert bundle.read(ONNX_INT8) == bundle.read(ONNX)
    flip(with_int8 / ONNX_INT8, 100)
    with pytest.raises(BundleError, match="not the file that was exported"):
        bundle.read(ONNX_INT8)
    (with_int8 / ONNX_INT8).unlink()
    assert refusal(with_int8).startswith(f"{with_int8 / ONNX_INT8}: missing; ")


def test_without_quantised_graph(mnist_bundle: Bundle) -> None:
    assert mnist_bundle.manifest.int8 is None
    assert mnist_bundle.int8_guard is None
    assert '"int8"' not in mnist_bundle.manifest.to_json()


def test_every_flipped_bit_of_a_manifest_is_seen(mnist_bundle: Bundle) -> None:
    original = (mnist_bundle.path / MANIFEST).read_bytes()
    assert manifest_from_json(original).sha256
    key = original.rindex(b"sha256")
    for bit in range(8 * len(original)):
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            manifest = manifest_from_json(bytes(damaged))
        except ValueError:
            continue
        assert key <= bit // 8 < key + len("sha256")  # then it is one of an older version
        assert manifest.sha256 is None


def test_files_as_recorded(mnist_bundle: Bundle) -> None:
    for name, record in mnist_bundle.manifest.files.items():
        assert len(mnist_bundle.read(name)) == record.size
    assert mnist_bundle.guard.value == mnist_bundle.manifest.parity.guard
    with pytest.raises(BundleError, match=r"the manifest lists no manifest\.json"):
        mnist_bundle.read(MANIFEST)


MISSING = object()


def at(*path: str | int, value: Any = MISSING) -> Callable[[Any], Any]:
    """The document with this value at that place, or without the place."""

    def change(document: Any) -> Any:
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if value is MISSING:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
        return document

    return change


RECORD = {"sha256": "0" * 64, "size": 1}
BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another schema": (at("schema", value="audit-bundle/2"), "schema 'audit-bundle/2', expected"),
    "no schema": (at("schema"), "schema None, expected 'audit-bundle/1'"),
    "a list": (lambda document: [document], "schema 'list', expected"),
    "a number": (lambda document: 3, "schema 'int', expected"),
    "no name": (at("name"), "name: expected str, got NoneType"),
    "no raw": (at("raw"), "raw: expected dict, got NoneType"),
    "raw a list": (at("raw", value=[]), "raw: expected dict, got list"),
    "no input": (at("input"), "input: expected dict, got NoneType"),
    "no parity": (at("parity"), "parity: expected dict, got NoneType"),
    "no producer": (at("producer"), "producer: expected dict"),
    "no guard": (at("parity", "guard"), "guard: expected a number, got NoneType"),
    "guard 0": (at("parity", "guard", value=0), "guard: expected a number above 0, got 0"),
    "negative guard": (at("parity", "guard", value=-1.0), "guard: expected a number above 0"),
    "guard NaN": (at("parity", "guard", value=float("nan")), "NaN is not a number"),
    "guard infinite": (at("parity", "guard", value=float("inf")), "Infinity is not a number"),
    "guard a string": (at("parity", "guard", value="1"), "guard: expected a number, got str"),
    "guard true": (at("parity", "guard", value=True), "guard: expected a number, got bool"),
    "logit scale 0": (at("parity", "logit_scale", value=0), "logit_scale: expected a number above"),
    "scale of 401 digits": (at("input", "scale", value=10**400), "scale: expected a finite number"),
    "mean a number": (at("input", "mean", value=0.5), "mean: expected list, got float"),
    "mean of strings": (at("input", "mean", value=["a"]), "mean: expected a number, got str"),
    "samples a half": (at("parity", "samples", value=0.5), "samples: expected int, got float"),
    "negative size": (at("files", ONNX, "size", value=-1), "size: expected a count, got -1"),
    "size true": (at("files", ONNX, "size", value=True), "size: expected a count, got True"),
    "no hash": (at("files", ONNX, "sha256"), "sha256: expected str, got NoneType"),
    "file without record": (at("files", ONNX, value="model.onnx"), "sha256: expected str"),
    "unlisted": (at("files", TORCHSCRIPT), "model.ts is not listed"),
    "unknown file": (at("files", "a.py", value=RECORD), "unknown file 'a.py'"),
    "a way up": (at("files", "../secret", value=RECORD), "unknown file '../secret'"),
    "absolute": (at("files", "/etc/passwd", value=RECORD), "unknown file '/etc/passwd'"),
    "a way around": (at("files", "./model.onnx", value=RECORD), "unknown file './model.onnx'"),
    "a line break": (at("files", "a\nb", value=RECORD), r"unknown file 'a\nb'"),
    "no classes": (at("classes", value=[]), "classes: expected at least 2 names"),
    "one class": (at("classes", value=["a"]), "classes: expected at least 2 names"),
    "numbered classes": (at("classes", value=[0, 1]), "classes: expected at least 2 names"),
    "raw dtype": (at("raw", "dtype", value="object"), "raw dtype 'object', expected uint8, "),
    "layout": (at("raw", "layout", value="HWC"), "layout don't fit the input shape"),
    "layout of nothing": (at("raw", "layout", value=""), "layout don't fit the input shape"),
    "raw shape": (at("raw", "shape", value=[28, 29]), "layout don't fit the input shape"),
    "shape 0": (at("input", "shape", value=[1, 0, 28]), "shape: expected sizes of 1 and more"),
    "no shape": (at("input", "shape", value=[]), "shape: expected sizes of 1 and more"),
    "negative shape": (at("input", "shape", value=[1, -28, 28]), "shape: expected a count, got"),
    "forty axes": (at("input", "shape", value=[1] * 40), "layout don't fit the input shape"),
}


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize("name", BROKEN)
def test_broken_manifest(name: str, copied: Path) -> None:
    change, expected = BROKEN[name]
    (copied / MANIFEST).write_text(json.dumps(change(document_of(copied))))
    message = refusal(copied)
    assert message.startswith(f"{copied / MANIFEST}: ")
    assert message.endswith("; export the model again")
    assert expected in message


TOGETHER = "the file model.int8.onnx and the record 'int8' go together"
BROKEN_INT8: dict[str, tuple[Callable[[Any], Any], str]] = {
    "record alone": (at("files", ONNX_INT8), TOGETHER),
    "file alone": (at("int8"), TOGETHER),
    "null": (at("int8", value=None), "int8: expected dict, got NoneType"),
    "a list": (at("int8", value=[]), "int8: expected dict, got list"),
    "empty": (at("int8", value={}), "method: expected str, got NoneType"),
    "method": (at("int8", "method", value="luck"), "method 'luck', expected minmax, percentile"),
    "activations": (at("int8", "activations", value="float"), "activations 'float', expected ui"),
    "weights": (at("int8", "weights", value="uint8"), "weights 'uint8', expected int8"),
    "per channel": (at("int8", "per_channel", value=1), "per_channel: expected bool, got int"),
    "range": (at("int8", "reduce_range", value="no"), "reduce_range: expected bool, got str"),
    "layers": (at("int8", "layers_only"), "layers_only: expected bool, got NoneType"),
    "nodes": (at("int8", "float_nodes", value="a"), "float_nodes: expected list, got str"),
    "numbered nodes": (at("int8", "float_nodes", value=[1]), "float_nodes: expected str, got int"),
    "no source": (at("int8", "source"), "source: expected str, got NoneType"),
    "samples": (at("int8", "samples", value=-1), "samples: expected a count, got -1"),
    "held out": (at("int8", "held_out", value=1.5), "held_out: expected int, got float"),
    "one end": (at("int8", "raw_range", value=[1]), "expected the smallest and largest value, go"),
    "ends": (at("int8", "raw_range", value=[2, 1]), "expected the smallest and largest value, got"),
    "quantiles": (at("int8", "disagreement", value=[0.1]), "disagreement: expected dict, got lis"),
    "quantile": (at("int8", "disagreement", value={"a": 1}), "disagreement: expected numbers abo"),
    "quantile NaN": (
        at("int8", "disagreement", value={"nan": 1}),
        "disagreement: expected numbers",
    ),
    "negative": (at("int8", "disagreement", value={"1": -1}), "disagreement: expected numbers abo"),
    "no number": (at("int8", "proposed", value={"0.1": "1"}), "0.1: expected a number, got str"),
    "negative eps": (at("int8", "proposed", value={"-1": 1}), "proposed: expected numbers above 0"),
    "scale 0": (at("int8", "logit_scale", value=0), "logit_scale: expected a number above 0"),
    "guard 0": (at("int8", "guard", value=0), "guard: expected a number above 0, got 0"),
    "guard NaN": (at("int8", "guard", value=float("nan")), "NaN is not a number"),
    "no guard": (at("int8", "guard"), "guard: expected a number, got NoneType"),
    "speed": (at("int8", "speedup", value=0), "speedup: expected a number above 0, got 0"),
}


@pytest.mark.parametrize("name", BROKEN_INT8)
def test_broken_record_of_the_quantised_graph(name: str, with_int8: Path) -> None:
    change, expected = BROKEN_INT8[name]
    (with_int8 / MANIFEST).write_text(json.dumps(change(document_of(with_int8))))
    message = refusal(with_int8)
    assert message.startswith(f"{with_int8 / MANIFEST}: ")
    assert message.endswith("; export the model again")
    assert expected in message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b'{"schema": "audit-bundle/1"',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"1" * 10_000,
        b" " * (16 * 2**20 + 2) + b"{}",
    ],
    ids=["empty", "text", "binary", "cut", "lists", "objects", "digits", "huge"],
)
def test_not_a_manifest(text: bytes, copied: Path) -> None:
    (copied / MANIFEST).write_bytes(text)
    assert refusal(copied).startswith(f"{copied / MANIFEST}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
DOCUMENT = document_of(load_bundle("mnist").path)
DOCUMENT["int8"] = json.loads(json.dumps(asdict(QUANTISED)))
DOCUMENT["files"][ONNX_INT8] = DOCUMENT["files"][ONNX]
PLACES: list[tuple[str | int, ...]] = [
    *((key,) for key in DOCUMENT),
    *((key, inner) for key, part in DOCUMENT.items() if isinstance(part, dict) for inner in part),
    *(("files", name, key) for name in DOCUMENT["files"] for key in ("sha256", "size")),
]


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_anywhere_loads_or_is_one_error(
    place: tuple[str | int, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = tmp_path_factory.getbasetemp() / "hostile"
    bundle.mkdir(exist_ok=True)
    for name in (ONNX, ONNX_INT8, TORCHSCRIPT, PT2):
        (bundle / name).touch()
    document = at(*place, value=value)(json.loads(json.dumps(DOCUMENT)))
    (bundle / MANIFEST).write_text(json.dumps(document))
    try:
        loaded = load_bundle(bundle)
    except BundleError:
        refusal(bundle)
        return
    for name in loaded.manifest.files:  # empty files, whatever was claimed
        with pytest.raises(BundleError, match="not the file that was exported"):
            loaded.read(name)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "first byte": lambda path: flip(path, 0),
    "middle byte": lambda path: flip(path, path.stat().st_size // 2),
    "last byte": lambda path: flip(path, -1),
    "larger": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "much larger": lambda path: path.write_bytes(path.read_bytes() * 100),
    "smaller": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("file", [ONNX, TORCHSCRIPT])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_file(name: str, file: str, copied: Path) -> None:
    CHANGES[name](copied / file)
    bundle = load_bundle(copied)
    with pytest.raises(BundleError) as caught:
        bundle.read(file)
    assert str(caught.value).startswith(f"{copied / file}: not the file that was exported")
    other = ONNX if file == TORCHSCRIPT else TORCHSCRIPT
    assert bundle.read(other)


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63, 2**70])
def test_a_claimed_size_is_not_allocated(size: int, copied: Path) -> None:
    document = at("files", ONNX, "size", value=size)(document_of(copied))
    (copied / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(BundleError, match="not the file that was exported"):
        load_bundle(copied).read(ONNX)


@pytest.mark.parametrize("file", [MANIFEST, ONNX, TORCHSCRIPT])
@pytest.mark.parametrize("instead", ["nothing", "folder", "dangling link"])
def test_missing_file(file: str, instead: str, copied: Path) -> None:
    (copied / file).unlink()
    if instead == "folder":
        (copied / file).mkdir()
    elif instead == "dangling link":
        (copied / file).symlink_to("absent")
    expected = "a symbolic link, " if instead == "dangling link" else "missing; "
    assert refusal(copied).startswith(f"{copied / file}: {expected}")


def test_file_that_went_after_loading(copied: Path) -> None:
    bundle = load_bundle(copied)
    (copied / ONNX).unlink()
    with pytest.raises(BundleError, match=rf"{ONNX}: missing"):
        bundle.read(ONNX)


@pytest.mark.parametrize("name", ["absent", "mnist2", "", "a\0b", "bundle/manifest.json"])
def test_no_bundle(name: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.parent)
    with pytest.raises(BundleNotFoundError if name else BundleError, match="audit export"):
        load_bundle(name)
