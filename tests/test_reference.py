"""The oracle against PyTorch in float64: forward results, indices, and gradients by autograd."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastconv import reference

pytestmark = pytest.mark.isa_independent

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
    {"kernel": 1},
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "stride": 2, "padding": (1,)},
    {"kernel": 2, "padding": "same"},
    {"kernel": 3, "padding": "same", "dilation": 2},
    {"kernel": 3, "padding": "valid", "stride": 2},
    {"kernel": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel": 2, "stride": 3, "padding": 4, "groups": 4},
    {"kernel": 4, "stride": 2, "groups": 2, "bias": False},
    {"kernel": 5},
]


def check_convolution(kind: str, rank: int, layout: str, channels: tuple[int, int], case: dict[str, Any]) -> None:
    """y and the gradients of a convolution from 4 to 8 channels are torch's; `channels` are the weight's."""
    params = dict(case)
    kernel, with_bias = params.pop("kernel"), params.pop("bias", True)
    x, w = draw(2, 4, *SPATIAL[rank]), draw(*channels, *(kernel,) * rank)
    b = draw(8) if with_bias else None
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = torch_operator(kind, rank)(tx, tw, tb, **params)
    same(operator(kind, rank)(to(layout, x), w, b, **params, data_format=layout), y, layout)
    leaves = [t for t in (tx, tw, tb) if t is not None]
    grad_y, expected = gradients(y, *leaves)
    ours = operator(kind, rank, "_backward")(to(layout, grad_y), to(layout, x), w, **params, data_format=layout)
    same(ours[0], expected[0], layout)
    for mine, theirs in zip(ours[1:], expected[1:], strict=False):
        same(mine, theirs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv(rank: int, layout: str, case: dict[str, Any]) -> None:
    check_convolution("conv", rank, layout, (8, 4 // case.get("groups", 1)), case)


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
    {"kernel": 1},
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel": 2, "stride": 3, "output_padding": 2, "groups": 2},
    {"kernel": 3, "stride": 1, "dilation": 3, "output_padding": 2, "padding": 2},
    {"kernel": 4, "stride": 2, "groups": 4, "padding": (3,), "bias": False},
    {"kernel": 2, "padding": 2},
]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(rank: int, layout: str, case: dict[str, Any]) -> None:
    check_convolution("conv_transpose", rank, layout, (4, 8 // case.get("groups", 1)), case)


def test_unequal_axes_and_unbatched() -> None:
    x, w, b = draw(4, 9, 11), draw(6, 2, 3, 2), draw(6)
    params = {"stride": (2, 1), "padding": (2, 3), "dilation": (1, 4), "groups": 2}
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
    assert not grad_w.any()
    assert not grad_b.any()
    assert reference.max_pool1d(x, 2).shape == reference.avg_pool1d(x, 2).shape == (0, 2, 2)
    assert reference.adaptive_max_pool1d(x, 2).shape == reference.adaptive_avg_pool1d(x, 2).shape == (0, 2, 2)


def test_keeps_float32() -> None:
    x, w = (draw(*shape).astype(np.float32) for shape in ((2, 4, 6, 6), (4, 4, 3, 3)))
    offset, mask = (draw(*shape).astype(np.float32) for shape in ((2, 18, 4, 4), (2, 9, 4, 4)))
    y, target = reference.conv2d(x, w, w[:, 0, 0, 0], activation="elu"), np.zeros((2, 6, 6), int)
    mean, scale = w[:, 0, 0, 1].copy(), np.exp(w[:, 0, 0, 2])
    pooled, places = reference.max_pool2d(x, 2, return_indices=True)
    statistics = {"running_mean": mean, "running_var": scale, "training": True}
    results = [
        y,
        *reference.conv2d_backward(y, x, w),
        reference.conv_transpose2d(x, w),
        *reference.conv_transpose2d_backward(x, y, w),
        reference.deform_conv2d(x, offset, w, mask=mask),
        *reference.deform_conv2d_backward(y, x, offset, w, mask=mask),
        pooled,
        reference.max_pool2d_backward(pooled, x, places, 2),
        reference.max_unpool2d(pooled, places, 2),
        reference.avg_pool2d(x, 2),
        reference.avg_pool2d_backward(pooled, x.shape, 2),
        reference.lp_pool2d(x, 2, 2),
        reference.lp_pool2d_backward(pooled, x, 2, 2),
        reference.adaptive_avg_pool2d(x, 4),
        reference.adaptive_avg_pool2d_backward(y, x.shape, 4),
        reference.global_avg_pool(x),
        reference.global_avg_pool_backward(x[:, :, 0, 0], x.shape),
        reference.fold(reference.unfold(x, (2, 2)), (6, 6), 2),
        reference.pad_backward(reference.pad(x, ((1, 1), (2, 0)), "reflect"), ((1, 1), (2, 0)), "reflect"),
        *(getattr(reference, name)(x) for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softmax")),
        *(getattr(reference, name + "_backward")(x, x) for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh")),
        reference.cross_entropy(x, target),
        reference.cross_entropy_backward(x, target),
        reference.mse_loss_backward(x, x, grad_loss=2.0),
        reference.batch_norm(x, mean, scale, mean, mean, training=True),
        *reference.batch_norm_backward(x, x, mean, mean, **statistics),
        reference.local_response_norm(x, 3),
        reference.local_response_norm_backward(x, x, 3),
        reference.dropout(x, x > 0),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


# --- pooling ---------------------------------------------------------------------------------------------------------

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


# --- padding, unfold and fold ----------------------------------------------------------------------------------------

TORCH_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", TORCH_MODE)
def test_pad(rank: int, layout: str, mode: str) -> None:
    x, pads = draw(2, 3, *SPATIAL[rank]), ((1, 2), (3, 0), (2, 4))[:rank]
    tx = leaf(x)
    y = F.pad(tx, [p for pair in reversed(pads) for p in pair], mode=TORCH_MODE[mode])
    same(reference.pad(to(layout, x), pads, mode, data_format=layout), y, layout)
    grad_y, (expected,) = gradients(y, tx)
    same(reference.pad_backward(to(layout, grad_y), pads, mode, data_format=layout), expected, layout)


WINDOWS = [
    {"kernel_size": (2, 3)},
    {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (2, 1), "stride": (2, 1)},
    {"kernel_size": 2, "padding": 1, "stride": 3},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_unfold_and_fold(layout: str, case: dict[str, Any]) -> None:
    x = draw(2, 3, *SPATIAL[2])
    tx = leaf(x)
    y = F.unfold(tx, **case)
    same(reference.unfold(to(layout, x), **case, data_format=layout), y, layout)
    grad_y, (expected,) = gradients(y, tx)
    shape = to(layout, x).shape
    same(reference.unfold_backward(to(layout, grad_y), shape, **case, data_format=layout), expected, layout)

    tc = leaf(grad_y)
    z = F.fold(tc, SPATIAL[2], **case)
    columns = to(layout, grad_y)
    same(reference.fold(columns, SPATIAL[2], **case, data_format=layout), z, layout)
    grad_z, (expected,) = gradients(z, tc)
    ours = reference.fold_backward(to(layout, grad_z), columns.shape, SPATIAL[2], **case, data_format=layout)
    same(ours, expected, layout)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unfold_is_what_a_convolution_multiplies(rank: int, layout: str) -> None:
    x, w = draw(2, 3, *SPATIAL[rank]), draw(4, 3, *(2, 3, 2)[:rank])
    params = {"dilation": (2, 1, 2)[:rank], "padding": (1, 2, 0)[:rank], "stride": (1, 2, 1)[:rank]}
    y = operator("conv", rank)(x, w, **params)
    columns = reference.unfold(to(layout, x), w.shape[2:], **params, data_format=layout)
    columns = np.moveaxis(columns, -1, 1) if layout == "channels_last" else columns
    np.testing.assert_allclose((w.reshape(4, -1) @ columns).reshape(y.shape), y, atol=1e-12)
    # fold is the adjoint: <unfold(x), c> = <x, fold(c)>.
    c = draw(*columns.shape, seed=5)
    folded = reference.fold(to(layout, c), SPATIAL[rank], w.shape[2:], **params, data_format=layout)
    np.testing.assert_allclose((columns * c).sum(), (to(layout, x) * folded).sum())
    shapes = to(layout, c).shape
    again = reference.fold_backward(to(layout, x), shapes, SPATIAL[rank], w.shape[2:], **params, data_format=layout)
    np.testing.assert_array_equal(again, to(layout, columns))
    unbatched = reference.unfold(x[0], w.shape[2:], **params)
    np.testing.assert_array_equal(unbatched, columns[0])
    assert reference.fold(unbatched, SPATIAL[rank], w.shape[2:], **params).shape == x.shape[1:]


# --- deformable convolution ------------------------------------------------------------------------------------------


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """The sampling rule spelled out for one point."""
    height, width = plane.shape
    if y <= -1 or y >= height or x <= -1 or x >= width:
        return 0.0
    top, left = int(np.floor(y)), int(np.floor(x))
    value = 0.0
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value += share_y * share_x * plane[row, column]
    return value


def deform_by_scalars(
    x: np.ndarray, offset: np.ndarray, w: np.ndarray, b: np.ndarray, mask: np.ndarray | None,
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    n_out, in_group = w.shape[:2]
    taps = list(np.ndindex(*w.shape[2:]))
    offset_groups = offset.shape[1] // (2 * len(taps))
    y = np.zeros((x.shape[0], n_out, *offset.shape[2:]))
    for n, f, oy, ox in np.ndindex(*y.shape):
        y[n, f, oy, ox] = b[f]
        for c, (t, (ky, kx)) in itertools.product(range(in_group), enumerate(taps)):
            channel = f // (n_out * in_group // x.shape[1]) * in_group + c
            tap = channel // (x.shape[1] // offset_groups) * len(taps) + t
            at_y = oy * stride[0] - padding[0] + ky * dilation[0] + offset[n, 2 * tap, oy, ox]
            at_x = ox * stride[1] - padding[1] + kx * dilation[1] + offset[n, 2 * tap + 1, oy, ox]
            m = 1.0 if mask is None else mask[n, tap, oy, ox]
            y[n, f, oy, ox] += w[f, c, ky, kx] * m * bilinear(x[n, channel], at_y, at_x)
    return y


DEFORMATIONS = [
    {"groups": 1, "offset_groups": 1, "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
    {"groups": 2, "offset_groups": 1, "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"groups": 1, "offset_groups": 2, "stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)},
    {"groups": 4, "offset_groups": 2, "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)},
]


def deformation(case: dict[str, Any], masked: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and parameters; offsets reach out of the image, and stay off the kinks at whole numbers."""
    params = {name: case[name] for name in ("stride", "padding", "dilation")}
    x, w = draw(2, 4, 5, 6), draw(4, 4 // case["groups"], 2, 3)
    out = reference.conv2d(x, w, groups=case["groups"], **params).shape[2:]
    rng = np.random.default_rng(3)
    offset = rng.integers(-3, 4, (2, 12 * case["offset_groups"], *out)) + rng.uniform(0.1, 0.9)
    arrays = {"x": x, "offset": offset, "weight": w, "bias": draw(4)}
    if masked:
        arrays["mask"] = draw(2, 6 * case["offset_groups"], *out)
    return arrays, params


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d(layout: str, masked: bool, case: dict[str, Any]) -> None:
    arrays, params = deformation(case, masked)
    x, offset, w, b = (arrays[name] for name in ("x", "offset", "weight", "bias"))
    mask = arrays.get("mask")
    expected = deform_by_scalars(x, offset, w, b, mask, **params)
    last = {name: to(layout, a) if name in ("x", "offset", "mask") else a for name, a in arrays.items()}
    ours = reference.deform_conv2d(**last, **params, data_format=layout)
    np.testing.assert_allclose(ours, to(layout, expected), atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d_backward(layout: str, masked: bool, case: dict[str, Any]) -> None:
    arrays, params = deformation(case, masked)
    y = reference.deform_conv2d(**arrays, **params)
    grad_y = draw(*y.shape, seed=8)
    last = {name: to(layout, a) if name in ("x", "offset", "mask") else a for name, a in arrays.items()}
    del last["bias"]
    ours = reference.deform_conv2d_backward(to(layout, grad_y), **last, **params, data_format=layout)
    assert (ours[4] is None) != masked
    step = 1e-6
    for name, grad in zip(("x", "offset", "weight", "bias", "mask"), ours, strict=True):
        if grad is None:
            continue
        # Along one random direction per array, a central difference is exact up to rounding and third derivatives.
        way = draw(*arrays[name].shape, seed=21)
        up, down = ({**arrays, name: arrays[name] + sign * step * way} for sign in (1, -1))
        rise = reference.deform_conv2d(**up, **params) - reference.deform_conv2d(**down, **params)
        given = to(layout, way) if name in ("x", "offset", "mask") else way
        np.testing.assert_allclose((grad * given).sum(), (grad_y * rise).sum() / (2 * step), rtol=1e-6, err_msg=name)


def test_deform_conv2d_offset_gradients_one_by_one() -> None:
    arrays, params = deformation(DEFORMATIONS[3], True)
    y = reference.deform_conv2d(**arrays, **params)
    grad_y = draw(*y.shape, seed=8)
    grads = reference.deform_conv2d_backward(
        grad_y, arrays["x"], arrays["offset"], arrays["weight"], mask=arrays["mask"], **params
    )
    for name, grad in (("offset", grads[1]), ("mask", grads[4]), ("x", grads[0])):
        for at in np.random.default_rng(0).choice(grad.size, 40, replace=False):
            rise = 0
            for sign in (1, -1):
                moved = arrays[name].copy()
                moved.flat[at] += sign * 1e-5
                rise += sign * reference.deform_conv2d(**{**arrays, name: moved}, **params)
            np.testing.assert_allclose(grad.flat[at], (grad_y * rise).sum() / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d_without_deformation_is_conv2d(case: dict[str, Any]) -> None:
    arrays, params = deformation(case, True)
    arrays["offset"][:], arrays["mask"][:] = 0, 1
    x, w, b = arrays["x"], arrays["weight"], arrays["bias"]
    y = reference.conv2d(x, w, b, groups=case["groups"], **params)
    np.testing.assert_allclose(reference.deform_conv2d(**arrays, **params), y, atol=1e-12)
    grad_y = draw(*y.shape)
    ours = reference.deform_conv2d_backward(grad_y, x, arrays["offset"], w, mask=arrays["mask"], **params)
    plain = reference.conv2d_backward(grad_y, x, w, groups=case["groups"], **params)
    for mine, theirs in zip((ours[0], ours[2], ours[3]), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    only = reference.deform_conv2d_backward(
        grad_y, x, arrays["offset"], w, mask=arrays["mask"], **params, need=(False, True, False, False, False)
    )
    assert [g is None for g in only] == [True, False, True, True, True]
    np.testing.assert_array_equal(only[1], ours[1])


def test_deform_conv2d_at_the_border() -> None:
    """On y = -1 the value is 0 and the slope is that towards the image; far away, infinite or NaN give 0."""
    x, w = np.arange(1.0, 5.0).reshape(1, 1, 2, 2), np.ones((1, 1, 1, 1))
    for dy, value, slope in (
        (-1, 0, 1),
        (-2, 0, 0),
        (2, 0, 0),
        (1, 3, -3),
        (1e30, 0, 0),
        (-np.inf, 0, 0),
        (np.nan, 0, 0),
    ):
        offset = np.zeros((1, 2, 2, 2))
        offset[0, 0, 0, 0] = dy
        y = reference.deform_conv2d(x, offset, w)
        grad_y = np.zeros_like(y)
        grad_y[0, 0, 0, 0] = 1
        _, grad_offset, *_ = reference.deform_conv2d_backward(grad_y, x, offset, w)
        assert (y[0, 0, 0, 0], grad_offset[0, 0, 0, 0]) == (value, slope), dy


# --- activations, linear and losses ----------------------------------------------------------------------------------


def special(*shape: int) -> np.ndarray:
    x = 3 * draw(*shape)
    x.flat[:6] = [0.0, -0.0, 1000.0, -1000.0, np.inf, -np.inf]
    return x


@pytest.mark.parametrize(
    ("name", "params", "by"),
    [
        ("relu", {}, "y"),
        ("leaky_relu", {}, "x"),
        ("leaky_relu", {"negative_slope": 0.3}, "x"),
        ("elu", {}, "x"),
        ("elu", {"alpha": 0.7}, "x"),
        ("sigmoid", {}, "y"),
        ("tanh", {}, "y"),
    ],
)
def test_activations(name: str, params: dict[str, float], by: str) -> None:
    x = special(4, 5)
    tx = leaf(x)
    y = getattr(F, name)(tx, **params)
    ours = getattr(reference, name)(x, **params)
    same(ours, y)
    grad_y, (expected,) = gradients(y, tx)
    same(getattr(reference, f"{name}_backward")(grad_y, ours if by == "y" else x, **params), expected)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str, axis: int) -> None:
    x = 4 * draw(3, 4, 5)
    x[0, 0] += 1000
    tx = leaf(x)
    y = getattr(F, name)(tx, axis)
    ours = getattr(reference, name)(x, axis)
    same(ours, y)
    grad_y, (expected,) = gradients(y, tx)
    same(getattr(reference, f"{name}_backward")(grad_y, ours, axis), expected)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_linear(lead: tuple[int, ...]) -> None:
    x, w, b = draw(*lead, 5), draw(3, 5), draw(3)
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = F.linear(tx, tw, tb)
    same(reference.linear(x, w, b), y)
    same(reference.linear(x, w), F.linear(tx, tw))
    grad_y, expected = gradients(y, tx, tw, tb)
    for mine, theirs in zip(reference.linear_backward(grad_y, x, w), expected, strict=True):
        same(mine, theirs)
    assert reference.linear_backward(grad_y, x, w, (False, False, False)) == (None, None, None)


def check_loss(name: str, x: np.ndarray, target: np.ndarray) -> None:
    tx, ours = leaf(x), getattr(reference, name)
    backward = getattr(reference, f"{name}_backward")
    for reduction in ("mean", "sum", "none"):
        loss = getattr(F, name)(tx, torch.tensor(target), reduction=reduction)
        same(np.asarray(ours(x, target, reduction)), loss)
        grad, (expected,) = gradients(loss, tx)
        same(backward(x, target, reduction, grad), expected)
    np.testing.assert_array_equal(backward(x, target), backward(x, target, "mean", 1.0))


@pytest.mark.parametrize("spatial", [(), (3,), (2, 3)], ids=str)
def test_cross_entropy(spatial: tuple[int, ...]) -> None:
    logits = draw(4, 5, *spatial)
    logits[0] *= 1000
    check_loss("cross_entropy", logits, np.random.default_rng(0).integers(0, 5, (4, *spatial)))


def test_mse_loss() -> None:
    check_loss("mse_loss", draw(3, 4), draw(3, 4, seed=1))


# --- normalization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [(), (5,), (3, 4), (2, 3, 2)], ids=str)
def test_batch_norm(training: bool, affine: bool, layout: str, spatial: tuple[int, ...]) -> None:
    x, mean, var = draw(4, 3, *spatial), draw(3), 1 + draw(3) ** 2
    w, b = (draw(3, seed=1), draw(3, seed=2)) if affine else (None, None)
    tx, tw, tb, tmean, tvar = leaf(x), leaf(w), leaf(b), torch.tensor(mean), torch.tensor(var)
    y = F.batch_norm(tx, tmean, tvar, tw, tb, training, 0.3, 1e-3)
    grad_y, expected = gradients(y, *(t for t in (tx, tw, tb) if t is not None))
    last = to(layout, x)
    statistics = {"running_mean": mean.copy(), "running_var": var.copy(), "training": training}
    ours = reference.batch_norm_backward(to(layout, grad_y), last, w, b, **statistics, eps=1e-3, data_format=layout)
    same(ours[0], expected[0], layout)
    for mine, theirs in zip(ours[1:], expected[1:] if affine else (None, None), strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            same(mine, theirs)
    same(reference.batch_norm(last, mean, var, w, b, training, 0.3, 1e-3, data_format=layout), y, layout)
    same(mean, tmean)
    same(var, tvar)


def test_batch_norm_needs_two_values_a_channel() -> None:
    with pytest.raises(ValueError, match="more than one value"):
        reference.batch_norm(draw(1, 3), None, None, training=True)
    assert reference.batch_norm(draw(2, 3), None, None, training=True).shape == (2, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", RANKS)
def test_local_response_norm(size: int, layout: str, rank: int) -> None:
    x = draw(2, 6, *SPATIAL[rank])
    tx = leaf(x)
    for params in ({}, {"alpha": 0.5, "beta": 1.5, "k": 2.0}):
        y = F.local_response_norm(tx, size, **params)
        same(reference.local_response_norm(to(layout, x), size, **params, data_format=layout), y, layout)
        grad_y, (expected,) = gradients(y, tx)
        ours = reference.local_response_norm_backward(
            to(layout, grad_y), to(layout, x), size, **params, data_format=layout
        )
        same(ours, expected, layout)


def test_dropout() -> None:
    x, mask = draw(4, 5), np.random.default_rng(0).random((4, 5)) < 0.5
    np.testing.assert_allclose(reference.dropout(x, mask, 0.2), np.where(mask, x * 1.25, 0))
    np.testing.assert_allclose(reference.dropout_backward(x, mask, 0.2), np.where(mask, x * 1.25, 0))
    assert not reference.dropout(x, np.zeros_like(mask), 1.0).any()
