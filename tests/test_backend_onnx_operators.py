"""ONNX's other operators, and what older opsets meant by them, against PyTorch or the formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

import ml_dtypes
from conftest import using_threads
from onnx_models import normal, run_operator
from tolerance import assert_within, bound

import fastconv as fc
from fastconv import reference
from fastconv.backends.onnx import ModelError
from fastconv.backends.onnx.erf import erf

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
X = normal(2, 6, 5, 4)


def of_torch(function, *arrays, **options):
    """What PyTorch computes in float64."""
    wide = (torch.from_numpy(np.asarray(a, np.float64)) for a in arrays)
    return function(*wide, **options).numpy()


# Activations and arithmetic.


@pytest.mark.parametrize(
    ("op", "function", "attributes"),
    [
        ("Relu", F.relu, {}),
        ("LeakyRelu", lambda x: F.leaky_relu(x, 0.2), {"alpha": 0.2}),
        ("Elu", lambda x: F.elu(x, 1.5), {"alpha": 1.5}),
        ("Sigmoid", torch.sigmoid, {}),
        ("Tanh", torch.tanh, {}),
        ("HardSigmoid", F.hardsigmoid, {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSwish", F.hardswish, {}),
        ("Gelu", F.gelu, {}),
        ("Gelu", lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
        ("Erf", torch.erf, {}),
        ("Softmax", lambda x: F.softmax(x, 1), {"axis": 1}),
        ("LogSoftmax", lambda x: F.log_softmax(x, -2), {"axis": -2}),
        ("Exp", torch.exp, {}),
        ("Abs", torch.abs, {}),
        ("Neg", torch.neg, {}),
        ("Reciprocal", torch.reciprocal, {}),
        ("Floor", torch.floor, {}),
        ("Ceil", torch.ceil, {}),
        ("Selu", F.selu, {}),
        ("Softplus", F.softplus, {}),
    ],
)
def test_functions_of_one_array(op, function, attributes):
    exact = of_torch(function, X)
    np.testing.assert_allclose(run_operator(op, X, **attributes), exact, rtol=8 * EPS, atol=8 * EPS)


def test_erf_is_within_three_eps():
    x = np.concatenate([np.linspace(-6, 6, 20001), np.logspace(-30, 1, 5001), [-np.inf, np.inf, 0]])
    x = np.concatenate([x, -x]).astype(np.float32)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - exact).max() <= 2.5 * EPS
    nonzero = np.abs(exact) > np.finfo(np.float32).tiny
    assert np.abs(erf(x)[nonzero] / exact[nonzero] - 1).max() <= 3 * EPS
    assert np.isnan(erf(np.float32([np.nan]))).all()
    np.testing.assert_array_equal(erf(x.astype(np.float64)), exact)


def test_threads_change_no_bit_of_erf():
    x = normal(3, 200_000, seed=1)
    with using_threads(1):
        one = erf(x)
    with using_threads(2):
        np.testing.assert_array_equal(erf(x), one)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "BatchNormalization", "Gemm", "MatMul", "Sigmoid"])
def test_half_precision_is_float32_rounded_once(op, dtype):
    x = X.astype(dtype)
    inputs = {
        "Conv": (x, normal(4, 6, 3, 3, seed=1).astype(dtype), normal(4, seed=2).astype(dtype)),
        "BatchNormalization": (x, *(np.abs(normal(6, seed=i)).astype(dtype) for i in range(4))),
        "Gemm": (x[0, 0], x[0, 1].T.copy()),
        "MatMul": (x, np.ascontiguousarray(x.transpose(0, 1, 3, 2))),
    }.get(op, (x,))
    attributes = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
    wide = run_operator(op, *(a.astype(np.float32) for a in inputs), **attributes)
    for constants in ((), range(1, len(inputs))):
        y = run_operator(op, *inputs, constants=constants, **attributes)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, wide.astype(dtype))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_broadcasts(op):
    other = normal(6, 1, 4, seed=1)
    exact = {"Add": X + other, "Sub": X - other, "Mul": X * other, "Div": X / other}[op]
    np.testing.assert_array_equal(run_operator(op, X, other), exact)


@pytest.mark.parametrize("axis", [None, 1, -3])
def test_arithmetic_of_opset_6_aligns_axes(axis):
    """By `axis`, or else at the end."""
    other = normal(6, 5, seed=1) if axis is not None else normal(5, 4, seed=1)
    expected = X + (other[..., None] if axis is not None else other)
    given = {} if axis is None else {"axis": axis}
    np.testing.assert_array_equal(run_operator("Add", X, other, opset=6, broadcast=1, **given), expected)


def test_integers_are_divided_towards_zero():
    a, b = np.int32([7, -7, 7, -7, 6, 0]), np.int32([2, 2, -2, -2, -3, 5])
    y = run_operator("Div", a, b)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, [3, -3, -3, 3, -2, 0])


def test_dtypes_do_not_mix():
    with pytest.raises(ModelError, match="A and B must have one dtype, got float32 and float64"):
        run_operator("Add", X, X.astype(np.float64))


@pytest.mark.parametrize(("op", "function"), [("Sum", sum), ("Mean", lambda xs: sum(xs) / 3)])
def test_sums_of_many(op, function):
    xs = [X, normal(6, 1, 1, seed=1), normal(1, seed=2)]
    np.testing.assert_allclose(run_operator(op, *xs), function(xs), rtol=2 * EPS)
    np.testing.assert_array_equal(run_operator(op, X), X)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extrema_of_many(op):
    xs = [X, normal(6, 1, 1, seed=1), normal(1, seed=2)]
    function = np.maximum if op == "Max" else np.minimum
    np.testing.assert_array_equal(run_operator(op, *xs), function(function(xs[0], xs[1]), xs[2]))


@pytest.mark.parametrize("exponent", [2, 0.5, 3, -1, 1])
@pytest.mark.parametrize("constants", [(1,), ()])
def test_powers(exponent, constants):
    x = np.abs(X)
    y = run_operator("Pow", x, np.float32([exponent]), constants=constants)
    np.testing.assert_allclose(y, x.astype(np.float64) ** exponent, rtol=4 * EPS)


def test_clip_of_old_and_new_opsets():
    low, high = (np.array(value, np.float32) for value in (-0.5, 0.25))
    np.testing.assert_array_equal(run_operator("Clip", X, opset=6, min=-0.5, max=0.25), np.clip(X, -0.5, 0.25))
    np.testing.assert_array_equal(run_operator("Clip", X, low, high), np.clip(X, -0.5, 0.25))
    np.testing.assert_array_equal(run_operator("Clip", X, None, high), np.minimum(X, np.float32(0.25)))
    np.testing.assert_array_equal(run_operator("Clip", X), X)


def test_prelu_of_old_and_new_opsets():
    slope = normal(6, seed=1)
    expected = np.where(X < 0, X * slope.reshape(6, 1, 1), X)
    np.testing.assert_array_equal(run_operator("PRelu", X, slope, opset=6), expected)
    np.testing.assert_array_equal(run_operator("PRelu", X, slope.reshape(6, 1, 1)), expected)


def test_softmax_of_old_opsets_joins_the_axes_behind():
    y = run_operator("Softmax", X, opset=12, axis=2)
    np.testing.assert_allclose(y.reshape(12, -1), of_torch(F.softmax, X.reshape(12, -1), dim=1), rtol=8 * EPS)
    np.testing.assert_array_equal(run_operator("Softmax", X, opset=12), run_operator("Softmax", X, opset=12, axis=1))


# Products.


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (6,), (1, 6), (5, 1), (5, 6)], ids=str)
@pytest.mark.parametrize("constants", [(1, 2), (1,), ()], ids=["packed", "weight", "given"])
def test_gemm(trans_a, trans_b, bias, constants):
    a, b = normal(5, 7), normal(7, 6, seed=1)
    c = None if bias is None else normal(*bias, seed=2)
    exact = 0.5 * a.astype(np.float64) @ b + (0 if c is None else 2.0 * c)
    y = run_operator(
        "Gemm", a.T.copy() if trans_a else a, b.T.copy() if trans_b else b, c, transA=trans_a, transB=trans_b,
        alpha=0.5, beta=2.0, constants=constants,
    )  # fmt: skip
    assert_within(y, exact, bound(np.float32, 7, a, b) * 2, np.float32)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("constants", [(1,), ()], ids=["packed", "given"])
def test_matmul(shape, constants):
    a, b = normal(*shape), normal(7, 6, seed=1)
    y = run_operator("MatMul", a, b, constants=constants)
    assert_within(y, a.astype(np.float64) @ b, bound(np.float32, 7, a, b), np.float32)


@pytest.mark.parametrize(
    ("a", "b"),
    [((5, 7), (7, 6)), ((2, 3, 5, 7), (2, 3, 7, 6)), ((2, 1, 5, 7), (3, 7, 6)), ((7,), (2, 7, 6)), ((2, 5, 7), (7,)),
     ((4, 0, 7), (4, 7, 6)), ((3, 5, 1), (3, 1, 6))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_stacks_of_products(a, b, turned):
    """Of values as they are, and of views with their last axes exchanged."""
    x, y = normal(*a), normal(*b, seed=1)
    if turned and min(x.ndim, y.ndim) > 1:
        x, y = (np.ascontiguousarray(z.swapaxes(-1, -2)).swapaxes(-1, -2) for z in (x, y))
    exact = x.astype(np.float64) @ y.astype(np.float64)
    assert_within(run_operator("MatMul", x, y), exact, bound(np.float32, a[-1], x, y), np.float32)


def test_products_that_do_not_fit():
    with pytest.raises(ModelError, match=r"MatMul .*x0 float32\[2, 5, 7\], x1 float32\[2, 6, 7\]"):
        run_operator("MatMul", normal(2, 5, 7), normal(2, 6, 7))


# Normalizations.


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_lrn(size):
    """The larger half of an even window lies ahead."""
    x, squares = X.astype(np.float64), np.zeros(X.shape)
    for c in range(6):
        squares[:, c] = np.square(x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]).sum(1)
    y = run_operator("LRN", X, size=size, alpha=0.5, beta=0.6, bias=2.0)
    np.testing.assert_allclose(y, x / (2 + 0.5 / size * squares) ** 0.6, rtol=16 * EPS, atol=EPS)


@pytest.mark.parametrize("size", [(), (5,), (5, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("constants", [range(1, 5), ()], ids=["constant", "given"])
def test_batch_normalization(size, constants):
    x = normal(3, 6, *size)
    scale, shift, mean, var = (normal(6, seed=i) for i in range(1, 5))
    y = run_operator("BatchNormalization", x, scale, shift, mean, np.abs(var), constants=constants, epsilon=0.01)
    exact = of_torch(F.batch_norm, x, mean, np.abs(var), scale, shift, eps=0.01)
    assert_within(y, exact, 8 * EPS * np.abs(exact).max() * 10, np.float32)


def test_batch_normalization_in_training():
    scale, shift, mean, var = (np.abs(normal(6, seed=i)) for i in range(1, 5))
    y, new_mean, new_var = run_operator(
        "BatchNormalization", X, scale, shift, mean, var, outputs=3, training_mode=1, momentum=0.8
    )
    x = X.astype(np.float64)
    batch_mean, batch_var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    np.testing.assert_allclose(new_mean, 0.8 * mean + 0.2 * batch_mean, rtol=4 * EPS, atol=EPS)
    np.testing.assert_allclose(new_var, 0.8 * var + 0.2 * batch_var, rtol=4 * EPS)
    exact = of_torch(F.batch_norm, X, batch_mean, batch_var, scale, shift)
    assert_within(y, exact, 16 * EPS * np.abs(exact).max(), np.float32)


def test_batch_normalization_of_elements():
    """spatial=0, of opsets 6 to 8: a mean for each element of a sample."""
    scale, shift, mean, var = (np.abs(normal(6, 5, 4, seed=i)) for i in range(1, 5))
    y = run_operator("BatchNormalization", X, scale, shift, mean, var, opset=8, spatial=0)
    exact = (X.astype(np.float64) - mean) / np.sqrt(var + 1e-5) * scale + shift
    np.testing.assert_allclose(y, exact, rtol=16 * EPS, atol=64 * EPS)


def test_layer_normalization():
    scale, shift = normal(5, 4, seed=1), normal(5, 4, seed=2)
    exact = of_torch(lambda x, s, b: F.layer_norm(x, (5, 4), s, b), X, scale, shift)
    limit = 32 * EPS * np.abs(exact).max()
    assert_within(run_operator("LayerNormalization", X, scale, shift, axis=2), exact, limit, np.float32)
    y, mean, inverse = run_operator("LayerNormalization", X, scale, shift, axis=2, outputs=3)
    assert_within(y, exact, limit, np.float32)
    x = X.astype(np.float64)
    np.testing.assert_allclose(mean, x.mean((2, 3), keepdims=True), atol=4 * EPS)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5), rtol=8 * EPS)
    one = run_operator("LayerNormalization", X[..., :1].copy(), scale[0, :1], shift[0, :1])
    np.testing.assert_array_equal(one, np.full((2, 6, 5, 1), shift[0, 0]))


def test_instance_and_group_normalization():
    scale, shift = normal(6, seed=1), normal(6, seed=2)
    exact = of_torch(lambda x, s, b: F.instance_norm(x, weight=s, bias=b), X, scale, shift)
    assert_within(run_operator("InstanceNormalization", X, scale, shift), exact, 32 * EPS * np.abs(exact).max())
    exact = of_torch(lambda x, s, b: F.group_norm(x, 3, s, b), X, scale, shift)
    limit = 32 * EPS * np.abs(exact).max()
    assert_within(run_operator("GroupNormalization", X, scale, shift, num_groups=3), exact, limit)
    of_groups = run_operator("GroupNormalization", X, scale[:3], shift[:3], num_groups=3, opset=20)
    exact = of_torch(lambda x, s, b: F.group_norm(x, 3, s, b), X, scale[:3].repeat(2), shift[:3].repeat(2))
    assert_within(of_groups, exact, limit * 2)


# Shapes and sizes.


@pytest.mark.parametrize("size", [(9, 7), (10, 8), (3, 9), (5, 4), (1, 1)], ids=str)
@pytest.mark.parametrize(
    ("mode", "corners"), [("linear", True), ("linear", False), ("cubic", True), ("cubic", False), ("nearest", None)]
)
def test_resize(size, mode, corners):
    ours = {None: "asymmetric", True: "align_corners", False: "half_pixel"}[corners]
    torchs = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[mode]
    wanted = np.array((2, 6, *size), np.int64)
    y = run_operator(
        "Resize", X, None, None, wanted, mode=mode, coordinate_transformation_mode=ours, nearest_mode="floor"
    )
    exact = of_torch(F.interpolate, X, size=size, mode=torchs, align_corners=corners)
    # A position is rounded to a few eps of it: PyTorch's own are computed in another order.
    assert_within(y, exact, 64 * EPS * np.abs(X).max() if mode != "nearest" else 0, np.float32)


def test_resize_of_a_long_axis():
    """By picking out what is used, not by a matrix."""
    x = normal(2, 3, 150)
    y = run_operator("Resize", x, None, None, np.array([2, 3, 400]), mode="linear")
    exact = of_torch(F.interpolate, x, size=400, mode="linear")
    assert_within(y, exact, 256 * EPS * np.abs(x).max(), np.float32)  # positions are up to 150 themselves


def test_resize_by_scales_and_upsample():
    scales = np.float32([1, 1, 2, 1.5])
    expected = X.repeat(2, 2)[..., [0, 0, 1, 2, 2, 3]]
    asymmetric = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    np.testing.assert_array_equal(run_operator("Resize", X, None, scales, **asymmetric), expected)
    np.testing.assert_array_equal(run_operator("Resize", X, scales, opset=10), expected)
    np.testing.assert_array_equal(run_operator("Upsample", X, scales, opset=9), expected)
    np.testing.assert_array_equal(run_operator("Upsample", X, opset=7, scales=scales.tolist()), expected)


def test_resize_keeps_what_is_not_finite_to_its_place():
    x = X.copy()
    x[0, 0, 2, 2] = np.inf
    y = run_operator("Resize", x, None, np.float32([1, 1, 1, 2]), mode="linear")
    assert np.isfinite(y[0, 0, 2, :2]).all()
    assert np.isinf(y[0, 0, 2, 4])


def test_views_and_parts():
    np.testing.assert_array_equal(run_operator("Reshape", X, np.array([0, -1, 2])), X.reshape(2, -1, 2))
    np.testing.assert_array_equal(run_operator("Reshape", X[:0], np.array([0, 3]), allowzero=1), np.zeros((0, 3)))
    np.testing.assert_array_equal(run_operator("Reshape", X, opset=4, shape=[-1, 4]), X.reshape(-1, 4))
    np.testing.assert_array_equal(run_operator("Flatten", X, axis=-2), X.reshape(12, 20))
    np.testing.assert_array_equal(run_operator("Transpose", X, perm=[3, 0, 2, 1]), X.transpose(3, 0, 2, 1))
    np.testing.assert_array_equal(run_operator("Unsqueeze", X, np.array([0, -1])), X[None, ..., None])
    np.testing.assert_array_equal(run_operator("Squeeze", X[:1], opset=11, axes=[0]), X[0])
    np.testing.assert_array_equal(run_operator("Shape", X, start=1, end=-1), [6, 5])
    np.testing.assert_array_equal(run_operator("Gather", X, np.array([[1, -1]]), axis=1), X[:, [[1, -1]]])
    np.testing.assert_array_equal(run_operator("Concat", X, X[:, :2], axis=1), np.concatenate([X, X[:, :2]], 1))
    backwards = (np.array(v) for v in ([-1, 4], [-(2**63), 0], [1, 2], [-2, -1]))
    np.testing.assert_array_equal(run_operator("Slice", X, *backwards), X[:, ::-2, 4:0:-1])
    np.testing.assert_array_equal(run_operator("Slice", X, opset=9, starts=[1], ends=[2**62], axes=[3]), X[..., 1:])


def test_split():
    for part, expected in zip(run_operator("Split", X, outputs=3, axis=1), np.split(X, 3, 1), strict=True):
        np.testing.assert_array_equal(part, expected)
    for part, size in zip(run_operator("Split", X, outputs=4, axis=2, num_outputs=4), (2, 2, 1, 0), strict=True):
        assert part.shape == (2, 6, size, 4)
    a, b = run_operator("Split", X, np.array([1, 5]), outputs=2, axis=1)
    np.testing.assert_array_equal(np.concatenate([a, b], 1), X)
    with pytest.raises(ModelError, match=r"split must add up to 6, the size of axis 1, got \[1, 4\]"):
        run_operator("Split", X, np.array([1, 4]), outputs=2, axis=1)


def test_dropout_hands_on_in_inference():
    y, mask = run_operator("Dropout", X, np.float32([0.9])[0:1].reshape(()), outputs=2)
    np.testing.assert_array_equal(y, X)
    assert mask.dtype == bool
    assert mask.all()


def test_fold_of_the_oracle_and_of_onnx_agree():
    """Col2Im of what Unfold would give is the image times how often each pixel was seen."""
    columns = fc.unfold(X, 2)
    y = run_operator("Col2Im", columns, np.array([5, 4]), np.array([2, 2]))
    assert_within(y, reference.fold(columns.astype(np.float64), (5, 4), 2), bound(np.float32, 4, X, np.ones(1)))
