"""Activations that weigh x by a gate: against the oracle and PyTorch, alone and as epilogues."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from views import draw, each_isa_and_team, views

import fastconv.functional as ff
from fastconv import layers, reference

DTYPES = [np.float32, np.float64]
SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 1000]

# name of the epilogue -> (operator, its arguments, PyTorch's function, our layer, PyTorch's)
GATED = {
    "gelu": ("gelu", (), F.gelu, layers.GELU(), nn.GELU()),
    "gelu_tanh": ("gelu", ("tanh",), nn.GELU("tanh"), layers.GELU("tanh"), nn.GELU("tanh")),
    "silu": ("silu", (), F.silu, layers.SiLU(), nn.SiLU()),
    "hardswish": ("hardswish", (), F.hardswish, layers.Hardswish(), nn.Hardswish()),
}
# Multiples of eps |x|: the gate is wrong by three, of its argument, exp or erfc, and sum; then comes a product.
FORWARD = 4
# Multiples of eps: slopes are at most 1.13, of the same gates, and their second term's product is of four factors.
BACKWARD = 8


def everywhere(dtype):
    near = np.concatenate([np.linspace(-12, 12, 20_001), np.logspace(-30, 4, 2_001), [0.0]])
    return np.concatenate([near, -near, 3 * draw(1_000)]).astype(dtype)


def call(name, x, **out):
    operator, args, *_ = GATED[name]
    return getattr(ff, operator)(x, *args, **out)


def call_backward(name, grad_y, x, **out):
    operator, args, *_ = GATED[name]
    return getattr(ff, f"{operator}_backward")(grad_y, x, *args, **out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATED)
def test_every_isa_and_number_of_threads_within_the_bound(name, dtype):
    x, eps = np.tile(everywhere(dtype), 3), np.finfo(dtype).eps
    wide, (operator, args, *_) = x.astype(np.float64 if dtype == np.float32 else np.longdouble), GATED[name]
    exact = getattr(reference, operator)(wide, *args)
    exact_slope = getattr(reference, f"{operator}_backward")(np.ones_like(wide), wide, *args)
    for y in each_isa_and_team(lambda: call(name, x)):
        assert y.dtype == dtype
        assert (np.abs(y - exact) <= FORWARD * eps * np.abs(x)).all()
    for slope in each_isa_and_team(lambda: call_backward(name, np.ones_like(x), x)):
        assert np.abs(slope - exact_slope).max() <= BACKWARD * eps


@pytest.mark.parametrize("name", GATED)
def test_oracle_is_torch(name):
    x, grad_y = 3 * draw(400), draw(400, seed=1)
    operator, args, theirs, *_ = GATED[name]
    leaf = torch.tensor(x, requires_grad=True)
    y = theirs(leaf)
    y.backward(torch.tensor(grad_y))
    np.testing.assert_allclose(getattr(reference, operator)(x, *args), y.detach().numpy(), rtol=1e-13, atol=1e-14)
    grad_x = getattr(reference, f"{operator}_backward")(grad_y, x, *args)
    np.testing.assert_allclose(grad_x, leaf.grad.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(reference.activation.activate(x, name), getattr(reference, operator)(x, *args))


def test_gelu_keeps_the_lower_tail_in_float64():
    x = -np.linspace(1, 37, 1001)
    exact = np.array([0.5 * value * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])
    np.testing.assert_allclose(ff.gelu(x), exact, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hardswish_has_straight_ends(dtype):
    x = np.array([-np.inf, -4, -3, 3, 4, np.nan], dtype)
    np.testing.assert_array_equal(ff.hardswish(x)[1:], [0, 0, 3, 4, np.nan])
    np.testing.assert_array_equal(ff.hardswish_backward(np.full_like(x, 2), x)[1:], [0, 0, 2, 2, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("size", SIZES)
def test_every_tail_length(name, size, dtype):
    x, grad_y, eps = 2 * draw(size, dtype=dtype), draw(size, dtype=dtype, seed=1), np.finfo(dtype).eps
    operator, args, *_ = GATED[name]
    exact = getattr(reference, operator)(x.astype(np.float64), *args)
    np.testing.assert_allclose(call(name, x), exact, rtol=0, atol=FORWARD * eps * 8)
    exact = getattr(reference, f"{operator}_backward")(grad_y.astype(np.float64), x.astype(np.float64), *args)
    np.testing.assert_allclose(call_backward(name, grad_y, x), exact, rtol=0, atol=BACKWARD * eps * 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATED)
def test_infinity_and_nan_stay(name, dtype):
    x = np.array([np.inf, np.nan, -0.0, 0.0], dtype)
    np.testing.assert_array_equal(call(name, x), x)


@pytest.mark.parametrize("name", GATED)
def test_views_and_out(name):
    x, grad_y = draw(5, 6, 7), draw(5, 6, 7, seed=1)
    y, grad_x = call(name, x), call_backward(name, grad_y, x)
    for kind, view in views(x):
        np.testing.assert_array_equal(call(name, view), y, err_msg=kind)
        np.testing.assert_array_equal(call_backward(name, grad_y, view), grad_x, err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    out = np.full_like(x, np.nan)
    assert call(name, x, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert call_backward(name, grad_y, x, out=out) is out
    np.testing.assert_array_equal(out, grad_x)
    with pytest.raises(ValueError, match="share"):
        call(name, x, out=x)


@pytest.mark.parametrize("name", GATED)
def test_errors(name):
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"x must be float32 or float64.*int64"):
        call(name, np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="grad_y must have the dtype"):
        call_backward(name, x.astype(np.float32), x)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 3\)"):
        call_backward(name, np.zeros((3, 2)), x)
    for wrong in (lambda: ff.gelu(x, "erf"), lambda: ff.gelu_backward(x, x, "erf"), lambda: layers.GELU("erf")):
        with pytest.raises(ValueError, match="approximate must be 'none' or 'tanh', got approximate='erf'"):
            wrong()


@pytest.mark.parametrize("name", GATED)
def test_layers_as_torch(name):
    _, _, _, layer, oracle = GATED[name]
    x, grad_y = 2 * draw(3, 4, 5), draw(3, 4, 5, seed=1)
    leaf = torch.tensor(x, requires_grad=True)
    y = oracle(leaf)
    y.backward(torch.tensor(grad_y))
    np.testing.assert_allclose(layer(x), y.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(layer.backward(grad_y), leaf.grad.numpy(), rtol=1e-12, atol=1e-14)


CONVOLUTIONS = {  # shape of the weight, groups, algorithm
    "pointwise": ((16, 16, 1, 1), 1, "direct"),
    "direct": ((16, 16, 3, 3), 1, "direct"),
    "winograd": ((16, 16, 3, 3), 1, "winograd"),
    "depthwise": ((16, 1, 3, 3), 16, "depthwise"),
    "grouped": ((16, 4, 3, 3), 4, "grouped"),
}


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("name", GATED)
def test_convolutions_end_with_it(name, convolution, data_format):
    shape, groups, algorithm = CONVOLUTIONS[convolution]
    for dtype in DTYPES:
        x = draw(2, 9, 10, 16, dtype=dtype) if data_format == "channels_last" else draw(2, 16, 9, 10, dtype=dtype)
        weight, bias = draw(*shape, dtype=dtype, seed=1), draw(16, dtype=dtype, seed=2)
        options = {"groups": groups, "data_format": data_format, "algorithm": algorithm}

        def both(x=x, weight=weight, bias=bias, options=options):
            fused = ff.conv2d(x, weight, bias, **options, activation=name)
            return np.stack([fused, call(name, ff.conv2d(x, weight, bias, **options))])

        for fused, apart in each_isa_and_team(both):
            np.testing.assert_array_equal(fused, apart)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATED)
def test_transposed_convolutions_and_sums_end_with_it(name, dtype):
    x, weight = draw(2, 5, 6, 7, dtype=dtype), draw(5, 4, 3, 3, dtype=dtype, seed=1)
    y = ff.conv_transpose2d(x, weight, stride=2, activation=name)
    np.testing.assert_array_equal(y, call(name, ff.conv_transpose2d(x, weight, stride=2)))
    np.testing.assert_array_equal(ff.add(x, x, activation=name), call(name, 2 * x))


@pytest.mark.parametrize("name", GATED)
def test_fused_networks_end_convolutions_with_it(name):
    layer = GATED[name][3]
    network = layers.Sequential(layers.Conv2d(3, 8, 3), layers.BatchNorm2d(8), layer, layers.Conv2d(8, 8, 1), layer)
    x = draw(2, 3, 7, 8, dtype=np.float32)
    network.eval()
    fused = layers.fuse(network)
    assert [type(stage).__name__ for stage in fused._layers.values()] == ["Conv2d", "Conv2d"]
    np.testing.assert_allclose(fused(x), network(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GATED)
def test_batch_norm_ends_with_it_and_back(name):
    x, residual, grad_y = (2 * draw(3, 4, 5, 6, seed=i) for i in range(3))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, residual)]
    weight, bias = (draw(4, seed=i) for i in (4, 5))
    theirs = F.batch_norm(leaves[0], None, None, torch.tensor(weight), torch.tensor(bias), training=True)
    y = ff.batch_norm(x, None, None, weight, bias, True, activation=name, residual=residual)
    np.testing.assert_allclose(y, GATED[name][2](theirs + leaves[1]).detach().numpy(), rtol=1e-10, atol=1e-12)
    GATED[name][2](theirs).backward(torch.tensor(grad_y))
    statistics = {"running_mean": None, "running_var": None, "training": True}
    grad_x, _, _ = ff.batch_norm_backward(grad_y, x, weight, bias, **statistics, activation=name)
    np.testing.assert_allclose(grad_x, leaves[0].grad.numpy(), rtol=1e-8, atol=1e-10)
