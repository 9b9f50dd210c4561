"""The implementations: a row each."""

from __future__ import annotations

from audit_kernels import cpu, reference
from audit_kernels.types import Kernel

_KERNELS: dict[str, Kernel] = {
    "reference": reference.top2_margin,
    "cpu": cpu.top2_margin,
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_KERNELS)


def get(name: str) -> Kernel:
    """The implementation of that name; never another one in its place.

    Raises:
        KeyError: There is none; the message lists the known.
    """
    if name not in _KERNELS:
        raise KeyError(f"no kernel {name!r}; known: {', '.join(names())}")
    return _KERNELS[name]
