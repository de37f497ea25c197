"""The fully connected layer against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from views import draw, views

import fastconv.functional as ff
from fastconv import reference

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (33,), (4, 5), (2, 3, 4), (0,)])
def test_against_torch(lead, bias, dtype):
    x, weight = draw(*lead, 31, dtype=dtype), draw(17, 31, dtype=dtype, seed=1)
    grad_y = draw(*lead, 17, dtype=dtype, seed=2)
    b = draw(17, dtype=dtype, seed=3) if bias else None
    leaves = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, weight, b)]
    theirs = F.linear(*leaves)
    theirs.backward(torch.tensor(grad_y))
    tolerance = 200 * np.finfo(dtype).eps
    y = ff.linear(x, weight, b)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(y, reference.linear(x, weight, b), rtol=tolerance, atol=tolerance)
    for grad, leaf in zip(ff.linear_backward(grad_y, x, weight), leaves, strict=True):
        assert grad.dtype == dtype
        if leaf is not None:
            np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_backward_computes_what_is_needed():
    grad_y, x, weight = draw(4, 2), draw(4, 3), draw(2, 3)
    every = ff.linear_backward(grad_y, x, weight)
    for i in range(3):
        need = tuple(i == j for j in range(3))
        gradients = ff.linear_backward(grad_y, x, weight, need)
        assert [g is not None for g in gradients] == list(need)
        np.testing.assert_array_equal(gradients[i], every[i])


def test_views_and_untouched_inputs():
    x, weight, bias, grad_y = draw(4, 5, 6), draw(3, 6, seed=1), draw(3, seed=2), draw(4, 5, 3, seed=3)
    expected = ff.linear(x, weight, bias)
    expected_gradients = ff.linear_backward(grad_y, x, weight)
    for (kind, xv), (_, wv), (_, bv), (_, gv) in zip(views(x), views(weight), views(bias), views(grad_y), strict=True):
        np.testing.assert_allclose(ff.linear(xv, wv, bv), expected, rtol=1e-13, atol=1e-13, err_msg=kind)
        for ours, theirs in zip(ff.linear_backward(gv, xv, wv), expected_gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13, err_msg=kind)
        for view, original in ((xv, x), (wv, weight), (bv, bias), (gv, grad_y)):
            np.testing.assert_array_equal(view, original, err_msg=kind)


def test_out():
    x, weight = draw(4, 5), draw(3, 5)
    out = np.full((4, 3), np.nan)
    assert ff.linear(x, weight, out=out) is out
    np.testing.assert_array_equal(out, ff.linear(x, weight))
    with pytest.raises(ValueError, match="share memory"):
        ff.linear(x, weight, out=x.reshape(-1)[:12].reshape(4, 3))


def test_nan_passes_through():
    x = np.array([[np.nan, 0.0], [1.0, 2.0]])
    y = ff.linear(x, np.ones((1, 2)))
    assert np.isnan(y[0, 0])
    assert y[1, 0] == 3


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "match"),
    [
        (np.zeros((2, 3)), np.zeros((4, 5)), None, ValueError, r"x must have shape \(\.\.\., 5\)"),
        (np.zeros(()), np.zeros((4, 5)), None, ValueError, "x must have shape"),
        (np.zeros((2, 3)), np.zeros(3), None, ValueError, "weight must have 2 dimensions"),
        (np.zeros((2, 0)), np.zeros((4, 0)), None, ValueError, "no axis of size 0"),
        (np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3), ValueError, r"bias must have shape \(4,\)"),
        (np.zeros((2, 3)), np.zeros((4, 3), np.float32), None, TypeError, "weight must have the dtype of x"),
        (np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(4, np.float32), TypeError, "bias must have the dtype of x"),
        (np.zeros((2, 3), int), np.zeros((4, 3)), None, TypeError, "x must be float32 or float64"),
    ],
)
def test_errors(x, weight, bias, error, match):
    with pytest.raises(error, match=match):
        ff.linear(x, weight, bias)


def test_backward_errors():
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 4\)"):
        ff.linear_backward(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((4, 3)))
