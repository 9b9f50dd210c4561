"""One suite for every implementation of `top2_margin`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import audit_kernels
from audit_kernels import Kernel

DTYPES = (np.float32, np.float64)


@pytest.fixture(params=audit_kernels.names())
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return audit_kernels.get(request.param)


def definition(row: NDArray[np.floating]) -> tuple[int, int]:
    """Largest first, equal values: lower class number first; Python's sort is stable."""
    a, b, *_ = sorted(range(len(row)), key=lambda label: -row[label])
    return a, b


def finite_logits() -> st.SearchStrategy[NDArray[np.floating]]:
    # Few distinct values, so that equal ones and -0.0 are common; and any finite ones.
    def of_dtype(dtype: type[np.floating]) -> st.SearchStrategy[NDArray[np.floating]]:
        width = np.dtype(dtype).itemsize * 8
        largest = float(np.finfo(dtype).max / 4)
        elements = st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
            st.floats(-largest, largest, width=width),  # type: ignore[arg-type]
        )
        shapes = st.tuples(st.integers(1, 9), st.sampled_from([2, 3, 7, 10, 255, 256, 257]))
        return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))

    return st.one_of(of_dtype(np.float32), of_dtype(np.float64))


@given(logits=finite_logits())
def test_margins_and_classes_are_the_definition(logits: NDArray[np.floating]) -> None:
    expected = [definition(row) for row in logits]
    for name in audit_kernels.names():
        kernel = audit_kernels.get(name)
        full, bare = kernel(logits, classes=True), kernel(logits, classes=False)
        assert full.classes is not None
        assert full.classes.tolist() == [list(pair) for pair in expected]
        assert bare.classes is None
        for row, (a, b) in enumerate(expected):
            assert full.margin[row] == bare.margin[row] == logits[row, a] - logits[row, b]
            assert full.top[row] == bare.top[row] == logits[row, a]


@pytest.mark.parametrize(
    ("row", "classes"),
    [
        ([1.0, 1.0], [0, 1]),
        ([0.0, -0.0], [0, 1]),
        ([-0.0, 0.0], [0, 1]),
        ([3.0, 3.0, 3.0], [0, 1]),
        ([1.0, 2.0, 2.0], [1, 2]),
        ([2.0, 1.0, 2.0], [0, 2]),
        ([0.0] * 300, [0, 1]),
        ([*[0.0] * 299, 1.0], [299, 0]),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lower_class(
    kernel: Kernel, row: list[float], classes: list[int], dtype: type[np.floating]
) -> None:
    logits = np.array([row], dtype=dtype)
    kept = logits.copy()
    top2 = kernel(logits, classes=True)
    assert top2.classes is not None
    assert top2.classes.tolist() == [classes]
    assert top2.margin.dtype == dtype
    np.testing.assert_array_equal(logits, kept)


def test_no_rows(kernel: Kernel) -> None:
    for classes in (True, False):
        assert kernel(np.empty((0, 3), np.float32), classes=classes).margin.shape == (0,)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(KeyError, match="known: reference, cpu"):
        audit_kernels.get("gpu")
