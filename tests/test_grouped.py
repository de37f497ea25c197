"""Convolution of few channels a group against the oracle, at the edges of its vectors, lines and blocks.

In channels_first the direct kernel runs it.
"""

from dataclasses import replace

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Conv, ConvTranspose, Tile, laid_out
from conftest import MANY, each, using_threads
from convolutions import (
    check_activation,
    check_bits_of_threads,
    check_forward,
    check_not_finite,
    check_out,
    exact_backward,
    operands,
    operator,
)
from fastconv.kernels.direct import DirectPlan
from fastconv.kernels.grouped import GroupedPlan
from test_backward_weight import check as check_backward_weight
from tolerance import assert_within, bound

import fastconv
import fastconv.functional as ff
from fastconv.kernels.backward_weight import BackwardWeightPlan
from fastconv.kernels.depthwise_weight import DepthwiseWeight
from fastconv.planner import ConvPlan
from fastconv.sources import parts_of


def grouped(size, kin, kout, groups, kernel=(3, 3), batch=2, **options):
    """A convolution of `groups` groups of kin and kout channels."""
    options = {"padding": tuple(k // 2 for k in kernel), **options}
    return Conv((batch, kin * groups, *size), (kout * groups, kin, *kernel), groups=groups, **options)


CASES = {
    "4-to-4": lambda t: grouped((9, 15), 4, 4, 2 * t.vlen),
    "4-to-4-one-line": lambda t: grouped((1, 14), 4, 4, t.vlen, (1, 3)),
    "8-to-8": lambda t: grouped((7, 7), 8, 8, 5),
    "16-to-16": lambda t: grouped((7, 14), 16, 16, 3),
    "32-to-32": lambda t: grouped((7, 7), 32, 32, 2),
    "32-to-32-wide": lambda t: grouped((3, 29), 32, 32, 2),
    "vlen-to-vlen": lambda t: grouped((5, 17), t.vlen, t.vlen, 3),
    "2-to-6": lambda t: grouped((6, 8), 2, 6, 7),
    "6-to-2": lambda t: grouped((6, 8), 6, 2, 19),
    "16-to-2": lambda t: grouped((6, 8), 16, 2, 9),
    "3-to-5": lambda t: grouped((6, 13), 3, 5, 7),
    "5-to-vlen+1": lambda t: grouped((6, 11), 5, t.vlen + 1, 3),
    "1-to-3": lambda t: grouped((6, 11), 1, 3, 5),
    "one-pixel": lambda t: grouped((3, 3), 4, 4, 8, padding=0, batch=1),
    "strided": lambda t: grouped((15, 28), 4, 4, 8, stride=2),
    "strided-8": lambda t: grouped((14, 14), 8, 8, 4, stride=2),
    "strided-16": lambda t: grouped((14, 14), 16, 16, 4, stride=2),
    "stride-beyond-kernel": lambda t: grouped((17, 40), 4, 4, 5, stride=(4, 5), padding=1),
    "stride-3-dilated-2": lambda t: grouped((20, 40), 3, 4, 5, stride=3, dilation=2, padding=2),
    "dilated": lambda t: grouped((14, 30), 4, 4, 8, dilation=(2, 3), padding=(2, 3)),
    "dilated-beyond-the-size": lambda t: grouped((5, 6), 4, 4, 8, dilation=6, padding=6),
    "5x5": lambda t: grouped((9, 10), 4, 4, 6, (5, 5)),
    "7x7-strided": lambda t: grouped((21, 30), 2, 4, 6, (7, 7), stride=2),
    "2x4": lambda t: grouped((9, 10), 4, 4, 6, (2, 4), padding=0),
    "1x1": lambda t: grouped((9, 10), 4, 8, 6, (1, 1)),
    "unequal-padding": lambda t: grouped((9, 10), 4, 4, 6, padding=((0, 2), (2, 1))),
    "padding-beyond-kernel": lambda t: grouped((4, 5), 4, 4, 6, padding=4),
    "reflect": lambda t: grouped((8, 20), 4, 4, 6, padding=3, padding_mode="reflect"),
    "replicate": lambda t: grouped((8, 20), 4, 4, 6, padding=3, padding_mode="replicate"),
    "circular": lambda t: grouped((8, 20), 4, 4, 6, padding=3, padding_mode="circular", stride=2),
    "1d": lambda t: grouped((71,), 4, 4, 6, (3,)),
    "1d-long": lambda t: grouped((3000,), 4, 4, 3, (5,), dilation=7, batch=1),
    "1d-strided": lambda t: grouped((200,), 8, 4, 3, (4,), stride=4),
    "3d": lambda t: grouped((4, 5, 6), 4, 4, 6, (3, 3, 3)),
    "3d-strided": lambda t: grouped((5, 7, 9), 4, 2, 6, (3, 2, 3), stride=(2, 1, 2)),
    "one-group": lambda t: grouped((9, 20), 3, 2 * t.vlen, 1),
    "wide-planes": lambda t: grouped((3, 1500), 3, 2, 2, batch=1),
    "threaded": lambda t: grouped((30, 31), 4, 4, 40),
    "threaded-16": lambda t: grouped((14, 14), 16, 16, 32, batch=1),
    "threaded-strided": lambda t: grouped((31, 40), 8, 8, 16, stride=2),
    "empty-batch": lambda t: grouped((9, 10), 4, 4, 6, batch=0),
}  # fmt: skip

TRANSPOSED = {
    "same": ConvTranspose((2, 24, 9, 11), (24, 4, 3, 3), padding=1, groups=6),
    "doubling": ConvTranspose((2, 24, 9, 11), (24, 3, 4, 4), stride=2, padding=1, groups=6),
    "tripling-dilated": ConvTranspose((1, 12, 7, 6), (12, 5, 5, 5), stride=3, dilation=2, groups=3),
    "1d": ConvTranspose((2, 8, 50), (8, 2, 4), stride=2, groups=2),
    "3d": ConvTranspose((1, 8, 3, 4, 5), (8, 4, 2, 2, 2), stride=2, groups=2),
}

LARGE = ("threaded", "threaded-16", "threaded-strided")
TEAMS = [(name, 1) for name in CASES] + [(name, MANY) for name in LARGE]
FEW = ("4-to-4", "16-to-16", "3-to-5", "strided", "3d", "threaded")


@pytest.fixture(autouse=True)
def _by_nothing_else():
    with fastconv.algorithm("grouped"):
        yield


KERNELS = {"channels_first": DirectPlan, "channels_last": GroupedPlan}


def plan(case, layout="channels_last", algorithm="grouped", dtype="float32"):
    geometry = replace(case.geometry, channels_last=layout == "channels_last")
    return ConvPlan(geometry, np.dtype(dtype), case.padding_mode, algorithm)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), TEAMS)
def test_forward(name, count, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    assert isinstance(plan(case, layout, dtype=dtype).forward, KERNELS[layout])
    with using_threads(count):
        check_forward(case, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), TEAMS)
def test_backward_input(name, count, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    x, weight, _, grad_y = operands(case, dtype, layout)
    with using_threads(count):
        grad_x, _, _ = operator(ff, case, "_backward")(
            grad_y, x, weight, data_format=layout, need=(True, False, False), **case.options
        )
    copies = 1 if case.padding_mode == "zeros" else np.prod([1 + b + a for b, a in case.geometry.padding])
    limit = bound(dtype, np.prod(case.weight) // case.groups * copies, grad_y, weight)
    assert_within(grad_x, laid_out(exact_backward(case)[0], layout, "float64"), limit, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), TEAMS)
def test_backward_weight(name, count, dtype, layout, isa):
    with using_threads(count):
        check_backward_weight(CASES[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1, ((2, 0), (0, 2)), 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_weight_gradients_in_windows(channels, stride, padding, dtype, layout, isa):
    """Whole and partial blocks of rows and columns, padding on any side, a last vector of few groups."""
    vlen = Tile.current(dtype).vlen
    for size in [(n, 7) for n in range(5, 12)] + [(9, n) for n in range(5, 7)]:
        case = grouped(size, channels, channels, vlen // channels + 1, stride=stride, padding=padding)
        fits = vlen % channels == 0 and 2 * channels <= vlen and isa != "baseline"
        planned = plan(case, layout, dtype=dtype).planned("backward_weight")
        assert (planned.choice.algorithm == "grouped") == fits
        assert isinstance(planned.kernel, DepthwiseWeight if fits else BackwardWeightPlan)
        check_backward_weight(case, dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_of_weight_gradients_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = CASES[name](Tile.current("float32"))
    x, weight, _, grad_y = operands(case, "float32", layout)
    found = []
    for count in (1, 2, 5):
        with using_threads(count):
            options = {"data_format": layout, "need": (False, True, True), **case.options}
            found.append(operator(ff, case, "_backward")(grad_y, x, weight, **options)[1:])
    for grad_weight, grad_bias in found[1:]:
        np.testing.assert_array_equal(grad_weight, found[0][0])
        np.testing.assert_array_equal(grad_bias, found[0][1])


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name, dtype, layout, isa, threads):
    check_forward(TRANSPOSED[name], dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "elu", "tanh"])
@pytest.mark.parametrize("name", FEW)
def test_activations(name, activation, layout, isa):
    check_activation(CASES[name](Tile.current("float32")), activation, "float32", layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    check_bits_of_threads(CASES[name](Tile.current("float32")), layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_what_is_not_finite(name, dtype, layout, isa):
    check_not_finite(CASES[name](Tile.current(dtype)), dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_written_beyond(name, activation, layout, isa):
    check_out(CASES[name](Tile.current("float32")), activation, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_prepared_weights_give_the_same_bits_and_outlive_the_weight(name, layout, isa):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, **case.options}
    expected = operator(ff, case)(x, weight, bias, **options)
    planned = getattr(fastconv, f"plan_conv{case.ndim}d")(x.shape, weight, bias, **options)
    weight[:] = 0
    np.testing.assert_array_equal(planned(x), expected)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_weight_that_is_not_finite_reaches_its_channel_alone(value, layout, isa):
    case = CASES["4-to-4"](Tile.current("float32"))
    x, weight, _, _ = operands(case, "float32", layout)
    expected = operator(ff, case)(x, weight, data_format=layout, **case.options)
    weight[5] = value
    y = operator(ff, case)(x, weight, data_format=layout, **case.options)
    axis = 1 if layout == "channels_first" else 3
    np.testing.assert_array_equal(np.delete(y, 5, axis), np.delete(expected, 5, axis))
    assert not np.isfinite(np.take(y, 5, axis)).any()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_padding_of_pixels_is_not_multiplied(value, isa):
    """Where lanes are channels padding is left out, so that no infinite weight makes a NaN of it."""
    x, weight = np.ones((1, 9, 20, 32), np.float32), np.ones((32, 4, 3, 3), np.float32)
    weight[7] = value
    y = ff.conv2d(x, weight, padding=1, groups=8, data_format="channels_last")
    assert (y[..., 7] == value).all()


def test_auto_takes_it_where_groups_have_few_channels(isa):
    vlen = Tile.current("float32").vlen
    assert isinstance(plan(grouped((14, 14), 4, 4, 32), algorithm="auto").forward, GroupedPlan)
    assert isinstance(plan(grouped((14, 14), 8, 8, 32), algorithm="auto").backward_input, GroupedPlan)
    assert not isinstance(plan(grouped((14, 14), 4, 4, 1), algorithm="auto").forward, GroupedPlan)
    assert not isinstance(plan(grouped((14, 14), 64, 64, 4), algorithm="auto").forward, GroupedPlan)
    assert isinstance(plan(grouped((14, 14), 4, 4, 32), algorithm="direct").forward, DirectPlan)
    assert isinstance(plan(grouped((14, 14), vlen, vlen, 4), algorithm="auto").forward, GroupedPlan)


def test_lines_that_would_fill_the_memory_are_left_to_the_direct_kernel(isa):
    case = grouped((3, 200_000), 4, 4, 2, (1, 3), dilation=(1, 90_000), padding=0, batch=1)
    assert isinstance(plan(case, "channels_last").forward, DirectPlan)
    assert plan(CASES["1d-long"](None)).forward.workspace_bytes(1)[0] < 1 << 20


def test_parts_of_a_strided_axis():
    assert parts_of([0, 1, 2], 1, 3) == ([(0, 2)], [(0, 0, 3)], [0, 1, 2])
    assert parts_of([0, 1, 2], 2, 3) == ([(0, 1), (1, 0)], [(0, 0, 2), (1, 0, 1)], [0, 2, 1])
    assert parts_of([4, 2, 0], 1, 3) == ([(0, 4)], [(0, 0, 1), (0, 2, 1), (0, 4, 1)], [2, 1, 0])
    assert parts_of([0, 1, 2, 3], 1, 3) == ([(0, 3)], [(0, 0, 3), (0, 3, 1)], [0, 1, 2, 3])
    assert parts_of([0, 3], 2, 3) == ([(0, 0), (3, 0)], [(0, 0, 1), (1, 0, 1)], [0, 1])
