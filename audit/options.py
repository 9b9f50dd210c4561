"""The options of each verb: frozen, checked once, passed whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from audit.errors import OptionError

DEVICES = ("cpu", "cuda", "tensorrt")
PRECISIONS = ("auto", "float32", "int8")
MAX_THREADS = 1024
SPLITS = ("test", "train", "all")
NORMS = ("l2", "linf")
OBJECTIVES = ("prob", "logit", "margin")
MAX_STEPS = 1_000_000
MAX_FRAMES = 10_000
MAX_POSITIONS = 2**63  # as int64 counts them
TRACKERS = ("mlflow", "wandb", "tensorboard")
RAW_DTYPES = ("uint8", "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How a dataset is scanned.

    Attributes:
        eps: Near-tie threshold ε in logit units; a sample is flagged where margin < eps, strictly.
        min_logit: Where given, only samples whose largest logit exceeds it are flagged.
        batch_size: Samples a forward call of the ONNX graph; None: what is found to be fastest.
        threads: Threads of the forward pass and of the gradients; None: all that this process has.
        device: Where the forward pass and the gradients run. Never replaced silently.
        precision: Precision of the fast pass. It can't change the findings, only the time.
        keep_all: Also record every sample's margin and top-2 classes of the fast pass.
        no_gradients: Flag only: leave out pair gradients and boundary distances.
        limit: Scan only the first so many samples.
        images: Name of the sample dataset inside the file; None: the usual names are tried.
        labels: Name of the label dataset inside the file; None: the usual names are tried.
        allow_external: Follow links and storage that lead out of the file.
        segment_samples: Samples after which what was found is on the disk; None: 2¹⁹ of them, or
            512 MiB as stored, whatever is less.
        resume: True: go on with the interrupted scan of the same output, which must be there;
            False: drop it; None: go on where there is one.
        trust: Load the bundle's TorchScript, which can run code, whoever made it.
        memory_limit: Bytes that the process may have resident; None: what is fastest.

    Raises:
        OptionError: An option is out of range.
    """

    eps: float
    min_logit: float | None = None
    batch_size: int | None = None
    threads: int | None = None
    device: str = "cpu"
    precision: str = "auto"
    keep_all: bool = False
    no_gradients: bool = False
    limit: int | None = None
    images: str | None = None
    labels: str | None = None
    allow_external: bool = False
    segment_samples: int | None = None
    resume: bool | None = None
    trust: bool = False
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if not (_is_finite(self.eps) and self.eps > 0):
            raise OptionError(f"--eps {self.eps}: expected a finite number above 0, such as 0.1")
        if self.min_logit is not None and not _is_finite(self.min_logit):
            raise OptionError(
                f"--min-logit {self.min_logit}: expected a finite number; leave it out for none"
            )
        if self.threads is not None and self.threads > MAX_THREADS:
            raise OptionError(f"--threads {self.threads}: expected {MAX_THREADS} or fewer")
        for name in ("batch_size", "threads", "limit", "segment_samples"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
                raise OptionError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
        _check_choice("--device", self.device, DEVICES)
        _check_choice("--precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a trained model becomes a bundle.

    Attributes:
        input_shape: Shape of the network's input without N, e.g. (1, 28, 28).
        raw_dtype: Dtype of the samples as stored; None: that of the parity data, else float32.
        raw_layout: Axis letters of a stored sample, e.g. HW, HWC, CHW; None: found from the shapes.
        scale: Input space is raw · scale + offset; None: 1/255 for uint8, else 1.
        offset: See `scale`.
        mean: Network input is (input space - mean) / std, one number or one a channel.
        std: See `mean`.
        classes: Class names, one a logit; None: "0", "1", …
        parity_data: HDF5 dataset whose samples prove the exports equal; None: random samples.
        pt2: Also write `model.pt2`, the `torch.export` artefact.
        int8: Also write `model.int8.onnx`, the quantised graph; needs `calibration`.
        calibration: HDF5 dataset that the quantised graph is calibrated and measured on.
        images: Name of the samples inside both files; None: the usual names are tried.
        name: Name in the manifest; None: the name of the bundle's directory.

    Raises:
        OptionError: An option is out of range.
    """

    input_shape: tuple[int, ...]
    raw_dtype: str | None = None
    raw_layout: str | None = None
    scale: float | None = None
    offset: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    parity_data: str | None = None
    pt2: bool = False
    int8: bool = False
    calibration: str | None = None
    images: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        sizes = self.input_shape
        if not sizes or not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
            raise OptionError(
                f"--input-shape {','.join(map(str, self.input_shape))}: expected the network's "
                "input shape without N, such as 1,28,28"
            )
        if self.raw_dtype is not None:
            _check_choice("--raw-dtype", self.raw_dtype, RAW_DTYPES)
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale != 0):
            raise OptionError(f"--scale {self.scale}: expected a finite number other than 0")
        if not math.isfinite(self.offset):
            raise OptionError(f"--offset {self.offset}: expected a finite number")
        if not all(map(math.isfinite, self.mean or ())):
            raise OptionError(f"--mean {self.mean}: expected finite numbers")
        if not all(math.isfinite(value) and value > 0 for value in self.std or ()):
            raise OptionError(f"--std {self.std}: expected finite numbers above 0")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise OptionError(
                f"--classes: got {len(self.classes)} names, {len(set(self.classes))} of them "
                "different; expected 2 or more, all different, with commas between them or one a "
                "line in a text file"
            )
        if self.int8 and self.calibration is None:
            raise OptionError(
                "--int8: needs --calibration DATA.h5, samples like those that will be scanned"
            )
        if self.calibration is not None and not self.int8:
            raise OptionError(f"--calibration {self.calibration}: is for --int8; add it")


@dataclass(frozen=True, kw_only=True)
class AscendOptions:
    """How samples are pushed to another class.

    Attributes:
        index: Positions in the dataset; None: all samples of the findings.
        target: "second", "all", or a class by number or name; a text that is both is a name, but
            for these two words.
        norm: What a step's length, and with `minimal` the distance, is measured in.
        objective: What is ascended: the target's probability, its logit, or its logit less the
            largest other.
        step: Length of a step; None: a tenth of the first-order distance to the target.
        max_steps: Steps before an ascent is given up.
        clip: Least and greatest value in input space; None: what uint8 can hold, else none.
        minimal: Then look for the smallest perturbation.
        frames: Inputs kept along each ascent, at most.
        threads: Threads of the computation; None: all that this process has.
        device: Where gradients are computed. Never replaced silently.
        images: Of a dataset: name of the samples inside the file.
        labels: Of a dataset: name of the labels inside the file.
        allow_external: Of a dataset: follow links and storage that lead out of the file.
        trust: Load the bundle's TorchScript, which can run code, whoever made it.

    Raises:
        OptionError: An option is out of range.
    """

    index: tuple[int, ...] | None = None
    target: int | str = "second"
    norm: str = "l2"
    objective: str = "prob"
    step: float | None = None
    max_steps: int = 1000
    clip: tuple[float, float] | None = None
    minimal: bool = False
    frames: int = 8
    threads: int | None = None
    device: str = "cpu"
    images: str | None = None
    labels: str | None = None
    allow_external: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        for position in self.index or ():
            if not (_is_count(position) and 0 <= position < MAX_POSITIONS):
                raise OptionError(f"--index {position}: expected a position in the dataset, from 0")
        if self.index is not None and not self.index:
            raise OptionError("--index: expected one position in the dataset, or several")
        if not (isinstance(self.target, str) or _is_count(self.target)):
            raise OptionError(
                f"--target {self.target!r}: expected second, all, a class number or a class name"
            )
        _check_choice("--norm", self.norm, NORMS)
        _check_choice("--objective", self.objective, OBJECTIVES)
        _check_choice("--device", self.device, DEVICES)
        if self.step is not None and not (_is_finite(self.step) and self.step > 0):
            raise OptionError(f"--step {self.step}: expected a finite number above 0")
        if not (_is_count(self.max_steps) and 1 <= self.max_steps <= MAX_STEPS):
            raise OptionError(f"--max-steps {self.max_steps}: expected 1 to {MAX_STEPS}")
        if not (_is_count(self.frames) and (self.frames == 0 or 2 <= self.frames <= MAX_FRAMES)):
            raise OptionError(
                f"--frames {self.frames}: expected 0 for none, or 2 to {MAX_FRAMES}: the first "
                "and the last input are always kept"
            )
        if self.threads is not None and not (
            _is_count(self.threads) and 1 <= self.threads <= MAX_THREADS
        ):
            raise OptionError(f"--threads {self.threads}: expected 1 to {MAX_THREADS}")
        if self.clip is not None:
            bounds = self.clip if isinstance(self.clip, tuple | list) else ()
            numbers = len(bounds) == 2 and all(isinstance(bound, Real) for bound in bounds)
            if not (numbers and bounds[0] < bounds[1]):  # NaN, too
                shown = ",".join(f"{each:g}" for each in bounds) if numbers else repr(self.clip)
                raise OptionError(
                    f"--clip {shown}: expected the least and the greatest value, such as 0,1"
                )


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Where findings are logged, and how.

    Attributes:
        to: The experiment tracker.
        experiment: MLflow's experiment, wandb's project, a folder of TensorBoard's.
        run: Name of the run.
        uri: MLflow's tracking URI; folder of wandb's or TensorBoard's files.
        step: Of the metrics and figures.
        closest: So many figures.

    Raises:
        OptionError: An option is out of range.
    """

    to: str
    experiment: str | None = None
    run: str | None = None
    uri: str | None = None
    step: int | None = None
    closest: int = 5

    def __post_init__(self) -> None:
        _check_choice("--to", self.to, TRACKERS)
        for name in ("step", "closest"):
            value = getattr(self, name)
            if value is not None and not (_is_count(value) and 0 <= value < MAX_POSITIONS):
                raise OptionError(f"--{name} {value}: expected 0 or more")
        for name in ("experiment", "run", "uri"):
            if getattr(self, name) == "":
                raise OptionError(f"--{name}: empty; leave it out")

    @property
    def starts_no_run(self) -> bool:
        """Whether a run that is going on will do."""
        return self.experiment is None and self.run is None and self.uri is None


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What findings are compared with, and how much of them.

    Attributes:
        dataset: What was scanned; None: nothing is computed anew.
        bundle: What was scanned with; None: the one that the findings name.
        samples: Near ties, and other samples, that are computed anew, at most.
        all: Every one of both.
        seed: Of the choice.
        allow_external: Follow links and storage that lead out of the dataset.
        trust: Load the bundle's TorchScript module even if nobody vouches for it.

    Raises:
        OptionError: An option is out of range.
    """

    dataset: str | None = None
    bundle: str | None = None
    samples: int = 64
    all: bool = False
    seed: int = 0
    allow_external: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        if not (_is_count(self.samples) and 1 <= self.samples < MAX_POSITIONS):
            raise OptionError(f"--samples {self.samples}: expected 1 or more")
        if not (_is_count(self.seed) and 0 <= self.seed < MAX_POSITIONS):
            raise OptionError(f"--seed {self.seed}: expected 0 or more")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{option} {value}: expected one of {', '.join(choices)}")
