"""Batch normalisation, local response normalisation and dropout, against PyTorch and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import each
from views import draw, each_isa_and_team, views

import fastconv.functional as ff
from fastconv import reference

DTYPES = [np.float32, np.float64]
LAYOUTS = ["channels_first", "channels_last"]
SHAPES = [(2, 1), (33, 5), (1, 3, 2), (4, 16, 9), (3, 17, 6, 7), (2, 33, 5, 5), (2, 3, 3, 4, 5), (1, 2, 70, 70)]
FIRST, LAST = LAYOUTS


def in_layout(a, data_format):
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)) if data_format == LAST else a


def close(ours, theirs, dtype, factor=100):
    assert ours.dtype == dtype
    eps = factor * np.finfo(dtype).eps
    np.testing.assert_allclose(ours, theirs, rtol=eps, atol=eps * max(1, np.abs(theirs).max(initial=0)))


def parameters(channels, dtype):
    mean, bias = draw(channels, dtype=dtype, seed=1), draw(channels, dtype=dtype, seed=3)
    var, weight = np.abs(draw(channels, dtype=dtype, seed=2)) + dtype(0.5), draw(channels, dtype=dtype, seed=4)
    return mean, var, weight, bias


@each(dtype=DTYPES, data_format=LAYOUTS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_against_torch(shape, affine, training, data_format, dtype):
    x = 2 * draw(*shape, dtype=dtype) + dtype(1.5)
    grad_y = draw(*shape, dtype=dtype, seed=9)
    mean, var, weight, bias = parameters(shape[1], dtype)
    if not affine:
        weight = bias = None
    leaves = [
        None if a is None else torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, weight, bias)
    ]
    running = [torch.tensor(a, dtype=torch.float64) for a in (mean, var)]
    theirs = F.batch_norm(leaves[0], *running, *leaves[1:], training, 0.3, 1e-3)
    theirs.backward(torch.tensor(grad_y, dtype=torch.float64))

    ours_x, ours_grad = in_layout(x, data_format), in_layout(grad_y, data_format)
    before = mean.copy(), var.copy()
    gradients = ff.batch_norm_backward(
        ours_grad, ours_x, weight, bias, running_mean=mean, running_var=var, training=training, eps=1e-3,
        data_format=data_format,
    )  # fmt: skip
    np.testing.assert_array_equal((mean, var), before)
    y = ff.batch_norm(ours_x, mean, var, weight, bias, training, 0.3, 1e-3, data_format=data_format)
    close(y, in_layout(theirs.detach().numpy(), data_format), dtype)
    close(mean, running[0].numpy(), dtype)
    close(var, running[1].numpy(), dtype)
    close(gradients[0], in_layout(leaves[0].grad.numpy(), data_format), dtype, 400)
    for gradient, leaf in zip(gradients[1:], leaves[1:], strict=True):
        assert (gradient is None) == (leaf is None)
        if leaf is not None:
            close(gradient, leaf.grad.numpy(), dtype, 400)


@each(dtype=DTYPES, data_format=LAYOUTS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_against_the_oracle(shape, training, data_format, dtype):
    x, grad_y = (in_layout(draw(*shape, dtype=dtype, seed=seed), data_format) for seed in (0, 9))
    mean, var, weight, bias = parameters(shape[1], dtype)
    exact = [a.astype(np.float64) for a in (x, grad_y, mean, var, weight, bias)]
    statistics = {"running_mean": mean, "running_var": var}
    exact_statistics = {"running_mean": exact[2], "running_var": exact[3]}
    options = {"training": training, "data_format": data_format}
    gradients = ff.batch_norm_backward(grad_y, x, weight, bias, **statistics, **options)
    expected = reference.batch_norm_backward(exact[1], exact[0], *exact[4:], **exact_statistics, **options)
    for ours, oracle in zip(gradients, expected, strict=True):
        close(ours, oracle, dtype, 400)
    y = ff.batch_norm(x, **statistics, weight=weight, bias=bias, **options)
    close(y, reference.batch_norm(exact[0], **exact_statistics, weight=exact[4], bias=exact[5], **options), dtype)
    close(mean, exact[2], dtype)
    close(var, exact[3], dtype)


@each(dtype=DTYPES, data_format=LAYOUTS)
@pytest.mark.parametrize("activation", ff.activation.ACTIVATIONS)
@pytest.mark.parametrize("training", [False, True])
# Rows and pixels of more and of less than a block, and a plane of several.
@pytest.mark.parametrize("shape", [(3, 17, 5, 7), (2, 5, 70, 71), (1, 2300, 2)])
def test_batch_norm_with_an_activation_and_a_residual(shape, training, activation, data_format, dtype):
    x, grad_y, residual = (in_layout(draw(*shape, dtype=dtype, seed=seed), data_format) for seed in (0, 9, 8))
    mean, var, weight, bias = parameters(shape[1], dtype)
    weight, bias = 3 * weight, 3 * bias  # so that relu6 meets both of its limits
    options = {"training": training, "data_format": data_format, "activation": activation}
    statistics = {"running_mean": mean, "running_var": var}
    exact = [a.astype(np.float64) for a in (x, grad_y, residual, mean.copy(), var.copy(), weight, bias)]
    exact_statistics = {"running_mean": exact[3], "running_var": exact[4]}

    gradients = ff.batch_norm_backward(grad_y, x, weight, bias, **statistics, **options)
    expected = reference.batch_norm_backward(exact[1], exact[0], *exact[5:], **exact_statistics, **options)
    inner = reference.batch_norm(exact[0], **copies(exact_statistics), weight=exact[5], bias=exact[6],
                                 **options | {"activation": None})  # fmt: skip
    # Next to a bend float32 may be on its other side: there the gradient is not compared, and the sums allow for it.
    bends = {"relu": (0,), "leaky_relu": (0,), "elu": (0,), "relu6": (0, 6)}.get(activation, ())
    near = np.any([np.abs(inner - bend) < 1e-4 for bend in (*bends, np.inf)], axis=0)
    assert near.mean() < 2e-4
    slack = np.abs(grad_y[near]).sum() * 4
    close(np.where(near, 0, gradients[0]), np.where(near, 0, expected[0]), dtype, 2000)
    for ours, oracle in zip(gradients[1:], expected[1:], strict=True):
        atol = slack + 400 * np.finfo(dtype).eps * np.abs(oracle).max()
        np.testing.assert_allclose(ours, oracle, rtol=0, atol=atol)

    oracle = reference.batch_norm(
        exact[0], **exact_statistics, weight=exact[5], bias=exact[6], residual=exact[2], **options
    )
    y, kept = ff.batch_norm(
        x, **statistics, weight=weight, bias=bias, residual=residual, return_statistics=True, **options
    )
    close(y, oracle, dtype, 400)
    assert (kept is None) == (not training)
    again = ff.batch_norm_backward(grad_y, x, weight, bias, **statistics, **options, statistics=kept)
    for first, second in zip(gradients, again, strict=True):
        assert training is False or np.array_equal(first, second)

    if activation in ff.activation.TOLD_BY_RESULT:
        of_sum = getattr(ff, f"{activation}_backward")(grad_y, y)
        plain = options | {"activation": None}
        expected = *ff.batch_norm_backward(of_sum, x, weight, bias, **statistics, **plain, statistics=kept), of_sum
        fused = ff.batch_norm_backward(grad_y, x, weight, bias, **statistics, **options, statistics=kept, y=y)
        for first, second in zip(fused, expected, strict=True):
            np.testing.assert_array_equal(first, second)


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def test_batch_norm_may_write_over_its_residual():
    x, residual = draw(4, 3, 5, 5), draw(4, 3, 5, 5, seed=1)
    expected = ff.batch_norm(x, None, None, training=True, residual=residual, activation="relu")
    y = ff.batch_norm(x, None, None, training=True, residual=residual, activation="relu", out=residual)
    assert y is residual
    np.testing.assert_array_equal(y, expected)
    with pytest.raises(ValueError, match="overlap"):
        ff.batch_norm(x, None, None, training=True, residual=residual[::-1], out=residual)


def test_batch_norm_returns_mean_and_biased_variance():
    x = draw(4, 3, 5, 5, dtype=np.float32)
    _, statistics = ff.batch_norm(x, None, None, training=True, return_statistics=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(statistics, [exact.mean((0, 2, 3)), exact.var((0, 2, 3))], rtol=1e-6, atol=1e-7)
    assert statistics.dtype == np.float64


@each(data_format=LAYOUTS)
def test_batch_norm_of_many_values_far_from_zero(data_format):
    x = (draw(8, 3, 64, 64) + 300).astype(np.float32)
    ours = ff.batch_norm(in_layout(x, data_format), None, None, training=True, data_format=data_format)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((0, 2, 3), keepdims=True)) / np.sqrt(exact.var((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(ours, in_layout(exact, data_format), atol=1e-5, rtol=1e-5)


@each(data_format=LAYOUTS)
def test_batch_norm_of_a_constant_channel(data_format):
    x = np.full((4, 2, 3, 3) if data_format == FIRST else (4, 3, 3, 2), 1e6, np.float32)
    np.testing.assert_array_equal(ff.batch_norm(x, None, None, training=True, data_format=data_format), 0)


def test_batch_norm_training_needs_no_running_statistics_and_may_update_one():
    x = draw(8, 3, 4)
    y = ff.batch_norm(x, None, None, training=True)
    mean = np.zeros(3)
    np.testing.assert_array_equal(ff.batch_norm(x, mean, None, training=True, momentum=1.0), y)
    np.testing.assert_allclose(mean, x.mean((0, 2)), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_an_empty_batch(training):
    mean, var, weight, bias = parameters(3, np.float32)
    x, before = np.zeros((0, 3, 4), np.float32), (mean.copy(), var.copy())
    assert ff.batch_norm(x, mean, var, weight, bias, training).shape == x.shape
    np.testing.assert_array_equal((mean, var), before)
    gradients = ff.batch_norm_backward(x, x, weight, bias, running_mean=mean, running_var=var, training=training)
    assert gradients[0].shape == x.shape
    np.testing.assert_array_equal(gradients[1:], np.zeros((2, 3)))


@pytest.mark.parametrize("training", [False, True])
@each(data_format=LAYOUTS)
def test_batch_norm_views_out_and_untouched_inputs(data_format, training):
    x, grad_y = draw(4, 3, 5, 3), draw(4, 3, 5, 3, seed=5)
    mean, var, weight, bias = parameters(3, np.float64)

    def run(x, grad_y, weight, bias, out=None):
        m, v = mean.copy(), var.copy()
        options = {"training": training, "data_format": data_format}
        gradients = ff.batch_norm_backward(grad_y, x, weight, bias, running_mean=m, running_var=v, **options)
        return [ff.batch_norm(x, m, v, weight, bias, **options, out=out), m, v, *gradients]

    expected = run(x, grad_y, weight, bias)
    out = np.full_like(x, np.nan)
    assert run(x, grad_y, weight, bias, out)[0] is out
    np.testing.assert_array_equal(out, expected[0])
    for (kind, *_), *arrays in zip(views(x), *map(views, (x, grad_y, weight, bias)), strict=True):
        arrays = [array for _, array in arrays]
        for ours, theirs in zip(run(*arrays), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=kind)
        for array, original in zip(arrays, (x, grad_y, weight, bias), strict=True):
            np.testing.assert_array_equal(array, original, err_msg=kind)


@pytest.mark.parametrize(("shape", "dtype"), [((70, 20, 19, 20), np.float32), ((3, 37, 70, 70), np.float64)])
@each(data_format=LAYOUTS)
def test_batch_norm_on_every_isa_and_number_of_threads(data_format, shape, dtype):
    x, grad_y = (in_layout(draw(*shape, dtype=dtype, seed=s) + dtype(2), data_format) for s in (0, 1))
    weight, bias = parameters(shape[1], dtype)[2:]
    options = {"running_mean": None, "running_var": None, "training": True, "data_format": data_format}

    def run():
        y = ff.batch_norm(x, weight=weight, bias=bias, **options, residual=grad_y, activation="sigmoid")
        gradients = ff.batch_norm_backward(grad_y, x, weight, bias, **options, activation="tanh")
        return np.concatenate([y.ravel(), *(g.ravel() for g in gradients)])

    results = each_isa_and_team(run)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=np.abs(results[0]).max() * 20 * np.finfo(dtype).eps)


def test_batch_norm_nan_spoils_its_channel_alone():
    x = draw(4, 3, 5)
    x[1, 1, 2] = np.nan
    y = ff.batch_norm(x, None, None, training=True)
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, ::2]).all()


X = np.zeros((2, 3, 4))
C3 = np.ones(3)


@pytest.mark.parametrize(
    ("x", "arguments", "options", "error", "match"),
    [
        (np.zeros((1, 3)), (C3, C3), {"training": True}, ValueError, "more than one value a channel"),
        (np.zeros((1, 3, 1, 1)), (None, None), {"training": True}, ValueError, "more than one value a channel"),
        (X, (None, C3), {}, ValueError, "running_mean and running_var must be arrays outside training"),
        (X, (C3, np.ones(4)), {}, ValueError, r"running_var must have shape \(3,\)"),
        (X, (C3, C3, np.ones((3, 1))), {}, ValueError, r"weight must have shape \(3,\)"),
        (X, (C3, C3, C3, np.ones(4)), {}, ValueError, r"bias must have shape \(3,\)"),
        (X, (C3, C3), {"data_format": LAST}, ValueError, r"running_mean must have shape \(4,\)"),
        (X, (C3, C3), {"data_format": "last"}, ValueError, "data_format must be"),
        (X, (C3, C3.astype(np.float32)), {}, TypeError, "running_var must have the dtype of x"),
        (X.astype(int), (C3, C3), {}, TypeError, "x must be float32 or float64"),
        (np.zeros(3), (C3, C3), {}, ValueError, "x must have shape"),
        (np.zeros((2, 3, 0)), (C3, C3), {}, ValueError, "x must have shape"),
        (X, (C3, C3), {"activation": "softplus"}, ValueError, "activation must be"),
        (X, (C3, C3), {"residual": X[:1]}, ValueError, r"residual must have shape \(2, 3, 4\)"),
        (X, (C3, C3), {"residual": X.astype(np.float32)}, TypeError, "residual must have the dtype of x"),
        (X, (C3, C3), {"return_statistics": "yes"}, TypeError, "return_statistics must be"),
    ],
)
def test_batch_norm_errors(x, arguments, options, error, match):
    with pytest.raises(error, match=match):
        ff.batch_norm(x, *arguments, **options)


def test_batch_norm_cannot_update_read_only_statistics():
    mean = np.zeros(3)
    mean.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        ff.batch_norm(X, mean, np.ones(3), training=True)
    ff.batch_norm(X, mean, np.ones(3))


def test_batch_norm_backward_errors():
    options = {"running_mean": C3, "running_var": C3, "training": False}
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 3, 4\)"):
        ff.batch_norm_backward(np.zeros((2, 3)), X, None, None, **options)
    with pytest.raises(TypeError, match="grad_y must have the dtype of x"):
        ff.batch_norm_backward(X.astype(np.float32), X, None, None, **options)
    with pytest.raises(ValueError, match="activation must be"):
        ff.batch_norm_backward(X, X, None, None, **options, activation="softplus")
    for statistics in (np.zeros(3), np.zeros((2, 4)), np.zeros((2, 3), np.float32)):
        with pytest.raises(ValueError, match=r"statistics must have shape \(2, 3\) and dtype float64"):
            ff.batch_norm_backward(X, X, None, None, **options, statistics=statistics)
    with pytest.raises(ValueError, match=r"y must have shape \(2, 3, 4\)"):
        ff.batch_norm_backward(X, X, None, None, **options, y=X[:1])
    with pytest.raises(TypeError, match="y must have the dtype of x"):
        ff.batch_norm_backward(X, X, None, None, **options, y=X.astype(np.float32))
    with pytest.raises(ValueError, match=r"one whose derivative y tells .*activation='gelu'"):
        ff.batch_norm_backward(X, X, None, None, **options, y=X, activation="gelu")
    assert ff.batch_norm_backward(X, X, None, None, **options, y=X)[3] is X


@each(dtype=DTYPES, data_format=LAYOUTS)
@pytest.mark.parametrize("size", [1, 4, 5, 20])
@pytest.mark.parametrize("shape", [(2, 19, 3, 4), (1, 2, 2, 3, 2)])
@pytest.mark.parametrize("parameter", [(1e-4, 0.75, 1.0), (0.5, 0.75, 2.0), (0.3, 1.3, 1.5)])
def test_local_response_norm_against_torch(shape, size, parameter, data_format, dtype):
    x, grad_y = 2 * draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = F.local_response_norm(leaf, size, *parameter)
    theirs.backward(torch.tensor(grad_y, dtype=torch.float64))
    ours, ours_grad = in_layout(x, data_format), in_layout(grad_y, data_format)
    y = ff.local_response_norm(ours, size, *parameter, data_format=data_format)
    grad_x = ff.local_response_norm_backward(ours_grad, ours, size, *parameter, data_format=data_format)
    close(y, in_layout(theirs.detach().numpy(), data_format), dtype, 20)
    close(grad_x, in_layout(leaf.grad.numpy(), data_format), dtype, 40)
    exact, exact_grad = ours.astype(np.float64), ours_grad.astype(np.float64)
    close(y, reference.local_response_norm(exact, size, *parameter, data_format=data_format), dtype, 20)
    expected = reference.local_response_norm_backward(exact_grad, exact, size, *parameter, data_format=data_format)
    close(grad_x, expected, dtype, 40)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 7, 40, 51), (3, 300, 9, 9), (1, 33, 70, 1)])
def test_local_response_norm_on_every_isa_and_number_of_threads(shape, data_format, dtype):
    """Blocks of columns or pixels, the last of which is none of whole vectors."""
    x, grad_y = (in_layout(2 * draw(*shape, dtype=dtype, seed=i), data_format) for i in range(2))
    wide, options = (grad_y.astype(np.float64), x.astype(np.float64), 5, 0.5), {"data_format": data_format}
    for y in each_isa_and_team(lambda: ff.local_response_norm(x, 5, 0.5, **options)):
        close(y, reference.local_response_norm(*wide[1:], **options), dtype, 20)
    for grad_x in each_isa_and_team(lambda: ff.local_response_norm_backward(grad_y, x, 5, 0.5, **options)):
        close(grad_x, reference.local_response_norm_backward(*wide, **options), dtype, 40)


def test_local_response_norm_looks_back_half_its_size():
    x = np.zeros((1, 5, 1))
    x[0, 2] = 1
    y = ff.local_response_norm(np.ones((1, 5, 1)), 4, alpha=4.0, beta=1.0, k=0.0)
    np.testing.assert_allclose(1 / y.ravel(), [2, 3, 4, 4, 3])  # channels c - 2 .. c + 1


def test_local_response_norm_views_out_and_untouched_inputs():
    x, grad_y = draw(2, 6, 3, 4), draw(2, 6, 3, 4, seed=1)
    y, grad_x = ff.local_response_norm(x, 3, 0.5), ff.local_response_norm_backward(grad_y, x, 3, 0.5)
    for (kind, xv), (_, gv) in zip(views(x), views(grad_y), strict=True):
        np.testing.assert_allclose(ff.local_response_norm(xv, 3, 0.5), y, rtol=1e-14, err_msg=kind)
        np.testing.assert_allclose(ff.local_response_norm_backward(gv, xv, 3, 0.5), grad_x, rtol=1e-12, err_msg=kind)
        np.testing.assert_array_equal(xv, x, err_msg=kind)
        np.testing.assert_array_equal(gv, grad_y, err_msg=kind)
    out = np.full_like(x, np.nan)
    assert ff.local_response_norm(x, 3, 0.5, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert ff.local_response_norm_backward(grad_y, x, 3, 0.5, out=out) is out
    np.testing.assert_array_equal(out, grad_x)


def test_local_response_norm_errors():
    with pytest.raises(ValueError, match="size must be >= 1"):
        ff.local_response_norm(X, 0)
    with pytest.raises(TypeError, match="size must be an integer"):
        ff.local_response_norm(X, 2.0)
    with pytest.raises(ValueError, match="3 dimensions or more"):
        ff.local_response_norm(np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="grad_y must have shape"):
        ff.local_response_norm_backward(X[:1], X, 2)


@each(dtype=DTYPES)
def test_dropout_keeps_the_mean_and_repeats_for_a_seed(dtype):
    x = np.ones((200, 500), dtype)
    y, mask = ff.dropout(x, 0.3, rng=np.random.default_rng(7))
    assert y.dtype == dtype
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(y, np.where(mask, dtype(1 / 0.7), 0))
    assert abs(mask.mean() - 0.7) < 5 * np.sqrt(0.21 / x.size)
    again, _ = ff.dropout(x, 0.3, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(again, y)
    other, _ = ff.dropout(x, 0.3, rng=np.random.default_rng(8))
    assert (other != y).any()
    grad_x = ff.dropout_backward(x, mask, 0.3)
    assert grad_x.dtype == dtype
    np.testing.assert_array_equal(grad_x, y)


def test_dropout_outside_training_is_the_identity():
    x = draw(3, 4)
    y, mask = ff.dropout(x, 0.9, training=False)
    np.testing.assert_array_equal(y, x)
    assert mask is None
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(ff.dropout_backward(x, mask, 0.9), x)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_everything(p, expected):
    x = np.ones((3, 4), np.float32)
    y, mask = ff.dropout(x, p)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(ff.dropout_backward(x, mask, p), expected)


def test_dropout_zeroes_infinities_and_nan():
    y, mask = ff.dropout(np.array([np.inf, np.nan] * 50), 0.5, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(y[~mask], 0)
    assert not np.isfinite(y[mask]).any()


def test_dropout_views_out_and_untouched_inputs():
    x = draw(4, 5)
    y, mask = ff.dropout(x, rng=np.random.default_rng(1))
    for kind, view in views(x):
        np.testing.assert_array_equal(ff.dropout(view, rng=np.random.default_rng(1))[0], y, err_msg=kind)
        np.testing.assert_array_equal(ff.dropout_backward(view, mask), np.where(mask, 2 * x, 0), err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    out = np.full_like(x, np.nan)
    assert ff.dropout(x, rng=np.random.default_rng(1), out=out)[0] is out
    np.testing.assert_array_equal(out, y)
    assert ff.dropout_backward(x, mask, out=out) is out


def test_dropout_on_every_isa_and_number_of_threads():
    x = draw(1_100_003, dtype=np.float32)
    for y in each_isa_and_team(lambda: ff.dropout(x, 0.25, rng=np.random.default_rng(1))[0]):
        np.testing.assert_allclose(y, reference.dropout(x, y != 0, 0.25), rtol=2e-7)


def test_dropout_errors():
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"p must be a probability within 0 \.\. 1"):
            ff.dropout(X, p)
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator, got int"):
        ff.dropout(X, rng=7)
    with pytest.raises(TypeError, match="mask must be a bool array"):
        ff.dropout_backward(X, np.ones(X.shape))
    with pytest.raises(ValueError, match="mask must have shape"):
        ff.dropout_backward(X, np.ones(3, bool))
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        ff.dropout(X.astype(int))
