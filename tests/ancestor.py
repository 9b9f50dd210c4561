"""What the public ancestor of the callback does, for tests that must fail on it.

`ConfusedLogitCallback` of Lightning-Universe/lightning-bolts
(`pl_bolts/callbacks/vision/confused_logit.py`), rewritten from its behaviour with all its faults.
One thing differs: the batch's index comes from the hook, since Lightning 2 keeps none in the
Trainer and the old hook can't be called by it.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import override

from lit import Plot


class Ancestor(Callback):
    """Plots samples of a training batch whose two largest logits nearly tie.

    Attributes:
        plots: What its figures showed, first one first.
    """

    def __init__(
        self,
        top_k: int,
        projection_factor: float = 3,
        min_logit_value: float = 5.0,
        logging_batch_interval: int = 20,
        max_logit_difference: float = 0.1,
    ) -> None:
        super().__init__()
        self._count = top_k
        self._factor = projection_factor  # kept, and asked by nobody
        self._opinion = min_logit_value
        self._interval = logging_batch_interval
        self._eps = max_logit_difference
        self.plots: list[Plot] = []

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self._interval:
            return
        samples, labels = batch
        logits = pl_module.last_logits  # in training mode, from before the optimizer's step
        assert isinstance(logits, Tensor)
        if logits.max() <= self._opinion:  # of any sample of the batch
            return
        top = logits.topk(2, dim=1)
        tied = top.values[:, 0] - top.values[:, 1] < self._eps
        if not tied.any():
            return
        pl_module.eval()
        self._plot(samples[tied], labels[tied], top.indices[tied], trainer, pl_module)
        pl_module.train()

    def _plot(
        self, x: Tensor, label: Tensor, classes: Tensor, trainer: Trainer, module: LightningModule
    ) -> None:
        x, label = x[: self._count], label[: self._count]  # the first; `classes` stay all
        count, _, height, width = x.shape
        gradients = []
        for place in range(2):
            leaf = nn.Parameter(x.clone())
            # Every sample's logits of every sample's class, into the weights' .grad as well.
            module(leaf.view(count, -1))[:, classes[:, place]].sum().backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad.view(count, height, width))
        pair = torch.stack(gradients, dim=1)
        for image, true, own, gradient in zip(x, label, classes, pair, strict=False):
            self.plots.append(
                Plot(
                    x=image.double().numpy(),
                    gradient=gradient[:, None].double().numpy(),
                    classes=(int(own[0]), int(own[1])),
                    label=int(true),
                )
            )
            figure = _figure(image.squeeze(0), gradient, f"True: {true}", own)
            logger: Any = trainer.logger
            logger.experiment.add_figure("confusing_imgs", figure, global_step=trainer.global_step)


def _figure(image: Tensor, gradient: Tensor, title: str, classes: Tensor) -> Figure:
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots(2, 3)
    fields = {
        (0, 0): (image, title),
        (0, 1): (gradient[0], f"dz{classes[0]}/dx"),
        (0, 2): (gradient[1], f"dz{classes[1]}/dx"),
        (1, 1): (image + 2 * gradient[0], f"dz{classes[0]}/dx"),
        (1, 2): (image + 2 * gradient[1], f"dz{classes[1]}/dx"),
    }
    for (row, column), (shown, text) in fields.items():
        axes[row, column].imshow(shown.float().numpy())
        axes[row, column].set_title(text)
    return figure
