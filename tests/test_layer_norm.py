"""Layer normalization against the oracle and PyTorch, and its contracts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from views import draw, each_isa_and_team, views

import fastconv.functional as ff
from fastconv import layers, reference

DTYPES = [np.float32, np.float64]
SHAPES = [((1,), 1), ((5, 3), 1), ((7, 16), 1), ((3, 5, 33), 1), ((2, 4, 6, 9), 2), ((70, 8), 1), ((2, 3, 1000), 1)]


def operands(shape, axes, dtype):
    """x with a mean far from 0, weight, bias and grad_y."""
    last = shape[-axes:]
    x = draw(*shape, dtype=dtype) + dtype(3)
    return x, draw(*last, dtype=dtype, seed=1), draw(*last, dtype=dtype, seed=2), draw(*shape, dtype=dtype, seed=3)


def bound(x, axes):
    """Roundings of sums of so many terms and of differences from a mean of 3, each of which is a few of the result."""
    return 8 * (np.prod(x.shape[-axes:]) ** 0.5 + 8) * np.finfo(x.dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_every_isa_and_number_of_threads_against_the_oracle(shape, axes, affine, dtype):
    x, weight, bias, grad_y = operands(shape, axes, dtype)
    weight, bias = (weight, bias) if affine else (None, None)
    wide = [None if a is None else a.astype(np.float64) for a in (x, weight, bias, grad_y)]
    last, limit = shape[-axes:], bound(x, axes)
    exact = reference.layer_norm(wide[0], last, *wide[1:3])
    for y in each_isa_and_team(lambda: ff.layer_norm(x, last, weight, bias)):
        assert y.dtype == dtype
        np.testing.assert_allclose(y, exact, rtol=0, atol=limit * max(1, np.abs(exact).max()))
    exact = reference.layer_norm_backward(wide[3], wide[0], last, *wide[1:3])
    rows = x.size // np.prod(last)
    for number in range(3 if affine else 1):
        scale = max(1, np.abs(exact[number]).max()) * (rows**0.5 if number else 300 if last == (1,) else 1)
        for grad in each_isa_and_team(lambda n=number: ff.layer_norm_backward(grad_y, x, last, weight, bias)[n]):
            assert grad.dtype == dtype
            np.testing.assert_allclose(grad, exact[number], rtol=0, atol=limit * scale)


def test_enough_rows_for_a_team_and_its_parts():
    x, weight, bias, grad_y = operands((5000, 96), 1, np.float32)
    wide = [a.astype(np.float64) for a in (x, weight, bias, grad_y)]
    for y in each_isa_and_team(lambda: ff.layer_norm(x, 96, weight, bias)):
        np.testing.assert_allclose(y, reference.layer_norm(wide[0], 96, *wide[1:3]), rtol=0, atol=1e-5)
    exact = reference.layer_norm_backward(wide[3], wide[0], 96, *wide[1:3])
    for number, atol in enumerate((1e-5, 1e-3, 1e-3)):
        for grad in each_isa_and_team(lambda n=number: ff.layer_norm_backward(grad_y, x, 96, weight, bias)[n]):
            np.testing.assert_allclose(grad, exact[number], rtol=0, atol=atol)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_oracle_and_layer_are_torchs(shape, axes, affine):
    x, weight, bias, grad_y = operands(shape, axes, np.float64)
    last = shape[-axes:]
    ours = layers.LayerNorm(last, 1e-3, affine, dtype=np.float64)
    theirs = nn.LayerNorm(last, 1e-3, affine, dtype=torch.float64)
    if affine:
        ours.load_state_dict({"weight": weight, "bias": bias})
        theirs.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    leaf = torch.tensor(x, requires_grad=True)
    y = theirs(leaf)
    y.backward(torch.tensor(grad_y))
    values = (weight, bias) if affine else (None, None)
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    for result in (ours(x), reference.layer_norm(x, last, *values, 1e-3)):
        np.testing.assert_allclose(result, y.detach().numpy(), **tolerance)
    by_oracle = reference.layer_norm_backward(grad_y, x, last, *values, 1e-3)
    for grad_x in (ours.backward(grad_y), by_oracle[0]):
        np.testing.assert_allclose(grad_x, leaf.grad.numpy(), **tolerance)
    for number, (key, parameter) in enumerate(theirs.named_parameters()):
        for grad in (ours.gradients()[key], by_oracle[number + 1]):
            np.testing.assert_allclose(grad, parameter.grad.numpy(), **tolerance)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_without_bias_as_torch():
    ours, theirs = layers.LayerNorm(6, bias=False), nn.LayerNorm(6, bias=False)
    x = draw(4, 6, dtype=np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert list(ours.state_dict()) == ["weight"]
    _, grad_weight, grad_bias = ff.layer_norm_backward(x, x, 6, ours.weight)
    assert grad_weight.shape == (6,)
    assert grad_bias is None


def test_rows_do_not_see_each_other():
    x = draw(3, 40, dtype=np.float32)
    y = ff.layer_norm(x, 40)
    x[1] = [np.nan, np.inf] * 20
    other = ff.layer_norm(x, 40)
    np.testing.assert_array_equal(other[[0, 2]], y[[0, 2]])
    assert np.isnan(other[1]).all()
    np.testing.assert_array_equal(ff.layer_norm(np.full((2, 5), 7.0), 5), np.zeros((2, 5)))


def test_views_out_and_empty():
    x, weight, bias, grad_y = operands((5, 6, 7), 1, np.float64)
    y, grads = ff.layer_norm(x, 7, weight, bias), ff.layer_norm_backward(grad_y, x, 7, weight, bias)
    out = np.full_like(x, np.nan)
    assert ff.layer_norm(x, 7, weight, bias, out=out) is out
    np.testing.assert_array_equal(out, y)
    for kind, view in views(x):
        np.testing.assert_array_equal(ff.layer_norm(view, (7,), weight, bias), y, err_msg=kind)
        for grad, expected in zip(ff.layer_norm_backward(grad_y, view, 7, weight, bias), grads, strict=True):
            np.testing.assert_array_equal(grad, expected, err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    for _, view in views(np.tile(weight, (2, 1))[0]):
        np.testing.assert_array_equal(ff.layer_norm(x, 7, view, bias), y)
    assert ff.layer_norm(np.zeros((0, 7)), 7).shape == (0, 7)
    grad_x, grad_weight, _ = ff.layer_norm_backward(np.zeros((0, 7)), np.zeros((0, 7)), 7, weight)
    assert grad_x.shape == (0, 7)
    np.testing.assert_array_equal(grad_weight, np.zeros(7))


def test_gradients_by_finite_differences():
    x, weight, bias, grad_y = operands((2, 3, 5), 1, np.float64)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    F.layer_norm(leaves[0], (5,), *leaves[1:]).backward(torch.tensor(grad_y))
    for grad, leaf in zip(ff.layer_norm_backward(grad_y, x, 5, weight, bias), leaves, strict=True):
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-10, atol=1e-10)
    step = np.zeros_like(x)
    step[1, 2, 3] = 1e-6
    slope = (
        grad_y * (ff.layer_norm(x + step, 5, weight, bias) - ff.layer_norm(x - step, 5, weight, bias))
    ).sum() / 2e-6
    np.testing.assert_allclose(ff.layer_norm_backward(grad_y, x, 5, weight, bias)[0][1, 2, 3], slope, rtol=1e-6)


X = np.zeros((2, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, 3), ValueError, r"normalized_shape must be how x.shape=\(2, 3, 4\) ends, got normalized_shape=\(3,\)"),
        ((X, (2, 4)), ValueError, "normalized_shape must be how"),
        ((X, ()), ValueError, "normalized_shape must be how"),
        ((X, 4.0), TypeError, "normalized_shape must be an integer"),
        ((X, 0), ValueError, "normalized_shape must be >= 1"),
        ((X.astype(int), 4), TypeError, "x must be float32 or float64"),
        ((X, 4, np.zeros(3)), ValueError, r"weight must have shape \(4,\) to go with normalized_shape"),
        ((X, 4, np.zeros(4, np.float32)), TypeError, "weight must have the dtype of x"),
        ((X, 4, None, np.zeros((1, 4))), ValueError, r"bias must have shape \(4,\)"),
        ((X, 4, None, None, -1.0), ValueError, "eps must be >= 0"),
        ((X, 4, None, None, "small"), TypeError, "eps must be"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        ff.layer_norm(*arguments)
    with pytest.raises(error, match=message):
        ff.layer_norm_backward(arguments[0], *arguments)


def test_errors_of_gradients_and_layers():
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 3, 4\)"):
        ff.layer_norm_backward(X[:1], X, 4)
    with pytest.raises(ValueError, match="normalized_shape must be >= 1"):
        layers.LayerNorm((3, 0))
