"""Losses against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from views import draw, each_isa_and_team, views

import fastconv.functional as ff
from fastconv import reference

DTYPES = [np.float32, np.float64]
REDUCTIONS = ["mean", "sum", "none"]


def close(ours, theirs, dtype, factor=50):
    assert np.asarray(ours).dtype == dtype
    expected = theirs.detach().numpy()
    assert np.shape(ours) == expected.shape
    eps = factor * np.finfo(dtype).eps
    np.testing.assert_allclose(ours, expected, rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (64, 1000), (3, 7, 4), (2, 5, 3, 4), (2, 3, 2, 2, 2)])
def test_cross_entropy_against_torch(shape, reduction, dtype):
    logits = 4 * draw(*shape, dtype=dtype)
    target = np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
    grad_loss = draw(*target.shape, dtype=dtype, seed=2) if reduction == "none" else dtype(1.7)
    leaf = torch.tensor(logits, requires_grad=True)
    theirs = F.cross_entropy(leaf, torch.tensor(target), reduction=reduction)
    theirs.backward(torch.tensor(grad_loss))
    loss, gradient = ff.cross_entropy(logits, target, reduction), np.full_like(logits, np.nan)
    assert ff.cross_entropy_backward(logits, target, reduction, grad_loss, out=gradient) is gradient
    close(loss, theirs, dtype)
    close(gradient, leaf.grad, dtype)
    exact = logits.astype(np.float64)
    tolerance = {"rtol": 50 * np.finfo(dtype).eps, "atol": 50 * np.finfo(dtype).eps}
    np.testing.assert_allclose(loss, reference.cross_entropy(exact, target, reduction), **tolerance)
    expected = reference.cross_entropy_backward(exact, target, reduction, grad_loss)
    np.testing.assert_allclose(gradient, expected, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_extreme_logits(dtype):
    logits = np.array(
        [[1000, 0, -1000], [-1000, 1000, 0], [-np.inf, 0, 1], [-np.inf, -np.inf, 5], [3e38, -3e38, 0]], dtype
    )
    target = np.array([0, 0, 1, 2, 0])
    loss = ff.cross_entropy(logits, target, "none")
    np.testing.assert_allclose(loss, [0, 2000, np.log1p(np.e), 0, 0], rtol=1e-6, atol=1e-30)
    gradient = ff.cross_entropy_backward(logits, target, "sum")
    leaf = torch.tensor(logits, requires_grad=True)
    F.cross_entropy(leaf, torch.tensor(target), reduction="sum").backward()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-6, atol=1e-7)


def test_cross_entropy_on_every_isa_and_number_of_threads():
    logits, target = 4 * draw(130, 1001, dtype=np.float32), np.arange(130)
    theirs = F.cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(target)).item()
    for loss in each_isa_and_team(lambda: np.array(ff.cross_entropy(logits, target))):
        assert loss == pytest.approx(theirs, rel=1e-6)
    results = each_isa_and_team(lambda: ff.cross_entropy_backward(logits, target, "sum"))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=2e-6)


def test_cross_entropy_of_an_impossible_class_is_infinite():
    assert ff.cross_entropy(np.array([[-np.inf, 0.0]]), np.array([0])) == np.inf


def test_cross_entropy_keeps_small_losses_of_large_logits():
    loss = ff.cross_entropy(np.array([[1000.0, 970.0]]), np.array([0]))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-30.0)), rtol=3e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (33,), (4, 5, 6)])
def test_mse_loss_against_torch(shape, reduction, dtype):
    x, target = np.asarray(draw(*shape, dtype=dtype)), np.asarray(draw(*shape, dtype=dtype, seed=1))
    grad_loss = np.asarray(draw(*shape, dtype=dtype, seed=2)) if reduction == "none" else dtype(0.3)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = F.mse_loss(leaf, torch.tensor(target), reduction=reduction)
    theirs.backward(torch.tensor(grad_loss))
    close(ff.mse_loss(x, target, reduction), theirs, dtype)
    gradient = np.full_like(x, np.nan)
    assert ff.mse_loss_backward(x, target, reduction, grad_loss, out=gradient) is gradient
    close(gradient, leaf.grad, dtype)
    np.testing.assert_allclose(gradient, reference.mse_loss_backward(x, target, reduction, grad_loss), rtol=1e-6)


def test_lecture_pooling_losses():
    y = np.array([[7.0, 9.0], [8.0, 8.0]])
    assert ff.mse_loss(y, np.ones_like(y)) == 49.5
    np.testing.assert_array_equal(ff.mse_loss_backward(y, np.ones_like(y)), [[3, 4], [3.5, 3.5]])
    y = np.array([[4, 5.25], [5.75, 5]])
    assert ff.mse_loss(y, np.ones_like(y)) == 16.40625
    np.testing.assert_array_equal(ff.mse_loss_backward(y, np.ones_like(y)), [[1.5, 2.125], [2.375, 2]])


def test_an_empty_batch_has_mean_nan_sum_zero_and_an_empty_gradient():
    logits, target = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    assert np.isnan(ff.cross_entropy(logits, target))
    assert ff.cross_entropy(logits, target, "sum") == 0
    assert ff.cross_entropy(logits, target, "none").shape == (0,)
    assert ff.cross_entropy_backward(logits, target).shape == (0, 3)
    assert np.isnan(ff.mse_loss(logits, logits))
    assert ff.mse_loss_backward(logits, logits).shape == (0, 3)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_integer_dtype_of_target(kind):
    logits, target = draw(4, 3), np.array([0, 1, 2, 1])
    assert ff.cross_entropy(logits, target.astype(kind)) == ff.cross_entropy(logits, target)
    np.testing.assert_array_equal(
        ff.cross_entropy_backward(logits, target.astype(kind)), ff.cross_entropy_backward(logits, target)
    )


def test_views_and_untouched_inputs():
    logits, other, target = draw(6, 5), draw(6, 5, seed=1), np.array([0, 1, 2, 3, 4, 0])
    for (kind, a), (_, b), (_, t) in zip(views(logits), views(other), views(target), strict=True):
        assert ff.cross_entropy(a, t) == ff.cross_entropy(logits, target)
        assert ff.mse_loss(a, b) == pytest.approx(ff.mse_loss(logits, other), rel=1e-14)
        np.testing.assert_array_equal(ff.cross_entropy_backward(a, t), ff.cross_entropy_backward(logits, target))
        np.testing.assert_array_equal(ff.mse_loss_backward(a, b), ff.mse_loss_backward(logits, other))
        for view, original in ((a, logits), (b, other), (t, target)):
            np.testing.assert_array_equal(view, original, err_msg=kind)


@pytest.mark.parametrize("function", [ff.cross_entropy, ff.cross_entropy_backward])
@pytest.mark.parametrize(
    ("logits", "target", "reduction", "error", "match"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), "mean", ValueError, "target must hold class indices from 0 to 2.*3"),
        (np.zeros((2, 3)), np.array([-1, 0]), "mean", ValueError, "target must hold class indices.*-1"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "mean", TypeError, "target must be an integer array.*float64"),
        (np.zeros((2, 3)), [0, 1], "mean", TypeError, "target must be an integer array.*list"),
        (np.zeros((2, 3)), np.array([0]), "mean", ValueError, r"target must have shape \(2,\)"),
        (np.zeros((2, 0)), np.array([0, 0]), "mean", ValueError, "logits must have shape"),
        (np.zeros(3), np.array([0]), "mean", ValueError, "logits must have shape"),
        (np.zeros((2, 3), int), np.array([0, 1]), "mean", TypeError, "logits must be float32 or float64"),
        (np.zeros((2, 3)), np.array([0, 1]), "max", ValueError, "reduction must be"),
    ],
)
def test_cross_entropy_errors(function, logits, target, reduction, error, match):
    with pytest.raises(error, match=match):
        function(logits, target, reduction)


@pytest.mark.parametrize("function", [ff.mse_loss, ff.mse_loss_backward])
def test_mse_loss_errors(function):
    with pytest.raises(ValueError, match=r"target must have shape \(2, 3\)"):
        function(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(TypeError, match="target must have the dtype of x"):
        function(np.zeros(3), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="reduction must be"):
        function(np.zeros(3), np.zeros(3), "average")


def test_grad_loss_errors():
    with pytest.raises(ValueError, match="grad_loss must be a number for"):
        ff.mse_loss_backward(np.zeros(3), np.zeros(3), "mean", np.ones(3))
    with pytest.raises(ValueError, match=r"grad_loss must be a number or an array of shape \(2,\)"):
        ff.cross_entropy_backward(np.zeros((2, 3)), np.array([0, 1]), "none", np.ones(3))
