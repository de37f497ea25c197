"""Depthwise convolution against the oracle: every case, dtype, layout and ISA, on one and all threads."""

import tracemalloc
from dataclasses import replace
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, DEPTHWISE, DTYPES, LAYOUTS, Conv, ConvTranspose, Tile, depthwise, laid_out
from conftest import each, on_threads, using_threads
from convolutions import (
    check_activation,
    check_bits_of_threads,
    check_forward,
    check_out,
    check_unbatched,
    exact_backward,
    operands,
    operator,
)
from hypothesis import assume, given
from test_backward_weight import check as check_backward_weight
from test_conv import check_backward_input
from tolerance import assert_within, bound
from views import views

import fastconv
import fastconv.functional as ff
from fastconv import reference, runtime
from fastconv.kernels.depthwise import DepthwiseLines
from fastconv.kernels.depthwise_weight import DepthwiseWeight
from fastconv.planner import ConvPlan

LARGE = [name for name in DEPTHWISE if name.startswith(("threaded", "1d-long", "3x3-large", "7x7", "3d-large"))]

# A few of each way through the arrays: rows of pixels, turned planes, planes, long rows, scratch for several outputs.
FEW = ["3x3", "3x3-large-strided", "1d-long", "7x7-large-by-two", "channels-by-two=VLEN+1", "threaded-by-two",
       "3d-unequal-everything", "stride-beyond-kernel", "reflect", "replicate-1d-dilated"]  # fmt: skip

TRANSPOSED = {
    "small": ConvTranspose((2, 19, 5, 6), (19, 1, 3, 3), padding=1, groups=19),
    "doubling": ConvTranspose((2, 19, 9, 8), (19, 1, 4, 4), stride=2, padding=1, groups=19),
    "doubling-large": ConvTranspose((1, 3, 31, 33), (3, 1, 4, 4), stride=2, padding=1, groups=3),
    "unequal": ConvTranspose(
        (2, 10, 9, 8), (10, 1, 3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(3, 1), groups=5
    ),
    "1d": ConvTranspose((2, 5, 90), (5, 1, 8), stride=4, padding=2, groups=5),
    "3d": ConvTranspose((1, 9, 4, 5, 6), (9, 1, 3, 3, 3), stride=2, output_padding=1, groups=9),
}


@pytest.fixture(autouse=True)
def _by_nothing_else():
    with fastconv.algorithm("depthwise"):
        yield


def gradients(case, dtype, layout, need=(True, True, True)):
    x, weight, _, grad_y = operands(case, dtype, layout)
    return operator(ff, case, "_backward")(grad_y, x, weight, data_format=layout, need=need, **case.options)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(DEPTHWISE, LARGE))
def test_forward(name, count, dtype, layout, isa):
    with using_threads(count):
        check_forward(DEPTHWISE[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(DEPTHWISE, LARGE))
def test_backward_input(name, count, dtype, layout, isa):
    with using_threads(count):
        check_backward_input(DEPTHWISE[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(DEPTHWISE, LARGE))
def test_backward_weight(name, count, dtype, layout, isa):
    with using_threads(count):
        check_backward_weight(DEPTHWISE[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1, ((2, 0), (0, 2)), ((0, 1), (0, 1)), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_few_rows_and_columns(stride, padding, dtype, layout, isa):
    """Blocks of 3x3 windows: whole ones, those that step back, and those that padding cuts on any side."""
    channels = Tile.current(dtype).vlen + 3
    for size in [(n, 7) for n in range(3, 12)] + [(9, n) for n in range(3, 7)]:
        case = depthwise((1, channels, *size), (3, 3), stride=stride, padding=padding)
        check_forward(case, dtype, layout)
        check_backward_input(case, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("padding", [((3, 0), 1), (1, (3, 0)), ((3, 0), (3, 0))])
def test_windows_that_meet_nothing_but_padding(padding, dtype, layout, isa):
    """The only window of stride 2 ends before the only row or column, so that its gradient is zero."""
    size = [1 if p == (3, 0) else 9 for p in padding]
    padding = tuple((p, p) if isinstance(p, int) else p for p in padding)
    case = depthwise((2, Tile.current(dtype).vlen + 3, *size), (3, 3), stride=2, padding=padding)
    check_forward(case, dtype, layout)
    check_backward_input(case, dtype, layout)
    check_backward_weight(case, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name, dtype, layout, isa, threads):
    case = TRANSPOSED[name]
    check_forward(case, dtype, layout)
    check_backward_weight(case, dtype, layout)
    _, weight, _, grad_y = operands(case, dtype, layout)
    exact = laid_out(exact_backward(case)[0], layout, "float64")
    found = gradients(case, dtype, layout, (True, False, False))[0]
    assert_within(found, exact, bound(dtype, np.prod(case.weight[1:]), grad_y, weight), dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", FEW)
def test_activations(name, activation, dtype, layout, isa):
    check_activation(DEPTHWISE[name](Tile.current(dtype)), activation, dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_without_bias_it_is_zero(name, layout, isa):
    case = DEPTHWISE[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}
    y = operator(ff, case)(x, weight, None, **options)
    np.testing.assert_array_equal(y, operator(ff, case)(x, weight, 0 * bias, **options))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    check_bits_of_threads(DEPTHWISE[name](Tile.current("float32")), layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("name", FEW)
def test_out_is_filled_and_returned(name, activation, layout, isa):
    check_out(DEPTHWISE[name](Tile.current("float32")), activation, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["threaded", "threaded-turned", *FEW])
def test_one_gradient_is_that_of_all(name, layout, isa, threads):
    case = DEPTHWISE[name](Tile.current("float32"))
    everything = gradients(case, "float32", layout)
    for need in product((False, True), repeat=3):
        for gradient, expected, needed in zip(gradients(case, "float32", layout, need), everything, need, strict=True):
            if needed:
                np.testing.assert_array_equal(gradient, expected)
            else:
                assert gradient is None


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_values_that_are_not_finite_go_where_ieee_says(name, dtype, layout, isa):
    """Of what lies in padding nothing is computed: not even its product with an infinity of grad_y."""
    case = DEPTHWISE[name](Tile.current(dtype))
    x, weight, bias, grad_y = operands(case, dtype, layout)
    bad_x, bad_grad_y, rng = x.copy(), grad_y.copy(), np.random.default_rng(5)
    for value in (np.nan, np.inf, -np.inf):
        bad_x.flat[rng.integers(x.size, size=3)] = bad_grad_y.flat[rng.integers(grad_y.size, size=3)] = value
    bad_x.flat[0] = np.nan  # which every stride meets
    weight.flat[rng.integers(weight.size, size=3)] = 0  # times infinity

    def results(module, *arrays):
        x, weight, bias, grad_y, bad_x, bad_grad_y = arrays
        options = {"data_format": layout, **case.options}
        backward = operator(module, case, "_backward")
        grad_x, _, grad_bias = backward(bad_grad_y, x, weight, **options)
        grad_weight = backward(grad_y, bad_x, weight, **options)[1]
        return operator(module, case)(bad_x, weight, bias, **options), grad_x, grad_weight, grad_bias

    arrays = x, weight, bias, grad_y, bad_x, bad_grad_y
    with np.errstate(invalid="ignore"):
        exact = results(reference, *(a.astype(np.float64) for a in arrays))
        found = results(ff, *arrays)
    limit = bound(dtype, max(np.prod(case.y), np.prod(case.weight)), np.ones(1), np.ones(1))
    assert np.isnan(exact[0]).any()
    for result, e in zip(found, exact, strict=True):
        assert_within(result, e, limit, dtype)


@each(layout=LAYOUTS)
def test_idle_lanes_do_not_show(layout, isa):
    """Memory of an earlier call, full of NaN, is behind the last channel and the last column."""
    full = depthwise((2, 64, 40, 41), (5, 5), padding=2)
    for name in ("3x3", "3x3-large-strided", "1d-strided-dilated"):
        x, weight, _, grad_y = (np.full_like(a, np.nan) for a in operands(full, "float32", layout))
        operator(ff, full, "_backward")(grad_y, x, weight, data_format=layout, **full.options)
        case = DEPTHWISE[name](Tile.current("float32"))
        check_forward(case, "float32", layout)
        check_backward_input(case, "float32", layout)
        check_backward_weight(case, "float32", layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["3x3", "3x3-large-strided", "3d-unequal-everything"])
def test_arrays_of_any_strides(name, layout):
    case = DEPTHWISE[name](Tile.current("float32"))
    x, weight, bias, grad_y = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}
    y, expected = operator(ff, case)(x, weight, bias, **options), gradients(case, "float32", layout)
    for kinds in zip(*(views(a) for a in (x, weight, bias, grad_y)), strict=True):
        a, w, b, g = (array for _, array in kinds)
        np.testing.assert_array_equal(operator(ff, case)(a, w, b, **options), y)
        for actual, e in zip(operator(ff, case, "_backward")(g, a, w, **options), expected, strict=True):
            np.testing.assert_array_equal(actual, e)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["3x3", "dilated-into-padding", "1d-causal", "circular-3d"])
def test_unbatched_is_a_batch_of_one(name, layout, isa):
    check_unbatched(DEPTHWISE[name](Tile.current("float32")), layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("batch", [None, 2])
def test_a_kernel_that_meets_nothing_but_padding(batch, layout):
    x = np.ones((batch or 1, 3, 2, 2), np.float32)
    weight, bias = np.ones((6, 1, 1, 1), np.float32), np.arange(6, dtype=np.float32)
    x = laid_out(x, layout, "float32") if batch else laid_out(x, layout, "float32")[0]
    options = {"groups": 3, "padding": ((1, 0), (1, 0)), "stride": 9, "data_format": layout}
    y = ff.conv2d(x, weight, bias, **options)
    np.testing.assert_array_equal(y.reshape(-1, 6), np.broadcast_to(bias, (batch or 1, 6)))
    grad_x, grad_weight, grad_bias = ff.conv2d_backward(np.ones_like(y), x, weight, **options)
    assert grad_x.shape == x.shape
    assert not grad_x.any()
    assert not grad_weight.any()
    np.testing.assert_array_equal(grad_bias, np.full(6, batch or 1))


@st.composite
def geometries(draw):
    ndim = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    most = {1: 150, 2: 40, 3: 9}[ndim]
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5, 7, 8, 9, 16, 17, 33])), *each(1, most))
    kernel, padding = each(1, 4 if ndim == 3 else 7), tuple(zip(each(0, 6), each(0, 6), strict=True))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    case = depthwise(
        shape, kernel, draw(st.integers(1, 3)), stride=each(1, 5), dilation=each(1, 4), padding=padding,
        padding_mode=mode,
    )  # fmt: skip
    try:
        case.geometry  # noqa: B018
    except ValueError:
        assume(False)
    return case


@pytest.mark.isa_independent
@given(case=geometries(), isa=st.sampled_from(runtime.available_isas()), layout=st.sampled_from(LAYOUTS),
       dtype=st.sampled_from(DTYPES))  # fmt: skip
def test_any_geometry(case, isa, layout, dtype):
    before = runtime.get_isa()
    runtime.set_isa(isa)
    try:
        check_forward(case, dtype, layout)
        check_backward_input(case, dtype, layout)
        check_backward_weight(case, dtype, layout)
    finally:
        runtime.set_isa(before)


# --- which algorithm -------------------------------------------------------------------------------------------------


def plan(case, layout="channels_first", algorithm="auto"):
    geometry = replace(case.geometry, channels_last=layout == "channels_last")
    mode = getattr(case, "padding_mode", "zeros")
    return ConvPlan(geometry, np.dtype(np.float32), mode, algorithm)


@pytest.mark.parametrize(
    ("case", "algorithm"),
    [
        (depthwise((1, 7, 5, 5), (3, 3)), "depthwise"),
        (depthwise((1, 7, 5, 5), (3, 3), 4), "depthwise"),
        (depthwise((1, 1, 50, 50), (3, 3)), "depthwise"),
        (depthwise((1, 1, 28, 28), (3, 3), 8), "direct"),
        (CONV["groups"](None), "direct"),
        (CONV["2d"](None), "direct"),
        (CONV_TRANSPOSE["depthwise"](None), "depthwise"),
        (CONV_TRANSPOSE["depthwise-multiplier"](None), "direct"),
    ],
)
@pytest.mark.isa_independent
def test_auto_takes_it_where_groups_have_one_channel(case, algorithm):
    for p in (plan(case), plan(case).unpadded):
        assert (p.planned("backward_input").choice.algorithm == "depthwise") == (algorithm == "depthwise")


@pytest.mark.isa_independent
def test_a_policy_chooses_the_kernels():
    case = DEPTHWISE["circular"](None)
    for algorithm in ("direct", "depthwise"):
        p, lines = plan(case, algorithm=algorithm), algorithm == "depthwise"
        assert isinstance(p.forward, DepthwiseLines) is lines
        assert isinstance(p.unpadded.backward_input, DepthwiseLines) is lines
        assert isinstance(p._backward_weight, DepthwiseWeight) is lines


@pytest.mark.isa_independent
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_more_channels_a_group_are_left_to_the_direct_kernel(ndim):
    x, weight = np.ones((2, 4, *(5,) * ndim), np.float32), np.ones((4, 2, *(3,) * ndim), np.float32)
    for function in (getattr(ff, f"conv{ndim}d"), getattr(ff, f"conv_transpose{ndim}d")):
        expected = function(x, weight, groups=2, algorithm="direct")
        np.testing.assert_array_equal(function(x, weight, groups=2, algorithm="depthwise"), expected)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_direct_gives_the_same_values(name, layout, isa):
    case = DEPTHWISE[name](Tile.current("float64"))
    x, weight, bias, grad_y = operands(case, "float64", layout)
    options = {"data_format": layout, **case.options}
    limit = bound("float64", max(np.prod(case.y), np.prod(case.weight)), x, weight)
    with fastconv.algorithm("direct"):
        y = operator(ff, case)(x, weight, bias, **options)
        expected = operator(ff, case, "_backward")(grad_y, x, weight, **options)
    assert_within(operator(ff, case)(x, weight, bias, **options), y, limit)
    for actual, e in zip(gradients(case, "float64", layout), expected, strict=True):
        assert_within(actual, e, limit)


@pytest.mark.parametrize(
    ("case", "layout", "form"),
    [
        (depthwise((2, 33, 40, 41), (3, 3)), "channels_last", "rows"),
        (depthwise((2, 33, 7, 7), (3, 3)), "channels_last", "rows"),
        (depthwise((2, 33, 7, 7), (3, 3)), "channels_first", "turned"),
        (depthwise((2, 32, 40, 41), (3, 3)), "channels_first", "turned"),
        (depthwise((2, 5, 40, 41), (3, 3)), "channels_first", "planes"),
        (depthwise((1, 32, 400, 401), (3, 3)), "channels_first", "planes"),
        (depthwise((2, 1, 40, 41), (3, 3)), "channels_first", "planes"),
        (depthwise((2, 1, 40, 41), (3, 3)), "channels_last", "planes"),
    ],
)
def test_ways_through_the_arrays(case, layout, form, isa):
    p = plan(case, layout)
    assert p.forward.form == p.backward_input.form == p._backward_weight.form == form


@pytest.mark.isa_independent
def test_a_long_row_is_planned_in_little_memory():
    p = plan(Conv((1, 4, 1_000_000), (4, 1, 501), padding=250, groups=4))
    tracemalloc.start()
    try:
        assert p.forward
        assert p.backward_input
        assert p._backward_weight
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1 << 20
    assert peak < 100 << 20
