"""The oracle's convolutions and transposed convolutions against PyTorch in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, RANKS, SPATIAL, draw, gradients, leaf, operator, same, to, torch_operator

from fastconv import reference

pytestmark = pytest.mark.isa_independent

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


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
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
