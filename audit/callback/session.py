"""One fit: what is kept from the first batch that is looked at to the end."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from audit.callback.batches import Batch, array_from, batch_from, labels_from
from audit.callback.frozen import FrozenNetwork, randomness_kept, untouched
from audit.callback.loggers import Picture, Publisher
from audit.callback.look import Look, Moment, identity, look
from audit.callback.options import STAGES, CallbackOptions
from audit.callback.pictures import near_tie_from, png_of, rows_of_closest
from audit.callback.precision import Precision, find_precision
from audit.callback.record import TrainingWriter, describe_engine, describe_module
from audit.decide import GuardBroken
from audit.errors import OptionError, OutputError
from audit.figure import import_matplotlib
from audit.findings_writer import FindingsLayout, check_findings_output
from audit.hdf5_writer import NewFile
from audit.near_tie import NearTie
from audit.options import ScanOptions
from audit.preprocess import Preprocess

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

PROBE = 2  # samples that show what the network is


class Seen(NamedTuple):
    """Which batch is looked at.

    Attributes:
        stage: train or validation.
        batch: Its index in the epoch.
        loader: Index of the dataloader, of several for validation.
    """

    stage: str
    batch: int
    loader: int


class Session:
    """Looks at batches, records and publishes what it finds.

    Attributes:
        interval: Every so many batches one is looked at.
    """

    def __init__(
        self, options: CallbackOptions, loggers: Iterable[Any], name: str = "near_ties"
    ) -> None:
        """Check what would fail later.

        Args:
            options: Of the callback.
            loggers: Of the Trainer.
            name: What the pictures' tags begin with.

        Raises:
            OutputError: Findings can't be written where they are wanted.
            InstallationError: A logger takes pictures, and matplotlib isn't installed.
        """
        self.interval = options.logging_batch_interval
        self._options = options
        self._name = name
        self._scan_options = ScanOptions(
            eps=options.max_logit_difference, min_logit=options.min_logit_value
        )
        self._publisher = Publisher(loggers)
        if self._publisher:
            import_matplotlib()
        if options.save_to is not None:
            check_findings_output(options.save_to, "save_to")
            NewFile(options.save_to, "save_to").close()  # it can be written
        self._known: _Known | None = None
        self._writer: TrainingWriter | None = None
        self._records = options.save_to is not None
        self._published_step = -1
        self._published_looks = 0  # of that step
        self._warned: set[str] = set()

    def warn(self, message: str) -> None:
        """Once."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"ConfusedLogitCallback: {message}", stacklevel=2)

    def keeps_something(self) -> bool:
        """Whether anything found goes anywhere; warns of what doesn't."""
        for name in self._publisher.unknown:
            self.warn(f"{name} takes no pictures from here; near ties aren't plotted there")
        if not self._publisher and not self._records:
            self.warn(
                "no logger takes pictures and there is no save_to: no batch is looked at. Give "
                "save_to, or the Trainer a TensorBoard, W&B, MLflow or CSV logger"
            )
            return False
        return True

    def check_interval(self, stage: str, batches: float) -> None:
        """Warn where no batch of that stage would ever be looked at."""
        if stage in self._options.watch and batches < self.interval:
            self.warn(
                f"an epoch of {stage} has {batches} batches, of which logging_batch_interval="
                f"{self.interval} looks at none; make it smaller"
            )

    def see(self, seen: Seen, trainer: Trainer, module: LightningModule, given: Any) -> None:
        """Look at a batch, if its stage is watched.

        Raises:
            ModelError: The batch holds no samples, or the network has no logits of them.
            OptionError: Names don't fit the network.
            OutputError: Findings can't be written.
        """
        if seen.stage not in self._options.watch:
            return
        batch = batch_from(given, self._options.batch_fn)
        if not len(batch.x):
            return
        moment = Moment(
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            batch=seen.batch,
            stage=STAGES.index(seen.stage),
        )
        try:
            with untouched(module):
                looked = self._look(module, batch, moment)
        except GuardBroken:
            self.warn(
                f"{type(module).__name__} gives a sample other logits when it is evaluated again "
                "in another batch: it is random in evaluation mode, or mixes the samples of a "
                "batch. Such batches are left out"
            )
            return
        except torch.OutOfMemoryError:
            self.warn("there is too little memory to look at a batch; such batches are left out")
            return
        if looked.recorded:
            self._record(looked.found)
        if looked.ties:
            with randomness_kept(batch.x.device):  # a logger may name things at random
                self._publish(seen, moment, looked)

    def end(self, trainer: Trainer, how: str) -> None:
        """Give the findings their name.

        Args:
            trainer: Whose fit it was.
            how: It ended: "completed", or the name of an exception.
        """
        if self._writer is None or self._known is None:
            return
        engine = describe_engine(trainer, self._options, self._known.precision, how)
        try:
            with self._writer:
                self._writer.finish_training(engine)
        except OutputError as exc:
            self.warn(str(exc))

    def _look(self, module: LightningModule, batch: Batch, moment: Moment) -> _Looked:
        options, x = self._options, batch.x
        if self._known is None:
            self._known = self._first_look(module, batch)
            self._open(module, self._known)
        known = self._known
        network = FrozenNetwork(
            module, options.logits_fn, known.precision.fast, known.precision.canonical
        )
        like = x.dtype == known.dtype and x.shape[1:] == known.preprocess.input_shape
        preprocess = known.preprocess if like else _identity_of(batch)
        recorded = like and self._writer is not None
        if not like and self._writer is not None:
            self.warn(
                f"a batch's samples are {preprocess.raw_dtype} of shape {preprocess.raw_shape}, "
                f"the first ones were {known.preprocess.raw_dtype} of shape "
                f"{known.preprocess.raw_shape}; such samples aren't written to {options.save_to}"
            )
        found = look(
            network,
            x,
            labels_from(batch.labels, len(x), len(known.class_names)),
            preprocess=preprocess,
            options=self._scan_options,
            moment=moment,
            start=0 if self._writer is None else self._writer.samples,
            most=None if recorded else options.top_k,
        )
        ties: list[NearTie] = []
        if self._publisher and len(found.index):
            rows = rows_of_closest(found, options.top_k)
            logits = network.logits(preprocess.to_input_space(found.input[rows]))
            for row, each in zip(rows, logits, strict=True):
                ties.append(near_tie_from(found, row, each, preprocess, known.class_names))
        return _Looked(found, recorded, ties)

    def _first_look(self, module: LightningModule, batch: Batch) -> _Known:
        names, features = self._options.class_names, self._options.feature_names
        shape = tuple(batch.x.shape[1:])
        if features is not None and shape != (len(features),):
            raise OptionError(
                f"feature_names: {len(features)} names for samples of shape {shape}; they are for "
                "tabular samples, one a feature"
            )
        precision = find_precision(module, self._options.logits_fn, batch.x[:PROBE])
        if precision.reason is not None:
            self.warn(
                f"the network can't be evaluated in float64 ({precision.reason}); near ties are "
                f"decided in {_name(precision.canonical)}"
            )
        if names is None:
            names = tuple(map(str, range(precision.classes)))
        if len(names) != precision.classes:
            raise OptionError(f"class_names: {len(names)} names for {precision.classes} logits")
        return _Known(
            precision=precision,
            class_names=names,
            dtype=batch.x.dtype,
            preprocess=_identity_of(batch),
        )

    def _open(self, module: LightningModule, known: _Known) -> None:
        if self._options.save_to is None:
            return
        layout = FindingsLayout(
            preprocess=known.preprocess,
            classes=len(known.class_names),
            bundle=describe_module(module, known.class_names, known.preprocess),
            eps=self._scan_options.eps,
            min_logit=self._scan_options.min_logit,
        )
        self._writer = TrainingWriter(self._options.save_to, layout)

    def _record(self, found: Look) -> None:
        assert self._writer is not None
        try:
            self._writer.append(found)
        except OutputError as exc:
            # A full disk shouldn't end the training.
            self.warn(str(exc))
            self._writer.close()
            self._writer = None

    def _publish(self, seen: Seen, moment: Moment, looked: _Looked) -> None:
        tag = f"{self._name}/{seen.stage}"
        if seen.stage == "validation":  # the same batches each time: a step is then an epoch
            tag += f"/loader_{seen.loader}" if seen.loader else ""
            tag += f"/batch_{seen.batch}"
        elif moment.step != self._published_step:
            self._published_step, self._published_looks = moment.step, 1
        else:  # gradients are accumulated over several batches
            self._published_looks += 1
            tag += f"/look_{self._published_looks}"
        when = f"epoch {moment.epoch}, step {moment.step}, {seen.stage} batch {seen.batch}"
        for place, tie in enumerate(looked.ties, start=1):
            png = png_of(tie, self._options, when)
            for failure in self._publisher.publish(Picture(f"{tag}/{place}", moment.step, png)):
                self.warn(f"{failure}; it gets no more pictures")


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Of the network, since the first batch that was looked at.

    Attributes:
        precision: What it is evaluated in.
        class_names: One a class.
        dtype: Of the samples.
        preprocess: What they were like otherwise.
    """

    precision: Precision
    class_names: tuple[str, ...]
    dtype: torch.dtype
    preprocess: Preprocess


class _Looked(NamedTuple):
    """What a look brought.

    Attributes:
        found: To record.
        recorded: Whether that is wanted and possible.
        ties: To plot, closest first.
    """

    found: Look
    recorded: bool
    ties: list[NearTie]


def _identity_of(batch: Batch) -> Preprocess:
    return identity(tuple(batch.x.shape[1:]), array_from(batch.x[:0]).dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
