"""Convolution against the oracle: every case, dtype, layout and ISA, on one and all threads."""

from itertools import product

import numpy as np
import pytest
from cases import CONV, DTYPES, LARGE_CONV, LAYOUTS, Tile, laid_out
from conftest import each, on_threads, using_threads
from convolutions import (
    check_activation,
    check_bits_of_threads,
    check_forward,
    check_not_finite,
    check_out,
    check_unbatched,
    exact_backward,
    operands,
    operator,
)
from tolerance import assert_within, bound
from views import draw

import fastconv.functional as ff
from fastconv import reference


def check_backward_input(case, dtype, layout):
    """grad_x of a case is the oracle's."""
    x, weight, _, grad_y = operands(case, dtype, layout)
    need = (True, False, False)
    grad_x, *others = operator(ff, case, "_backward")(grad_y, x, weight, data_format=layout, need=need, **case.options)
    assert others == [None, None]
    terms = np.prod(case.weight) // case.groups * copies_of_a_pixel(case)
    exact = laid_out(exact_backward(case)[0], layout, "float64")
    assert_within(grad_x, exact, bound(dtype, terms, grad_y, weight), dtype)


def copies_of_a_pixel(case):
    """How often padding repeats one at most."""
    g = case.geometry
    if case.padding_mode == "zeros":
        return 1
    return np.prod([1 + before + after for before, after in g.padding])


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV, LARGE_CONV))
def test_forward(name, count, dtype, layout, isa):
    with using_threads(count):
        check_forward(CONV[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV, LARGE_CONV))
def test_backward_input(name, count, dtype, layout, isa):
    with using_threads(count):
        check_backward_input(CONV[name](Tile.current(dtype)), dtype, layout)


@pytest.mark.parametrize("need", list(product((False, True), repeat=3)))
def test_only_what_is_needed_is_computed(need):
    case = CONV["2d-unequal-everything"](Tile.current("float32"))
    x, weight, _, grad_y = operands(case, "float32", "channels_first")
    everything = ff.conv2d_backward(grad_y, x, weight, **case.options)
    some = ff.conv2d_backward(grad_y, x, weight, need=need, **case.options)
    for gradient, expected, needed in zip(some, everything, need, strict=True):
        if needed:
            np.testing.assert_array_equal(gradient, expected)
        else:
            assert gradient is None


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE_CONV)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    check_bits_of_threads(CONV[name](Tile.current("float32")), layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", ["2d-unequal-everything", "many-channels", "1d", "depthwise", "3d-grouped"])
def test_activations(name, activation, dtype, layout, isa):
    check_activation(CONV[name](Tile.current(dtype)), activation, dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["2d-unequal-everything", "1d-causal", "3d-asymmetric-padding", "circular"])
def test_true_convolution_flips_the_kernel(name, layout, isa):
    case = CONV[name](Tile.current("float64"))
    x, weight, bias, grad_y = operands(case, "float64", layout)
    options = {"data_format": layout, "flip_kernel": True, **case.options}
    y = operator(ff, case)(x, weight, bias, **options)
    limit = bound("float64", np.prod(case.weight[1:]), x, weight)
    assert_within(y, operator(reference, case)(x, weight, bias, **options), limit)
    gradients = operator(ff, case, "_backward")(grad_y, x, weight, **options)
    limit = bound("float64", max(np.prod(case.weight), np.prod(case.y)) * copies_of_a_pixel(case), grad_y, weight)
    for actual, exact in zip(
        gradients, operator(reference, case, "_backward")(grad_y, x, weight, **options), strict=True
    ):
        assert_within(actual, exact, limit)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["1d", "2d-unequal-everything", "3d", "threaded-replicate"])
def test_unbatched_is_a_batch_of_one(name, layout, isa):
    check_unbatched(CONV[name](Tile.current("float32")), layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["2d-unequal-everything", "threaded-grouped", "2d-small-planes-cross-images"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_out_is_filled_and_returned(name, layout, activation):
    check_out(CONV[name](Tile.current("float32")), activation, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(
    "name",
    ["2d-unequal-everything", "2d-small-planes-cross-images", "1d-long-strided-row", "in_channels=NR+1", "reflect",
     "depthwise", "groups", "2d-dilated-into-padding", "3d", "threaded-first-layer"],
)  # fmt: skip
def test_values_that_are_not_finite_go_where_ieee_says(name, dtype, layout, isa):
    check_not_finite(CONV[name](Tile.current(dtype)), dtype, layout)


def test_clamps_let_nan_pass(isa):
    x = np.array([np.nan, np.inf, -np.inf, 7, -1], np.float32).reshape(1, 1, 5)
    weight = np.ones((1, 1, 1), np.float32)
    np.testing.assert_array_equal(ff.conv1d(x, weight, activation="relu")[0, 0], [np.nan, np.inf, 0, 7, 0])
    np.testing.assert_array_equal(ff.conv1d(x, weight, activation="relu6")[0, 0], [np.nan, 6, 0, 6, 0])


@each(layout=LAYOUTS)
def test_whole_numbers_are_exact(layout, isa):
    rng = np.random.default_rng(0)
    x, weight = (laid_out(rng.integers(-9, 9, shape), layout, "float32") for shape in ((2, 1, 40, 37), (1, 1, 7, 5)))
    weight = weight.reshape(1, 1, 7, 5)
    y = ff.conv2d(x, weight, padding="same", data_format=layout)
    np.testing.assert_array_equal(y, reference.conv2d(x, weight, padding="same", data_format=layout))


@pytest.mark.parametrize(
    "padding", [1, np.int64(1), (1,), [1, 2], (1, 2), ((1, 1),), ((1, 0), (2, 1)), [[0, 3], [1, 1]], "same", "valid"]
)
def test_every_way_to_write_a_padding(padding):
    x, weight = draw(2, 3, 9, 8), draw(4, 3, 3, 2, seed=1)
    y = ff.conv2d(x, weight, padding=padding)
    np.testing.assert_allclose(y, reference.conv2d(x, weight, padding=padding), atol=1e-13)


@pytest.mark.parametrize("number", [2, np.int64(2), np.uint8(2), (2,), [2], (2, 2), [np.int32(2), 2]])
def test_every_way_to_write_a_number(number):
    x, weight = draw(2, 3, 9, 8), draw(4, 3, 3, 2, seed=1)
    for name in ("stride", "dilation"):
        y = ff.conv2d(x, weight, **{name: number})
        np.testing.assert_allclose(y, reference.conv2d(x, weight, **{name: 2}), atol=1e-13)
