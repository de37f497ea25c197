"""Pools against the oracle: every case, dtype, layout and ISA, on one and all threads.

A maximum is compared exactly, on values with ties, NaN and infinities; a mean with the bound of its sum.
"""

import subprocess
import sys
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, laid_out, values
from conftest import each
from pools import LARGE, POOLS, SMALL, Pool, case_of, operator, rough, undilated, whole
from tolerance import SCHEME, assert_within, bound

import fastconv.functional as ff
from fastconv import reference


@cache
def exact_max(case: Pool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, indices and grad_x, channels first."""
    x = rough(case.x)
    y, indices = operator(reference, "max_pool", case.ndim)(x, **case.window, return_indices=True)
    grad_x = operator(reference, "max_pool", case.ndim, "_backward")(whole(y.shape), x, indices, **case.window)
    return y, indices, grad_x


def check_max(case: Pool, dtype: str, layout: str) -> None:
    x = laid_out(rough(case.x), layout, dtype)
    y, indices, grad_x = (laid_out(a, layout, t) for a, t in zip(exact_max(case), (dtype, "int64", dtype), strict=True))
    forward = operator(ff, "max_pool", case.ndim)
    backward = operator(ff, "max_pool", case.ndim, "_backward")
    options = {"data_format": layout, **case.window}
    np.testing.assert_array_equal(forward(x, **options), y, strict=True)
    for ours, exact in zip(forward(x, return_indices=True, **options), (y, indices), strict=True):
        np.testing.assert_array_equal(ours, exact, strict=True)
    grad_y = laid_out(whole(exact_max(case)[0].shape), layout, dtype)
    for given in (indices, None):
        np.testing.assert_array_equal(backward(grad_y, x, given, **options), grad_x, strict=True)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", SMALL)
def test_max(name, dtype, layout, isa):
    check_max(case_of(name, dtype), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_max_in_a_team(name, dtype, layout, isa, threads):
    check_max(case_of(name, dtype), dtype, layout)


def test_last_windows_of_a_long_row(isa):
    """The lanes behind a row's last window read nothing: what they would reach lies far before the row's buffer."""
    program = (
        "import numpy as np, fastconv.functional as ff; from fastconv import runtime;"
        f"runtime.set_isa({isa!r}); runtime.set_num_threads(1);"
        f"assert all((ff.max_pool1d(np.ones((1, 1, 2**24 + 7), t), 4, 3) == 1).all() for t in {DTYPES!r})"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


DIVISORS = ({}, {"count_include_pad": False}, {"divisor_override": -3})


@cache
def exact_avg(case: Pool, which: int) -> tuple[np.ndarray, np.ndarray]:
    """y and grad_x, channels first."""
    options = {**case.sums, "padding": case.padding, **DIVISORS[which]}
    y = operator(reference, "avg_pool", case.ndim)(values(case.x, 0), **options)
    grad_y = values(y.shape, 1)
    return y, operator(reference, "avg_pool", case.ndim, "_backward")(grad_y, case.x, **options)


def check_avg(case: Pool, dtype: str, layout: str) -> None:
    x = laid_out(values(case.x, 0), layout, dtype)
    for which, divisor in enumerate(DIVISORS):
        options = {"data_format": layout, **case.sums, "padding": case.padding, **divisor}
        y, grad_x = exact_avg(case, which)
        # No divisor is below 1, and none of a whole window below its size.
        ours = operator(ff, "avg_pool", case.ndim)(x, **options)
        assert_within(
            ours, laid_out(y, layout, "float64"), bound(dtype, 2, x, np.ones(1)) * terms(case, divisor), dtype
        )
        grad_y = laid_out(values(y.shape, 1), layout, dtype)
        ours = operator(ff, "avg_pool", case.ndim, "_backward")(grad_y, x.shape, **options)
        limit = bound(dtype, 2, grad_y, np.ones(1)) * terms(case, divisor)
        assert_within(ours, laid_out(grad_x, layout, "float64"), limit, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", SMALL)
def test_avg(name, dtype, layout, isa):
    check_avg(undilated(case_of(name, dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_avg_in_a_team(name, dtype, layout, isa, threads):
    check_avg(undilated(case_of(name, dtype)), dtype, layout)


def terms(case: Pool, divisor: dict[str, Any]) -> float:
    """Terms of a sum over its divisor, and a few roundings of that size: a mean's terms weigh 1 / terms each."""
    return 2 + (case.taps / 3 if "divisor_override" in divisor else 0) + np.sqrt(case.taps)


@cache
def exact_lp(case: Pool, power: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """y and grad_x, channels first, and the largest that each could be."""
    x = np.abs(values(case.x, 0))
    y = operator(reference, "lp_pool", case.ndim)(x, power, **case.sums)
    backward = operator(reference, "lp_pool", case.ndim, "_backward")
    largest = backward(np.ones(y.shape), x, power, **case.sums).max(initial=0)
    return y, backward(values(y.shape, 1), x, power, **case.sums), y.max(initial=0), largest


def check_lp(case: Pool, power: float, dtype: str, layout: str) -> None:
    x = np.abs(laid_out(values(case.x, 0), layout, dtype))
    options = {"norm_type": power, "data_format": layout, **case.sums}
    y, grad_x, largest_y, largest_grad = exact_lp(case, power)
    # All terms are positive, so the errors are relative: those of the sum, of the powers and of the root.
    relative = SCHEME * np.finfo(dtype).eps * (np.sqrt(case.taps) + 8) * max(1, abs(power), 1 / abs(power))
    ours = operator(ff, "lp_pool", case.ndim)(x, **options)
    assert_within(ours, laid_out(y, layout, "float64"), relative * largest_y, dtype)
    grad_y = laid_out(values(y.shape, 1), layout, dtype)
    ours = operator(ff, "lp_pool", case.ndim, "_backward")(grad_y, x, **options)
    assert_within(ours, laid_out(grad_x, layout, "float64"), relative * largest_grad, dtype)


WIDER_THAN_THE_INPUT = ("one-pixel", "1d-dilated", "2d-same-narrow", "2d-same-beyond-the-row")  # without its padding
UNPADDED = [name for name in POOLS if name not in WIDER_THAN_THE_INPUT]


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in UNPADDED if name in SMALL])
def test_square_root_of_squares(name, dtype, layout, isa):
    check_lp(undilated(case_of(name, dtype)), 2, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_square_root_of_squares_in_a_team(name, dtype, layout, isa, threads):
    check_lp(undilated(case_of(name, dtype)), 2, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(
    "name", ["outputs=VLEN+1", "global", "global-many", "2d-ceil", "2d-row", "3d-overlapping", "1d-long-wide"]
)
@pytest.mark.parametrize("power", [1, 2.5, 3, -1])
def test_other_powers(name, power, dtype, layout, isa):
    check_lp(undilated(case_of(name, dtype)), power, dtype, layout)


ADAPTIVE = {
    "divides": ((2, 5, 12, 8), (3, 4)),
    "does-not-divide": ((2, 17, 13, 10), (6, 7)),
    "more-outputs-than-inputs": ((1, 3, 3, 4), (5, 9)),
    "keeps-an-axis": ((2, 3, 9, 20), (None, 7)),
    "one": ((3, 18, 7, 7), 1),
    "1d": ((2, 3, 50), 7),
    "1d-long": ((1, 2, 9001), 1003),
    "1d-wide": ((1, 3, 9001), 11),
    "3d": ((1, 3, 5, 6, 7), (2, 6, 3)),
    "threaded": ((4, 40, 45, 46), (7, 6)),
}  # fmt: skip


@cache
def exact_adaptive(name: str) -> dict[str, np.ndarray]:
    shape, size = ADAPTIVE[name]
    ndim, x = len(shape) - 2, rough(shape)
    y, indices = operator(reference, "adaptive_max_pool", ndim)(x, size, True)
    mean = operator(reference, "adaptive_avg_pool", ndim)(values(shape, 0), size)
    backward = operator(reference, "adaptive_max_pool", ndim, "_backward")
    spread = operator(reference, "adaptive_avg_pool", ndim, "_backward")
    return {
        "y": y,
        "indices": indices,
        "grad": backward(whole(y.shape), x, indices, size),
        "mean": mean,
        "spread": spread(values(y.shape, 1), shape, size),
    }


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name != "threaded"])
def test_adaptive(name, dtype, layout, isa):
    check_adaptive(name, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
def test_adaptive_in_a_team(dtype, layout, isa, threads):
    check_adaptive("threaded", dtype, layout)


def check_adaptive(name: str, dtype: str, layout: str) -> None:
    shape, size = ADAPTIVE[name]
    ndim, exact = len(shape) - 2, exact_adaptive(name)
    x = laid_out(rough(shape), layout, dtype)
    y, indices = operator(ff, "adaptive_max_pool", ndim)(x, size, True, data_format=layout)
    np.testing.assert_array_equal(y, laid_out(exact["y"], layout, dtype), strict=True)
    np.testing.assert_array_equal(indices, laid_out(exact["indices"], layout, "int64"), strict=True)
    np.testing.assert_array_equal(operator(ff, "adaptive_max_pool", ndim)(x, size, data_format=layout), y)
    grad_y = laid_out(whole(exact["y"].shape), layout, dtype)
    for given in (indices, None):
        ours = operator(ff, "adaptive_max_pool", ndim, "_backward")(grad_y, x, given, size, data_format=layout)
        np.testing.assert_array_equal(ours, laid_out(exact["grad"], layout, dtype), strict=True)

    x = laid_out(values(shape, 0), layout, dtype)
    limit = bound(dtype, 4 + np.sqrt(prod(shape[2:])), x, np.ones(1))
    ours = operator(ff, "adaptive_avg_pool", ndim)(x, size, data_format=layout)
    assert_within(ours, laid_out(exact["mean"], layout, "float64"), limit, dtype)
    grad_y = laid_out(values(exact["y"].shape, 1), layout, dtype)
    ours = operator(ff, "adaptive_avg_pool", ndim, "_backward")(grad_y, x.shape, size, data_format=layout)
    assert_within(ours, laid_out(exact["spread"], layout, "float64"), limit * 4, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(2, 19, 7), (3, 13, 7, 7), (2, 9, 4, 4), (2, 3, 4, 5, 6), (0, 3, 4, 4), (1, 2, 70, 81), (1, 1, 1, 1)]
)
def test_global(shape, dtype, layout, isa):
    x = laid_out(rough(shape), layout, dtype)
    y, indices = ff.global_max_pool(x, return_indices=True, data_format=layout)
    for ours, exact in zip((y, indices), reference.global_max_pool(x, True, data_format=layout), strict=True):
        np.testing.assert_array_equal(ours, exact)
    np.testing.assert_array_equal(ff.global_max_pool(x, data_format=layout), y)
    grad_y = whole(shape[:2]).astype(dtype)
    exact = reference.global_max_pool_backward(grad_y, x, indices, data_format=layout)
    for given in (indices, None):
        np.testing.assert_array_equal(ff.global_max_pool_backward(grad_y, x, given, data_format=layout), exact)
    x = laid_out(values(shape, 0), layout, dtype)
    limit = bound(dtype, 4 + np.sqrt(prod(shape[2:])), x, np.ones(1))
    exact = reference.global_avg_pool(x.astype(float), data_format=layout)
    assert_within(ff.global_avg_pool(x, data_format=layout), exact, limit, dtype)
    exact = reference.global_avg_pool_backward(grad_y.astype(float), x.shape, data_format=layout)
    assert_within(ff.global_avg_pool_backward(grad_y, x.shape, data_format=layout), exact, 8 * limit, dtype)


UNPOOLS = {
    "halves": (Pool((2, 5, 8, 10), 2), None),
    "overlapping": (Pool((2, 17, 9, 11), 3, 2, 1), (9, 11)),
    "whole-shape": (Pool((2, 3, 7, 9), 2), (7, 9)),
    "1d": (Pool((2, 3, 50), 3, 2), (50,)),
    "3d": (Pool((1, 3, 5, 6, 4), 2), (5, 6, 4)),
    "threaded": (Pool((2, 9, 130, 140), 2), None),
}


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", UNPOOLS)
def test_unpool(name, dtype, layout, threads):
    case, size = UNPOOLS[name]
    x = laid_out(values(case.x, 0), layout, dtype)
    y, indices = operator(ff, "max_pool", case.ndim)(x, return_indices=True, data_format=layout, **case.window)
    if name == "whole-shape":
        size = x.shape
    options = {"kernel_size": case.kernel_size, "stride": case.stride, "padding": case.padding, "output_size": size}
    options["data_format"] = layout
    exact = operator(reference, "max_unpool", case.ndim)(y, indices, **options)
    np.testing.assert_array_equal(operator(ff, "max_unpool", case.ndim)(y, indices, **options), exact, strict=True)
    grad_y = laid_out(values(case.x, 2), layout, dtype)
    exact = operator(reference, "max_unpool", case.ndim, "_backward")(grad_y, indices, **options)
    ours = operator(ff, "max_unpool", case.ndim, "_backward")(grad_y, indices, **options)
    np.testing.assert_array_equal(ours, exact, strict=True)


@each(layout=LAYOUTS)
def test_unpool_keeps_the_last_of_duplicates(layout):
    x = laid_out(np.arange(24.0).reshape(1, 2, 3, 4), layout, "float32")
    indices = np.full(x.shape, 7)
    y = ff.max_unpool2d(x, indices, 2, data_format=layout)
    expected = np.zeros((1, 2, 6, 8))
    expected[0, :, 0, 7] = 11, 23
    np.testing.assert_array_equal(y, laid_out(expected, layout, "float32"))
