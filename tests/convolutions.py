"""What convolutions, transposed ones and their weight gradients are tested with alike: operands, oracle, promises."""

from functools import cache

import numpy as np
from cases import ConvTranspose, laid_out, values
from conftest import using_threads
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import reference


def operator(module, case, suffix=""):
    """The operator of a case in `fastconv.functional` or in the oracle."""
    kind = "conv_transpose" if isinstance(case, ConvTranspose) else "conv"
    return getattr(module, f"{kind}{case.ndim}d{suffix}")


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
    """Products that an element of y sums."""
    if isinstance(case, ConvTranspose):
        return np.prod(case.weight) // case.weight[1] // case.groups
    return np.prod(case.weight[1:])


def check_forward(case, dtype, layout):
    """y of a case, with bias, is the oracle's."""
    x, weight, bias, _ = operands(case, dtype, layout)
    y = operator(ff, case)(x, weight, bias, data_format=layout, **case.options)
    exact = laid_out(exact_forward(case), layout, "float64")
    assert_within(y, exact, bound(dtype, terms_of_y(case), x, weight), dtype)


def check_bits_of_threads(case, layout):
    """One, two, five and sixteen threads leave the same bits."""
    x, weight, bias, grad_y = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}

    def results():
        gradients = operator(ff, case, "_backward")(grad_y, x, weight, **options)
        return operator(ff, case)(x, weight, bias, **options), *gradients

    with using_threads(1):
        expected = results()
    for count in (2, 5, 16):
        with using_threads(count):
            for result, serial in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(result.view(np.uint32), serial.view(np.uint32))


def check_activation(case, activation, dtype, layout):
    """y with a fused activation is the oracle's."""
    x, weight, bias, _ = operands(case, dtype, layout)
    y = operator(ff, case)(x, weight, bias, activation=activation, data_format=layout, **case.options)
    linear = exact_forward(case)
    exact = getattr(reference, activation)(linear)
    # None of them is steeper than 1; the curves themselves are good to a few units in the last place.
    own = 8 * np.finfo(dtype).eps * max(1, np.abs(exact).max())
    limit = bound(dtype, terms_of_y(case), x, weight) + own
    assert_within(y, laid_out(exact, layout, "float64"), limit, dtype)


def check_unbatched(case, layout):
    """Without a batch axis all results are those of a batch of one."""
    x, weight, bias, grad_y = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}
    y = operator(ff, case)(x[0], weight, bias, **options)
    np.testing.assert_array_equal(y, operator(ff, case)(x[:1], weight, bias, **options)[0])
    gradients = operator(ff, case, "_backward")(grad_y[0], x[0], weight, **options)
    expected = operator(ff, case, "_backward")(grad_y[:1], x[:1], weight, **options)
    for actual, e in zip(gradients, (expected[0][0], *expected[1:]), strict=True):
        np.testing.assert_array_equal(actual, e)


def check_out(case, activation, layout):
    """`out` is returned and filled, and nothing beside it, though it begins at an odd element."""
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, "activation": activation, **case.options}
    expected = operator(ff, case)(x, weight, bias, **options)
    memory = np.full(expected.size + 129, np.nan, np.float32)
    out = memory[65:-64].reshape(expected.shape)
    assert operator(ff, case)(x, weight, bias, out=out, **options) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[:65]).all()
    assert np.isnan(memory[-64:]).all()


def check_not_finite(case, dtype, layout):
    """NaN and infinities reach the outputs that IEEE's rules say."""
    x, weight, bias, _ = operands(case, dtype, layout)
    rng = np.random.default_rng(5)
    for value in (np.nan, np.inf, -np.inf):
        x.flat[rng.integers(x.size, size=2)] = value
    weight.flat[rng.integers(weight.size, size=3)] = 0  # times infinity
    options = {"data_format": layout, **case.options}
    with np.errstate(invalid="ignore"):
        exact = operator(reference, case)(*(a.astype(np.float64) for a in (x, weight, bias)), **options)
    assert np.isnan(exact).any()
    y = operator(ff, case)(x, weight, bias, **options)
    assert_within(y, exact, bound(dtype, terms_of_y(case), np.ones(1), weight), dtype)
