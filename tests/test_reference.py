"""The oracle's other operators against PyTorch in float64: windows, activations, losses and normalization."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, RANKS, SPATIAL, draw, gradients, leaf, operator, same, to

from fastconv import reference

pytestmark = pytest.mark.isa_independent

POINTWISE = ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh")


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
        *(getattr(reference, name)(x) for name in (*POINTWISE, "softmax")),
        *(getattr(reference, name + "_backward")(x, x) for name in POINTWISE),
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


def special(*shape: int) -> np.ndarray:
    x = 3 * draw(*shape)
    x.flat[:6] = [0.0, -0.0, 1000.0, -1000.0, np.inf, -np.inf]
    return x


@pytest.mark.parametrize(
    ("name", "params", "by"),
    [
        ("relu", {}, "y"),
        ("relu6", {}, "y"),
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
