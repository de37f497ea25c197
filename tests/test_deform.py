"""Deformable convolution against the oracle: every case, dtype, layout and ISA, on one and all threads."""

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Tile, laid_out, values
from conftest import each, using_threads
from tolerance import assert_within, bound
from views import draw, views

import fastconv.functional as ff
from fastconv import reference
from fastconv.geometry import deform_conv_geometry
from fastconv.planner import DeformPlan

NAMES = ("x", "offset", "weight", "bias", "mask")


@dataclass(frozen=True)
class Deform:
    """A deformable convolution: x (N, C_in, H, W), weight (C_out, C_in / groups, KH, KW) and its parameters."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    offset_groups: int = 1
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1

    @property
    def options(self):
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation")}

    @property
    def taps(self):
        return prod(self.weight[2:])

    @property
    def out(self):
        """(H_out, W_out)."""
        plane = reference.conv2d(np.zeros((1, 1, *self.x[2:])), np.zeros((1, 1, *self.weight[2:])), **self.options)
        return plane.shape[2:]

    @property
    def y(self):
        return (self.x[0], self.weight[0], *self.out)


CASES = {
    "one-product": lambda t: Deform((1, 1, 1, 1), (1, 1, 1, 1)),
    "pointwise": lambda t: Deform((2, 5, 4, 6), (7, 5, 1, 1)),
    "plain": lambda t: Deform((2, 6, 9, 8), (5, 6, 3, 3), padding=1),
    "unequal-everything": lambda t: Deform((2, 4, 11, 13), (6, 4, 2, 3), 2, (2, 1), (1, 3), (1, 2)),
    "asymmetric-padding": lambda t: Deform((1, 3, 6, 7), (4, 3, 3, 2), padding=((0, 2), (3, 1)), stride=(1, 2)),
    "same": lambda t: Deform((1, 3, 7, 6), (4, 3, 4, 3), padding="same", dilation=(1, 2)),
    "one-row": lambda t: Deform((2, 3, 1, 9), (4, 3, 1, 3), padding=(0, 1)),
    "one-column": lambda t: Deform((2, 3, 9, 1), (4, 3, 3, 1), padding=(1, 0)),
    "one-pixel": lambda t: Deform((3, 4, 1, 1), (2, 4, 3, 3), padding=1),
    "two-by-two": lambda t: Deform((2, 3, 2, 2), (4, 3, 2, 2), padding=1),
    "groups": lambda t: Deform((2, 6, 7, 6), (9, 2, 3, 3), padding=1),
    "depthwise": lambda t: Deform((2, 7, 6, 7), (14, 1, 3, 3), padding=1),
    "offset-groups": lambda t: Deform((2, 8, 7, 6), (5, 8, 3, 3), 4, padding=1),
    "offsets-a-channel": lambda t: Deform((1, 5, 7, 6), (4, 5, 3, 3), 5, padding=1),
    "groups-across-offset-groups": lambda t: Deform((2, 12, 6, 5), (6, 6, 3, 2), 3, padding=1),
    "offset-groups-across-groups": lambda t: Deform((2, 12, 5, 6), (8, 3, 2, 3), 2, padding=1),
    "channels=VLEN-1": lambda t: Deform((1, t.vlen - 1, 5, 6), (t.mr + 1, t.vlen - 1, 3, 3), padding=1),
    "channels=VLEN+1": lambda t: Deform((2, t.vlen + 1, 5, 4), (t.vlen + 1, t.vlen + 1, 3, 3), padding=1),
    "channels=NR+1": lambda t: Deform((1, t.nr + 1, 4, 5), (t.nr + 1, t.nr + 1, 2, 2), padding=1),
    "lines-of-channels": lambda t: Deform((1, 64, 4, 5), (4, 32, 2, 2), 2, padding=1),
    "pixels=NR-1": lambda t: Deform((2, 3, 1, t.nr + 1), (2, 3, 1, 3)),
    "pixels=NR": lambda t: Deform((1, 3, 2, t.nr // 2), (2, 3, 1, 1)),
    "pixels=NR+1": lambda t: Deform((2, 3, 1, t.nr + 1), (2, 3, 1, 1)),
    "pixels=97": lambda t: Deform((2, 3, 3, 99), (2, 3, 3, 3)),
    "several-parts": lambda t: Deform((1, 200, 6, 5), (7, 200, 7, 7), 2, padding=3, stride=2),
    "many-outputs": lambda t: Deform((1, 2, 4, 4), (1100, 2, 1, 1)),
    "large-plane": lambda t: Deform((1, 3, 280, 251), (2, 3, 3, 3), stride=31, dilation=2),
    "threaded": lambda t: Deform((2, 20, 17, 19), (34, 20, 3, 3), 2, padding=1),
    "threaded-groups": lambda t: Deform((3, 24, 13, 14), (32, 12, 3, 3), 3, padding=1),
    "threaded-few-tiles": lambda t: Deform((1, 70, 7, 7), (150, 70, 3, 3), padding=1),
    "threaded-chunks": lambda t: Deform((2, 16, 40, 40), (4, 16, 5, 5), padding=2),
}
LARGE = [name for name in CASES if name.startswith("threaded")]


@cache
def inputs(case):
    """x, offset, weight, bias and mask in float64; whatever places or weighs a point is exact in float32, too."""
    shape = (case.x[0], case.offset_groups * case.taps * 2, *case.out)
    rng = np.random.default_rng(shape)
    offset = rng.integers(-640, 641, shape) / 256
    whole = rng.random(shape) < 0.2
    offset[whole] = np.round(offset[whole])
    mask = values((shape[0], shape[1] // 2, *case.out), 5)
    return values(case.x, 0), offset, values(case.weight, 1), values(case.weight[:1], 2), mask


@cache
def exact_forward(case, masked):
    x, offset, weight, bias, mask = inputs(case)
    return reference.deform_conv2d(x, offset, weight, bias, mask=mask if masked else None, **case.options)


@cache
def exact_backward(case, masked):
    x, offset, weight, _, mask = inputs(case)
    grad_y = values(case.y, 3)
    return reference.deform_conv2d_backward(grad_y, x, offset, weight, mask=mask if masked else None, **case.options)


@cache
def most_shares(case):
    """What a pixel gives to all samples together, at most."""
    x, offset, _, _, _ = inputs(case)
    weight = np.ones((x.shape[1], 1, *case.weight[2:]))
    ones = np.ones((x.shape[0], x.shape[1], *case.out))
    need = (True, False, False, False, False)
    return reference.deform_conv2d_backward(ones, x, offset, weight, need=need, **case.options)[0].max()


def operands(case, masked, dtype, layout):
    """x, offset, weight, bias, mask and grad_y as a user passes them."""
    x, offset, weight, bias, mask = inputs(case)
    x, offset, mask, grad_y = (laid_out(a, layout, dtype) for a in (x, offset, mask, values(case.y, 3)))
    return x, offset, weight.astype(dtype), bias.astype(dtype), mask if masked else None, grad_y


def limits(case, dtype, arrays):
    """Of y and the five gradients. A sample is 4 shares of pixels and a mask: 6 roundings beside those of the sums."""
    x, _, weight, _, mask, grad_y = arrays
    one = np.ones(1, dtype)
    masked = x if mask is None else x * np.abs(mask).max()
    outputs = case.weight[0] * case.weight[1] // case.x[1]  # a group
    products = outputs * case.x[1] // case.offset_groups
    pixels = case.x[0] * prod(case.out)
    # grad_x sums outputs products for each of at most 4 * taps * pixels shares, whose weights add up to most_shares.
    roundings = np.sqrt(outputs + 4 * case.taps * pixels)
    scale = np.abs(weight).max() * np.abs(grad_y).max() * (1 if mask is None else np.abs(mask).max())
    return (
        bound(dtype, case.weight[1] * case.taps + 6, masked, weight),
        np.finfo(dtype).eps * roundings * scale * outputs * max(1, most_shares(case)),
        bound(dtype, 2 * products + 6, masked * np.abs(weight).max(), grad_y),
        bound(dtype, pixels + 6, masked, grad_y),
        bound(dtype, pixels, one, grad_y),
        bound(dtype, products + 6, x * np.abs(weight).max(), grad_y),
    )


def check(case, masked, dtype, layout):
    """y and the five gradients of a case are the oracle's."""
    arrays = operands(case, masked, dtype, layout)
    x, offset, weight, bias, mask, grad_y = arrays
    limit, *gradient_limits = limits(case, dtype, arrays)
    options = {"mask": mask, "data_format": layout, **case.options}
    y = ff.deform_conv2d(x, offset, weight, bias, **options)
    assert_within(y, laid_out(exact_forward(case, masked), layout, "float64"), limit, dtype)
    gradients = ff.deform_conv2d_backward(grad_y, x, offset, weight, **options)
    assert (gradients[4] is not None) == masked
    for name, actual, exact, limit in zip(NAMES, gradients, exact_backward(case, masked), gradient_limits, strict=True):
        if exact is not None:
            exact = laid_out(exact, layout, "float64") if name in ("x", "offset", "mask") else exact
            assert_within(actual, exact, limit, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in LARGE])
def test_small_cases(name, masked, dtype, layout, isa):
    check(CASES[name](Tile.current(dtype)), masked, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("name", LARGE)
def test_cases_for_a_team(name, masked, dtype, layout, isa, threads):
    check(CASES[name](Tile.current(dtype)), masked, dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    x, offset, weight, bias, mask, grad_y = operands(case, True, dtype, layout)
    options = {"mask": mask, "data_format": layout, **case.options}

    def results():
        y = ff.deform_conv2d(x, offset, weight, bias, **options)
        return y, *ff.deform_conv2d_backward(grad_y, x, offset, weight, **options)

    with using_threads(1):
        expected = results()
    for count in (2, 5):
        with using_threads(count):
            for actual, serial in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(actual.view(np.uint8), serial.view(np.uint8))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "groups-across-offset-groups", "threaded"])
def test_each_gradient_alone_is_the_same_bits(name, layout):
    case = CASES[name](Tile.current("float32"))
    x, offset, weight, _, mask, grad_y = operands(case, True, "float32", layout)
    options = {"mask": mask, "data_format": layout, **case.options}
    every = ff.deform_conv2d_backward(grad_y, x, offset, weight, **options)
    for i in range(5):
        need = tuple(i == j for j in range(5))
        some = ff.deform_conv2d_backward(grad_y, x, offset, weight, need=need, **options)
        assert [gradient is not None for gradient in some] == list(need)
        np.testing.assert_array_equal(some[i], every[i])
    assert ff.deform_conv2d_backward(grad_y, x, offset, weight, need=(False,) * 5, **options) == (None,) * 5
    without = ff.deform_conv2d_backward(grad_y, x, offset, weight, data_format=layout, **case.options)
    assert without[4] is None


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "groups", "threaded"])
def test_without_deformation_it_is_a_convolution(name, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    arrays = operands(case, True, dtype, layout)
    x, offset, weight, bias, mask, grad_y = arrays
    options = {"data_format": layout, **case.options}
    groups = case.x[1] // case.weight[1]
    zeros, ones = np.zeros_like(offset), np.ones_like(mask)
    limit, by_x, _, by_weight, by_bias, _ = limits(case, dtype, (x, zeros, weight, bias, ones, grad_y))
    wide = [a.astype(np.float64) for a in (x, weight, bias, grad_y)]
    y = reference.conv2d(*wide[:3], groups=groups, **options)
    assert_within(ff.deform_conv2d(x, zeros, weight, bias, mask=ones, **options), y, limit, dtype)
    ours = ff.deform_conv2d_backward(grad_y, x, zeros, weight, mask=ones, **options)
    theirs = reference.conv2d_backward(wide[3], *wide[:2], groups=groups, **options)
    pairs = zip((ours[0], ours[2], ours[3]), theirs, (by_x, by_weight, by_bias), strict=True)
    for actual, exact, limit in pairs:
        assert_within(actual, exact, limit, dtype)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "groups-across-offset-groups", "one-column"])
def test_gradients_are_finite_differences(name, layout, isa):
    case = CASES[name](Tile.current("float64"))
    arrays = dict(zip(NAMES, operands(case, True, "float64", layout)[:5], strict=True))
    # Off the whole numbers, where the slope jumps.
    arrays["offset"] = np.floor(arrays["offset"]) + draw(*arrays["offset"].shape).clip(-2, 2) / 10 + 0.5
    grad_y = laid_out(values(case.y, 3), layout, "float64")
    options = {"data_format": layout, **case.options}

    def along(name, step, way):
        moved = {**arrays, name: arrays[name] + step * way}
        return (ff.deform_conv2d(**moved, **options) * grad_y).sum()

    given = {name: arrays[name] for name in ("x", "offset", "weight", "mask")}
    gradients = ff.deform_conv2d_backward(grad_y, **given, **options)
    for name, gradient in zip(NAMES, gradients, strict=True):
        way = draw(*arrays[name].shape, seed=9)
        rise = (along(name, 1e-6, way) - along(name, -1e-6, way)) / 2e-6
        np.testing.assert_allclose((gradient * way).sum(), rise, rtol=1e-6, atol=1e-6, err_msg=name)


# --- where points may fall -------------------------------------------------------------------------------------------


@each(dtype=DTYPES, layout=LAYOUTS)
def test_at_the_border(dtype, layout, isa):
    """A pixel beyond the image is 0: on -1 the value is, and its slope is that towards the image; far away both are."""
    x = laid_out(np.arange(1.0, 5.0).reshape(1, 1, 2, 2), layout, dtype)
    weight, grad_y = np.ones((1, 1, 1, 1), dtype), laid_out(np.eye(1, 4).reshape(1, 1, 2, 2), layout, dtype)
    far = (-2, 2, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan)
    for at, value, slope in (
        (-1, 0, 1),
        (-0.5, 0.5, 1),
        (0, 1, 2),
        (1, 3, -3),
        (1.5, 1.5, -3),
        *((d, 0, 0) for d in far),
    ):
        offset = np.zeros((1, 2, 2, 2))
        offset[0, 0, 0, 0] = at
        offset = laid_out(offset, layout, dtype)
        y = ff.deform_conv2d(x, offset, weight, data_format=layout)
        _, grad_offset, *_ = ff.deform_conv2d_backward(grad_y, x, offset, weight, data_format=layout)
        assert (y.flat[0], grad_offset.flat[0]) == (value, slope), at


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "one-column", "large-plane", "threaded"])
def test_offsets_far_outside(name, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    arrays = list(operands(case, True, dtype, layout))
    rng = np.random.default_rng(0)
    far = rng.choice([-1e30, -1e4, 300, 1e9, np.inf, -np.inf, np.nan], arrays[1].shape)
    arrays[1] = np.where(rng.random(far.shape) < 0.3, far, arrays[1]).astype(dtype)
    x, offset, weight, bias, mask, grad_y = arrays
    options = {"data_format": layout, **case.options}
    wide = [a.astype(np.float64) for a in arrays]
    limit, *gradient_limits = limits(case, dtype, arrays)
    exact = reference.deform_conv2d(*wide[:4], mask=wide[4], **options)
    assert_within(ff.deform_conv2d(x, offset, weight, bias, mask=mask, **options), exact, limit, dtype)
    expected = reference.deform_conv2d_backward(wide[5], *wide[:3], mask=wide[4], **options)
    actual = ff.deform_conv2d_backward(grad_y, x, offset, weight, mask=mask, **options)
    for ours, theirs, limit in zip(actual, expected, gradient_limits, strict=True):
        assert_within(ours, theirs, limit, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "one-row", "channels=VLEN+1", "groups-across-offset-groups"])
def test_values_that_are_not_finite_go_where_ieee_says(name, dtype, layout, isa):
    """A pixel counts for the points next to it, even at a share of 0, and for no other."""
    case = CASES[name](Tile.current(dtype))
    x, offset, weight, bias, mask, _ = operands(case, True, dtype, layout)
    rng = np.random.default_rng(5)
    for array in (x, mask):
        for value in (np.nan, np.inf, -np.inf):
            array.flat[rng.integers(array.size)] = value
    options = {"data_format": layout, **case.options}
    with np.errstate(invalid="ignore"):
        exact = reference.deform_conv2d(
            *(a.astype(np.float64) for a in (x, offset, weight, bias)), mask=mask, **options
        )
    assert np.isnan(exact).any()
    assert np.isfinite(exact).any()
    limit = bound(dtype, case.weight[1] * case.taps + 6, np.ones(1), weight)
    assert_within(ff.deform_conv2d(x, offset, weight, bias, mask=mask, **options), exact, limit, dtype)


# --- contracts -------------------------------------------------------------------------------------------------------


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", ["unequal-everything", "several-parts", "threaded-few-tiles"])
def test_activations(name, activation, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    arrays = operands(case, True, dtype, layout)
    x, offset, weight, bias, mask, _ = arrays
    y = ff.deform_conv2d(x, offset, weight, bias, mask=mask, activation=activation, data_format=layout, **case.options)
    linear = exact_forward(case, True)
    exact = getattr(reference, activation)(linear)
    own = 8 * np.finfo(dtype).eps * max(1, np.abs(exact).max())
    assert_within(y, laid_out(exact, layout, "float64"), limits(case, dtype, arrays)[0] + own, dtype)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "threaded"])
def test_every_kind_of_view_gives_the_same_bits_and_stays_untouched(name, layout):
    case = CASES[name](Tile.current("float32"))
    arrays = dict(zip((*NAMES, "grad_y"), operands(case, True, "float32", layout), strict=True))
    options = {"data_format": layout, **case.options}

    def results(**changed):
        given = {**arrays, **changed}
        grad_y = given.pop("grad_y")
        y = ff.deform_conv2d(**given, **options)
        del given["bias"]
        return y, *ff.deform_conv2d_backward(grad_y, **given, **options)

    expected = results()
    for name, array in arrays.items():
        for kind, view in views(array):
            for actual, result in zip(results(**{name: view}), expected, strict=True):
                np.testing.assert_array_equal(actual, result, f"{name}: {kind}")
            np.testing.assert_array_equal(view, array, f"{name}: {kind}")


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["unequal-everything", "pixels=97", "threaded"])
def test_out_is_filled_and_returned(name, layout, isa):
    case = CASES[name](Tile.current("float32"))
    x, offset, weight, bias, mask, _ = operands(case, True, "float32", layout)
    options = {"mask": mask, "data_format": layout, **case.options}
    expected = ff.deform_conv2d(x, offset, weight, bias, **options)
    # what surrounds out stays; out itself begins at an odd element
    memory = np.full(expected.size + 129, np.nan, np.float32)
    out = memory[65:-64].reshape(expected.shape)
    assert ff.deform_conv2d(x, offset, weight, bias, out=out, **options) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[:65]).all()
    assert np.isnan(memory[-64:]).all()


@each(layout=LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_empty_batch(masked, layout):
    case = Deform((0, 4, 6, 5), (6, 2, 3, 3), 2, padding=1)
    shape = (0, 36, 6, 5)
    x, offset, mask, grad_y = (laid_out(np.zeros(s), layout, "float32") for s in (case.x, shape, (0, 18, 6, 5), case.y))
    weight, mask = values(case.weight, 1).astype(np.float32), mask if masked else None
    options = {"mask": mask, "data_format": layout, **case.options}
    y = ff.deform_conv2d(x, offset, weight, **options)
    assert (y.shape, y.dtype) == (grad_y.shape, np.float32)
    gradients = ff.deform_conv2d_backward(grad_y, x, offset, weight, **options)
    assert [g.shape for g in gradients[:4]] == [x.shape, offset.shape, weight.shape, (6,)]
    assert not gradients[2].any()
    assert not gradients[3].any()


def test_memory_is_bounded():
    """However large the arrays: a few MB a thread, a few for the team, and the weight twice."""
    for layout in LAYOUTS:
        sizes = []
        for n, size in ((1, 64), (16, 512)):
            x = (n, 64, size, size) if layout == "channels_first" else (n, size, size, 64)
            offset = (n, 18, size, size) if layout == "channels_first" else (n, size, size, 18)
            geometry, groups = deform_conv_geometry(x, offset, (64, 64, 3, 3), padding=1, data_format=layout)
            plan = DeformPlan(geometry, groups, np.dtype(np.float32))
            sizes.append((plan.forward.workspace_bytes(4), plan.backward.workspace_bytes(4)))
        for forward, backward in sizes:
            assert forward <= 4 * 2**20
            assert backward <= (9 + 4 * 5) * 2**20


# --- errors ----------------------------------------------------------------------------------------------------------


def call(x=(2, 4, 6, 7), offset=(2, 18, 6, 7), weight=(6, 4, 3, 3), bias=None, mask=None, dtype="float32", **options):
    arrays = (None if shape is None else np.zeros(shape, dtype) for shape in (x, offset, weight, bias, mask))
    x, offset, weight, bias, mask = arrays
    return ff.deform_conv2d(x, offset, weight, bias, mask=mask, **{"padding": 1, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": (4, 6, 7)}, ValueError, "x must have 4 dimensions, got x.shape=(4, 6, 7)"),
        ({"offset": (18, 6, 7)}, ValueError, "offset must have 4 dimensions"),
        ({"weight": (6, 4, 3)}, ValueError, "weight must have 4 dimensions"),
        ({"bias": (6, 1)}, ValueError, "bias must have 1 dimensions"),
        ({"bias": (5,)}, ValueError, "bias.shape must be (6,)"),
        ({"mask": (9, 6, 7)}, ValueError, "mask must have 4 dimensions"),
        ({"mask": (2, 18, 6, 7)}, ValueError, "mask.shape must be (2, 9, 6, 7)"),
        ({"offset": (2, 20, 6, 7)}, ValueError, "offset.shape[1] must be 18 times a divisor of the 4 channels of x"),
        ({"offset": (2, 18, 6, 6)}, ValueError, "offset.shape must be (2, 18, 6, 7)"),
        ({"weight": (6, 3, 3, 3)}, ValueError, "weight.shape[1] must divide the 4 channels of x"),
        ({"weight": (5, 2, 3, 3)}, ValueError, "groups must divide the 4 input and 5 output channels"),
        ({"stride": 0}, ValueError, "stride must be >= 1"),
        ({"stride": 1.0}, TypeError, "stride must be an integer or a tuple of 2 integers, got stride=1.0"),
        ({"padding": -1}, ValueError, "padding must be >= 0"),
        ({"dilation": (1, 2, 3)}, ValueError, "dilation must be an integer or a tuple of 2 integers"),
        ({"data_format": "NCHW"}, ValueError, "data_format must be"),
        ({"activation": "softplus"}, ValueError, "activation must be"),
        ({"dtype": "int32"}, TypeError, "x must be float32 or float64"),
        ({"out": np.zeros((2, 6, 6, 6), np.float32)}, ValueError, "out must have shape (2, 6, 6, 7)"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error) as raised:
        call(**arguments)
    assert message in str(raised.value)


def test_dtypes_may_not_differ():
    shapes = ((1, 2, 4, 4), (1, 18, 2, 2), (3, 2, 3, 3), (3,), (1, 9, 2, 2))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in zip(NAMES, shapes, strict=True)}
    for name in NAMES[1:]:
        with pytest.raises(TypeError, match=f"{name} must have the dtype of x, float32, got float64"):
            ff.deform_conv2d(**{**arrays, name: arrays[name].astype(np.float64)})
    grad_y = np.zeros((1, 3, 2, 2))
    del arrays["bias"]
    with pytest.raises(TypeError, match="grad_y must have the dtype of x"):
        ff.deform_conv2d_backward(grad_y, **arrays)
    grad_y = grad_y.astype(np.float32)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(1, 3, 2, 2\)"):
        ff.deform_conv2d_backward(grad_y[..., :1], **arrays)
    with pytest.raises(ValueError, match="need must be 5 bools"):
        ff.deform_conv2d_backward(grad_y, **arrays, need=(True, True))
    with pytest.raises(TypeError, match="mask must be a NumPy array"):
        ff.deform_conv2d(**{**arrays, "mask": [1.0]})


@pytest.mark.parametrize("name", ["x", "offset", "weight", "bias", "mask"])
def test_out_may_not_overlap_an_input(name):
    case = CASES["plain"](Tile.current("float32"))
    arrays = dict(zip(NAMES, operands(case, True, "float32", "channels_first")[:5], strict=True))
    size = prod(case.y)
    memory = np.zeros(size + arrays[name].size, np.float32)
    arrays[name] = memory[size - 1 : -1].reshape(arrays[name].shape)  # by its first element
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        ff.deform_conv2d(**arrays, out=memory[:size].reshape(case.y), **case.options)
    assert not memory.any()
