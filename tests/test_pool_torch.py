"""Pools against PyTorch, indices included, over a grid of windows."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import LAYOUTS, laid_out, values
from pools import operator, rough, whole

import fastconv.functional as ff


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
