"""Is this a model that can be audited? Each check says what is wrong and how to mend it.

All checks run on a float64 copy in evaluation mode, from input space on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audit.errors import ModelError, last_line

CLOSE = 1e-9  # of two float64 evaluations that should be equal, relative to each logit's size
# Of TorchScript's gradients to eager ones. Its profiling executor keeps some constants in float32
# (LeakyReLU's slope, Hardsigmoid's sixth): 3e-8 was seen, harmless; the findings promise 1e-5.
CLOSE_GRADIENT = 1e-6
PROBABILITY = 1e-5  # how near to 1 sums of probabilities come in float64 after a float32 softmax
CALLS = (2, 5, 1, 3)  # batch sizes of the first four calls, in which the executor changes
MIXED = (
    "the logits of a sample depend on its neighbours in the batch; use normalisation with running "
    "statistics (BatchNorm track_running_stats=True), and nothing that averages or attends over "
    "the batch axis (batch_first=True for transformers)"
)

Network = Callable[[Tensor], Tensor]


class LogitsAndGradients(NamedTuple):
    """Logits (N, C) and the gradients of the top-2 logits' sums, (2, N, *input_shape)."""

    logits: Tensor
    gradients: Tensor


def check_evaluation_mode(model: nn.Module) -> None:
    """Every module must be in evaluation mode once `eval()` was called.

    Raises:
        ModelError: A module stays in training mode.
    """
    stuck = [name or type(model).__name__ for name, each in model.named_modules() if each.training]
    if stuck:
        raise ModelError(
            f"module {stuck[0]!r} stays in training mode after eval(); let its train(mode) call "
            "super().train(mode)"
        )


def check_weights(model: nn.Module) -> None:
    """All parameters and buffers must be finite, but for -inf in buffers.

    Raises:
        ModelError: One holds NaN or infinity.
    """
    finite = {name: torch.isfinite(value).all() for name, value in model.named_parameters()}
    for name, value in model.named_buffers():
        # Attention masks are buffers of 0 and -inf.
        finite[name] = (torch.isfinite(value) | (value == -torch.inf)).all()
    for name in finite:
        if not finite[name]:
            raise ModelError(f"parameter {name!r} holds NaN or infinity; train the model again")


def check_logits(model: nn.Module, x: Tensor, classes: Sequence[str] | None) -> None:
    """The model must map (N, …) to finite logits (N, C), each row from its own sample alone.

    Args:
        model: float64, in evaluation mode, from input space on.
        x: float64 (N, *input_shape), N ≥ 5.
        classes: Class names, where the user gave some.

    Raises:
        ModelError: It doesn't.
    """
    with torch.no_grad():
        logits = _logits(model, x)
        _check_shape(logits, len(x), classes)
        if not torch.isfinite(logits).all():
            raise ModelError(
                "the logits of ordinary inputs are NaN or infinite; check --scale, --mean and "
                "--std, and the weights"
            )
        check_unnormalised(logits)
        if not _close(_logits(model, x), logits):
            raise ModelError(
                "two runs on the same input give different logits; remove what is random outside "
                "of training (F.dropout without training=self.training, noise, state that counts)"
            )
        reversed_again = _logits(model, x.flip(0)).flip(0)
        try:
            alone = torch.cat([_logits(model, x[i : i + 1]) for i in range(min(len(x), 4))])
        except ModelError as exc:  # batch statistics of one sample, for one
            raise ModelError(MIXED) from exc
        if not (_close(reversed_again, logits) and _close(alone, logits[: len(alone)])):
            raise ModelError(MIXED)


def check_unnormalised(logits: Tensor, alternative: str = "") -> None:
    """Outputs must be logits, not what a softmax made of them.

    Args:
        logits: (N, C).
        alternative: What else can be done than to change the network, for the message.

    Raises:
        ModelError: They are probabilities or log-probabilities.
    """
    sums = logits.sum(1)
    if (logits >= 0).all() and (logits <= 1).all() and ((sums - 1).abs() < PROBABILITY).all():
        raise ModelError(
            "the outputs are probabilities (in [0, 1], sum 1), not logits; remove the softmax at "
            f"the end of the network{alternative}"
        )
    if (logits <= PROBABILITY).all() and (logits.logsumexp(1).abs() < PROBABILITY).all():
        raise ModelError(
            "the outputs are log-probabilities (their exponentials sum to 1), not logits; remove "
            f"the log_softmax at the end of the network{alternative}"
        )


def check_gradients(model: nn.Module, x: Tensor) -> None:
    """Gradients must reach the input.

    Raises:
        ModelError: They are absent, or not finite or zero for every sample.
    """
    gradients = logits_and_gradients(model, x).gradients
    if not torch.isfinite(gradients).flatten(2).all(2).any():
        raise ModelError(
            "the gradients of the logits are NaN or infinite at every input; add a small "
            "constant under roots, norms and logarithms in forward, before they see a zero"
        )
    if not gradients.any():
        raise ModelError(
            "the gradients of the logits are zero at every input; remove what has no slope on the "
            "way (round, sign, argmax, thresholds), or check that the weights aren't all zero"
        )


def check_same_gradients(exported: Network, model: nn.Module, x: Tensor, what: str) -> None:
    """An exported module must give the model's logits and gradients, from the first call on.

    TorchScript's profiling executor rewrites the graph in its second and third call, and again
    for other shapes: hence four calls of changing batch size.

    Args:
        exported: The module under test, float64.
        model: The eager model, float64.
        x: float64 (N, *input_shape), N ≥ 5.
        what: Name of the export, for the message.

    Raises:
        ModelError: It doesn't.
    """
    for call, size in enumerate(CALLS, start=1):
        expected = logits_and_gradients(model, x[:size])
        try:
            got = logits_and_gradients(exported, x[:size])
        except RuntimeError as exc:
            raise ModelError(
                f"{what} fails in call {call}, on a batch of {size}: {last_line(exc)}; the batch "
                "size is x.shape[0] in forward, not a number, len(x) or int(x.shape[0])"
            ) from exc
        if not _close(got.logits, expected.logits, CLOSE_GRADIENT):
            raise ModelError(
                f"{what} gives other logits than the model in call {call}, on a batch of {size}; "
                "branches and loops that depend on values or on the batch size can't be traced"
            )
        # At a kink the model's own gradient may be NaN (a norm at 0): nothing to compare with.
        comparable = torch.isfinite(expected.gradients).flatten(2).all(2)
        error = (got.gradients - expected.gradients).flatten(2).norm(dim=2)
        scale = expected.gradients.flatten(2).norm(dim=2)
        if not (error <= CLOSE_GRADIENT * scale)[comparable].all():
            worst = float((error / scale.clamp_min(1e-300))[comparable].max())
            cause = (
                "custom backward passes (autograd.Function, hooks) can't be exported: write the "
                "forward pass so that its own derivative is the one you want"
            )
            if not math.isfinite(worst):
                cause = "add a small constant under roots, norms and logarithms in forward"
            raise ModelError(
                f"{what} gives other gradients than the model in call {call}, on a batch of "
                f"{size} (relative error {worst:.1e}); {cause}"
            )


def logits_and_gradients(model: Network, x: Tensor) -> LogitsAndGradients:
    """Logits, and the gradients of each sample's two largest.

    Raises:
        ModelError: There is no gradient.
    """
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x.clone())  # a leaf can't be modified in place
        gradients = []
        for column in logits.topk(2).values.unbind(1):
            if not column.requires_grad:
                raise ModelError(
                    "the logits have no gradient with respect to the input; remove detach(), "
                    "torch.no_grad(), numpy and .item() from forward"
                )
            (gradient,) = torch.autograd.grad(column.sum(), x, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(x) if gradient is None else gradient)
    return LogitsAndGradients(logits.detach(), torch.stack(gradients))


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    given = x.clone()
    version = given._version
    try:
        logits = model(given)
    except Exception as exc:
        reason = last_line(exc)
        hint = "--input-shape is the shape of one sample, without N"
        if "dtype" in reason:
            hint = "it is evaluated in float64, too: fix no dtype in forward, such as x.float()"
        raise ModelError(
            f"the network fails on an input of shape {tuple(x.shape)}, float64: {reason}; {hint}"
        ) from exc
    if given._version != version:
        # Its TorchScript would change the scan's batch, and has no gradient at a leaf.
        raise ModelError(
            "the network modifies its input in place; write x = x - 0.5 instead of x -= 0.5, and "
            "let no layer that sees the input be inplace=True"
        )
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the network returns {type(logits).__name__}; expected one tensor of logits (N, C). "
            "Wrap it in a module that returns just the logits"
        )
    return logits


def _check_shape(logits: Tensor, samples: int, classes: Sequence[str] | None) -> None:
    if logits.ndim != 2 or len(logits) != samples:
        raise ModelError(
            f"the network returns shape {tuple(logits.shape)} for {samples} samples; expected "
            "logits (N, C), one row a sample"
        )
    if logits.shape[1] < 2:
        raise ModelError(
            "the network has one output; a near tie needs two classes. For a binary model return "
            "torch.cat([torch.zeros_like(z), z], dim=1), z being the logit before any sigmoid"
        )
    if not logits.is_floating_point():
        raise ModelError(f"the network returns {logits.dtype}; expected floating-point logits")
    if classes is not None and len(classes) != logits.shape[1]:
        raise ModelError(
            f"--classes names {len(classes)} classes; the network has {logits.shape[1]} logits"
        )


def _close(got: Tensor, expected: Tensor, tolerance: float = CLOSE) -> bool:
    if got.shape != expected.shape:
        return False
    # Relative to its own size, so that a class masked with -1e9 excuses nothing, and to that of the
    # row's top-2, since a small logit may be the difference of terms as large as they are.
    size = torch.maximum(expected.abs(), expected.topk(2).values.abs().amax(1, keepdim=True))
    return bool(((got - expected).abs() <= tolerance * (1 + size)).all())
