"""Padding of the spatial axes against the oracle and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import each
from views import draw, views

import fastconv.functional as ff
from fastconv import reference

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
LAYOUTS = ["channels_first", "channels_last"]
CASES = [
    ((7,), ((2, 3),)),
    ((4,), ((3, 3),)),
    ((5,), ((0, 4),)),
    ((5,), ((0, 0),)),
    ((4, 6), ((1, 2), (3, 0))),
    ((2, 2), ((1, 1), (1, 1))),
    ((5, 3), ((0, 0), (2, 1))),
    ((3, 4, 5), ((2, 1), (0, 3), (4, 4))),
    ((2, 2, 3), ((1, 0), (0, 1), (1, 1))),
]


def in_layout(a, data_format):
    return np.moveaxis(a, 1, -1) if data_format == "channels_last" else a


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each(data_format=LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "pads"), CASES)
def test_against_torch_and_the_oracle(size, pads, mode, data_format, dtype):
    x = draw(2, 3, *size, dtype=dtype)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = F.pad(leaf, [p for pair in pads[::-1] for p in pair], MODES[mode])
    grad_y = draw(*theirs.shape, dtype=dtype, seed=1)
    theirs.backward(torch.tensor(grad_y))
    ours, ours_grad = in_layout(x, data_format), in_layout(grad_y, data_format)

    y = ff.pad(ours, pads, mode, data_format=data_format)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, in_layout(theirs.detach().numpy(), data_format))
    np.testing.assert_array_equal(y, reference.pad(ours, pads, mode, data_format=data_format))

    grad_x = ff.pad_backward(ours_grad, pads, mode, data_format=data_format)
    assert grad_x.dtype == dtype
    eps = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(grad_x, in_layout(leaf.grad.numpy(), data_format), rtol=eps, atol=eps)
    expected = reference.pad_backward(ours_grad, pads, mode, data_format=data_format)
    np.testing.assert_allclose(grad_x, expected, rtol=eps, atol=eps)


@each(data_format=LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_unbatched_is_a_batch_of_one(mode, data_format):
    x, pads = draw(3, 4, 5), ((1, 2), (2, 0))
    if data_format == "channels_last":
        x = x.transpose(1, 2, 0)
    y = ff.pad(x, pads, mode, data_format=data_format)
    np.testing.assert_array_equal(y, ff.pad(x[None], pads, mode, data_format=data_format)[0])
    np.testing.assert_array_equal(
        ff.pad_backward(y, pads, mode, data_format=data_format),
        ff.pad_backward(y[None], pads, mode, data_format=data_format)[0],
    )


@pytest.mark.parametrize("mode", MODES)
def test_adjoint(mode):
    x, y = draw(2, 3, 4, 5, 6), draw(2, 3, 7, 6, 11, seed=1)
    pads = ((1, 2), (0, 1), (5, 0))
    forward = np.vdot(ff.pad(x, pads, mode), y)
    backward = np.vdot(x, ff.pad_backward(y, pads, mode))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_views_out_and_untouched_inputs(mode):
    x, pads = draw(2, 3, 4, 5), ((1, 2), (2, 1))
    y = ff.pad(x, pads, mode)
    grad_x = ff.pad_backward(y, pads, mode)
    for kind, view in views(x):
        np.testing.assert_array_equal(ff.pad(view, pads, mode), y, err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    for kind, view in views(y):
        np.testing.assert_array_equal(ff.pad_backward(view, pads, mode), grad_x, err_msg=kind)
        np.testing.assert_array_equal(view, y, err_msg=kind)
    out, grad_out = np.full_like(y, np.nan), np.full_like(x, np.nan)
    assert ff.pad(x, pads, mode, out=out) is out
    assert ff.pad_backward(y, pads, mode, out=grad_out) is grad_out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(grad_out, grad_x)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch(mode):
    y = ff.pad(np.zeros((0, 3, 4)), ((1, 1),), mode)
    assert y.shape == (0, 3, 6)
    assert ff.pad_backward(y, ((1, 1),), mode).shape == (0, 3, 4)


X = np.zeros((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("x", "pads", "options", "error", "match"),
    [
        (X, ((1, 1), (5, 0)), {"mode": "reflect"}, ValueError, "pads must be at most 4"),
        (X, ((5, 1), (0, 0)), {"mode": "circular"}, ValueError, "pads must be at most 4"),
        (X, ((1, -1), (0, 0)), {}, ValueError, "pads must be >= 0"),
        (X, ((1, 1.0), (0, 0)), {}, TypeError, "pads must be an integer"),
        (X, (1, 1), {}, ValueError, "pads must be 1 to 3 pairs"),
        (X, (), {}, ValueError, "pads must be 1 to 3 pairs"),
        (X, 1, {}, ValueError, "pads must be 1 to 3 pairs"),
        (X, ((1, 1),), {}, ValueError, "x must have 2 or 3 dimensions"),
        (X, ((1, 1), (1, 1)), {"mode": "constant"}, ValueError, "mode must be"),
        (X, ((1, 1), (1, 1)), {"data_format": "NCHW"}, ValueError, "data_format must be"),
        (X, ((2**62, 2**62), (1, 1)), {}, ValueError, "pads must keep every size below"),
        (X.astype(int), ((1, 1), (1, 1)), {}, TypeError, "x must be float32 or float64"),
        (X[..., :0], ((1, 1), (1, 1)), {}, ValueError, "no spatial axis of size 0"),
    ],
)
def test_errors(x, pads, options, error, match):
    with pytest.raises(error, match=match):
        ff.pad(x, pads, **options)


def test_backward_errors():
    with pytest.raises(ValueError, match="grad_y must be larger than its padding"):
        ff.pad_backward(np.zeros((1, 1, 4)), ((2, 2),))
    with pytest.raises(ValueError, match="pads must be at most 1"):
        ff.pad_backward(np.zeros((1, 1, 6)), ((2, 2),), "reflect")
    grad_y = np.zeros((1, 1, 4))
    with pytest.raises(ValueError, match="share memory"):
        ff.pad_backward(grad_y, ((1, 1),), out=grad_y[:, :, :2].reshape(1, 1, 2))
