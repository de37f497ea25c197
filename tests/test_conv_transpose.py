"""Transposed convolution against the oracle: every case, dtype, layout and ISA, on one and all threads."""

from functools import cache

import numpy as np
import pytest
from cases import CONV_TRANSPOSE, DTYPES, LAYOUTS, Tile, laid_out, values
from conftest import using_threads
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import reference

LARGE = [name for name in CONV_TRANSPOSE if name.startswith(("threaded", "many"))]


def operator(module, case, suffix=""):
    return getattr(module, f"conv_transpose{case.ndim}d{suffix}")


@cache
def exact_forward(case):
    x, weight, bias = values(case.x, 0), values(case.weight, 1), values((case.channels,), 2)
    return operator(reference, case)(x, weight, bias, **case.options)


@cache
def exact_backward(case):
    grad_y, x, weight = values(case.y, 3), values(case.x, 0), values(case.weight, 1)
    return operator(reference, case, "_backward")(grad_y, x, weight, **case.options)


def operands(case, dtype, layout):
    """x, weight, bias and grad_y as a user passes them."""
    x, grad_y = (laid_out(values(shape, seed), layout, dtype) for shape, seed in ((case.x, 0), (case.y, 3)))
    return x, values(case.weight, 1).astype(dtype), values((case.channels,), 2).astype(dtype), grad_y


def terms_of_y(case):
    return np.prod(case.weight) // case.weight[1] // case.groups


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONV_TRANSPOSE)
def test_forward(name, dtype, layout, isa, threads):
    case = CONV_TRANSPOSE[name](Tile.current(dtype))
    x, weight, bias, _ = operands(case, dtype, layout)
    y = operator(ff, case)(x, weight, bias, data_format=layout, **case.options)
    exact = laid_out(exact_forward(case), layout, "float64")
    assert_within(y, exact, bound(dtype, terms_of_y(case), x, weight), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONV_TRANSPOSE)
def test_backward_input(name, dtype, layout, isa, threads):
    case = CONV_TRANSPOSE[name](Tile.current(dtype))
    x, weight, _, grad_y = operands(case, dtype, layout)
    grad_x = operator(ff, case, "_backward")(
        grad_y, x, weight, data_format=layout, need=(True, False, False), **case.options
    )[0]
    exact = laid_out(exact_backward(case)[0], layout, "float64")
    assert_within(grad_x, exact, bound(dtype, np.prod(case.weight[1:]), grad_y, weight), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = CONV_TRANSPOSE[name](Tile.current("float32"))
    x, weight, bias, grad_y = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}

    def results():
        gradients = operator(ff, case, "_backward")(grad_y, x, weight, **options)
        return operator(ff, case)(x, weight, bias, **options), *gradients

    with using_threads(1):
        expected = results()
    for count in (2, 5):
        with using_threads(count):
            for result, serial in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(result.view(np.uint32), serial.view(np.uint32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", ["2d-unequal-everything", "2d-stride-beyond-kernel", "many-channels", "depthwise"])
def test_activations(name, activation, layout, isa):
    case = CONV_TRANSPOSE[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    y = operator(ff, case)(x, weight, bias, activation=activation, data_format=layout, **case.options)
    linear = exact_forward(case)
    exact = np.clip(linear, 0, 6) if activation == "relu6" else getattr(reference, activation)(linear)
    own = 8 * np.finfo("float32").eps * max(1, np.abs(exact).max())
    limit = bound("float32", terms_of_y(case), x, weight) + own
    assert_within(y, laid_out(exact, layout, "float64"), limit, "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["1d", "2d-unequal-everything", "3d", "threaded"])
def test_unbatched_is_a_batch_of_one(name, layout, isa):
    case = CONV_TRANSPOSE[name](Tile.current("float32"))
    x, weight, bias, grad_y = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}
    y = operator(ff, case)(x[0], weight, bias, **options)
    np.testing.assert_array_equal(y, operator(ff, case)(x[:1], weight, bias, **options)[0])
    gradients = operator(ff, case, "_backward")(grad_y[0], x[0], weight, **options)
    expected = operator(ff, case, "_backward")(grad_y[:1], x[:1], weight, **options)
    for actual, e in zip(gradients, (expected[0][0], *expected[1:]), strict=True):
        np.testing.assert_array_equal(actual, e)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["2d-stride-beyond-kernel", "threaded", "2d-small-planes"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_out_is_filled_and_returned(name, layout, activation):
    case = CONV_TRANSPOSE[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, "activation": activation, **case.options}
    expected = operator(ff, case)(x, weight, bias, **options)
    memory = np.full(expected.size + 129, np.nan, np.float32)
    out = memory[65:-64].reshape(expected.shape)
    assert operator(ff, case)(x, weight, bias, out=out, **options) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[:65]).all()
    assert np.isnan(memory[-64:]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["2d-unequal-everything", "2d-small-planes", "1d-strided-dilated", "3d", "depthwise"])
def test_values_that_are_not_finite_go_where_ieee_says(name, dtype, layout, isa):
    case = CONV_TRANSPOSE[name](Tile.current(dtype))
    x, weight, bias, _ = operands(case, dtype, layout)
    rng = np.random.default_rng(5)
    for value in (np.nan, np.inf, -np.inf):
        x.flat[rng.integers(x.size, size=2)] = value
    weight.flat[rng.integers(weight.size, size=3)] = 0
    options = {"data_format": layout, **case.options}
    with np.errstate(invalid="ignore"):
        exact = operator(reference, case)(*(a.astype(np.float64) for a in (x, weight, bias)), **options)
    assert np.isnan(exact).any()
    y = operator(ff, case)(x, weight, bias, **options)
    assert_within(y, exact, bound(dtype, terms_of_y(case), np.ones(1), weight), dtype)


def test_output_padding_may_be_written_as_a_tuple_or_a_number():
    x, weight = values((1, 2, 3, 3), 0), values((2, 3, 2, 2), 1)
    y = ff.conv_transpose2d(x, weight, None, 2, 0, 1)
    assert y.shape == (1, 3, 7, 7)
    for output_padding in (np.int64(1), (1,), [1, 1]):
        np.testing.assert_array_equal(ff.conv_transpose2d(x, weight, stride=2, output_padding=output_padding), y)
