"""Weight and bias gradients against the oracle: every case, dtype, layout and ISA, on one and all threads."""

from dataclasses import replace
from functools import cache
from math import prod

import numpy as np
import pytest
from cases import (
    CONV,
    CONV_TRANSPOSE,
    DTYPES,
    EDGES,
    LARGE_CONV,
    LARGE_CONV_TRANSPOSE,
    LAYOUTS,
    Conv,
    Tile,
    laid_out,
    values,
)
from conftest import each, on_threads, using_threads
from convolutions import operands, operator
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import reference
from fastconv.kernels import core
from fastconv.kernels.backward_weight import BackwardWeightPlan
from fastconv.kernels.weight_blocks import Axis, axis_blocks, contiguous_runs

NEED = (False, True, True)


def of_pairs(dtype):
    """The register tile of weight gradients: output channels x input channels."""
    return Tile(**core.pairs_tile(dtype))


def few(t):
    """Channels of which four groups fill a vector, if they can."""
    return max(1, t.vlen // 4)


# Each path through the kernel: (patches, bundle > 1, parts > 1, taps cut), and a case that takes it on wide vectors.
PATHS = {
    "channels": (False, False, False, False, lambda t: Conv((3, 3 * t.nr, 9, 10), (40, 3 * t.nr, 2, 2))),
    "channels-in-parts": (False, False, True, False, lambda t: Conv((5, t.nr, 40, 41), (17, t.nr, 2, 2), padding=1)),
    "channels-in-few-parts": (False, False, True, False, lambda t: Conv((8, t.nr, 14, 14), (64, t.nr, 1, 1))),
    "taps-cut": (False, False, False, True, lambda t: Conv((1, t.nr, 15, 16), (29, t.nr, 15, 13), padding=7)),
    "taps-cut-3d": (False, False, False, True, lambda t: Conv((1, t.nr, 9, 9, 9), (29, t.nr, 7, 7, 5), padding=2)),
    "patches": (True, False, False, False, lambda t: Conv((2, 3, 20, 21), (10, 3, 3, 3), padding=1)),
    "patches-in-parts": (True, False, True, False, lambda t: Conv((3, 3, 50, 51), (9, 3, 3, 3), padding=1)),
    "patches-dilated": (True, False, False, False, lambda t: Conv((2, 3, 20, 21), (10, 3, 3, 3), dilation=2)),
    "patches-cut": (True, False, False, True, lambda t: Conv((1, 3, 40, 40), (40, 3, 30, 31), padding=3)),
    "patches-of-padding": (True, False, False, False, lambda t: Conv((1, 3, 3, 3), (9, 3, 3, 3), padding=9)),
    "bundle": (False, True, False, False, lambda t: Conv((2, 8 * few(t), 6, 6), (24, few(t), 3, 3), groups=8)),
    "bundle-in-parts": (
        False,
        True,
        True,
        False,
        lambda t: Conv((5, 8 * few(t), 34, 35), (24, few(t), 3, 3), groups=8),
    ),
}
ONLY_LAST = ("bundle", "bundle-in-parts")  # paths that channels_first does not take


@cache
def exact(case):
    """The oracle's grad_weight and grad_bias."""
    backward = operator(reference, case, "_backward")
    return backward(values(case.y, 3), values(case.x, 0), values(case.weight, 1), need=NEED, **case.options)[1:]


def gradients(case, dtype, layout, need=NEED):
    """What fastconv computes, and its operands."""
    x, weight, _, grad_y = operands(case, dtype, layout)
    return operator(ff, case, "_backward")(grad_y, x, weight, need=need, data_format=layout, **case.options)


def check(case, dtype, layout):
    nothing, grad_weight, grad_bias = gradients(case, dtype, layout)
    assert nothing is None
    grad_y, x, batch = values(case.y, 3), values(case.x, 0), case.x[0]
    pixels = batch * prod(case.geometry.out_size)
    assert_within(grad_weight, exact(case)[0], bound(dtype, pixels, grad_y, x), dtype)
    assert_within(grad_bias, exact(case)[1], bound(dtype, batch * prod(case.y[2:]), grad_y, np.ones(1)), dtype)


def plan(case, dtype, layout):
    geometry = replace(case.geometry, channels_last=layout == "channels_last")
    return BackwardWeightPlan(geometry, np.dtype(dtype), case.padding_mode)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV, LARGE_CONV))
def test_convolution(name, count, dtype, layout, isa):
    with using_threads(count):
        check(CONV[name](Tile.current(dtype)), dtype, layout)


IN_PLACE = {
    "2d": lambda t: Conv((3, 3 * t.vlen, 7, 9), (t.mr + 3, 3 * t.vlen, 1, 1)),
    "one-vector": lambda t: Conv((2, t.vlen, 5, 6), (3, t.vlen, 1, 1)),
    "strided": lambda t: Conv((2, 2 * t.vlen, 9, 8), (10, 2 * t.vlen, 1, 1), stride=(2, 3)),
    "padded": lambda t: Conv((2, 2 * t.vlen, 4, 5), (3, 2 * t.vlen, 1, 1), padding=((1, 2), (0, 3)), stride=(1, 2)),
    "circular": lambda t: Conv((2, t.vlen, 4, 5), (3, t.vlen, 1, 1), padding=2, padding_mode="circular"),
    "groups": lambda t: Conv((2, 4 * t.vlen, 6, 5), (14, 2 * t.vlen, 1, 1), groups=2),
    "1d": lambda t: Conv((2, 2 * t.vlen, 700), (9, 2 * t.vlen, 1), stride=2),
    "3d": lambda t: Conv((2, t.vlen, 3, 4, 5), (9, t.vlen, 1, 1, 1), stride=(2, 1, 2)),
    "threaded": lambda t: Conv((4, 8 * t.vlen, 28, 28), (3 * t.mr + 1, 8 * t.vlen, 1, 1)),
}


@each(dtype=DTYPES)
@pytest.mark.parametrize(("name", "count"), on_threads(IN_PLACE, ["threaded"]))
def test_pixels_that_are_read_in_place(name, count, dtype, isa):
    case = IN_PLACE[name](Tile.current(dtype))
    assert plan(case, dtype, "channels_last").packing == ("in place",)
    with using_threads(count):
        check(case, dtype, "channels_last")


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), on_threads(CONV_TRANSPOSE, LARGE_CONV_TRANSPOSE))
def test_transposed_convolution(name, count, dtype, layout, isa):
    with using_threads(count):
        check(CONV_TRANSPOSE[name](Tile.current(dtype)), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("edge", EDGES)
def test_channels_at_the_edges_of_the_tile(edge, dtype, layout, isa):
    n = EDGES[edge](of_pairs(dtype))
    check(Conv((2, 19, 4, 5), (n, 19, 2, 3), padding=1), dtype, layout)
    check(Conv((2, n, 4, 5), (5, n, 3, 2), padding=(1, 0)), dtype, layout)
    check(Conv((2, n, 9), (30, n, 1), stride=2), dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_through_the_kernel(path, dtype, layout, isa, threads):
    *expected, case = PATHS[path]
    case = case(of_pairs(dtype))
    if of_pairs(dtype).vlen >= 8 and (layout == "channels_last" or path not in ONLY_LAST):
        blocks = plan(case, dtype, layout).blocks
        cut = blocks.task.taps < prod(case.weight[2:])
        assert [blocks.patches, blocks.bundle > 1, blocks.parts > 1, cut] == expected
    check(case, dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["threaded-strided", "threaded-first-layer", "many-channels", *PATHS])
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = PATHS[name][-1](of_pairs("float32")) if name in PATHS else CONV[name](Tile.current("float32"))
    with using_threads(1):
        _, grad_weight, grad_bias = gradients(case, "float32", layout)
    for count in (2, 5):
        with using_threads(count):
            _, weight, bias = gradients(case, "float32", layout)
        np.testing.assert_array_equal(weight.view(np.uint32), grad_weight.view(np.uint32))
        np.testing.assert_array_equal(bias.view(np.uint32), grad_bias.view(np.uint32))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["2d-unequal-everything", "channels-in-parts", "patches-in-parts"])
def test_one_gradient_is_that_of_both(name, layout, isa, threads):
    case = PATHS[name][-1](of_pairs("float32")) if name in PATHS else CONV[name](Tile.current("float32"))
    _, grad_weight, grad_bias = gradients(case, "float32", layout)
    _, weight, nothing = gradients(case, "float32", layout, (False, True, False))
    assert nothing is None
    np.testing.assert_array_equal(weight, grad_weight)
    _, nothing, bias = gradients(case, "float32", layout, (False, False, True))
    assert nothing is None
    np.testing.assert_array_equal(bias, grad_bias)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("channels", [2, 48])
def test_values_that_are_not_finite_reach_what_they_are_multiplied_with(channels, layout, isa):
    """A NaN of x one input channel of the weight gradient, an infinity of grad_y one output channel and its bias."""
    grad_y, x = np.ones((1, 5, 6, 6), np.float32), np.ones((1, channels, 6, 6), np.float32)
    x[0, 1, 2, 3], grad_y[0, 3, 1, 1] = np.nan, np.inf
    grad_y, x = laid_out(grad_y, layout, "float32"), laid_out(x, layout, "float32")
    weight = np.ones((5, channels, 1, 1), np.float32)
    _, grad_weight, grad_bias = ff.conv2d_backward(grad_y, x, weight, need=NEED, data_format=layout)
    expected = np.full(weight.shape, 36, np.float32)
    expected[3], expected[:, 1] = np.inf, np.nan
    np.testing.assert_array_equal(grad_weight, expected)
    np.testing.assert_array_equal(grad_bias, [36, 36, 36, np.inf, 36])


@each(layout=LAYOUTS)
def test_idle_lanes_do_not_show(layout, isa):
    """Memory of an earlier call, full of NaN and denormals, is behind the last channel and the last tap."""
    for value in (np.nan, 1e-42):
        x, grad_y = np.full((2, 64, 12, 12), value, np.float32), np.full((2, 64, 12, 12), value, np.float32)
        ff.conv2d_backward(grad_y, x, np.ones((64, 64, 3, 3), np.float32), padding=1, need=NEED)
        for channels in (3, 17, 33):
            check(Conv((1, channels, 7, 9), (11, channels, 3, 3), padding=1), "float32", layout)


def test_whole_numbers_are_exact(isa, threads):
    rng = np.random.default_rng(0)
    x, grad_y = rng.integers(-4, 5, (4, 20, 9, 9)), rng.integers(-4, 5, (4, 30, 9, 9))
    weight = np.zeros((30, 20, 3, 3))
    expected = reference.conv2d_backward(grad_y.astype(float), x.astype(float), weight, padding=1, need=NEED)[1:]
    actual = ff.conv2d_backward(
        grad_y.astype(np.float32), x.astype(np.float32), weight.astype(np.float32), padding=1, need=NEED
    )[1:]
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
        ((1, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
        ((1, 32, 112, 112), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
        ((1, 256, 14, 14), (1024, 256, 1, 1), {}),
        ((1, 64, 60000), (64, 64, 3), {"dilation": 512}),
        ((1, 3, 224, 224), (768, 3, 16, 16), {"stride": 16}),
    ],
)
def test_memory_is_bounded_whatever_the_batch(x, weight, options, dtype, layout, isa):
    for batch in (1, 8, 64, 100_000):
        kernel = plan(Conv((batch, *x[1:]), weight, **options), dtype, layout)
        assert kernel.workspace_bytes(1)[0] <= 2 << 20
        assert kernel.partial_bytes <= 20 << 20  # 16 MB, and what rounding rows to odd numbers of cache lines adds


NUMPY_PAD = {
    "zeros": {"mode": "constant", "constant_values": -1},
    "reflect": {"mode": "reflect"},
    "replicate": {"mode": "edge"},
    "circular": {"mode": "wrap"},
}


@pytest.mark.isa_independent
@pytest.mark.parametrize("keep_padding", [False, True])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(1, 1, 1), (3, 1, 1), (3, 2, 1), (2, 1, 9), (3, 9, 2), (2, 20, 6), (1, 7, 1), (4, 3, 2)],
)
def test_blocks_of_an_axis_find_every_source(kernel, stride, dilation, mode, keep_padding):
    size, before, after = 41, 5, 6
    out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    position = np.arange(kernel)[:, None] * dilation + np.arange(out) * stride - before
    padded = np.pad(np.arange(size), (before, after), **NUMPY_PAD[mode])
    for length in (1, 2, 5, out):
        for whole_lines in (False, True):
            axis = Axis(size, out, kernel, stride, before, dilation, mode)
            blocks = axis_blocks(axis, length, whole_lines=whole_lines, keep_padding=keep_padding)
            found = np.full((kernel, out), -1)
            for o in range(out):
                block, within = divmod(o, length)
                for t in range(kernel):
                    if blocks.first[block, t] <= within < blocks.stop[block, t]:
                        found[t, o] = blocks.sources[block, within * blocks.step + blocks.shift[t]]
            np.testing.assert_array_equal(found, padded[position + before])


@pytest.mark.isa_independent
def test_runs_are_the_longest_stretches():
    runs, first = contiguous_runs(np.array([[-1, 0, 1, 2, -1, -1, 7, 8], [3, 2, 1, 0, 1, 1, 2, -1], [-1] * 8]))
    np.testing.assert_array_equal(runs, [(1, 0, 3), (6, 7, 2), (0, 3, 1), (1, 2, 1), (2, 1, 1), (3, 0, 2), (5, 1, 2)])
    np.testing.assert_array_equal(first, [0, 2, 7, 7])
