"""The oracle's pools against PyTorch in float64: results, indices and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, RANKS, SPATIAL, draw, gradients, leaf, operator, same, to, torch_operator

from fastconv import reference

pytestmark = pytest.mark.isa_independent

MAX_POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True, "padding": 1},
    {"kernel_size": 3, "stride": 2, "dilation": 2, "ceil_mode": True, "padding": 1},
    {"kernel_size": (3,), "stride": (4,), "ceil_mode": True},
]


def ties_and_nans(*shape: int) -> np.ndarray:
    """Few distinct values, with NaN and -inf among them."""
    x = np.random.default_rng(sum(shape)).integers(0, 4, shape).astype(np.float64)
    x[np.random.default_rng(1).random(shape) < 0.1] = np.nan
    x[np.random.default_rng(2).random(shape) < 0.3] = -np.inf
    return x


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("data", [draw, ties_and_nans], ids=["normal", "ties"])
@pytest.mark.parametrize("case", MAX_POOLS, ids=str)
def test_max_pool(rank: int, layout: str, data: Callable[..., np.ndarray], case: dict[str, Any]) -> None:
    x = data(2, 3, *SPATIAL[rank])
    tx = leaf(x)
    y, indices = torch_operator("max_pool", rank)(tx, **case, return_indices=True)
    last = to(layout, x)
    mine, places = operator("max_pool", rank)(last, **case, return_indices=True, data_format=layout)
    same(mine, y, layout)
    same(places, indices, layout)
    grad_y, (expected,) = gradients(y, tx)
    for given in (places, None):
        backward = operator("max_pool", rank, "_backward")
        same(backward(to(layout, grad_y), last, given, **case, data_format=layout), expected, layout)


def test_max_pool_of_padding_alone() -> None:
    y, indices = reference.max_pool1d(np.ones((1, 1, 1)), 2, 1, 1, 2, return_indices=True)
    assert y.item() == -np.inf
    assert indices.item() == -1
    assert reference.max_pool1d_backward(y, np.ones((1, 1, 1)), indices, 2, 1, 1, 2).item() == 0


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_unpool(rank: int, layout: str) -> None:
    size = (6, 8, 4)[:rank]
    y, indices = torch_operator("max_pool", rank)(torch.tensor(draw(2, 3, *size)), 2, return_indices=True)
    ty = leaf(y.numpy())
    mine, places = to(layout, y.numpy()), to(layout, indices.numpy())
    for output_size in (None, size, tuple(i + 1 for i in size)):
        z = torch_operator("max_unpool", rank)(ty, indices, 2, output_size=output_size)
        params = {"output_size": output_size, "data_format": layout}
        same(operator("max_unpool", rank)(mine, places, 2, **params), z, layout)
        grad_z, (expected,) = gradients(z, ty)
        same(operator("max_unpool", rank, "_backward")(to(layout, grad_z), places, 2, **params), expected, layout)
    params["output_size"] = to(layout, z.detach().numpy()).shape
    same(operator("max_unpool", rank)(mine, places, 2, **params), z, layout)


def test_max_unpool_last_duplicate_wins_and_bad_index_raises() -> None:
    x, indices = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[4, 4, 0]]])
    np.testing.assert_array_equal(reference.max_unpool1d(x, indices, 2), [[[3, 0, 0, 0, 2, 0]]])
    for bad in (6, -1):
        with pytest.raises(ValueError, match="indices"):
            reference.max_unpool1d(x, np.array([[[0, bad, 1]]]), 2)


AVG_POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    {"kernel_size": 2, "stride": (4,), "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "ceil_mode": True, "divisor_override": -5},
]


@pytest.mark.parametrize(
    ("rank", "case"),
    # PyTorch has no divisor_override in 1-D.
    [(rank, case) for rank in RANKS for case in AVG_POOLS if rank > 1 or "divisor_override" not in case],
    ids=str,
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_avg_pool(rank: int, layout: str, case: dict[str, Any]) -> None:
    x = draw(2, 3, *SPATIAL[rank])
    tx = leaf(x)
    y = torch_operator("avg_pool", rank)(tx, **{k: v * rank if v == (4,) else v for k, v in case.items()})
    same(operator("avg_pool", rank)(to(layout, x), **case, data_format=layout), y, layout)
    grad_y, (expected,) = gradients(y, tx)
    shape = to(layout, x).shape
    same(
        operator("avg_pool", rank, "_backward")(to(layout, grad_y), shape, **case, data_format=layout), expected, layout
    )


def test_avg_pool_counts_padding_but_not_the_overhang() -> None:
    y = reference.avg_pool1d(np.ones((1, 1, 6)), 3, 3, 1, ceil_mode=True)
    np.testing.assert_allclose(y, [[[2 / 3, 1, 1 / 2]]])


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm_type", [1, 2, 3, 2.5])
@pytest.mark.parametrize("case", [(2,), (3, 2), (2, 3, True), (3, 2, True)], ids=str)
def test_lp_pool(rank: int, layout: str, norm_type: float, case: tuple[Any, ...]) -> None:
    x = draw(2, 3, *SPATIAL[rank])
    if norm_type != 2:
        x = np.abs(x)
    x[0, 0] = 0
    tx = leaf(x)
    y = torch_operator("lp_pool", rank)(tx, norm_type, *case)
    same(operator("lp_pool", rank)(to(layout, x), norm_type, *case, data_format=layout), y, layout)
    grad_y, (expected,) = gradients(y, tx)
    ours = operator("lp_pool", rank, "_backward")(
        to(layout, grad_y), to(layout, x), norm_type, *case, data_format=layout)  # fmt: skip
    same(ours, expected, layout)


def test_lp_pool_takes_no_absolute_value() -> None:
    x = np.array([[[-1.0, 3.0, -3.0, 1.0]]])
    with np.errstate(invalid="ignore"):
        ours = reference.lp_pool1d(x, 3, 2)
        same(ours, F.lp_pool1d(torch.tensor(x), 3, 2))
    assert np.isnan(ours[0, 0, 1])


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("output", [1, 2, 4, 5, 11, None])
def test_adaptive_pools(rank: int, layout: str, output: int | None) -> None:
    size = output if output or rank == 1 else (None, 3, 2)[:rank]
    if size is None:
        size = 9
    x = draw(2, 3, *SPATIAL[rank])
    tx = leaf(x)
    y = torch_operator("adaptive_avg_pool", rank)(tx, size)
    same(operator("adaptive_avg_pool", rank)(to(layout, x), size, data_format=layout), y, layout)
    grad_y, (expected,) = gradients(y, tx)
    backward = operator("adaptive_avg_pool", rank, "_backward")
    same(backward(to(layout, grad_y), to(layout, x).shape, size, data_format=layout), expected, layout)
    for values in (x, ties_and_nans(2, 3, *SPATIAL[rank])):
        tx = leaf(values)
        y, indices = torch_operator("adaptive_max_pool", rank)(tx, size, return_indices=True)
        last = to(layout, values)
        mine, places = operator("adaptive_max_pool", rank)(last, size, return_indices=True, data_format=layout)
        same(mine, y, layout)
        same(places, indices, layout)
        grad_y, (expected,) = gradients(y, tx)
        backward = operator("adaptive_max_pool", rank, "_backward")
        for given in (places, None):
            same(backward(to(layout, grad_y), last, given, size, data_format=layout), expected, layout)


def test_unbatched_pools() -> None:
    x = draw(3, 7, 8)
    tx = torch.tensor(x)
    same(reference.max_pool2d(x, 3, 2, 1), F.max_pool2d(tx, 3, 2, 1))
    same(reference.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(tx, 3, 2, 1))
    same(reference.adaptive_avg_pool2d(x, 3), F.adaptive_avg_pool2d(tx, 3))
    grad_y = draw(3, 3, 3)
    assert reference.adaptive_avg_pool2d_backward(grad_y, x.shape, 3).shape == x.shape


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_global_pools(rank: int, layout: str) -> None:
    x = ties_and_nans(2, 3, *SPATIAL[rank])
    x[0] = draw(3, *SPATIAL[rank])
    tx, last = leaf(x), to(layout, x)
    y = tx.flatten(2).mean(2)
    same(reference.global_avg_pool(last, data_format=layout), y)
    grad_y, (expected,) = gradients(y, tx)
    same(reference.global_avg_pool_backward(grad_y, last.shape, data_format=layout), expected, layout)
    y, indices = (a.flatten(1) for a in torch_operator("adaptive_max_pool", rank)(tx, 1, return_indices=True))
    mine, places = reference.global_max_pool(last, True, data_format=layout)
    same(mine, y)
    same(places, indices)
    grad_y, (expected,) = gradients(y, tx)
    for given in (places, None):
        same(reference.global_max_pool_backward(grad_y, last, given, data_format=layout), expected, layout)
