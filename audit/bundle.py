"""The bundle: a directory with `manifest.json`, `model.onnx`, `model.ts` (and `model.pt2`).

A bundle may come from a stranger. Only files of known names are read; their bytes are compared
with the manifest's SHA-256 and handed on as they were compared, so nothing can change in between.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from audit import strict_json
from audit.errors import BundleError, BundleNotFoundError
from audit.guard import Guard
from audit.options import RAW_DTYPES
from audit.preprocess import Preprocess, layouts_of

SCHEMA = "audit-bundle/1"
MANIFEST = "manifest.json"
ONNX = "model.onnx"
TORCHSCRIPT = "model.ts"
PT2 = "model.pt2"
REQUIRED_FILES = (ONNX, TORCHSCRIPT)
SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_NAMES = ("mnist",)
MAX_MANIFEST_BYTES = 16 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What the manifest says of one file: SHA-256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the exports were proven equal.

    Attributes:
        source: "random", or the name of the dataset whose samples were compared.
        samples: How many samples were compared.
        max_logit_difference: Largest |Δlogit|, ONNX in float32 against canonical.
        max_margin_difference: Largest |Δmargin|.
        top1_disagreements: Samples whose predicted class differs.
        logit_scale: Largest |logit| of the samples compared, at least 1.
        guard: The guard that follows, see `audit.guard`.
    """

    source: str
    samples: int
    max_logit_difference: float
    max_margin_difference: float
    top1_disagreements: int
    logit_scale: float
    guard: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`, checked."""

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    opset: int
    producer: Mapping[str, str]
    files: Mapping[str, FileRecord]
    parity: Parity

    def to_json(self) -> str:
        """The manifest's text, stable in order."""
        p = self.preprocess
        document = {
            "schema": SCHEMA,
            "name": self.name,
            "classes": self.classes,
            "raw": {"shape": p.raw_shape, "dtype": p.raw_dtype, "layout": p.raw_layout},
            "input": {
                "shape": p.input_shape,
                "scale": p.scale,
                "offset": p.offset,
                "mean": p.mean,
                "std": p.std,
            },
            "opset": self.opset,
            "producer": dict(self.producer),
            "files": {name: asdict(record) for name, record in self.files.items()},
            "parity": asdict(self.parity),
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `read` gives the bytes of its files, compared with the manifest."""

    path: Path
    manifest: Manifest
    manifest_sha256: str

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def guard(self) -> Guard:
        """The guard measured at export."""
        return Guard(self.manifest.parity.guard, self.manifest.parity.logit_scale)

    def read(self, name: str) -> bytes:
        """Content of a file of the bundle.

        Raises:
            BundleError: The file is missing, or isn't the one that was exported.
        """
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"{self.path}: the manifest lists no {name}; export the model again")
        data = _read_regular_file(self.path / name, limit=record.size)
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise BundleError(
                f"{self.path / name}: not the file that was exported (its SHA-256 or size differs "
                "from the manifest); export the model again"
            )
        return data


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open the bundle at a path, or the shipped one of that name ("mnist").

    Raises:
        BundleNotFoundError: There is no bundle.
        BundleError: The manifest is malformed or a file is missing.
    """
    directory = SHIPPED / str(path) if str(path) in SHIPPED_NAMES else Path(path)
    if not os.path.isdir(directory):
        raise BundleNotFoundError(
            f"{path}: no such bundle; expected a directory made by 'audit export', or one of "
            f"{', '.join(SHIPPED_NAMES)}"
        )
    text = _read_regular_file(directory / MANIFEST, limit=MAX_MANIFEST_BYTES)
    try:
        manifest = _manifest_from_json(text)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{directory / MANIFEST}: {exc}; export the model again") from exc
    for name in manifest.files:
        if not os.path.isfile(directory / name):
            raise BundleError(f"{directory / name}: missing; export the model again")
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest())


def _read_regular_file(path: Path, limit: int) -> bytes:
    """The file's bytes; of one larger than `limit`, which is a wrong one, a byte too many."""
    if not os.path.isfile(path):
        raise BundleError(f"{path}: missing; expected a bundle made by 'audit export'")
    try:
        with path.open("rb") as file:
            # The limit may be a stranger's claim, and read() allocates what it is asked for.
            return file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except OSError as exc:
        raise BundleError(f"{path}: can't be read ({exc.strerror})") from exc


def _manifest_from_json(text: bytes) -> Manifest:
    """Parse and check; any ValueError says what is wrong with the document."""
    document = strict_json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"schema {found!r}, expected {SCHEMA!r}")
    raw = _field(document, "raw", dict)
    space = _field(document, "input", dict)
    preprocess = Preprocess(
        raw_shape=_shape(raw, "shape"),
        raw_dtype=_field(raw, "dtype", str),
        raw_layout=_field(raw, "layout", str),
        input_shape=_shape(space, "shape"),
        scale=_number(space, "scale"),
        offset=_number(space, "offset"),
        mean=_numbers(space, "mean"),
        std=_numbers(space, "std"),
    )
    if preprocess.raw_dtype not in RAW_DTYPES:
        raise ValueError(f"raw dtype {preprocess.raw_dtype!r}, expected {', '.join(RAW_DTYPES)}")
    if layouts_of(preprocess.input_shape).get(preprocess.raw_layout) != preprocess.raw_shape:
        raise ValueError("the raw shape and layout don't fit the input shape")
    record = _field(document, "parity", dict)
    files = {
        name: FileRecord(sha256=_field(entry, "sha256", str), size=_count(entry, "size"))
        for name, entry in _field(document, "files", dict).items()
    }
    for name in files:
        if name not in (*REQUIRED_FILES, PT2):
            raise ValueError(f"unknown file {name!r}")
    for name in REQUIRED_FILES:
        if name not in files:
            raise ValueError(f"{name} is not listed")
    classes = _field(document, "classes", list)
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes: expected at least 2 names")
    return Manifest(
        name=_field(document, "name", str),
        classes=tuple(classes),
        preprocess=preprocess,
        opset=_count(document, "opset"),
        producer={str(k): str(v) for k, v in _field(document, "producer", dict).items()},
        files=files,
        parity=Parity(
            source=_field(record, "source", str),
            samples=_count(record, "samples"),
            max_logit_difference=_number(record, "max_logit_difference"),
            max_margin_difference=_number(record, "max_margin_difference"),
            top1_disagreements=_count(record, "top1_disagreements"),
            logit_scale=_positive(record, "logit_scale"),
            guard=_positive(record, "guard"),
        ),
    )


def _field(document: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _count(document: Mapping[str, Any], name: str) -> int:
    value = _field(document, name, int)
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}: expected a count, got {value}")
    return value


def _number(document: Mapping[str, Any], name: str) -> float:
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number")
    return number


def _positive(document: Mapping[str, Any], name: str) -> float:
    value = _number(document, name)
    if value <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {value}")
    return value


def _numbers(document: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = _field(document, name, list)
    return tuple(_number({name: value}, name) for value in values)


def _shape(document: Mapping[str, Any], name: str) -> tuple[int, ...]:
    sizes = tuple(_count({name: size}, name) for size in _field(document, name, list))
    if not sizes or 0 in sizes:
        raise ValueError(f"{name}: expected sizes of 1 and more, got {list(sizes)}")
    return sizes
