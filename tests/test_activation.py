"""Pointwise activations and the softmax family, against the oracle and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from views import draw, each_isa_and_team, views

import fastconv.functional as ff
from fastconv import reference

DTYPES = [np.float32, np.float64]
SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 1000]

# name -> (arguments, what backward reads beside grad_y, PyTorch's function)
POINTWISE = {
    "relu": ((), "y", torch.relu),
    "relu6": ((), "y", F.relu6),
    "leaky_relu": ((0.2,), "x", lambda x: F.leaky_relu(x, 0.2)),
    "elu": ((1.5,), "x", lambda x: F.elu(x, 1.5)),
    "sigmoid": ((), "y", torch.sigmoid),
    "tanh": ((), "y", torch.tanh),
}
SOFTMAX = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}
EDGES = [
    0.0,
    -0.0,
    6,
    1e-30,
    -1e-30,
    1e-40,
    -1e-40,
    0.35,
    -0.35,
    10,
    -10,
    17.4,
    -17.4,
    88,
    -88,
    89,
    -89,
    103,
    -103,
    110,
    -110,
]
EDGES += [700, -700, 709.9, -709.9, 745, -745, 750, -750, 1e30, -1e30, np.inf, -np.inf, np.nan]


def call(name, x, **out):
    return getattr(ff, name)(x, *POINTWISE[name][0], **out)


def saved_for_backward(name, x, module=ff):
    args, saved, _ = POINTWISE[name]
    return x if saved == "x" else getattr(module, name)(x, *args)


def ulps(ours, exact, dtype):
    """Distance in units in the last place of the rounded exact result."""
    rounded = exact.astype(dtype)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(exact))
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(ours[~finite], rounded[~finite])
    return np.abs(ours[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POINTWISE)
def test_forward_within_four_ulps_of_a_wider_format(name, dtype):
    wider = np.float64 if dtype == np.float32 else np.longdouble
    x = np.concatenate([draw(20_000, dtype=dtype), 30 * draw(20_000, dtype=dtype, seed=1), np.array(EDGES, dtype)])
    with np.errstate(all="ignore"):
        exact = getattr(reference, name)(x.astype(wider), *(dtype(a) for a in POINTWISE[name][0]))
    assert ulps(call(name, x), exact, dtype).max(initial=0) < 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("size", SIZES)
def test_every_tail_length_against_torch(name, size, dtype):
    x, grad_y = draw(size, dtype=dtype), draw(size, dtype=dtype, seed=1)
    args, _, theirs = POINTWISE[name]
    leaf = torch.tensor(x, requires_grad=True)
    y = theirs(leaf)
    y.backward(torch.tensor(grad_y))
    tolerance = {"rtol": 16 * np.finfo(dtype).eps, "atol": 16 * np.finfo(dtype).eps}
    np.testing.assert_allclose(call(name, x), y.detach().numpy(), **tolerance)
    grad_x = getattr(ff, name + "_backward")(grad_y, saved_for_backward(name, x), *args)
    assert grad_x.dtype == dtype
    np.testing.assert_allclose(grad_x, leaf.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POINTWISE)
def test_backward_on_edge_values_against_the_oracle(name, dtype):
    x = np.array(EDGES, dtype)
    grad_y = draw(len(x), dtype=dtype)
    grad_y[::5] = np.inf
    args = POINTWISE[name][0]
    with np.errstate(all="ignore"):
        saved = saved_for_backward(name, x, reference)
        expected = getattr(reference, name + "_backward")(grad_y, saved, *args)
    grad_x = getattr(ff, name + "_backward")(grad_y, saved, *args)
    np.testing.assert_allclose(grad_x, expected, rtol=16 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


def test_relu_and_leaky_relu_keep_nan_and_infinities():
    x = np.array([np.nan, np.inf, -np.inf, -1.0])
    np.testing.assert_array_equal(ff.relu(x), [np.nan, np.inf, 0, 0])
    np.testing.assert_array_equal(ff.leaky_relu(x, 0.5), [np.nan, np.inf, -np.inf, -0.5])


def test_relu_backward_stops_infinite_gradients_and_passes_them_at_nan():
    grad_x = ff.relu_backward(np.array([np.inf, np.inf, 2.0]), np.array([0.0, 1.0, np.nan]))
    np.testing.assert_array_equal(grad_x, [0, np.inf, 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_against_the_oracle_and_torch(name, axis, dtype):
    x, grad_y = 5 * draw(4, 17, 9, dtype=dtype), draw(4, 17, 9, dtype=dtype, seed=1)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = SOFTMAX[name](leaf, axis)
    theirs.backward(torch.tensor(grad_y))
    y = getattr(ff, name)(x, axis)
    grad_x = getattr(ff, name + "_backward")(grad_y, y, axis)
    tolerance = {"rtol": 40 * np.finfo(dtype).eps, "atol": 40 * np.finfo(dtype).eps}
    assert y.dtype == grad_x.dtype == dtype
    np.testing.assert_allclose(y, getattr(reference, name)(x.astype(np.float64), axis), **tolerance)
    np.testing.assert_allclose(y, theirs.detach().numpy(), **tolerance)
    np.testing.assert_allclose(grad_x, leaf.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 10, 16, 17, 100, 1000, 5000])
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_row_lengths(name, length, dtype):
    x, grad_y = 3 * draw(3, length, dtype=dtype), draw(3, length, dtype=dtype, seed=1)
    y = getattr(ff, name)(x)
    exact = getattr(reference, name)(x.astype(np.float64))
    tolerance = {"rtol": 30 * np.finfo(dtype).eps, "atol": 30 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, exact, **tolerance)
    grad_x = getattr(ff, name + "_backward")(grad_y, y)
    expected = getattr(reference, name + "_backward")(grad_y.astype(np.float64), exact)
    scale = np.abs(expected).max() * length
    np.testing.assert_allclose(grad_x, expected, rtol=0, atol=max(scale, 1) * 30 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_of_extreme_logits(name):
    x = np.array([[1000, 0, -1000], [-np.inf, 0, 0], [-np.inf] * 3, [np.inf, 0, 0], [np.nan, 0, 0]], np.float32)
    theirs = SOFTMAX[name](torch.tensor(x), -1).numpy()
    np.testing.assert_allclose(getattr(ff, name)(x), theirs, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), ()])
def test_empty_and_zero_dimensional_arrays(shape):
    x = np.zeros(shape, np.float32)
    for name in POINTWISE:
        assert call(name, x).shape == shape
    if shape:
        for name in SOFTMAX:
            y = getattr(ff, name)(x)
            assert y.shape == shape
            assert getattr(ff, name + "_backward")(x, y).shape == shape


@pytest.mark.parametrize("name", [*POINTWISE, *SOFTMAX])
def test_views_give_the_same_bits_and_stay_untouched(name):
    x, grad_y = draw(5, 6, 7), draw(5, 6, 7, seed=1)
    expected = getattr(ff, name)(x)
    expected_grad = getattr(ff, name + "_backward")(grad_y, expected)
    for kind, view in views(x):
        np.testing.assert_array_equal(getattr(ff, name)(view), expected, err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    for (kind, grad), (_, y) in zip(views(grad_y), views(expected), strict=True):
        grad_x = getattr(ff, name + "_backward")(grad, y)
        np.testing.assert_array_equal(grad_x, expected_grad, err_msg=kind)
        np.testing.assert_array_equal(grad, grad_y, err_msg=kind)


@pytest.mark.parametrize("name", [*POINTWISE, *SOFTMAX])
def test_out(name):
    x = draw(3, 50, dtype=np.float32)
    forward, backward = getattr(ff, name), getattr(ff, name + "_backward")
    out = np.full_like(x, np.nan)
    assert forward(x, out=out) is out
    np.testing.assert_array_equal(out, forward(x))
    y = out.copy()
    assert backward(x, y, out=out) is out
    np.testing.assert_array_equal(out, backward(x, y))
    for wrong, error in [(x, "share"), (np.empty((50, 3), np.float32), "shape"), (out[:, ::-1], "contiguous")]:
        with pytest.raises(ValueError, match=error):
            forward(x, out=wrong)
    with pytest.raises(TypeError, match="dtype"):
        forward(x, out=np.empty(x.shape))


@pytest.mark.parametrize("name", [*POINTWISE, *SOFTMAX])
def test_errors(name):
    forward, backward = getattr(ff, name), getattr(ff, name + "_backward")
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"x must be float32 or float64.*int64"):
        forward(np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="NumPy array"):
        forward([1.0, 2.0])
    with pytest.raises(TypeError, match="byte order"):
        forward(x.astype(">f8" if np.little_endian else "<f8"))
    with pytest.raises(TypeError, match="grad_y must have the dtype"):
        backward(x.astype(np.float32), x)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 3\)"):
        backward(np.zeros((3, 2)), x)


@pytest.mark.parametrize("name", SOFTMAX)
def test_axis_errors(name):
    with pytest.raises(ValueError, match="axis must be"):
        getattr(ff, name)(np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="axis must be"):
        getattr(ff, name)(np.zeros(()))
    with pytest.raises(TypeError, match="axis must be an integer"):
        getattr(ff, name)(np.zeros((2, 3)), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*POINTWISE, *SOFTMAX])
def test_every_isa_and_number_of_threads(name, dtype):
    rows = 1100 if "relu" in name else 130  # enough work for a team
    x, grad_y = draw(rows, 1001, dtype=dtype), draw(rows, 1001, dtype=dtype, seed=1)
    exact = getattr(reference, name)(x.astype(np.float64))
    exact_grad = getattr(reference, name + "_backward")(grad_y.astype(np.float64), exact)
    tolerance = {"rtol": 40 * np.finfo(dtype).eps, "atol": 40 * np.finfo(dtype).eps}
    for y in each_isa_and_team(lambda: getattr(ff, name)(x)):
        np.testing.assert_allclose(y, exact, **tolerance)
    saved = exact.astype(dtype)
    tolerance["atol"] *= np.sqrt(x.shape[1]) if name in SOFTMAX else 1
    for grad_x in each_isa_and_team(lambda: getattr(ff, name + "_backward")(grad_y, saved)):
        np.testing.assert_allclose(grad_x, exact_grad, **tolerance)
