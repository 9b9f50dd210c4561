"""Fixtures of the benchmarks."""

from __future__ import annotations

import pytest

from audit.bundle import Bundle, load_bundle


@pytest.fixture(scope="session")
def mnist_bundle() -> Bundle:
    """The bundle that ships."""
    return load_bundle("mnist")
