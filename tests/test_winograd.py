"""Winograd's filtering against the oracle, within the bound that its transforms give, and where `auto` takes it."""

from functools import lru_cache
from math import prod

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Conv, ConvTranspose, Tile, laid_out
from conftest import ISAS, MANY, each, using_isa, using_threads
from convolutions import exact_backward, exact_forward, operands, operator, terms_of_y
from fastconv.kernels.direct import DirectPlan
from fastconv.kernels.winograd import WinogradPlan
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import explain_plan, plan_conv2d
from fastconv.functional.conv import conv_plan

POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])  # and infinity; or the last four of them and it


def matrices(taps, points):
    """A', G and B' of so many points from their definition: polynomials at the points (Toom and Cook)."""
    outputs, finite = points + 1 - taps, POINTS[6 - points :]
    kernel = np.vstack([np.vander(finite, taps, True), np.eye(taps)[-1]])
    output = np.vstack([np.vander(finite, outputs, True), np.eye(outputs)[-1]]).T
    data = np.zeros((points, points))
    for i, point in enumerate(finite):
        others = np.delete(finite, i)
        kernel[i] /= np.prod(point - others)
        data[i, :-1] = np.poly(others)[::-1]
    data[-1] = np.poly(finite)[::-1]
    return output, kernel, data


def amplification(taps):
    """How much larger than max|x| max|w| the terms of an output may become on the way, a channel, by any points."""
    return prod(
        max(
            np.max(np.abs(output) @ (np.abs(kernel).sum(1) * np.abs(data).sum(1)))
            for output, kernel, data in (matrices(along, points) for points in (5, 6) if along < points)
        )
        for along in taps
    )


@each(points=(5, 6))
@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_matrices_compute_a_correlation(taps, points):
    output, kernel, data = matrices(taps, points)
    rng = np.random.default_rng(taps)
    x, w = rng.standard_normal(points), rng.standard_normal(taps)
    np.testing.assert_allclose(output @ ((kernel @ w) * (data @ x)), np.correlate(x, w), atol=1e-13)


CASES = {
    "one-tile": lambda t: Conv((1, 5, 6, 6), (7, 5, 3, 3)),
    "one-output": lambda t: Conv((1, 3, 3, 3), (4, 3, 3, 3)),
    "tiles=VLEN": lambda t: Conv((1, 4, 4, 4 * t.vlen), (t.mr, 4, 3, 3), padding=1),
    "tiles=VLEN+1": lambda t: Conv((1, 4, 3, 4 * t.vlen + 1), (t.mr + 1, 4, 3, 3), padding=1),
    "tiles=2VLEN-1": lambda t: Conv((1, 4, 4, 8 * t.vlen - 5), (t.mr - 1, 4, 3, 3), padding=1),
    "tiles=NR": lambda t: Conv((t.nr, 5, 4, 4), (t.nr, 5, 3, 3), padding=1),
    "tiles=NR+1": lambda t: Conv((t.nr + 1, t.vlen + 1, 4, 4), (t.nr + 1, t.vlen + 1, 3, 3), padding=1),
    "lines-cross-images": lambda t: Conv((5, 6, 7, 7), (9, 6, 3, 3), padding=1),
    "unequal-padding": lambda t: Conv((2, 5, 9, 14), (6, 5, 3, 3), padding=((0, 2), (2, 1))),
    "groups": lambda t: Conv((2, 12, 11, 10), (18, 4, 3, 3), groups=3, padding=1),
    "two-chains": lambda t: Conv((1, 300, 6, 7), (17, 300, 3, 3), padding=1),
    "taps-2-3": lambda t: Conv((2, 5, 12, 13), (6, 5, 2, 3), padding=1),
    "taps-4-3": lambda t: Conv((2, 5, 12, 13), (6, 5, 4, 3)),
    "taps-5-3": lambda t: Conv((1, 5, 12, 13), (6, 5, 5, 3), padding=(2, 0)),
    "taps-5-5": lambda t: Conv((1, 5, 12, 13), (6, 5, 5, 5), padding=2),
    "taps-2-4": lambda t: Conv((1, t.vlen + 3, 9, 10), (6, t.vlen + 3, 2, 4)),
    "taps-3-2": lambda t: Conv((3, 5, 9, 5 * t.vlen + 7), (6, 5, 3, 2)),
    "taps-3-4": lambda t: Conv((2, 5, 9, 37), (6, 5, 3, 4), padding=2),
    "taps-2-5": lambda t: Conv((5, 5, 4, 9), (6, 5, 2, 5), padding=(0, 2)),
    "taps-2-dilated": lambda t: Conv((2, 5, 9, 37), (6, 5, 2, 2), dilation=3),
    "five-points": lambda t: Conv((t.nr + 1, t.vlen + 1, 9, 6), (t.nr + 1, t.vlen + 1, 3, 3), padding=1),
    "five-points-long-lines": lambda t: Conv((2, 4, 5, 6 * t.vlen), (5, 4, 3, 3), padding=1),
    "five-points-taps-2-4": lambda t: Conv((2, 5, 9, 5), (6, 5, 2, 4), padding=(0, 1)),
    "five-points-taps-4-2": lambda t: Conv((1, 5, 7, 8 * t.vlen + 1), (6, 5, 4, 2)),
    "five-points-dilated": lambda t: Conv((2, 5, 17, 17), (t.nr + 1, 5, 3, 3), padding=6, dilation=6),
    "five-points-groups": lambda t: Conv((2, 12, 6, 5), (18, 4, 3, 3), groups=3, padding=1),
    "five-points-two-chains": lambda t: Conv((1, 300, 6, 6), (17, 300, 3, 3), padding=1),
    "five-points-strided": lambda t: Conv((2, 5, 11, 19), (6, 5, 5, 5), stride=2, padding=2),
    "reflect": lambda t: Conv((2, 3, 8, 30), (6, 3, 3, 3), padding=2, padding_mode="reflect"),
    "replicate": lambda t: Conv((2, 3, 8, 30), (6, 3, 3, 3), padding=2, padding_mode="replicate"),
    "circular": lambda t: Conv((2, 3, 8, 30), (6, 3, 3, 3), padding=3, padding_mode="circular"),
    "1d": lambda t: Conv((2, 5, 8 * t.vlen + 3), (6, 5, 3), padding=1),
    "1d-taps-5": lambda t: Conv((2, 5, 50), (6, 5, 5)),
    "3d": lambda t: Conv((1, 4, 6, 7, 9), (5, 4, 3, 3, 3), padding=1),
    "3d-two-chains": lambda t: Conv((1, 40, 4, 5, 6), (3, 40, 3, 3, 3), padding=1),
    "3d-two-parts": lambda t: Conv((1, 130, 4, 5, 6), (t.mr + 1, 130, 3, 3, 3), padding=1),
    "3d-three-parts": lambda t: Conv((2, 300, 3, 5, 10), (t.nr + 3, 300, 3, 3, 2), padding=(1, 1, 0)),
    "3d-taps-2-4-3": lambda t: Conv((2, 3, 6, 7, 9), (5, 3, 2, 4, 3)),
    "3d-taps-4-2-2": lambda t: Conv((2, 3, 4, 7, 9), (5, 3, 4, 2, 2)),
    "3d-taps-4-3-2": lambda t: Conv((2, 3, 9, 7, 9), (5, 3, 4, 3, 2)),
    "3d-taps-5-2-3": lambda t: Conv((1, 3, 8, 7, 9), (5, 3, 5, 2, 3)),
    "dilated": lambda t: Conv((2, 5, 15, 40), (6, 5, 3, 3), padding=(2, 3), dilation=(2, 3)),
    "dilated-beyond-the-size": lambda t: Conv((2, 5, 4, 5), (6, 5, 3, 3), padding=6, dilation=6),
    "dilated-reflect": lambda t: Conv((1, 4, 9, 70), (5, 4, 3, 3), padding=4, dilation=4, padding_mode="reflect"),
    "dilated-1d": lambda t: Conv((2, 5, 90), (6, 5, 3), padding=8, dilation=8),
    "dilated-3d": lambda t: Conv((1, 3, 7, 8, 9), (4, 3, 3, 2, 3), dilation=(2, 1, 3), padding=1),
    "strided": lambda t: Conv((2, 5, 13, 10 * t.vlen + 5), (6, 5, 3, 3), stride=2, padding=1),
    "strided-one-output": lambda t: Conv((1, 5, 3, 3), (6, 5, 3, 3), stride=2),
    "strided-images": lambda t: Conv((t.nr + 1, t.vlen + 1, 9, 8), (t.nr + 1, t.vlen + 1, 3, 3), stride=2, padding=1),
    "strided-groups": lambda t: Conv((2, 12, 11, 20), (18, 4, 3, 3), groups=3, stride=2),
    "strided-two-chains": lambda t: Conv((1, 300, 9, 10), (17, 300, 3, 3), stride=2, padding=1),
    "strided-taps-4-5": lambda t: Conv((2, 5, 14, 43), (6, 5, 4, 5), stride=2, padding=2),
    "strided-taps-7-10": lambda t: Conv((1, 5, 15, 45), (6, 5, 7, 10), stride=(2, 2), padding=(3, 0)),
    "stride-3": lambda t: Conv((1, 5, 24, 60), (6, 5, 7, 4), stride=3, padding=1),
    "stride-1-4": lambda t: Conv((1, 5, 11, 70), (6, 5, 3, 11), stride=(1, 4)),
    "strided-dilated": lambda t: Conv((2, 5, 21, 77), (6, 5, 3, 3), stride=2, dilation=(2, 3), padding=3),
    "strided-reflect": lambda t: Conv((2, 3, 8, 61), (6, 3, 3, 3), stride=2, padding=2, padding_mode="reflect"),
    "strided-1d": lambda t: Conv((2, 5, 91), (6, 5, 3), stride=2, padding=1),
    "strided-3d": lambda t: Conv((1, 4, 7, 8, 9), (5, 4, 3, 3, 3), stride=2, padding=1),
    "strided-3d-parts": lambda t: Conv((1, 130, 5, 6, 9), (t.mr + 1, 130, 3, 3, 3), stride=(1, 2, 2), padding=1),
    "strided-threaded": lambda t: Conv((2, 32, 53, 70), (40, 32, 3, 3), stride=2, padding=1),
    "strided-threaded-few-tiles": lambda t: Conv((1, 130, 27, 30), (131, 130, 3, 3), stride=2, padding=1),
    "transposed": lambda t: ConvTranspose((2, 5, 9, 11), (5, 6, 3, 3), padding=1),
    "transposed-phases": lambda t: ConvTranspose((2, 5, 9, 11), (5, 6, 4, 4), stride=2, padding=1),
    "transposed-phases-6": lambda t: ConvTranspose((1, 4, 7, 8), (4, 5, 6, 6), stride=2, padding=2),
    "threaded": lambda t: Conv((2, 32, 33, 70), (40, 32, 3, 3), padding=1),
    "threaded-few-tiles": lambda t: Conv((1, 130, 14, 15), (131, 130, 3, 3), padding=1),
}  # fmt: skip


LARGE = ("threaded", "threaded-few-tiles", "tiles=NR+1", "strided-threaded", "strided-threaded-few-tiles")
RUNS = [(name, layout) for name in CASES for layout in LAYOUTS]


# A run on one thread; those that are large enough for a team on all.
TEAMS = [(*run, 1) for run in RUNS] + [(*run, MANY) for run in RUNS if run[0] in LARGE]


def limit(case, terms, x, w):
    """The bound of direct sums, for terms that the transforms have magnified."""
    g = case.geometry
    taps = [-(-k // s) for k, s in zip(g.kernel, g.stride, strict=True)]
    components = prod(min(k, s) for k, s in zip(g.kernel, g.stride, strict=True))
    channels = components * terms / prod(g.kernel) + 2 * len(taps)
    return bound(x.dtype, channels * amplification(taps), x, w)


@each(dtype=DTYPES)
@pytest.mark.parametrize(("name", "layout", "count"), TEAMS)
def test_forward(name, layout, count, dtype, isa):
    case = CASES[name](Tile.current(dtype))
    x, weight, bias, _ = operands(case, dtype, layout)
    options = {"data_format": layout, "algorithm": "winograd", **case.options}
    with using_threads(count):
        y = operator(ff, case)(x, weight, bias, **options)
        clipped = operator(ff, case)(x, weight, bias, activation="relu6", **options)
    assert_within(y, laid_out(exact_forward(case), layout, "float64"), limit(case, terms_of_y(case), x, weight), dtype)
    np.testing.assert_array_equal(clipped, np.clip(y, 0, 6))


@each(dtype=DTYPES)
@pytest.mark.parametrize(("name", "layout", "count"), [r for r in TEAMS if "transposed" not in r[0]])
def test_backward_input(name, layout, count, dtype, isa):
    case = CASES[name](Tile.current(dtype))
    x, weight, _, grad_y = operands(case, dtype, layout)
    with using_threads(count):
        grad_x, _, _ = operator(ff, case, "_backward")(
            grad_y, x, weight, data_format=layout, need=(True, False, False), algorithm="winograd", **case.options
        )
    copies = 1 if case.padding_mode == "zeros" else prod(1 + b + a for b, a in case.geometry.padding)
    terms = prod(case.weight) // case.groups * copies
    exact = laid_out(exact_backward(case)[0], layout, "float64")
    assert_within(grad_x, exact, limit(case, terms, grad_y, weight), dtype)


@each(layout=LAYOUTS)
@pytest.mark.parametrize(
    "name", ["threaded", "threaded-few-tiles", "tiles=NR+1", "3d", "3d-three-parts", "strided-threaded", "strided-3d"]
)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    results = []
    for count in (1, 2, 5):
        with using_threads(count):
            y = operator(ff, case)(x, weight, bias, data_format=layout, algorithm="winograd", **case.options)
            results.append(y.view(np.uint32))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["lines-cross-images", "tiles=VLEN+1", "3d", "threaded", "strided-threaded"])
def test_what_is_not_finite_is_where_the_direct_kernel_has_it(name, layout, value, isa, threads):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    x.flat[x.size * 3 // 7] = value
    options = {"data_format": layout, "activation": "tanh", **case.options}
    direct = operator(ff, case)(x, weight, bias, algorithm="direct", **options)
    winograd = operator(ff, case)(x, weight, bias, algorithm="winograd", **options)
    np.testing.assert_array_equal(winograd, direct)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "sigmoid", "tanh"])
def test_activations(activation, layout, isa, threads):
    case = CASES["threaded"](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, "algorithm": "winograd", **case.options}
    y = ff.conv2d(x, weight, bias, **options)
    np.testing.assert_array_equal(
        ff.conv2d(x, weight, bias, activation=activation, **options), getattr(ff, activation)(y)
    )


@each(layout=LAYOUTS)
def test_prepared_weights_give_the_same_bits_and_outlive_the_weight(layout, isa):
    case = CASES["threaded"](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    options = {"data_format": layout, "algorithm": "winograd", **case.options}
    y = ff.conv2d(x, weight, bias, **options)
    plan = plan_conv2d(x.shape, weight, bias, **options)
    np.testing.assert_array_equal(plan(x), y)
    x.flat[0] = np.nan  # done again by the direct kernel, which reads the weight
    expected = ff.conv2d(x, weight, bias, **options)
    weight[:] = 0
    np.testing.assert_array_equal(plan(x), expected)


@lru_cache(1)
def of_an_error(case, rectified):
    """x and weight in float32, and y by the direct kernel in float64: once for all layouts and ISAs."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in (case.x, case.weight))
    x = np.maximum(x, 0) if rectified else x
    return x, weight, operator(ff, case)(x.astype(float), weight.astype(float), algorithm="direct", **case.options)


@each(isa=ISAS, layout=LAYOUTS)
@pytest.mark.every_isa
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride"),
    [
        ((400,), 512, 3, 1),
        ((28, 28), 64, 3, 1),
        ((14, 14), 512, 3, 1),
        ((9, 9), 512, 3, 1),
        ((3, 3), 64, 4, 1),
        ((20, 20), 64, 5, 1),
        ((8, 8, 8), 32, 3, 1),
        ((8, 8, 8), 128, 3, 1),
        ((4, 14, 14), 256, 3, 1),
        ((4, 14, 14), 512, 3, 1),
        ((2, 7, 7), 512, 3, 1),
        ((5, 8, 8), 512, 2, 1),
        ((6, 8, 8), 128, 4, 1),
        ((400,), 512, 5, 2),
        ((28, 28), 64, 5, 2),
        ((28, 28), 128, 4, 2),
        ((30, 30), 64, 7, 2),
    ],
)
def test_error_is_within_four_times_the_direct_kernels(size, channels, kernel, stride, rectified, layout, isa):
    case = Conv((1, channels, *size), (32, channels, *[kernel] * len(size)), padding=kernel // 2, stride=stride)
    x, weight, exact = of_an_error(case, rectified)
    x, exact = laid_out(x, layout, "float32"), laid_out(exact, layout, "float64")
    options = {"data_format": layout, **case.options}
    with using_isa(isa):
        results = {name: operator(ff, case)(x, weight, algorithm=name, **options) for name in ("direct", "winograd")}
    errors = {name: y - exact for name, y in results.items()}
    for size_of in (np.linalg.norm, lambda error: np.max(np.abs(error))):
        assert size_of(errors["winograd"]) <= 4 * size_of(errors["direct"])


@pytest.mark.parametrize(
    ("size", "taps", "dilation", "points"),
    [
        ((9, 9), 3, 1, 5),
        ((6, 3), 3, 1, 5),
        ((33, 33), 3, 12, 5),  # grids of three outputs
        ((3, 3), 4, 1, 5),
        ((9, 9), 5, 1, 6),
        ((14, 14), 3, 1, 6),
        ((7, 7), 3, 1, 6),
        ((9,), 3, 1, 6),
    ],
)
def test_points_of_planes_are_those_of_fewer_products(size, taps, dilation, points):
    shapes = (1, 16, *size), (16, 16, *[taps] * len(size))
    options = {"padding": dilation * (taps // 2), "dilation": dilation, "algorithm": "winograd"}
    for direction in ("forward", "backward_weight"):
        assert explain_plan(*shapes, direction=direction, **options).points == ((points,) * len(size),)


@each(layout=LAYOUTS)
def test_an_empty_batch(layout):
    x = laid_out(np.empty((0, 3, 8, 9)), layout, "float32")
    y = ff.conv2d(x, np.ones((4, 3, 3, 3), np.float32), data_format=layout, algorithm="winograd")
    assert y.shape == ((0, 4, 6, 7) if layout == "channels_first" else (0, 6, 7, 4))


def chosen(x, weight, prepared=False, **options):
    """The kernel of a convolution's forward."""
    x, weight = (np.broadcast_to(np.float32(0), shape) for shape in (x, weight))
    plan = conv_plan(
        x.ndim - 2, x, weight, None, options.get("stride", 1), options.get("padding", 0), 1, options.get("groups", 1),
        "zeros", options.get("data_format", "channels_first"), options.get("algorithm", "auto"),
    )  # fmt: skip
    return type(plan.prepared_forward if prepared else plan.forward)


@pytest.mark.parametrize(
    ("channels", "taps", "kernel"), [(64, 3, WinogradPlan), (16, 3, DirectPlan), (64, 5, DirectPlan)]
)
def test_auto_leaves_out_what_rounds_coarsely(channels, taps, kernel):
    shapes = (1, channels, 16, 32, 32), (64, channels, taps, taps, taps)
    assert chosen(*shapes, padding=taps // 2, prepared=True) is kernel
    assert chosen(*shapes, padding=taps // 2, prepared=True, algorithm="winograd") is WinogradPlan


def test_auto_takes_it_where_it_pays():
    large = (1, 64, 56, 56), (64, 64, 3, 3)
    assert chosen(*large, padding=1) is WinogradPlan
    assert chosen(*large, padding=1, algorithm="direct") is DirectPlan
    assert chosen(*large, padding=1, stride=3, algorithm="winograd") is DirectPlan  # one tap a component
    assert chosen(*large, padding=1, stride=2) is DirectPlan  # it saves little
    assert chosen((16, 256, 16, 16), (512, 256, 5, 5), padding=2, stride=2) is WinogradPlan
    assert chosen((1, 64, 56, 56), (64, 64, 1, 1)) is DirectPlan
    assert chosen((1, 3, 224, 224), (64, 3, 3, 3), padding=1) is DirectPlan  # too few channels
    few_tiles = (2, 256, 7, 7), (256, 256, 3, 3)
    assert chosen(*few_tiles, padding=1) is DirectPlan  # transforming the weight costs more than it saves
    assert chosen(*few_tiles, padding=1, prepared=True) is WinogradPlan
    assert chosen((1, 512, 7, 7), (512, 512, 3, 3), padding=1, prepared=True) is DirectPlan  # so does reading it
