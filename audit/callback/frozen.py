"""A module in training, evaluated as it is at this moment, and left as it was.

What is left alone: parameters, their `.grad` and buffers (torch's `functional_call` lends the
module others for the time of a call), every submodule's `training` flag and attributes (what
`forward` keeps of a call, such as `last_logits`, and what it adds to its lists), the random number
generators, autocast, grad mode and the compiler. `forward`'s own `self.log` calls are ignored. The
module's forward hooks do run.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from audit.callback.options import LogitsFunction
from audit.errors import ModelError, last_line
from audit.gradients import PairGradients, boundary_distances, pair_gradients

# At once, in float64: the memory of a training step must be enough.
ROWS_AT_ONCE = 32
CHANGEABLE = (list, dict, set, deque, OrderedDict, defaultdict, Counter)
MODULES_OWN = frozenset(vars(nn.Module()))
REGISTERED = ("_parameters", "_buffers", "_modules")
DEPTH = 3  # of containers within containers that are copied
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
WAY_OUT = "give logits_fn, a function from the module and samples to logits (N, C)"


class FrozenNetwork:
    """Samples to logits by the weights of this moment; valid inside `untouched` only.

    Attributes:
        fast: dtype that near ties are proposed in.
        canonical: dtype that they are decided and explained in.
    """

    def __init__(
        self,
        module: nn.Module,
        logits_fn: LogitsFunction | None,
        fast: torch.dtype = torch.float32,
        canonical: torch.dtype = torch.float64,
    ) -> None:
        self.fast = fast
        self.canonical = canonical
        self._network = _Network(module, logits_fn)
        self._own: dict[str, Tensor] = {
            **{name: each.detach() for name, each in self._network.named_parameters()},
            **dict(self._network.named_buffers()),
        }
        self._device = _device_of(module)

    def evaluated(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What the network makes of samples (N, …) in this dtype, without gradient."""
        with torch.no_grad():
            return self._call(x.detach().to(dtype, copy=True), dtype)

    def fast_logits(self, x: Tensor) -> NDArray[np.float32]:
        """Logits (N, C) that near ties are proposed by."""
        return self.evaluated(x, self.fast).float().cpu().numpy()

    def logits(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Canonical logits (N, C) of samples (N, …)."""
        return self._forward(x, ROWS_AT_ONCE)

    def logits_alone(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """As `logits`, each sample by itself."""
        return self._forward(x, 1)

    def pair_gradients(
        self, x: NDArray[np.floating], classes: NDArray[np.int64], margin: NDArray[np.float64]
    ) -> PairGradients:
        """Canonical gradients of both tied logits, and the boundary distances that follow.

        Args:
            x: Samples (M, …).
            classes: The tied classes a, b of each, (M, 2).
            margin: z_a - z_b of each, (M,).

        Raises:
            ModelError: There are none.
        """
        gradient = np.empty((len(x), 2, *x.shape[1:]))
        for rows in _parts(len(x), ROWS_AT_ONCE):
            inputs = self._tensor(x[rows])
            pair = torch.from_numpy(classes[rows]).to(inputs.device)
            try:
                # cuDNN has no backward pass for recurrent layers in evaluation mode.
                with torch.backends.cudnn.flags(enabled=False):
                    # The backward pass within the call, too: a checkpoint runs forward again in it.
                    part = self._call(inputs, self.canonical, pair)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as exc:
                raise ModelError(
                    f"the logits have no gradient with respect to the samples ({last_line(exc)}); "
                    "remove detach(), torch.no_grad() and numpy from what forward does with them, "
                    f"give checkpoints use_reentrant=False, or {WAY_OUT}"
                ) from exc
            gradient[rows] = part.cpu().numpy()
        return PairGradients(gradient, *boundary_distances(gradient, margin))

    def _forward(self, x: NDArray[np.floating], most: int) -> NDArray[np.float64]:
        with torch.no_grad():
            parts = [
                self._call(self._tensor(x[rows]), self.canonical).double().cpu().numpy()
                for rows in _parts(len(x), most)
            ]
        return np.concatenate(parts)

    def _tensor(self, x: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(x).to(self._device, self.canonical, copy=True)

    def _call(self, x: Tensor, dtype: torch.dtype, pair: Tensor | None = None) -> Tensor:
        """Logits, or the gradients of each sample's `pair` of them."""
        # `forward` may change buffers and weights in place; the user's are to stay.
        lent = {name: _cast(each, dtype, copy=True) for name, each in self._own.items()}
        made: Tensor = functional_call(self._network, lent, (x, pair))
        return made


class _Network(nn.Module):
    """The user's module as one from samples to logits."""

    def __init__(self, module: nn.Module, logits_fn: LogitsFunction | None) -> None:
        super().__init__()
        self.module = module
        self._logits_fn = logits_fn
        self.name = type(module).__name__ if logits_fn is None else "logits_fn"

    def forward(self, x: Tensor, pair: Tensor | None) -> Tensor:
        if pair is None:
            return self._logits(x)
        # A leaf can't be modified in place, as the module may do with what it gets.
        return pair_gradients(lambda leaf: self._logits(leaf.clone()), x, pair)

    def _logits(self, x: Tensor) -> Tensor:
        try:
            return self._called(x)
        except (torch.OutOfMemoryError, ModelError):
            raise
        except Exception as exc:
            raise ModelError(
                f"{self.name} fails on samples of shape {tuple(x.shape)}, {x.dtype}, in "
                f"evaluation mode: {last_line(exc)}; {WAY_OUT}"
            ) from exc

    def _called(self, x: Tensor) -> Tensor:
        if self._logits_fn is not None:
            return self._logits_fn(self.module, x)
        # Only what this very call leaves there is of these samples.
        vars(self.module).pop("last_logits", None)
        returned = self.module(x)
        logits: Tensor = vars(self.module).get("last_logits", returned)
        return logits


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """In here the module is in evaluation mode and may be called; afterwards it is as it was."""
    modules = list(module.modules())
    device = _device_of(module)
    training = [each for each in modules if each.training]
    attributes = [dict(vars(each)) for each in modules]
    registered = [
        {name: dict(own) for name in REGISTERED if isinstance(own := vars(each).get(name), dict)}
        for each in modules
    ]
    try:
        for each in training:
            # Not by eval(), which takes the whole tree and may be the user's own.
            each.training = False
        with (
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            randomness_kept(device),
            _compiler_off(),
        ):
            for each in modules:
                vars(each).update(_own_values(each))
                if hasattr(type(each), "log_dict"):  # a LightningModule; log_dict calls log
                    vars(each)["log"] = _ignore
            yield
    finally:
        for each, before, contents in zip(modules, attributes, registered, strict=True):
            _put_back(vars(each), before)
            for name, content in contents.items():
                _put_back(vars(each)[name], content)
        for each in training:
            if not each.training:  # a ScriptModule's flag is no attribute of Python's
                each.training = True


def _put_back(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    """Only what differs: a dict that was emptied and filled again is slower to look up."""
    for name in attributes.keys() - before.keys():
        del attributes[name]
    for name, value in before.items():
        if name not in attributes or attributes[name] is not value:
            attributes[name] = value


@contextlib.contextmanager
def randomness_kept(device: torch.device) -> Iterator[None]:
    """What is drawn in here, from any of the three generators, isn't drawn for training."""
    python, legacy = random.getstate(), np.random.get_state(legacy=False)
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(own, device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextlib.contextmanager
def _compiler_off() -> Iterator[None]:
    """What torch.compile made runs as it was written: other dtypes would compile it again."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _own_values(module: nn.Module) -> dict[str, Any]:
    """Copies of what `forward` may change in place: lists, dicts, plain tensors and so on."""
    values = {name: each for name, each in vars(module).items() if name not in MODULES_OWN}
    copies = {name: _copied(each, DEPTH) for name, each in values.items()}
    return {name: each for name, each in copies.items() if each is not values[name]}


def _copied(value: Any, depth: int) -> Any:
    """A copy with copies in it, of what is known to change; anything else is itself."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, GENERATORS):
        return copy.deepcopy(value)
    if type(value) not in CHANGEABLE:
        return value
    made = copy.copy(value)
    if depth > 0 and isinstance(made, dict):
        for key, each in made.items():
            made[key] = _copied(each, depth - 1)
    elif depth > 0 and isinstance(made, list | deque):
        for place, each in enumerate(made):
            made[place] = _copied(each, depth - 1)
    return made


def _ignore(*_: Any, **__: Any) -> None:
    """In place of `LightningModule.log`: what is logged in here isn't training's."""


def _cast(value: Tensor, dtype: torch.dtype, *, copy: bool = False) -> Tensor:
    """In this dtype, if it is a floating-point one and not more exact already."""
    if value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, dtype), copy=copy)
    return value.clone() if copy else value


def _device_of(module: nn.Module) -> torch.device:
    return next((each.device for each in module.parameters()), torch.device("cpu"))


def _parts(count: int, most: int) -> Iterator[slice]:
    return (slice(start, start + most) for start in range(0, count, most))
