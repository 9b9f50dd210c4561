"""The callback: which batches are looked at, and when."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from audit.callback.options import BatchFunction, CallbackOptions, LogitsFunction
from audit.callback.session import Seen, Session
from audit.errors import OptionError

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    from audit.callback.base import callback_classes

    Callback = type("Callback", callback_classes(), {})

# Of these a single process can't run the network: each holds a part of the parameters.
SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class ConfusedLogitCallback(Callback):
    """Finds, records and plots the samples whose two largest logits nearly tie.

    Every so many batches one is looked at, after the optimizer's step, with the network in
    evaluation mode: which samples nearly tie is decided in float64, and the gradients of both tied
    logits are taken for those. Training isn't changed: weights, gradients, buffers, random numbers
    and `training` flags are as without it. Input space is the batch as `training_step` gets it,
    after the user's transforms.

    Logits are what `forward` returns; where it leaves `last_logits` in the module, those; or what
    `logits_fn` gives. `forward` is called once more for a batch that is looked at, and so are its
    hooks. Batches may be tensors, tuples, lists, dicts, dataclasses, or what `batch_fn` takes.

    Pictures of the `top_k` closest near ties of a batch go to every logger of the Trainer that is
    TensorBoard, Weights & Biases, MLflow or CSV, under `near_ties/train/1` and so on; all near ties
    go to `save_to`, as findings (`audit.load_findings`). Each `fit` or `validate` writes that file
    anew. Only the process of rank zero looks; the sanity check and `fast_dev_run` are left out.

    Example::

        trainer = Trainer(callbacks=[ConfusedLogitCallback(top_k=1, save_to="confused.h5")])
    """

    def __init__(
        self,
        top_k: int,
        projection_factor: float = 3,
        min_logit_value: float | None = 5.0,
        logging_batch_interval: int = 20,
        max_logit_difference: float = 0.1,
        *,
        save_to: str | PathLike[str] | None = None,
        watch: str | Sequence[str] = ("train",),
        logits_fn: LogitsFunction | None = None,
        batch_fn: BatchFunction | None = None,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        """As in `CallbackOptions`.

        Raises:
            OptionError: An option is out of range.
        """
        super().__init__()
        self.options = CallbackOptions(
            top_k=top_k,
            projection_factor=projection_factor,
            min_logit_value=min_logit_value,
            logging_batch_interval=logging_batch_interval,
            max_logit_difference=max_logit_difference,
            save_to=None if save_to is None else Path(save_to),
            watch=(watch,) if isinstance(watch, str) else tuple(watch),
            logits_fn=logits_fn,
            batch_fn=batch_fn,
            class_names=None if class_names is None else tuple(class_names),
            feature_names=None if feature_names is None else tuple(feature_names),
        )
        # Once: Lightning asks for it at each of a step's hooks, for its profiler.
        self._state_key = f"{type(self).__qualname__}{self.options.key}"
        self._session: Session | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None}

    @property
    @override
    def state_key(self) -> str:
        return self._state_key

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._session = None
        wanted = stage == "fit" or (stage == "validate" and "validation" in self.options.watch)
        if not wanted or getattr(trainer, "fast_dev_run", False) or trainer.node_rank:
            return
        # All processes of the first node find the same faults, so that none waits for the others.
        session = Session(self.options, trainer.loggers, self._name_among(trainer))
        if not trainer.is_global_zero:
            return
        if any(kind.__name__ in SHARDED for kind in type(trainer.strategy).__mro__):
            session.warn(
                f"{type(trainer.strategy).__name__} spreads the parameters over several processes, "
                "and one alone can't run the network: no batch is looked at"
            )
        elif session.keeps_something():
            self._session = session

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None:
            self._session.check_interval("train", trainer.num_training_batches)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._session is not None and not trainer.sanity_checking:
            self._session.check_interval("validation", max(trainer.num_val_batches, default=0))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # All that most batches cost.
        if self._session is None or (batch_idx + 1) % self._session.interval:
            return
        self._session.see(Seen("train", batch_idx, 0), trainer, pl_module, batch)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._session is None or (batch_idx + 1) % self._session.interval:
            return
        if not trainer.sanity_checking:
            seen = Seen("validation", batch_idx, dataloader_idx)
            self._session.see(seen, trainer, pl_module, batch)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end(trainer, type(exception).__name__)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(trainer, "completed")

    def _name_among(self, trainer: Trainer) -> str:
        """What the tags of this one's pictures begin with: none are another callback's.

        Raises:
            OptionError: Another one of the Trainer's writes the same file.
        """
        callbacks: list[Callback] = vars(trainer)["callbacks"]  # Lightning doesn't declare it
        same = [each for each in callbacks if isinstance(each, ConfusedLogitCallback)]
        files = [each.options.save_to for each in same if each.options.save_to is not None]
        if files.count(self.options.save_to) > 1:  # type: ignore[arg-type]
            raise OptionError(
                f"save_to={str(self.options.save_to)!r}: two callbacks write it; give each its own"
            )
        place = 1 + [id(each) for each in same].index(id(self))
        return "near_ties" if place == 1 else f"near_ties_{place}"

    def _end(self, trainer: Trainer, how: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end(trainer, how)
