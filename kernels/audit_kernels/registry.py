"""The implementations: a row each. What they need is imported when they are first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast, overload

from audit_kernels.types import Kernel, TensorKernel


@dataclass(frozen=True)
class Implementation:
    """A row of the table.

    Attributes:
        name: What it is asked for by.
        module: Where its `top2_margin` is.
        takes: Whether that is a `Kernel` or a `TensorKernel`.
        devices: Where logits may be; "any" is every device of torch.
        package: What must be installed for it, beyond numpy.
    """

    name: str
    module: str
    takes: Literal["array", "tensor"]
    devices: tuple[str, ...]
    package: str | None = None


_ROWS = {
    row.name: row
    for row in (
        Implementation("reference", "audit_kernels.reference", "array", ("cpu",)),
        Implementation("numpy", "audit_kernels.numpy", "array", ("cpu",)),
        Implementation("cpu", "audit_kernels.cpu", "array", ("cpu",), package="numba"),
        Implementation("torch", "audit_kernels.torch", "tensor", ("any",), package="torch"),
        Implementation("triton", "audit_kernels.triton", "tensor", ("cuda",), package="triton"),
    )
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_ROWS)


def implementation(name: str) -> Implementation:
    """The row of that name.

    Raises:
        KeyError: There is none; the message lists the known.
    """
    if name not in _ROWS:
        raise KeyError(f"no kernel {name!r}; known: {', '.join(names())}")
    return _ROWS[name]


@overload
def get(name: Literal["reference", "numpy", "cpu"]) -> Kernel: ...
@overload
def get(name: Literal["torch", "triton"]) -> TensorKernel: ...
@overload
def get(name: str) -> Kernel | TensorKernel: ...
def get(name: str) -> Kernel | TensorKernel:
    """The implementation of that name; never another one in its place.

    Raises:
        KeyError: There is none; the message lists the known.
        ImportError: The package that it needs isn't installed; the message names it.
    """
    row = implementation(name)
    try:
        module = import_module(row.module)
    except ModuleNotFoundError as exc:
        if exc.name != row.package:
            raise
        message = f"kernel {name!r} needs {row.package}: pip install {row.package}"
        raise ImportError(message, name=row.package) from exc
    return cast("Kernel | TensorKernel", module.top2_margin)
