"""`manifest.json`: what a bundle says of itself, parsed strictly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from audit import strict_json
from audit.options import RAW_DTYPES
from audit.preprocess import Preprocess, layouts_of

SCHEMA = "audit-bundle/1"
ONNX = "model.onnx"
ONNX_INT8 = "model.int8.onnx"
TORCHSCRIPT = "model.ts"
PT2 = "model.pt2"
REQUIRED_FILES = (ONNX, TORCHSCRIPT)
KNOWN_FILES = (*REQUIRED_FILES, ONNX_INT8, PT2)
RUN_CODE = (TORCHSCRIPT, PT2)  # or can, when they are loaded
METHODS = ("minmax", "percentile", "entropy")
ACTIVATIONS = ("uint8", "int8")
WEIGHTS = ("int8",)

END = "\n}\n"  # of the text

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
class Int8:
    """How the quantised graph was made, and how far it is from canonical.

    A scan compares it with the float32 graph, which is as far from canonical as that one's guard.

    Attributes:
        method: How ranges of activations were found: minmax, percentile or entropy.
        activations: Their type: uint8 or int8.
        weights: Their type: int8.
        per_channel: Each output channel's weights have a scale of their own.
        reduce_range: Weights have 7 bits, which no processor's sums saturate with.
        layers_only: Only layers with weights are quantised, not what is between them.
        float_nodes: Layers left in float32.
        source: Name of the dataset that was calibrated on.
        samples: Samples calibrated on.
        held_out: Other samples of it, which the numbers below are of.
        raw_range: Smallest and largest stored value of all these samples: what lies outside is
            clamped by the quantised graph, so that samples with such values are proposed.
        disagreement: Its quantiles, see `Guard.disagreement`: quantile → logit units.
        logit_scale: Largest |logit| of those samples, at least 1.
        guard: The guard that follows, see `audit.guard`.
        proposed: ε → share of those samples that a scan proposes to the float32 graph.
        speedup: Time of the float32 graph ÷ time of this one, on the exporting machine.
    """

    method: str
    activations: str
    weights: str
    per_channel: bool
    reduce_range: bool
    layers_only: bool
    float_nodes: tuple[str, ...]
    source: str
    samples: int
    held_out: int
    raw_range: tuple[float, float]
    disagreement: Mapping[str, float]
    logit_scale: float
    guard: float
    proposed: Mapping[str, float]
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`, checked.

    `sha256` is that of the text without it, as it was read; None: by an older version.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    opset: int
    producer: Mapping[str, str]
    files: Mapping[str, FileRecord]
    parity: Parity
    int8: Int8 | None = None
    sha256: str | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """The manifest's text, stable in order; at its end the SHA-256 of what is before."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            **describe_model(self.name, self.classes, self.preprocess),
            "opset": self.opset,
            "producer": dict(self.producer),
            "files": {name: asdict(record) for name, record in self.files.items()},
            "parity": asdict(self.parity),
        }
        if self.int8 is not None:
            document["int8"] = asdict(self.int8)
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return text.removesuffix(END) + _sealed_end(digest)


def describe_model(name: str, classes: tuple[str, ...], preprocess: Preprocess) -> dict[str, Any]:
    """What a manifest and findings say of a model's classes and input, JSON-ready."""
    p = preprocess
    return {
        "name": name,
        "classes": classes,
        "raw": {"shape": p.raw_shape, "dtype": p.raw_dtype, "layout": p.raw_layout},
        "input": {
            "shape": p.input_shape,
            "scale": p.scale,
            "offset": p.offset,
            "mean": p.mean,
            "std": p.std,
        },
    }


def preprocess_from_document(document: dict[str, Any]) -> Preprocess:
    """What `describe_model` wrote of the input, checked.

    Raises:
        ValueError: What is wrong with it.
    """
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
    return preprocess


def manifest_from_json(text: bytes) -> Manifest:
    """Parse and check.

    Raises:
        ValueError: What is wrong with the document.
        RecursionError: It is nested deeper than any manifest.
    """
    document = strict_json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"schema {found!r}, expected {SCHEMA!r}")
    preprocess = preprocess_from_document(document)
    record = _field(document, "parity", dict)
    files = {
        name: FileRecord(sha256=_field(entry, "sha256", str), size=_count(entry, "size"))
        for name, entry in _field(document, "files", dict).items()
    }
    for name in files:
        if name not in KNOWN_FILES:
            raise ValueError(f"unknown file {name!r}")
    for name in REQUIRED_FILES:
        if name not in files:
            raise ValueError(f"{name} is not listed")
    int8 = _int8(_field(document, "int8", dict)) if "int8" in document else None
    if (int8 is not None) != (ONNX_INT8 in files):
        raise ValueError(f"the file {ONNX_INT8} and the record 'int8' go together")
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
        int8=int8,
        sha256=_own_digest(document, text),
    )


def _sealed_end(digest: str) -> str:
    return f',\n  "sha256": "{digest}"{END}'


def _own_digest(document: Mapping[str, Any], text: bytes) -> str | None:
    """The SHA-256 that the text ends with, which must be that of the rest; None: there is none."""
    if "sha256" not in document:
        return None
    recorded = _field(document, "sha256", str)
    rest = text.removesuffix(_sealed_end(recorded).encode()) + END.encode()
    if hashlib.sha256(rest).hexdigest() != recorded:
        raise ValueError("changed since it was exported: its SHA-256 differs")
    return recorded


def _int8(record: Mapping[str, Any]) -> Int8:
    return Int8(
        method=_choice(record, "method", METHODS),
        activations=_choice(record, "activations", ACTIVATIONS),
        weights=_choice(record, "weights", WEIGHTS),
        per_channel=_field(record, "per_channel", bool),
        reduce_range=_field(record, "reduce_range", bool),
        layers_only=_field(record, "layers_only", bool),
        float_nodes=tuple(
            _field({"float_nodes": name}, "float_nodes", str)
            for name in _field(record, "float_nodes", list)
        ),
        source=_field(record, "source", str),
        samples=_count(record, "samples"),
        held_out=_count(record, "held_out"),
        raw_range=_range(record, "raw_range"),
        disagreement=_table(record, "disagreement"),
        logit_scale=_positive(record, "logit_scale"),
        guard=_positive(record, "guard"),
        proposed=_table(record, "proposed"),
        speedup=_positive(record, "speedup"),
    )


def _range(document: Mapping[str, Any], name: str) -> tuple[float, float]:
    values = _numbers(document, name)
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError(f"{name}: expected the smallest and largest value, got {[*values]}")
    return values[0], values[1]


def _choice(document: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = _field(document, name, str)
    if value not in choices:
        raise ValueError(f"{name} {value!r}, expected {', '.join(choices)}")
    return value


def _table(document: Mapping[str, Any], name: str) -> dict[str, float]:
    """Numbers, 0 and more, by numbers above 0."""
    table = _field(document, name, dict)
    for key in table:
        try:
            positive = float(key) > 0 and math.isfinite(float(key))
        except ValueError:
            positive = False
        if not positive or _number(table, key) < 0:
            raise ValueError(f"{name}: expected numbers above 0 with a number of 0 or more each")
    return {key: _number(table, key) for key in table}


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
