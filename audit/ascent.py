"""The ascent file: what gradient ascent did to each sample, read back lazily.

`docs/ascent.md` describes the schema; `audit.ascent_writer` writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audit.errors import AscentError
from audit.hdf5_reader import ResultReader, json_object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.preprocess import Preprocess

SCHEMA = "audit-ascent/1"
WHAT = "an ascent file made by 'audit ascend'"
# How an ascent ended; the number is what `/ascent/outcome` holds.
OUTCOMES = ("reached", "max steps", "no gradient", "stuck", "non-finite")
REACHED, MAX_STEPS, NO_GRADIENT, STUCK, NONFINITE = range(len(OUTCOMES))


class AscentPath(NamedTuple):
    """One ascent, step by step, the start included: T = steps + 1.

    Attributes:
        probability: Of the start class and of the target, float64 (T, 2).
        margin: z_target - the largest other logit, float64 (T,).
    """

    probability: NDArray[np.float64]
    margin: NDArray[np.float64]


class Frames(NamedTuple):
    """Inputs kept along one ascent; the first is the sample, the last is `final`.

    Attributes:
        step: Which steps they are of, int64 (F,).
        input: In input space, float32 (F, *input_shape).
    """

    step: NDArray[np.int64]
    input: NDArray[np.float32]


@dataclass(frozen=True)
class Ascents:
    """An opened ascent file: R ascents, a row each.

    The counts are in memory; each array is read from the file when it is first asked for. The
    file is closed in between, and must not be replaced by another ascent's meanwhile.

    Attributes:
        path: The file.
        tool_version: Version of near-tie-audit that made it.
        created: When, ISO 8601 in UTC.
        count: Ascents, R.
        succeeded: Those that reached their target.
        minimised: Whether the smallest perturbation was looked for (`--minimal`).
        options: What was asked for: target, norm, objective, step, max_steps, clip, …
        source: What the samples came from: kind, path.
        dataset: Of which dataset they are, as in findings.
        bundle: By which bundle: path, name, class names, input, SHA-256 of manifest and files.
        engine: How: versions, device, threads.
    """

    path: Path
    tool_version: str
    created: str
    count: int
    succeeded: int
    minimised: bool
    options: dict[str, Any]
    source: dict[str, Any]
    dataset: dict[str, Any]
    bundle: dict[str, Any]
    engine: dict[str, Any]

    @cached_property
    def preprocess(self) -> Preprocess:
        """How a sample as stored becomes input space.

        Raises:
            AscentError: What is recorded can't be.
        """
        from audit.manifest import preprocess_from_document

        try:
            return preprocess_from_document(self.bundle)
        except ValueError as exc:
            raise AscentError(f"{self.path}: its bundle's record: {exc}; ascend again") from exc

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(self.bundle["classes"])

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Positions in the dataset, int64 (R,), ascending; several targets: several rows."""
        return self._read("ascent/index", "int64", self.count)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """True classes, int64 (R,); -1 where unknown."""
        return self._read("ascent/label", "int64", self.count)

    @cached_property
    def start_class(self) -> NDArray[np.int64]:
        """The class of the sample, canonical, int64 (R,)."""
        return self._read("ascent/start_class", "int64", self.count)

    @cached_property
    def target(self) -> NDArray[np.int64]:
        """The class that was ascended to, int64 (R,)."""
        return self._read("ascent/target", "int64", self.count)

    @cached_property
    def final_class(self) -> NDArray[np.int64]:
        """The class of the final input, canonical, int64 (R,)."""
        return self._read("ascent/final_class", "int64", self.count)

    @cached_property
    def success(self) -> NDArray[np.bool_]:
        """Whether the final input is of the target class, bool (R,)."""
        return self._read("ascent/success", "bool", self.count)

    @cached_property
    def outcome(self) -> NDArray[np.int8]:
        """How each ascent ended, a position in `OUTCOMES`, int8 (R,)."""
        return self._read("ascent/outcome", "int8", self.count)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Steps taken, int64 (R,)."""
        return self._read("ascent/steps", "int64", self.count)

    @cached_property
    def step_size(self) -> NDArray[np.float64]:
        """Length of a step in the ascent's norm, float64 (R,)."""
        return self._read("ascent/step_size", "float64", self.count)

    @cached_property
    def input(self) -> NDArray[Any]:
        """The samples as stored, (R, *raw_shape) in their own dtype."""
        return self._read("ascent/input", None, self.count, ...)

    @cached_property
    def final(self) -> NDArray[np.float64]:
        """Where each ascent ended, in input space, float64 (R, *input_shape)."""
        return self._read("ascent/final", "float64", self.count, ...)

    @cached_property
    def rounded(self) -> NDArray[Any]:
        """`final` as it would be stored, (R, *raw_shape) in the raw dtype."""
        return self._read("ascent/rounded", None, self.count, ...)

    @cached_property
    def survives_rounding(self) -> NDArray[np.bool_]:
        """Whether `rounded` is of the target class, bool (R,)."""
        return self._read("ascent/survives_rounding", "bool", self.count)

    @cached_property
    def distance_l2(self) -> NDArray[np.float64]:
        """L2 distance of `final` from the sample, float64 (R,)."""
        return self._read("ascent/distance_l2", "float64", self.count)

    @cached_property
    def distance_linf(self) -> NDArray[np.float64]:
        """L∞ distance of `final` from the sample, float64 (R,)."""
        return self._read("ascent/distance_linf", "float64", self.count)

    @cached_property
    def first_order_l2(self) -> NDArray[np.float64]:
        """First-order L2 distance from sample to target, float64 (R,); NaN: degenerate."""
        return self._read("ascent/first_order_l2", "float64", self.count)

    @cached_property
    def first_order_linf(self) -> NDArray[np.float64]:
        """First-order L∞ distance from sample to target, float64 (R,); NaN: degenerate."""
        return self._read("ascent/first_order_linf", "float64", self.count)

    @cached_property
    def minimal_input(self) -> NDArray[np.float64]:
        """The closest input of the target class, float64 (R, *input_shape); NaN: not reached."""
        return self._read("minimal/input", "float64", self.count, ...)

    @cached_property
    def minimal_rounded(self) -> NDArray[Any]:
        """`minimal_input` as it would be stored; the sample itself where not reached."""
        return self._read("minimal/rounded", None, self.count, ...)

    @cached_property
    def minimal_survives_rounding(self) -> NDArray[np.bool_]:
        """Whether `minimal_rounded` is of the target class, bool (R,)."""
        return self._read("minimal/survives_rounding", "bool", self.count)

    @cached_property
    def minimal_distance_l2(self) -> NDArray[np.float64]:
        """L2 distance of `minimal_input` from the sample, float64 (R,); NaN: not reached."""
        return self._read("minimal/distance_l2", "float64", self.count)

    @cached_property
    def minimal_distance_linf(self) -> NDArray[np.float64]:
        """L∞ distance of `minimal_input` from the sample, float64 (R,); NaN: not reached."""
        return self._read("minimal/distance_linf", "float64", self.count)

    @cached_property
    def path_offset(self) -> NDArray[np.int64]:
        """Row r's path is `path_offset[r]:path_offset[r + 1]`, int64 (R + 1,)."""
        return self._read("path/offset", "int64", self.count + 1)

    @cached_property
    def path_probability(self) -> NDArray[np.float64]:
        """All paths' probabilities of start class and target, one after the other, (P, 2)."""
        return self._read("path/probability", "float64", None, 2)

    @cached_property
    def path_margin(self) -> NDArray[np.float64]:
        """All paths' z_target - largest other logit, one after the other, float64 (P,)."""
        return self._read("path/margin", "float64", None)

    @cached_property
    def frame_offset(self) -> NDArray[np.int64]:
        """Row r's frames are `frame_offset[r]:frame_offset[r + 1]`, int64 (R + 1,)."""
        return self._read("frame/offset", "int64", self.count + 1)

    def path_of(self, row: int) -> AscentPath:
        """One ascent, step by step."""
        span = self._span("path", self.path_offset, row)
        return AscentPath(
            self._read("path/probability", "float64", None, 2, rows=span),
            self._read("path/margin", "float64", None, rows=span),
        )

    def frames_of(self, row: int) -> Frames:
        """The inputs that were kept along one ascent; none with `--frames 0`."""
        span = self._span("frame", self.frame_offset, row)
        return Frames(
            self._read("frame/step", "int64", None, rows=span),
            self._read("frame/input", "float32", None, ..., rows=span),
        )

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of `input`, `final`, `rounded` or `minimal_input`; no others are read."""
        dtype = "float64" if name in ("final", "minimal_input") else None
        path = "minimal/input" if name == "minimal_input" else f"ascent/{name}"
        return self._read(path, dtype, self.count, ..., rows=slice(start, stop))

    def _span(self, group: str, offset: NDArray[np.int64], row: int) -> slice:
        row = range(self.count)[row]
        start, stop = offset[row : row + 2].tolist()
        if not 0 <= start <= stop:
            raise AscentError(f"{self.path}: /{group}/offset is not ascending; expected {WHAT}")
        return slice(start, stop)

    def _read(
        self, name: str, dtype: str | None, *shape: Any, rows: slice = slice(None)
    ) -> NDArray[Any]:
        from audit import hdf5

        reader = ResultReader(self.path, AscentError, WHAT)
        with reader.open() as file:
            if hdf5.text_attribute(file, "created") != self.created:
                raise AscentError(f"{self.path}: replaced by another ascent; load it again")
            if name.startswith("minimal/") and not self.minimised:
                raise AscentError(f"{self.path}: no /{name}; ascend again with --minimal")
            dataset = reader.checked(file, name, dtype, *shape)
            if rows.stop is not None and rows.stop > len(dataset):
                raise reader.wrong(f"/{name} has {len(dataset)} rows and not {rows.stop}")
            values: NDArray[Any] = dataset[rows]
            return values


def load_ascents(path: str | os.PathLike[str]) -> Ascents:
    """Open an ascent file.

    Raises:
        AscentError: There is no such file, or it isn't a complete ascent file.
    """
    from audit import hdf5

    reader = ResultReader(Path(path), AscentError, WHAT)
    with reader.open() as file:
        schema = hdf5.text_attribute(file, "schema")
        if schema != SCHEMA:
            raise AscentError(f"{path}: schema {schema!r}; expected {WHAT} ({SCHEMA!r})")
        try:
            with hdf5.with_heaps_checked(file) as checked:
                ascents = _from_attributes(reader.path, hdf5.Scalars(checked))
        except hdf5.FOREIGN as exc:
            reason = " ".join(str(exc).split())[: hdf5.MAX_REASON]
            raise AscentError(f"{path}: incomplete ({reason}); expected {WHAT}") from exc
        for name, rows in (
            ("ascent/index", ascents.count),
            ("path/offset", ascents.count + 1),
            ("frame/offset", ascents.count + 1),
        ):
            reader.checked(file, name, "int64", rows)
    return ascents


def _from_attributes(path: Path, root: Any) -> Ascents:
    """Everything but the arrays; what is missing or malformed raises one of `hdf5.FOREIGN`."""
    ascents = Ascents(
        path=path,
        tool_version=str(root["tool_version"]),
        created=str(root["created"]),
        count=int(root["ascents"]),
        succeeded=int(root["succeeded"]),
        minimised=bool(root["minimised"]),
        options=json_object(root["options"]),
        source=json_object(root["source"]),
        dataset=json_object(root["dataset"]),
        bundle=json_object(root["bundle"]),
        engine=json_object(root["engine"]),
    )
    if not 0 <= ascents.succeeded <= ascents.count:
        raise ValueError("counts that contradict each other")
    names = ascents.bundle.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("no class names")
    return ascents
