"""Transposed convolution against the oracle: every case, dtype, layout and ISA, on one and all threads."""

import numpy as np
import pytest
from cases import CONV_TRANSPOSE, DTYPES, LARGE_CONV_TRANSPOSE, LAYOUTS, Tile, laid_out, values
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

import fastconv.functional as ff


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV_TRANSPOSE, LARGE_CONV_TRANSPOSE))
def test_forward(name, count, dtype, layout, isa):
    with using_threads(count):
        check_forward(CONV_TRANSPOSE[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV_TRANSPOSE, LARGE_CONV_TRANSPOSE))
def test_backward_input(name, count, dtype, layout, isa):
    case = CONV_TRANSPOSE[name](Tile.current(dtype))
    x, weight, _, grad_y = operands(case, dtype, layout)
    with using_threads(count):
        grad_x = operator(ff, case, "_backward")(
            grad_y, x, weight, data_format=layout, need=(True, False, False), **case.options
        )[0]
    exact = laid_out(exact_backward(case)[0], layout, "float64")
    assert_within(grad_x, exact, bound(dtype, np.prod(case.weight[1:]), grad_y, weight), dtype)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE_CONV_TRANSPOSE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    check_bits_of_threads(CONV_TRANSPOSE[name](Tile.current("float32")), layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", ["2d-unequal-everything", "2d-stride-beyond-kernel", "many-channels", "depthwise"])
def test_activations(name, activation, layout, isa):
    check_activation(CONV_TRANSPOSE[name](Tile.current("float32")), activation, "float32", layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["1d", "2d-unequal-everything", "3d", "threaded"])
def test_unbatched_is_a_batch_of_one(name, layout, isa):
    check_unbatched(CONV_TRANSPOSE[name](Tile.current("float32")), layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["2d-stride-beyond-kernel", "threaded", "2d-small-planes"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_out_is_filled_and_returned(name, layout, activation):
    check_out(CONV_TRANSPOSE[name](Tile.current("float32")), activation, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", ["2d-unequal-everything", "2d-small-planes", "1d-strided-dilated", "3d", "depthwise"])
def test_values_that_are_not_finite_go_where_ieee_says(name, dtype, layout, isa):
    check_not_finite(CONV_TRANSPOSE[name](Tile.current(dtype)), dtype, layout)


def test_output_padding_may_be_written_as_a_tuple_or_a_number():
    x, weight = values((1, 2, 3, 3), 0), values((2, 3, 2, 2), 1)
    y = ff.conv_transpose2d(x, weight, None, 2, 0, 1)
    assert y.shape == (1, 3, 7, 7)
    for output_padding in (np.int64(1), (1,), [1, 1]):
        np.testing.assert_array_equal(ff.conv_transpose2d(x, weight, stride=2, output_padding=output_padding), y)
