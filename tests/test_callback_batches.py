"""What the callback makes of a batch: samples and labels, by its form or by the user's function."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.callback.batches import Batch, array_from, batch_from, labels_from
from audit.errors import ModelError

X = torch.rand(4, 3)
Y = torch.tensor([0, 2, 1, 2])


class Named(NamedTuple):
    label: Tensor  # before the samples: places don't count where names do
    image: Tensor


class Nameless(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Plain:
    x: Tensor
    y: Tensor


@dataclass(slots=True)
class Slots:
    y: Tensor
    x: Tensor


@dataclass(frozen=True)
class WithDefault:
    x: Tensor
    y: Tensor | None = None


class BySlots:
    __slots__ = ("inputs", "targets")

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets


class ByProperty:
    """As `torch_geometric` and `transformers` have them: what one reads isn't what is stored."""

    def __init__(self) -> None:
        self._store = {"x": X, "y": Y}

    @property
    def x(self) -> Tensor:
        return self._store["x"]

    @property
    def y(self) -> Tensor:
        return self._store["y"]


FORMS: dict[str, Any] = {
    "tuple": (X, Y),
    "list": [X, Y],
    "three": (X, Y, torch.arange(4)),
    "namedtuple": Named(Y, X),
    "namedtuple by place": Nameless(X, Y),
    "dict": {"id": torch.arange(4), "image": X, "label": Y},
    "mapping": UserDict(y=Y, x=X),
    "pixel_values": {"pixel_values": X, "labels": Y},
    "dataclass": Plain(X, Y),
    "slots dataclass": Slots(Y, X),
    "slots": BySlots(X, Y),
    "properties": ByProperty(),
    "object": SimpleNamespace(target=Y, data=X),
}


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str) -> None:
    batch = batch_from(FORMS[form], None)
    assert batch.x is X
    assert batch.labels is Y


@pytest.mark.parametrize("given", [X, (X,), [X], {"x": X}, WithDefault(X), (X, None)])
def test_without_labels(given: Any) -> None:
    batch = batch_from(given, None)
    assert batch.x is X
    assert batch.labels is None
    assert labels_from(batch.labels, 4, 3).tolist() == [-1] * 4


def test_batch_fn_comes_first() -> None:
    """It gets the batch as it is, whatever its form would tell."""
    given = (torch.zeros(4, 9), torch.zeros(4))

    def batch_fn(batch: Any) -> tuple[Tensor, Tensor]:
        assert batch is given
        return X, Y

    assert batch_from(given, batch_fn) == Batch(X, Y)
    assert batch_from(given, lambda _: (X, None)) == Batch(X, None)


@pytest.mark.parametrize("made", [X, None, (X,), (X, Y, Y), [X, Y]])
def test_batch_fn_returns_something_else(made: Any) -> None:
    with pytest.raises(ModelError, match=r"^batch_fn returned .*; expected a tuple"):
        batch_from((X, Y), lambda _: made)


@pytest.mark.parametrize(
    "given",
    [
        ((X, X), Y),
        [[X, X], Y],
        ({"x": X}, Y),
        {"x": {"left": X, "right": X}, "y": Y},
        {"a": (X, Y), "b": (X, Y)},  # as CombinedLoader gives it
        ((X, Y), (X, Y)),
        {"left": X, "right": X},
        {},
        (),
        [],
        SimpleNamespace(),
        None,
        3,
        "text",
        np.zeros((4, 3)),
        (np.zeros((4, 3)), Y),
        X.to_sparse(),
        (X.to_sparse(), Y),
        (torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), Y),
    ],
    ids=str,
)
def test_no_samples_to_be_found(given: Any) -> None:
    """One line, which says what there is and the way out."""
    with pytest.raises(ModelError) as caught:
        batch_from(given, None)
    message = str(caught.value)
    assert "give batch_fn" in message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_no_gradient(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match="only floating-point numbers have a gradient") as caught:
        batch_from((torch.zeros(4, 7, dtype=dtype), Y), None)
    assert str(dtype) in str(caught.value)
    assert "batch_fn" in str(caught.value)


def test_single_sample_without_its_axis() -> None:
    with pytest.raises(ModelError, match=r"shape \(3,\); expected \(N, …\)"):
        batch_from(X[0], None)


SHAPES = [(7,), (2, 9), (1, 6, 6), (3, 6, 6), (5, 6, 6), (2, 3, 4, 5), (784,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_samples_of_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randint(0, 200, (4, *shape)).to(dtype)
    assert batch_from((x, Y), None).x is x
    array = array_from(x.requires_grad_() if dtype.is_floating_point else x)
    assert array.shape == (4, *shape)
    assert array.dtype == (np.float32 if dtype == torch.bfloat16 else str(dtype)[6:])
    np.testing.assert_array_equal(array.astype(np.float64), x.detach().double().numpy())


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y.to(torch.int32),
        Y.to(torch.uint8),
        Y[:, None],
        torch.eye(3)[Y],
        torch.eye(3, dtype=torch.int64)[Y],
        torch.eye(3, dtype=torch.bool)[Y],
        torch.eye(3, dtype=torch.float16)[Y],
        torch.eye(3)[Y].requires_grad_(),
    ],
    ids=lambda each: f"{each.dtype}{tuple(each.shape)}",
)
def test_labels(labels: Tensor) -> None:
    known = labels_from(labels, 4, 3)
    assert known.dtype == np.int64
    assert known.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "digits",
        [0, 2, 1, 2],  # not a tensor: nobody's convention
        torch.tensor(1),
        torch.arange(3),  # of another number of samples
        torch.zeros(4, 2, dtype=torch.int64),  # neither one a sample nor one a class
        torch.zeros(4, 3, 6, 6),  # masks
        torch.tensor([0.0, 2.0, 1.0, 2.0]),  # to be regressed
        torch.tensor([True, False, True, False]),
    ],
    ids=str,
)
def test_labels_that_name_no_class(labels: Any) -> None:
    assert labels_from(labels, 4, 3).tolist() == [-1] * 4


def test_labels_out_of_range() -> None:
    """-100 is what cross-entropy ignores."""
    labels = torch.tensor([0, -100, 3, 2])
    assert labels_from(labels, 4, 3).tolist() == [0, -1, -1, 2]


def test_mixed_labels() -> None:
    """Mixup's and smoothed ones aren't of one class, several ones aren't either; a row decides."""
    rows = [[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert labels_from(torch.tensor(rows), 4, 3).tolist() == [0, -1, -1, -1]


def test_as_many_samples_as_classes() -> None:
    """(N, C) with one column is (N, 1) with one class at most: integers are classes."""
    assert labels_from(torch.tensor([[1], [0]]), 2, 2).tolist() == [1, 0]
