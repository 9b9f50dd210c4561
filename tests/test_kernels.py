"""One suite for every implementation of `top2_margin`, by value."""

from __future__ import annotations

import itertools
import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import audit_kernels
from audit_kernels import Top2

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# `test_kernels_triton.py` runs this suite once more, with Triton's interpreter.
NAMES = [
    name
    for name in audit_kernels.names()
    if name != "triton" or INTERPRETED or torch.cuda.is_available()
]
TENSORS = [name for name in NAMES if audit_kernels.implementation(name).takes == "tensor"]
ARRAYS = [name for name in NAMES if name not in TENSORS]
DTYPES = (np.float16, np.float32, np.float64)
# Around what the implementations take at once, and what the issue names.
WIDTHS = (2, 3, 10, 32, 33, 36, 37, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 4095, 4096, 4097)

every_kernel = pytest.mark.parametrize("name", NAMES)


def top2(name: str, logits: NDArray[np.floating], *, classes: bool) -> Top2:
    """What the implementation says, as arrays."""
    if name in ARRAYS:
        result = audit_kernels.get(name)(logits, classes=classes)  # type: ignore[arg-type]
        assert isinstance(result, Top2)
        return result
    device = "cuda" if name == "triton" and not INTERPRETED else "cpu"
    return tensor_top2(name, torch.from_numpy(logits).to(device), classes=classes)


def tensor_top2(name: str, logits: torch.Tensor, *, classes: bool) -> Top2:
    with np.errstate(all="ignore"):  # the interpreter computes with numpy
        result = audit_kernels.get(name)(logits, classes=classes)  # type: ignore[arg-type]
    assert isinstance(result, audit_kernels.TensorTop2)
    assert result.margin.device == result.top.device == logits.device
    pairs = None if result.classes is None else result.classes.cpu().numpy()
    return Top2(result.margin.cpu().numpy(), result.top.cpu().numpy(), pairs)


def assert_as_reference(name: str, logits: NDArray[np.floating]) -> None:
    """Equal to the definition: everything of finite rows, NaN margins of the others."""
    expected = audit_kernels.get("reference")(logits, classes=True)
    assert expected.classes is not None
    finite = np.isfinite(logits).all(axis=1)
    for classes in (True, False):
        found = top2(name, logits, classes=classes)
        assert_equal_where_finite(found, expected, finite)
        assert (found.classes is not None) == classes
        if found.classes is not None:
            assert found.classes.dtype == np.int64
            np.testing.assert_array_equal(found.classes[finite], expected.classes[finite])
            assert found.classes.min(initial=0) >= 0
            assert found.classes.max(initial=0) < logits.shape[1]


def assert_equal_where_finite(found: Top2, expected: Top2, finite: NDArray[np.bool_]) -> None:
    assert found.margin.dtype == found.top.dtype == expected.margin.dtype
    assert np.isnan(found.margin[~finite]).all()
    np.testing.assert_array_equal(found.margin[finite], expected.margin[finite])
    np.testing.assert_array_equal(found.top[finite], expected.top[finite])


def definition(row: NDArray[np.floating]) -> tuple[int, int]:
    """Largest first, equal values: lower class number first; Python's sort is stable."""
    a, b, *_ = sorted(range(len(row)), key=lambda label: -row[label])
    return a, b


def zeros_but(values: dict[int, float]) -> list[float]:
    return [values.get(label, 0.0) for label in range(9000)]


def finite_logits() -> st.SearchStrategy[NDArray[np.floating]]:
    # Few distinct values, so that equal ones and -0.0 are common; and any finite ones.
    def of_dtype(dtype: type[np.floating]) -> st.SearchStrategy[NDArray[np.floating]]:
        width = np.dtype(dtype).itemsize * 8
        largest = float(np.finfo(dtype).max / 4)
        elements = st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
            st.floats(-largest, largest, width=width),  # type: ignore[arg-type]
        )
        shapes = st.tuples(st.integers(1, 9), st.sampled_from([2, 3, 7, 10, 36, 37, 257]))
        return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))

    return st.one_of(of_dtype(np.float32), of_dtype(np.float64))


@every_kernel
@settings(deadline=None)  # the first call compiles
@given(logits=finite_logits())
def test_margins_and_classes_are_the_definition(name: str, logits: NDArray[np.floating]) -> None:
    full = top2(name, logits, classes=True)
    bare = top2(name, logits, classes=False)
    assert full.classes is not None
    assert bare.classes is None
    for row, (a, b) in enumerate(map(definition, logits)):
        assert full.classes[row].tolist() == [a, b]
        assert full.margin[row] == bare.margin[row] == logits[row, a] - logits[row, b]
        assert full.top[row] == bare.top[row] == logits[row, a]


@pytest.mark.parametrize(
    ("row", "classes"),
    [
        ([1.0, 1.0], [0, 1]),
        ([0.0, -0.0], [0, 1]),
        ([-0.0, 0.0], [0, 1]),
        ([-1.0, -0.0, 0.0], [1, 2]),
        ([1.0, -0.0, 0.0], [0, 1]),
        ([3.0, 3.0, 3.0], [0, 1]),
        ([1.0, 2.0, 2.0], [1, 2]),
        ([2.0, 1.0, 2.0], [0, 2]),
        ([0.0] * 300, [0, 1]),
        ([-1.0] * 5000, [0, 1]),
        ([*[0.0] * 299, 1.0], [299, 0]),
        ([*[-0.0] * 299, 0.0], [0, 1]),
        ([1.0, *[0.0] * 5000, 1.0], [0, 5001]),
        ([*[0.0] * 5000, 1.0, 2.0], [5001, 5000]),
        # 4096 apart, so that the same lane of the Triton kernel meets them.
        (zeros_but({5: 2.0, 4101: 1.0, 8197: 1.0}), [5, 4101]),
        (zeros_but({5: 2.0, 4101: 2.0, 8197: 2.0}), [5, 4101]),
        (zeros_but({5: 1.0, 4101: 2.0, 8197: 1.0}), [4101, 5]),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@every_kernel
def test_ties_go_to_the_lower_class(
    name: str, row: list[float], classes: list[int], dtype: type[np.floating]
) -> None:
    logits = np.array([row], dtype=dtype)
    kept = logits.copy()
    found = top2(name, logits, classes=True)
    assert found.classes is not None
    assert found.classes.tolist() == [classes]
    np.testing.assert_array_equal(logits, kept)


def edges(width: int) -> list[int]:
    """Classes at both ends, around the blocks of the implementations, and in the last one."""
    around = {0, 1, 127, 128, 255, 256, 1023, 1024, 4095, 4096, width - 256, width - 257}
    return sorted(
        place for place in around | {width // 2, width - 2, width - 1} if -1 < place < width
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_kernel
def test_the_largest_are_found_wherever_they_are(
    name: str, width: int, dtype: type[np.floating]
) -> None:
    noise = np.random.default_rng(width).uniform(-2, -1, width).astype(dtype)
    pairs = list(itertools.permutations(edges(width), 2))
    logits = np.repeat(noise[None], len(pairs), axis=0)
    values = itertools.cycle([(1.0, 0.5), (1.0, 1.0), (0.0, -0.0), (-0.5, -0.75), (-0.5, -0.5)])
    for row, (a, b), (largest, second) in zip(logits, pairs, values, strict=False):
        row[a], row[b] = largest, second
    assert_as_reference(name, logits)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@every_kernel
def test_rows_that_are_not_finite_have_no_margin(
    name: str, width: int, dtype: type[np.floating]
) -> None:
    wild = (np.nan, -np.nan, np.inf, -np.inf)
    places = edges(width)
    logits = np.random.default_rng(0).standard_normal((2 * len(wild) * len(places) + 3, width))
    logits = logits.astype(dtype)
    for row, (value, place) in enumerate(itertools.product(wild, places)):
        logits[2 * row + 1, place] = value
    logits[-2] = -np.inf
    assert np.isfinite(logits).all(axis=1).sum() == len(wild) * len(places) + 2
    assert_as_reference(name, logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 300, 5000])
@every_kernel
def test_the_ends_of_the_numbers(name: str, width: int, dtype: type[np.floating]) -> None:
    limits = np.finfo(dtype)
    logits = np.full((6, width), limits.min, dtype)
    logits[1, -1] = limits.max  # the margin overflows, or doesn't, in the margin's dtype
    logits[2, 1] = np.nextafter(limits.min, dtype(0))
    logits[3] = limits.max
    logits[4] = -limits.smallest_subnormal
    logits[5, 0] = limits.smallest_subnormal
    assert_as_reference(name, logits)
    found = top2(name, logits, classes=False).margin
    assert found[0] == found[3] == found[4] == 0
    assert np.isinf(found[1]) == (dtype != np.float16)


@pytest.mark.parametrize(("rows", "width"), [(700, 10), (257, 36), (30, 1000), (3, 50_257)])
@every_kernel
def test_many_rows(name: str, rows: int, width: int) -> None:
    generator = np.random.default_rng(0)
    assert_as_reference(name, generator.standard_normal((rows, width)).astype(np.float32))
    assert_as_reference(name, generator.integers(-3, 4, (rows, width)).astype(np.float32))


@every_kernel
def test_as_many_classes_as_there_are(name: str) -> None:
    logits = np.random.default_rng(0).integers(0, 2**22, (2, 250_000)).astype(np.float32)
    logits[1, -1] = 2**23
    assert_as_reference(name, logits)


@every_kernel
def test_no_rows(name: str) -> None:
    for classes, width in itertools.product((True, False), (3, 1000)):
        found = top2(name, np.empty((0, width), np.float32), classes=classes)
        assert found.margin.shape == found.top.shape == (0,)
        assert found.classes is None or found.classes.shape == (0, 2)


@every_kernel
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 0), (2, 3, 4)])
def test_another_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(rows, classes\), 2 classes up"):
        top2(name, np.zeros(shape, np.float32), classes=False)


@every_kernel
def test_another_dtype_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"logits of dtype .*int32; expected"):
        top2(name, np.zeros((2, 3), np.int32), classes=False)


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_layout(name: str, width: int) -> None:
    logits = np.random.default_rng(0).standard_normal((40, width))
    unaligned = np.frombuffer(b"\0" + logits.tobytes(), np.uint8)[1:].view(np.float64)
    layouts = {
        "fortran": np.asfortranarray(logits),
        "rows": np.repeat(logits, 2, axis=0)[::2],
        "columns": np.repeat(logits, 3, axis=1)[:, ::3],
        "backwards": logits[:, ::-1].copy()[:, ::-1],
        "big endian": logits.astype(">f8"),
        "unaligned": unaligned.reshape(logits.shape),
        "read only": logits.copy(),
    }
    layouts["read only"].flags.writeable = False
    expected = audit_kernels.get("reference")(logits, classes=True)
    for layout, view in layouts.items():
        np.testing.assert_array_equal(view, logits)
        for classes in (True, False):
            found = top2(name, view, classes=classes)
            np.testing.assert_array_equal(found.margin, expected.margin, err_msg=layout)
            assert found.margin.dtype == np.float64
            if classes:
                np.testing.assert_array_equal(found.classes, expected.classes, err_msg=layout)


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_any_strides_and_with_gradients(name: str, width: int) -> None:
    logits = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    expected = audit_kernels.get("reference")(logits.numpy(), classes=True)
    layouts = (
        logits.t().contiguous().t(),
        logits.repeat_interleave(2, 0)[::2],
        logits.repeat_interleave(3, 1)[:, ::3],
        logits.clone().requires_grad_(),
    )
    device = "cpu" if name == "torch" or INTERPRETED else "cuda"
    for view in layouts:
        found = tensor_top2(name, view.to(device), classes=True)
        np.testing.assert_array_equal(found.margin, expected.margin)
        np.testing.assert_array_equal(found.classes, expected.classes)


@pytest.mark.parametrize("width", [10, 1000])
@pytest.mark.parametrize("name", TENSORS)
def test_bfloat16_is_computed_in_float32(name: str, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (100 * torch.randn(50, width, generator=generator)).to(torch.bfloat16)
    logits[7, 3] = torch.nan
    device = "cpu" if name == "torch" or INTERPRETED else "cuda"
    wide = logits.float().numpy()
    finite = np.isfinite(wide).all(axis=1)
    expected = audit_kernels.get("reference")(wide, classes=True)
    found = tensor_top2(name, logits.to(device), classes=True)
    assert_equal_where_finite(found, expected, finite)
    assert found.classes is not None
    assert expected.classes is not None
    np.testing.assert_array_equal(found.classes[finite], expected.classes[finite])


@pytest.mark.parametrize("name", TENSORS)
def test_candidates_are_the_margins_below_their_limit(name: str) -> None:
    module = sys.modules[audit_kernels.get(name).__module__]
    device = "cpu" if name == "torch" or INTERPRETED else "cuda"
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 1023, 1024, 1025, 5000):
        margin, limits = torch.rand(2, count, generator=generator).to(device)
        margin[count // 2 :][:1] = torch.nan
        margin[-1:] = 0.25
        for limit in (limits, *torch.tensor([-1.0, 0.25, 0.5, 2.0]).to(device)):
            found = module.candidates(margin, limit)
            expected = np.flatnonzero(~(margin.cpu().numpy() >= limit.cpu().numpy()))
            np.testing.assert_array_equal(found.cpu().numpy(), expected)
            assert found.dtype == torch.int64


@pytest.mark.parametrize("name", TENSORS)
def test_limits_of_another_kind_are_refused(name: str) -> None:
    module = sys.modules[audit_kernels.get(name).__module__]
    margin = torch.zeros(3)
    for limit in (torch.zeros(2), torch.zeros(1), torch.zeros((), dtype=torch.float64)):
        with pytest.raises(ValueError, match="limits of"):
            module.candidates(margin, limit)
