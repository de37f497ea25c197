"""The oracle against PyTorch in float64: forward results, indices, and gradients by autograd."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastconv import reference

LAYOUTS = ["channels_first", "channels_last"]
RANKS = [1, 2, 3]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape)


def leaf(a: np.ndarray | None) -> torch.Tensor | None:
    return None if a is None else torch.tensor(a, requires_grad=True)


def to(layout: str, a: np.ndarray) -> np.ndarray:
    """A channels_first batch of activations in the given layout."""
    return np.moveaxis(a, 1, -1) if layout == "channels_last" else a


def same(ours: Any, theirs: torch.Tensor | None, layout: str = "channels_first") -> None:
    assert theirs is not None
    expected = to(layout, theirs.detach().numpy())
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def operator(name: str, rank: int, suffix: str = "") -> Callable[..., Any]:
    return getattr(reference, f"{name}{rank}d{suffix}")


def torch_operator(name: str, rank: int) -> Callable[..., Any]:
    return getattr(F, f"{name}{rank}d")


def gradients(y: torch.Tensor, *leaves: torch.Tensor) -> tuple[np.ndarray, tuple[torch.Tensor, ...]]:
    """A random grad_y, and the gradients that autograd makes of it."""
    grad_y = draw(*y.shape, seed=99)
    return grad_y, torch.autograd.grad(y, leaves, torch.tensor(grad_y), allow_unused=True)


# --- convolution -----------------------------------------------------------------------------------------------------

SPATIAL = {1: (9,), 2: (7, 8), 3: (5, 6, 5)}
CONVOLUTIONS = [
    dict(kernel=1),
    dict(kernel=3, padding=1),
    dict(kernel=3, stride=2, padding=(1,)),
    dict(kernel=2, padding="same"),
    dict(kernel=3, padding="same", dilation=2),
    dict(kernel=3, padding="valid", stride=2),
    dict(kernel=3, padding=2, dilation=2, groups=2),
    dict(kernel=2, stride=3, padding=4, groups=4),
    dict(kernel=4, stride=2, groups=2, bias=False),
    dict(kernel=5),
]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv(rank: int, layout: str, case: dict[str, Any]) -> None:
    params = {"groups": 1, **case}
    kernel, with_bias = params.pop("kernel"), params.pop("bias", True)
    x, w = draw(2, 4, *SPATIAL[rank]), draw(8, 4 // params["groups"], *(kernel,) * rank)
    b = draw(8) if with_bias else None
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = torch_operator("conv", rank)(tx, tw, tb, **params)
    same(operator("conv", rank)(to(layout, x), w, b, **params, data_format=layout), y, layout)
    leaves = [t for t in (tx, tw, tb) if t is not None]
    grad_y, expected = gradients(y, *leaves)
    ours = operator("conv", rank, "_backward")(to(layout, grad_y), to(layout, x), w, **params, data_format=layout)
    same(ours[0], expected[0], layout)
    for mine, theirs in zip(ours[1:], expected[1:], strict=False):
        same(mine, theirs)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, (1, 2), "same", ((1, 2), (0, 3))], ids=str)
def test_conv_padding_modes(mode: str, padding: Any) -> None:
    x, w, b = draw(2, 3, 5, 6), draw(4, 3, 3, 2), draw(4)
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    pairs = {"2": ((2, 2), (2, 2)), "(1, 2)": ((1, 1), (2, 2)), "same": ((1, 1), (0, 1))}.get(str(padding), padding)
    torch_mode = "constant" if mode == "zeros" else mode
    y = F.conv2d(F.pad(tx, [*pairs[1], *pairs[0]], mode=torch_mode), tw, tb)
    same(reference.conv2d(x, w, b, padding=padding, padding_mode=mode), y)
    grad_y, expected = gradients(y, tx, tw, tb)
    for mine, theirs in zip(
        reference.conv2d_backward(grad_y, x, w, padding=padding, padding_mode=mode), expected, strict=True
    ):
        same(mine, theirs)


def test_conv_same_needs_stride_1() -> None:
    with pytest.raises(ValueError, match="stride"):
        reference.conv1d(draw(1, 1, 5), draw(1, 1, 3), padding="same", stride=2)


def test_conv_flip_kernel_is_true_convolution() -> None:
    x, w = draw(1, 1, 6), draw(1, 1, 3)
    np.testing.assert_allclose(reference.conv1d(x, w, flip_kernel=True)[0, 0], np.convolve(x[0, 0], w[0, 0], "valid"))
    x, w = draw(2, 4, 6, 5), draw(6, 2, 3, 2)
    flipped = np.ascontiguousarray(w[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(
        reference.conv2d(x, w, groups=2, flip_kernel=True), reference.conv2d(x, flipped, groups=2)
    )
    grad_y = draw(2, 6, 4, 4)
    ours = reference.conv2d_backward(grad_y, x, w, groups=2, flip_kernel=True)
    plain = reference.conv2d_backward(grad_y, x, flipped, groups=2)
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_array_equal(ours[1], plain[1][:, :, ::-1, ::-1])


def test_conv_backward_returns_only_what_is_needed() -> None:
    x, w, grad_y = draw(1, 2, 5), draw(3, 2, 2), draw(1, 3, 4)
    for backward, args in (
        (reference.conv1d_backward, (grad_y, x, w)),
        (reference.conv_transpose1d_backward, (x, grad_y, w)),
    ):
        every = backward(*args)
        for need in itertools.product((True, False), repeat=3):
            for wanted, mine, full in zip(need, backward(*args, need=need), every, strict=True):
                assert (mine is None) != wanted
                if wanted:
                    np.testing.assert_array_equal(mine, full)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "elu", "sigmoid", "tanh"])
def test_conv_activation(activation: str | None) -> None:
    x, w, b = draw(2, 3, 6), draw(3, 3, 3), draw(3)
    function = getattr(F, activation) if activation else (lambda y: y)
    tx, tw, tb = (torch.tensor(a) for a in (x, w, b))
    same(reference.conv1d(x, w, b, activation=activation), function(F.conv1d(tx, tw, tb)))
    same(reference.conv_transpose1d(x, w, b, activation=activation), function(F.conv_transpose1d(tx, tw, tb)))


TRANSPOSED = [
    dict(kernel=1),
    dict(kernel=3, padding=1),
    dict(kernel=3, stride=2, padding=1, output_padding=1),
    dict(kernel=2, stride=3, output_padding=2, groups=2),
    dict(kernel=3, stride=1, dilation=3, output_padding=2, padding=2),
    dict(kernel=4, stride=2, groups=4, padding=(3,), bias=False),
    dict(kernel=2, padding=2),
]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(rank: int, layout: str, case: dict[str, Any]) -> None:
    params = {"groups": 1, **case}
    kernel, with_bias = params.pop("kernel"), params.pop("bias", True)
    x, w = draw(2, 4, *SPATIAL[rank]), draw(4, 8 // params["groups"], *(kernel,) * rank)
    b = draw(8) if with_bias else None
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = torch_operator("conv_transpose", rank)(tx, tw, tb, **params)
    same(operator("conv_transpose", rank)(to(layout, x), w, b, **params, data_format=layout), y, layout)
    leaves = [t for t in (tx, tw, tb) if t is not None]
    grad_y, expected = gradients(y, *leaves)
    backward = operator("conv_transpose", rank, "_backward")
    ours = backward(to(layout, grad_y), to(layout, x), w, **params, data_format=layout)
    same(ours[0], expected[0], layout)
    for mine, theirs in zip(ours[1:], expected[1:], strict=False):
        same(mine, theirs)


def test_unequal_axes_and_unbatched() -> None:
    x, w, b = draw(4, 9, 11), draw(6, 2, 3, 2), draw(6)
    params = dict(stride=(2, 1), padding=(2, 3), dilation=(1, 4), groups=2)
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = F.conv2d(tx, tw, tb, **params)
    same(reference.conv2d(x, w, b, **params), y)
    last = reference.conv2d(np.moveaxis(x, 0, -1), w, b, **params, data_format="channels_last")
    same(np.moveaxis(last, -1, 0), y)
    grad_y, expected = gradients(y, tx, tw, tb)
    for mine, theirs in zip(reference.conv2d_backward(grad_y, x, w, **params), expected, strict=True):
        same(mine, theirs)
    wt = draw(4, 3, 3, 2)
    params["output_padding"] = (1, 0)
    same(reference.conv_transpose2d(x, wt, b, **params), F.conv_transpose2d(tx, torch.tensor(wt), tb, **params))


def test_empty_batch() -> None:
    x, w = draw(0, 2, 5), draw(3, 2, 3)
    y = reference.conv1d(x, w, padding=1)
    assert y.shape == (0, 3, 5)
    grad_x, grad_w, grad_b = reference.conv1d_backward(y, x, w, padding=1)
    assert grad_x.shape == x.shape
    assert not grad_w.any() and not grad_b.any()
    assert reference.max_pool1d(x, 2).shape == reference.avg_pool1d(x, 2).shape == (0, 2, 2)
    assert reference.adaptive_max_pool1d(x, 2).shape == reference.adaptive_avg_pool1d(x, 2).shape == (0, 2, 2)


def test_keeps_float32() -> None:
    x, w = draw(1, 2, 5).astype(np.float32), draw(3, 2, 3).astype(np.float32)
    y = reference.conv1d(x, w, activation="elu")
    assert y.dtype == np.float32
    assert {g.dtype for g in reference.conv1d_backward(y, x, w)} == {np.dtype(np.float32)}
    assert reference.avg_pool1d(x, 2).dtype == reference.lp_pool1d(x, 2, 2).dtype == np.float32


# --- pooling ---------------------------------------------------------------------------------------------------------

MAX_POOLS = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=3, stride=1, padding=1, dilation=2),
    dict(kernel_size=2, stride=2, ceil_mode=True),
    dict(kernel_size=2, stride=3, ceil_mode=True, padding=1),
    dict(kernel_size=3, stride=2, dilation=2, ceil_mode=True, padding=1),
    dict(kernel_size=(3,), stride=(4,), ceil_mode=True),
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
    assert y.item() == -np.inf and indices.item() == -1
    assert reference.max_pool1d_backward(y, np.ones((1, 1, 1)), indices, 2, 1, 1, 2).item() == 0


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_unpool(rank: int, layout: str) -> None:
    x = draw(2, 3, *SPATIAL[rank])
    y, indices = torch_operator("max_pool", rank)(torch.tensor(x), 2, return_indices=True)
    ty = leaf(y.numpy())
    for params in (dict(), dict(output_size=SPATIAL[rank])):
        if not params and SPATIAL[rank] != tuple(2 * i for i in y.shape[2:]):
            indices = indices % int(np.prod([2 * i for i in y.shape[2:]]))
        z = torch_operator("max_unpool", rank)(ty, indices, 2, **params)
        mine, places = to(layout, y.numpy()), to(layout, indices.numpy())
        same(operator("max_unpool", rank)(mine, places, 2, **params, data_format=layout), z, layout)
        grad_z, (expected,) = gradients(z, ty)
        backward = operator("max_unpool", rank, "_backward")
        same(backward(to(layout, grad_z), places, 2, **params, data_format=layout), expected, layout)


def test_max_unpool_last_duplicate_wins_and_bad_index_raises() -> None:
    x, indices = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[4, 4, 0]]])
    np.testing.assert_array_equal(reference.max_unpool1d(x, indices, 2), [[[3, 0, 0, 0, 2, 0]]])
    for bad in (6, -1):
        with pytest.raises(ValueError, match="indices"):
            reference.max_unpool1d(x, np.array([[[0, bad, 1]]]), 2)


AVG_POOLS = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=3, stride=2, padding=1, count_include_pad=False),
    dict(kernel_size=3, stride=3, padding=1, ceil_mode=True),
    dict(kernel_size=3, stride=3, padding=1, ceil_mode=True, count_include_pad=False),
    dict(kernel_size=2, stride=(4,), ceil_mode=True),
    dict(kernel_size=3, stride=1, ceil_mode=True, divisor_override=-5),
]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", AVG_POOLS, ids=str)
def test_avg_pool(rank: int, layout: str, case: dict[str, Any]) -> None:
    if rank == 1 and "divisor_override" in case:
        pytest.skip("PyTorch has no divisor_override in 1-D")
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
