"""Pools against the oracle and PyTorch: every case, dtype, layout and ISA, on one and all threads.

A maximum is compared exactly, on values with ties, NaN and infinities; a mean with the bound of its sum.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, Tile, laid_out, values
from conftest import using_threads
from tolerance import SCHEME, assert_within, bound
from views import draw, views

import fastconv.functional as ff
from fastconv import reference


@dataclass(frozen=True)
class Pool:
    """A pool of x (N, C, *size)."""

    x: tuple[int, ...]
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    @property
    def ndim(self) -> int:
        return len(self.x) - 2

    @property
    def window(self) -> dict[str, Any]:
        """Arguments of max_pool."""
        return {**self.sums, "padding": self.padding, "dilation": self.dilation}

    @property
    def sums(self) -> dict[str, Any]:
        """Arguments of lp_pool."""
        return {"kernel_size": self.kernel_size, "stride": self.stride, "ceil_mode": self.ceil_mode}

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return self.kernel_size**self.ndim if isinstance(self.kernel_size, int) else prod(self.kernel_size)


def _fixed(cases: dict[str, Pool]) -> dict[str, Callable[[int], Pool]]:
    return {name: lambda v, case=case: case for name, case in cases.items()}


# Cases are functions of VLEN, where rows (channels_first) and channels (channels_last) meet the edges of a kernel.
POOLS: dict[str, Callable[[int], Pool]] = {
    "outputs=VLEN-1": lambda v: Pool((2, 3, 5, v - 1 + 2), 3, 1),
    "outputs=VLEN": lambda v: Pool((1, v, 4, 2 * v), 2),
    "outputs=VLEN+1": lambda v: Pool((1, v + 1, 7, 2 * v + 1), 3, 2, 1),
    "outputs=2VLEN": lambda v: Pool((1, 2 * v, 6, 4 * v), 3, 2, 1),
    "outputs=2VLEN+1": lambda v: Pool((1, 4 * v + 1, 5, 4 * v + 3), (2, 3), 2, ceil_mode=True),
    "inner-blocks": lambda v: Pool((1, 2, 9, 9 * v + 5), 3, 2, 1),
    "inner-blocks-stride-1": lambda v: Pool((1, 2, 6, 5 * v + 5), 3, 1, 1),
    "channels=VLEN-1": lambda v: Pool((2, v - 1, 6, 7), 3, 2, 1),
    "channels=4VLEN+VLEN+2": lambda v: Pool((1, 5 * v + 2, 5, 5), 2, 1),
    "global": lambda v: Pool((3, v + 3, 5, 7), (5, 7)),
    "wide": lambda v: Pool((1, 3, 6, 5 * v + 3), (2, v + 1), (3, v + 2)),
    "wide-few-outputs": lambda v: Pool((2, 3, 6, 4 * v), (3, v), (3, v)),
    **_fixed(
        {
            "one-element": Pool((1, 1, 1), 1),
            "one-pixel": Pool((3, 5, 1, 1), 3, 1, 1),
            "identity": Pool((2, 3, 4, 5), 1),
            "subsample": Pool((2, 3, 7, 9), 1, (3, 2)),
            "empty-batch": Pool((0, 3, 8, 8), 3, 2, 1),
            "1d": Pool((2, 5, 23), 3, 2, 1),
            "1d-stride-1": Pool((2, 4, 37), 2, 1, 1),
            "1d-long": Pool((1, 2, 9001), 3, 1, 1),
            "1d-long-stride-2": Pool((1, 2, 9002), 3, 2, 1, ceil_mode=True),
            "1d-long-stride-5": Pool((1, 2, 9003), 7, 5, 3),
            "1d-long-wide": Pool((1, 2, 9003), 300, 290),
            "1d-dilated": Pool((2, 3, 41), 3, 2, 1, 4),
            "2d-unequal-everything": Pool((2, 6, 15, 17), (3, 2), (2, 3), (1, 0), (2, 3)),
            "2d-pairs": Pool((2, 4, 9, 8), (3, 4), 2, ((1, 0), (0, 2))),
            "2d-same": Pool((2, 3, 6, 7), (3, 2), 1, "same"),
            "2d-half-padding": Pool((2, 3, 6, 7), 4, 3, 2),
            "2d-ceil": Pool((2, 3, 6, 11), 3, 2, ceil_mode=True),
            "2d-ceil-drops-a-window": Pool((1, 2, 6, 6), 3, 3, 1, ceil_mode=True),
            "2d-ceil-padding": Pool((1, 2, 7, 8), 3, 2, 1, ceil_mode=True),
            "2d-stride-beyond-kernel": Pool((2, 3, 13, 14), 2, (5, 3)),
            "2d-stride-beyond-input": Pool((2, 3, 6, 5), 3, 100, 1),
            "2d-column": Pool((2, 3, 19, 5), (5, 1), (2, 1), (2, 0)),
            "2d-row": Pool((2, 3, 5, 19), (1, 5), (1, 2), (0, 2)),
            "2d-large-window": Pool((1, 3, 20, 21), 13, 1, 6),
            "2d-large-window-stride-2": Pool((1, 3, 20, 21), (5, 9), 2, (2, 4)),
            "2d-all-channels-in-one-vector": Pool((2, 2, 9, 10), 5, 1, 2),
            "2d-spans-the-width": Pool((2, 3, 9, 4), (2, 4)),
            "3d": Pool((2, 3, 5, 6, 7), 2),
            "3d-overlapping": Pool((1, 4, 6, 7, 8), 3, 2, 1),
            "3d-stride-1": Pool((1, 3, 4, 5, 18), 3, 1, 1),
            "3d-unequal-everything": Pool((1, 3, 7, 8, 9), (2, 3, 1), (1, 2, 3), (1, 1, 0), (3, 1, 2), ceil_mode=True),
            "3d-global": Pool((2, 5, 3, 4, 5), (3, 4, 5)),
            "3d-global-in-planes": Pool((2, 5, 4, 3, 5), (2, 3, 5)),
            "threaded": Pool((4, 20, 56, 57), 3, 2, 1),
            "threaded-2x2": Pool((4, 20, 56, 58), 2),
            "threaded-few-planes": Pool((1, 1, 600, 601), 3, 1, 1),
            "threaded-channels": Pool((1, 3000, 9, 9), 9),
            "threaded-1d": Pool((2, 3, 60000), 4, 3),
            "threaded-3d": Pool((2, 9, 17, 18, 19), 3, 2, 1),
        }
    ),
}
LARGE = [name for name in POOLS if name.startswith("threaded")]
SMALL = [name for name in POOLS if name not in LARGE]  # one thread runs them, whatever is allowed


def case_of(name: str, dtype: str) -> Pool:
    return POOLS[name](Tile.current(dtype).vlen)


def operator(module: Any, name: str, ndim: int, suffix: str = "") -> Callable[..., Any]:
    return getattr(module, f"{name}{ndim}d{suffix}")


@cache
def rough(shape: tuple[int, ...]) -> np.ndarray:
    """Few different values, so that there are ties; infinities and NaN among them."""
    rng = np.random.default_rng(shape)
    x = rng.integers(-3, 4, shape).astype(float)
    kind = rng.random(shape)
    x[kind < 0.15], x[kind > 0.99], x[(kind > 0.97) & (kind < 0.98)] = -np.inf, np.nan, np.inf
    x.flags.writeable = False
    return x


@cache
def whole(shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers, whose sums are exact in any order."""
    drawn = np.random.default_rng(shape).integers(-8, 9, shape).astype(float)
    drawn.flags.writeable = False
    return drawn


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_max(name, dtype, layout, isa):
    check_max(case_of(name, dtype), dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LARGE)
def test_max_in_a_team(name, dtype, layout, isa, threads):
    check_max(case_of(name, dtype), dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_last_windows_of_a_long_row(dtype, isa):
    """The lanes behind a row's last window read nothing: what they would reach lies far before the row's buffer."""
    program = (
        "import numpy as np, fastconv.functional as ff; from fastconv import runtime;"
        f"runtime.set_isa({isa!r}); runtime.set_num_threads(1);"
        f"x = np.ones((1, 1, 2**24 + 7), {dtype!r}); assert (ff.max_pool1d(x, 4, 3) == 1).all()"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


DIVISORS = ({}, {"count_include_pad": False}, {"divisor_override": -3})


def undilated(case: Pool) -> Pool:
    return Pool(case.x, case.kernel_size, case.stride, case.padding, 1, case.ceil_mode)


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_avg(name, dtype, layout, isa):
    check_avg(undilated(case_of(name, dtype)), dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
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


UNPADDED = [name for name in POOLS if name not in ("one-pixel", "1d-dilated")]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in UNPADDED if name in SMALL])
def test_square_root_of_squares(name, dtype, layout, isa):
    check_lp(undilated(case_of(name, dtype)), 2, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LARGE)
def test_square_root_of_squares_in_a_team(name, dtype, layout, isa, threads):
    check_lp(undilated(case_of(name, dtype)), 2, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["outputs=VLEN+1", "global", "2d-ceil", "2d-row", "3d-overlapping", "1d-long-wide"])
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name != "threaded"])
def test_adaptive(name, dtype, layout, isa):
    check_adaptive(name, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 19, 7), (3, 5, 7, 7), (2, 3, 4, 5, 6), (0, 3, 4, 4), (1, 2, 70, 81), (1, 1, 1, 1)]
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpool_keeps_the_last_of_duplicates(layout):
    x = laid_out(np.arange(24.0).reshape(1, 2, 3, 4), layout, "float32")
    indices = np.full(x.shape, 7)
    y = ff.max_unpool2d(x, indices, 2, data_format=layout)
    expected = np.zeros((1, 2, 6, 8))
    expected[0, :, 0, 7] = 11, 23
    np.testing.assert_array_equal(y, laid_out(expected, layout, "float32"))


# --- PyTorch -----------------------------------------------------------------------------------------------------


def torch_grid(ndim: int) -> list[dict[str, Any]]:
    """Windows of every kind that PyTorch takes."""
    grid = []
    for kernel, stride, padding, dilation, ceil_mode in product(
        (1, 2, 3), (None, 1, 2, 3), (0, 1), (1, 2), (False, True)
    ):
        if 2 * padding <= kernel:
            grid.append(
                {
                    "kernel_size": kernel,
                    "stride": stride,
                    "padding": padding,
                    "dilation": dilation,
                    "ceil_mode": ceil_mode,
                }
            )
    return grid if ndim < 3 else grid[::3]


SIZES = {1: (11,), 2: (8, 7), 3: (5, 7, 6)}


def to_torch(x: np.ndarray, layout: str) -> torch.Tensor:
    return torch.tensor(
        np.ascontiguousarray(np.moveaxis(x, -1, 1) if layout == "channels_last" else x), requires_grad=True
    )


def same(ours: np.ndarray, theirs: torch.Tensor, layout: str, exact: bool = True) -> None:
    expected = laid_out(theirs.detach().numpy(), layout, ours.dtype)
    if exact:
        np.testing.assert_array_equal(ours, expected, strict=True)
    else:
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_is_torch_s(ndim, layout):
    x = laid_out(rough((2, 3, *SIZES[ndim])), layout, "float64")
    x[np.isneginf(x)] = -9  # a window of nothing else has an index in the padding there
    for options in torch_grid(ndim):
        leaf = to_torch(x, layout)
        y, indices = getattr(F, f"max_pool{ndim}d")(leaf, return_indices=True, **options)
        ours = operator(ff, "max_pool", ndim)(x, return_indices=True, data_format=layout, **options)
        same(ours[0], y, layout)
        same(ours[1], indices, layout)
        grad_y = whole(tuple(y.shape))
        y.backward(torch.tensor(grad_y))
        grad_x = operator(ff, "max_pool", ndim, "_backward")(
            laid_out(grad_y, layout, "float64"), x, ours[1], data_format=layout, **options
        )
        same(grad_x, leaf.grad, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_avg_and_lp_are_torch_s(ndim, layout):
    x = laid_out(values((2, 3, *SIZES[ndim]), 0), layout, "float64")
    overrides = ({}, {"divisor_override": 5}, {"divisor_override": -2}) if ndim > 1 else ({},)
    for window, include, override in product(torch_grid(ndim), (True, False), overrides):
        if window["dilation"] > 1:
            continue
        options = {k: v for k, v in window.items() if k != "dilation"} | {"count_include_pad": include} | override
        leaf = to_torch(x, layout)
        y = getattr(F, f"avg_pool{ndim}d")(leaf, **options)
        same(operator(ff, "avg_pool", ndim)(x, data_format=layout, **options), y, layout, exact=False)
        grad_y = values(tuple(y.shape), 1)
        y.backward(torch.tensor(grad_y))
        grad_y = laid_out(grad_y, layout, "float64")
        ours = operator(ff, "avg_pool", ndim, "_backward")(grad_y, x.shape, data_format=layout, **options)
        same(ours, leaf.grad, layout, exact=False)
        if include and not override and window["padding"] == 0:
            options = {
                "kernel_size": window["kernel_size"],
                "stride": window["stride"],
                "ceil_mode": window["ceil_mode"],
            }
            check_lp_is_torch_s(ndim, np.abs(x), layout, options)


def check_lp_is_torch_s(ndim: int, x: np.ndarray, layout: str, options: dict[str, Any]) -> None:
    for power in (2.0, 3.0, 1.5):
        leaf = to_torch(x, layout)
        y = getattr(F, f"lp_pool{ndim}d")(leaf, power, **options)
        same(operator(ff, "lp_pool", ndim)(x, power, data_format=layout, **options), y, layout, exact=False)
        grad_y = values(tuple(y.shape), 1)
        y.backward(torch.tensor(grad_y))
        grad_y = laid_out(grad_y, layout, "float64")
        ours = operator(ff, "lp_pool", ndim, "_backward")(grad_y, x, power, data_format=layout, **options)
        same(ours, leaf.grad, layout, exact=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_adaptive_is_torch_s(ndim, layout):
    x = laid_out(rough((2, 3, *SIZES[ndim])), layout, "float64")
    finite = np.nan_to_num(x, nan=0.5, posinf=4, neginf=-4)
    for size in (1, 2, 3, 5, 7, 13):
        y, indices = getattr(F, f"adaptive_max_pool{ndim}d")(to_torch(x, layout), size, return_indices=True)
        ours = operator(ff, "adaptive_max_pool", ndim)(x, size, return_indices=True, data_format=layout)
        same(ours[0], y, layout)
        same(ours[1], indices, layout)
        leaf = to_torch(finite, layout)
        y = getattr(F, f"adaptive_avg_pool{ndim}d")(leaf, size)
        same(operator(ff, "adaptive_avg_pool", ndim)(finite, size, data_format=layout), y, layout, exact=False)
        grad_y = values(tuple(y.shape), 1)
        y.backward(torch.tensor(grad_y))
        ours = operator(ff, "adaptive_avg_pool", ndim, "_backward")(
            laid_out(grad_y, layout, "float64"), x.shape, size, data_format=layout
        )
        same(ours, leaf.grad, layout, exact=False)


# --- contracts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = undilated(case_of(name, "float32"))
    x = laid_out(values(case.x, 0), layout, "float32")
    sums = {"data_format": layout, **case.sums}

    def results() -> list[np.ndarray]:
        avg, lp = operator(ff, "avg_pool", case.ndim), operator(ff, "lp_pool", case.ndim)
        y = avg(x, padding=case.padding, **sums)
        return [
            y,
            operator(ff, "avg_pool", case.ndim, "_backward")(y, x.shape, padding=case.padding, **sums),
            operator(ff, "max_pool", case.ndim, "_backward")(y, x, None, padding=case.padding, **sums),
            lp(np.abs(x), 2, **sums),
        ]

    with using_threads(1):
        expected = results()
    for count in (2, 5):
        with using_threads(count):
            for ours, serial in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(ours.view(np.uint32), serial.view(np.uint32))


def calls(layout: str) -> dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]]:
    """Every operator as a function of its arrays, and those."""
    x = laid_out(rough((2, 5, 9, 11)), layout, "float64")
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "data_format": layout}
    y, indices = ff.max_pool2d(x, return_indices=True, **window)
    grad_y, positive = laid_out(values((2, 5, 5, 6), 1), layout, "float64"), np.abs(np.nan_to_num(x)) + 1
    positive[np.isinf(positive)] = 2
    lp, unpool = {"norm_type": 2, "kernel_size": 2, "data_format": layout}, {**window, "output_size": (9, 11)}
    grad_lp = ff.lp_pool2d(positive, **lp)
    full = laid_out(values((2, 5, 9, 11), 2), layout, "float64")
    size, channel = {"output_size": 4, "data_format": layout}, {"data_format": layout}
    grad_size = ff.adaptive_avg_pool2d(full, **size)
    grad_channel = ff.global_avg_pool(full, **channel)
    return {
        "max_pool2d": (lambda x, **o: ff.max_pool2d(x, **window, **o), (x,)),
        "max_pool2d_backward": (
            lambda g, x, i, **o: ff.max_pool2d_backward(g, x, i, **window, **o),
            (grad_y, x, indices),
        ),
        "max_unpool2d": (lambda x, i, **o: ff.max_unpool2d(x, i, **unpool, **o), (y, indices)),
        "max_unpool2d_backward": (lambda g, i, **o: ff.max_unpool2d_backward(g, i, **unpool, **o), (full, indices)),
        "avg_pool2d": (lambda x, **o: ff.avg_pool2d(x, **window, **o), (full,)),
        "avg_pool2d_backward": (lambda g, **o: ff.avg_pool2d_backward(g, x.shape, **window, **o), (grad_y,)),
        "lp_pool2d": (lambda x, **o: ff.lp_pool2d(x, **lp, **o), (positive,)),
        "lp_pool2d_backward": (lambda g, x, **o: ff.lp_pool2d_backward(g, x, **lp, **o), (grad_lp, positive)),
        "adaptive_avg_pool2d": (lambda x, **o: ff.adaptive_avg_pool2d(x, **size, **o), (full,)),
        "adaptive_avg_pool2d_backward": (
            lambda g, **o: ff.adaptive_avg_pool2d_backward(g, x.shape, **size, **o),
            (grad_size,),
        ),
        "adaptive_max_pool2d": (lambda x, **o: ff.adaptive_max_pool2d(x, **size, **o), (x,)),
        "adaptive_max_pool2d_backward": (
            lambda g, x, **o: ff.adaptive_max_pool2d_backward(g, x, None, **size, **o),
            (grad_size, x),
        ),
        "global_avg_pool": (lambda x, **o: ff.global_avg_pool(x, **channel, **o), (full,)),
        "global_avg_pool_backward": (
            lambda g, **o: ff.global_avg_pool_backward(g, x.shape, **channel, **o),
            (grad_channel,),
        ),
        "global_max_pool": (lambda x, **o: ff.global_max_pool(x, **channel, **o), (x,)),
        "global_max_pool_backward": (
            lambda g, x, **o: ff.global_max_pool_backward(g, x, **channel, **o),
            (grad_channel, x),
        ),
    }


OPERATORS = tuple(calls("channels_first"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_views_are_read_and_left_alone(name, layout):
    call, arrays = calls(layout)[name]
    expected = call(*arrays)
    for kinds in zip(*(views(a) for a in arrays), strict=True):
        np.testing.assert_array_equal(call(*(view for _, view in kinds)), expected, err_msg=kinds[0][0])
        for (_, view), array in zip(kinds, arrays, strict=True):
            np.testing.assert_array_equal(view, array, err_msg=kinds[0][0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_out_is_filled_and_returned(name, layout):
    call, arrays = calls(layout)[name]
    expected = call(*arrays)
    memory = np.full(expected.size + 129, np.nan)
    out = memory[65:-64].reshape(expected.shape)
    assert call(*arrays, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[:65]).all()
    assert np.isnan(memory[-64:]).all()
    with pytest.raises(ValueError, match=r"out must have shape"):
        call(*arrays, out=np.empty((3, 3)))
    with pytest.raises(TypeError, match="out must have dtype float64"):
        call(*arrays, out=np.empty(expected.shape, np.float32))
    shared = np.zeros(max(expected.size, arrays[0].size))
    shared[: arrays[0].size] = arrays[0].ravel()
    with pytest.raises(ValueError, match="share memory"):
        call(
            shared[: arrays[0].size].reshape(arrays[0].shape),
            *arrays[1:],
            out=shared[: expected.size].reshape(expected.shape),
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unbatched_is_a_batch_of_one(layout):
    x = laid_out(values((1, 3, 9, 8), 0), layout, "float32")
    options = {"kernel_size": 3, "stride": 2, "data_format": layout}
    y, indices = ff.max_pool2d(x[0], return_indices=True, **options)
    batch = ff.max_pool2d(x, return_indices=True, **options)
    np.testing.assert_array_equal(y, batch[0][0])
    np.testing.assert_array_equal(indices, batch[1][0])
    grad_x = ff.max_pool2d_backward(y, x[0], indices, **options)
    np.testing.assert_array_equal(grad_x, ff.max_pool2d_backward(*batch[:1], x, batch[1], **options)[0])
    np.testing.assert_array_equal(
        ff.avg_pool2d_backward(y, x[0].shape, **options), ff.avg_pool2d_backward(batch[0], x.shape, **options)[0]
    )
    back = ff.max_unpool2d(y, indices, output_size=(9, 8), **options)
    assert back.shape == x[0].shape
    assert ff.max_unpool2d_backward(back, indices, output_size=(9, 8), **options).shape == y.shape
    assert ff.adaptive_avg_pool2d(x[0], 2, data_format=layout).ndim == 3
    assert ff.lp_pool2d(x[0], 2, 2, data_format=layout).ndim == 3


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_numpy_integers_and_tuples_are_numbers(name):
    x = draw(2, 3, 9, 8)
    expected = getattr(ff, name)(x, 2, 1, 1)
    for two, one in ((np.int64(2), np.int32(1)), ((2,), (1,)), ([2, 2], [1, 1]), ((2, np.int8(2)), (np.int8(1), 1))):
        np.testing.assert_array_equal(getattr(ff, name)(x, two, one, one), expected)


def test_the_lectures_pools():
    x = np.array([[1, 5, 3, 7], [7, 3, 9, 2], [3, 5, 8, 4], [8, 7, 3, 5]], float).reshape(1, 1, 4, 4)
    y = ff.max_pool2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[7, 9], [8, 8]])
    assert ((y - 1) ** 2).mean() == 49.5
    grad_y = (y - 1) / 2
    np.testing.assert_array_equal(grad_y[0, 0], [[3, 4], [3.5, 3.5]])
    expected = [[0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 3.5, 0], [3.5, 0, 0, 0]]
    np.testing.assert_array_equal(ff.max_pool2d_backward(grad_y, x, None, 2)[0, 0], expected)
    y = ff.avg_pool2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[4, 5.25], [5.75, 5]])
    assert ((y - 1) ** 2).mean() == 16.40625
    grad_y = (y - 1) / 2
    np.testing.assert_array_equal(grad_y[0, 0], [[1.5, 2.125], [2.375, 2]])
    np.testing.assert_array_equal(
        ff.avg_pool2d_backward(grad_y, x.shape, 2)[0, 0], np.kron(grad_y[0, 0], np.ones((2, 2))) / 4
    )


def test_ceil_mode_counts_padding_but_no_overhang():
    y = ff.avg_pool1d(np.ones((1, 1, 6)), 3, 3, 1, ceil_mode=True)
    np.testing.assert_allclose(y[0, 0], [2 / 3, 1, 0.5], rtol=1e-15)


def test_lp_takes_no_absolute_value():
    x = np.array([[[-3.0, 1.0, -2.0, -2.0]]])
    np.testing.assert_allclose(ff.lp_pool1d(x, 1, 2), [[[-2, -4]]])
    np.testing.assert_allclose(ff.lp_pool1d(x, 2, 2), np.sqrt([[[10, 8]]]))
    with np.errstate(invalid="ignore"):
        assert np.isnan(ff.lp_pool1d(x, 3, 2)).all()
    # where the sum is 0 there is no slope
    np.testing.assert_array_equal(
        ff.lp_pool1d_backward(np.ones((1, 1, 2)), np.zeros((1, 1, 4)), 2, 2), np.zeros((1, 1, 4))
    )


X, Y = np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 4, 4))
INDICES = np.zeros((2, 3, 4, 4), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ff.max_pool2d(X.astype(int), 2), TypeError, "x must be float32 or float64, got dtype int64"),
        (lambda: ff.max_pool2d(X.astype(">f8"), 2), TypeError, "byte order"),
        (lambda: ff.max_pool2d(X.tolist(), 2), TypeError, "x must be a NumPy array"),
        (lambda: ff.max_pool2d(X[0, 0], 2), ValueError, "x must have 3 or 4 dimensions"),
        (lambda: ff.max_pool2d(X, 2.0), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, True), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, (2, 2.0)), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, 0), ValueError, "kernel_size must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, 0), ValueError, "stride must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, -1), ValueError, "stride must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, padding=-1), ValueError, "padding must be >= 0"),
        (lambda: ff.max_pool2d(X, 2, padding=2), ValueError, "padding must be at most half"),
        (lambda: ff.max_pool2d(X, 9), ValueError, "kernel_size must fit into the padded input"),
        (lambda: ff.max_pool2d(X, 2, dilation=0), ValueError, "dilation must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, dilation=2**62), ValueError, "kernel_size must fit|dilation must keep"),
        (lambda: ff.max_pool2d(X, 2, ceil_mode=1), TypeError, "ceil_mode must be True or False"),
        (lambda: ff.max_pool2d(X, 2, return_indices=1), TypeError, "return_indices must be True or False"),
        (lambda: ff.max_pool2d(X, 2, data_format="NCHW"), ValueError, "data_format must be"),
        (lambda: ff.max_pool2d(X[:, :, :0], 1), ValueError, "no zero size"),
        (lambda: ff.max_pool2d(X[:, :0], 1), ValueError, "no zero size"),
        (lambda: ff.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override must not be 0"),
        (lambda: ff.avg_pool2d(X, 2, divisor_override=1.5), TypeError, "divisor_override must be an integer"),
        (lambda: ff.avg_pool2d(X, 2, count_include_pad=0), TypeError, "count_include_pad must be True or False"),
        (lambda: ff.avg_pool2d_backward(Y[:1], X.shape, 2), ValueError, "grad_y must have shape"),
        (lambda: ff.avg_pool2d_backward(Y, X.shape[1:], 2), ValueError, "grad_y must have shape"),
        (lambda: ff.lp_pool2d(X, 0, 2), ValueError, "norm_type must be finite and not 0"),
        (lambda: ff.lp_pool2d(X, np.inf, 2), ValueError, "norm_type must be finite and not 0"),
        (lambda: ff.lp_pool2d(X, "2", 2), TypeError, "norm_type must be a number"),
        (lambda: ff.lp_pool2d_backward(Y.astype("f4"), X, 2, 2), TypeError, "grad_y must have the dtype of x"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES.astype("i4"), 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES[:1], 2), ValueError, "indices must have shape"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES + 64, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES - 2, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES + 2**33, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_unpool2d(Y, INDICES + 64, 2), ValueError, r"indices must lie in 0 \.\. 63, .*, got 64 \.\. 64"),
        (lambda: ff.max_unpool2d(Y, INDICES - 1, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_unpool2d(Y, None, 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.max_unpool2d(Y, INDICES, 2, output_size=(12, 8)), ValueError, "output_size must be less than"),
        (lambda: ff.max_unpool2d_backward(Y, INDICES, 2), ValueError, r"grad_y must have shape \(2, 3, 8, 8\)"),
        (lambda: ff.max_unpool2d_backward(X, None, 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.adaptive_avg_pool2d(X, 0), ValueError, "output_size must be >= 1"),
        (lambda: ff.adaptive_avg_pool2d(X, (2, 2.0)), TypeError, "output_size must be an integer"),
        (lambda: ff.adaptive_max_pool2d_backward(Y, X, INDICES, 3), ValueError, "grad_y must have shape"),
        (lambda: ff.global_avg_pool(X[0, 0]), ValueError, "x must have 3 or 4 or 5 dimensions"),
        (lambda: ff.global_avg_pool_backward(Y[:, :, 0, 0], (2, 3)), ValueError, "x_shape must have 3 to 5 dimensions"),
        (lambda: ff.global_max_pool_backward(Y[:1, :, 0, 0], X), ValueError, "grad_y must have shape"),
    ],
)  # fmt: skip
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_equal_numbers_of_other_types_are_still_refused():
    ff.max_pool2d(X, 2, (2, 2))  # now there is a plan for 2
    for kernel, stride in ((2.0, 2), (2, (2.0, 2)), (2, 2.0)):
        with pytest.raises(TypeError):
            ff.max_pool2d(X, kernel, stride)
    ff.avg_pool2d(X, 1)
    with pytest.raises(TypeError):
        ff.avg_pool2d(X, True)


def test_a_bad_index_leaves_out_untouched():
    out = np.full(X.shape, 7.0)
    bad = INDICES.copy()
    bad[-1, -1, -1, -1] = 64
    for call in (
        lambda: ff.max_unpool2d(Y, bad, 2, out=out),
        lambda: ff.max_pool2d_backward(Y, X, bad, 2, out=out),
    ):
        with pytest.raises(ValueError, match="indices must lie"):
            call()
        assert (out == 7).all()


def test_planes_whose_elements_have_no_number():
    # 2**31 elements by way of a stride of 0: an error before the view is made contiguous
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 1, 2**16, 2**15), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="x must have less than 2147483648 elements a plane"):
        ff.max_pool2d(x, 2**14, return_indices=True)
