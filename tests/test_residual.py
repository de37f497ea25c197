"""Convolution plus a residual against the oracle: every algorithm and way through the arrays, in place, from views."""

import numpy as np
import pytest
import test_direct
import test_grouped
import test_winograd
from cases import CONV, DEPTHWISE, DTYPES, LAYOUTS, Conv, Tile, laid_out, values
from conftest import MANY, each, using_threads
from convolutions import exact_forward, operands, operator, terms_of_y
from tolerance import assert_within, bound
from views import views

import fastconv
import fastconv.functional as ff
from fastconv import layers, reference

CASES = {
    **{f"direct/{name}": CONV[name] for name in (
        "single-product", "2d-unequal-everything", "2d-small-planes-cross-images", "2d-alexnet-first-layer",
        "empty-batch-2d", "many-channels", "many-channels-pointwise", "shared-stretches", "shared-small-planes",
        "1d-strided-dilated", "3d-unequal-everything", "threaded-grouped", "threaded-first-layer", "threaded-3d",
        "out_channels=NR+1", "pointwise-pixels=VLEN+1", "circular-grouped")},
    **{f"direct/{name}": lambda t, case=case: case for name, case in test_direct.CASES.items()
       if isinstance(case, Conv)},
    **{f"winograd/{name}": case for name, case in test_winograd.CASES.items() if "transposed" not in name},
    **{f"grouped/{name}": test_grouped.CASES[name] for name in (
        "4-to-4", "32-to-32-wide", "6-to-2", "5-to-vlen+1", "strided", "1d-long", "3d-strided", "threaded-16")},
    **{f"depthwise/{name}": DEPTHWISE[name] for name in (
        "3x3", "3x3-large-strided", "1d-long", "7x7-large-by-two", "channels-by-two=VLEN+1", "threaded-by-two",
        "3d-unequal-everything", "stride-beyond-kernel", "reflect", "replicate-1d-dilated", "threaded")},
}  # fmt: skip
THREADED = [name for name in CASES if "threaded" in name or "shared" in name or "many-channels" in name]
FEW = ["direct/2d-unequal-everything", "direct/many-channels", "direct/shared-small-planes", "direct/lines: narrow",
       "direct/lines: wide", "winograd/taps-2-3", "winograd/threaded", "grouped/strided", "depthwise/3x3",
       "depthwise/7x7-large-by-two"]  # fmt: skip
CURVES = ("relu", "tanh")


class Sum:
    """A case's operands, its residual, and the call that adds it."""

    def __init__(self, name, dtype, layout):
        self.algorithm, self.dtype, self.layout = name.split("/")[0], dtype, layout
        self.case = CASES[name](Tile.current(dtype))
        self.x, self.weight, self.bias, _ = operands(self.case, dtype, layout)
        self.residual = laid_out(values(self.case.y, 6), layout, dtype)
        self.options = {"data_format": layout, "algorithm": self.algorithm, **self.case.options}

    def __call__(self, **options):
        options = {"residual": self.residual, **self.options, **options}
        return operator(ff, self.case)(self.x, self.weight, self.bias, **options)

    def exact(self):
        return laid_out(exact_forward(self.case) + values(self.case.y, 6), self.layout, "float64")

    @property
    def limit(self):
        terms = terms_of_y(self.case) + 1
        if self.algorithm == "winograd":
            return test_winograd.limit(self.case, terms, self.x, self.weight)
        return bound(self.dtype, terms, self.x, self.weight)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize(("name", "count"), [(n, 1) for n in CASES] + [(n, MANY) for n in THREADED])
def test_values_are_the_oracles(name, count, dtype, layout, isa):
    call = Sum(name, dtype, layout)
    with using_threads(count):
        y = call()
        assert_within(y, call.exact(), call.limit, dtype)
        for activation in CURVES:
            np.testing.assert_array_equal(call(activation=activation), getattr(ff, activation)(y))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_out_may_be_the_residual(name, layout, isa):
    call = Sum(name, "float32", layout)
    for activation in (None, "tanh"):  # in the tile, as clamps are, and after it
        expected, y = call(activation=activation), call.residual.copy()
        assert call(residual=y, out=y, activation=activation) is y
        np.testing.assert_array_equal(y, expected)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", THREADED)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    call = Sum(name, "float32", layout)
    with using_threads(1):
        expected = call(activation="relu")
    for count in (2, 5):
        with using_threads(count):
            np.testing.assert_array_equal(call(activation="relu").view(np.uint32), expected.view(np.uint32))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_views_give_the_same_bits_and_stay_untouched(name, layout):
    call = Sum(name, "float32", layout)
    expected, residual = call(), call.residual.copy()
    for kind, view in views(call.residual):
        np.testing.assert_array_equal(call(residual=view), expected, err_msg=kind)
        np.testing.assert_array_equal(view, residual, err_msg=kind)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_plans_and_images_without_a_batch_axis(name, layout):
    call = Sum(name, "float32", layout)
    plan = getattr(fastconv, f"plan_conv{call.case.ndim}d")
    expected = call(activation="relu")
    planned = plan(call.x.shape, call.weight, call.bias, activation="relu", **call.options)
    np.testing.assert_array_equal(planned(call.x, residual=call.residual), expected)
    np.testing.assert_array_equal(planned(call.x), call(residual=None, activation="relu"))
    image = operator(ff, call.case)(call.x[0], call.weight, call.bias, residual=call.residual[0], **call.options)
    first = operator(ff, call.case)(call.x[:1], call.weight, call.bias, residual=call.residual[:1], **call.options)
    np.testing.assert_array_equal(image, first[0])


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_what_is_not_finite_in_the_residual_stays_where_it_is(name, layout, isa):
    call = Sum(name, "float32", layout)
    call.residual.flat[3::7], call.residual.flat[4::7] = np.nan, -np.inf
    y = call()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(call.residual))
    np.testing.assert_array_equal(np.isneginf(y), np.isneginf(call.residual))


@pytest.mark.parametrize("in_place", [False, True])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_an_infinite_x_makes_no_other_output_so(name, layout, in_place, isa):
    call = Sum(name, "float32", layout)
    call.x.flat[5] = np.inf
    with np.errstate(invalid="ignore"):
        operands64 = (a.astype(np.float64) for a in (call.x, call.weight, call.bias))
        exact = operator(reference, call.case)(*operands64, data_format=layout, **call.case.options)
    y = call.residual.copy()
    y = call(residual=y, out=y if in_place else None)
    assert_within(y, exact + call.residual, bound("float32", terms_of_y(call.case) + 1, np.ones(1), call.weight))


X, W = np.zeros((2, 3, 6, 7), np.float32), np.zeros((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("residual", "kind", "message"),
    [
        (
            np.zeros((2, 4, 4), np.float32),
            ValueError,
            r"residual must have shape \(2, 4, 4, 5\) .* got residual.shape=",
        ),
        (np.zeros((1, 4, 4, 5), np.float32), ValueError, r"residual must have shape \(2, 4, 4, 5\)"),
        (np.zeros((2, 4, 4, 5)), TypeError, "residual must have the dtype of x, float32, got float64"),
        (np.zeros((2, 4, 4, 5), np.int64), TypeError, "residual must be float32 or float64"),
        ([1.0], TypeError, "residual must be a NumPy array, got list"),
    ],
)
def test_what_is_no_residual(residual, kind, message):
    plan = fastconv.plan_conv2d(X.shape, W)
    for call in (lambda: ff.conv2d(X, W, residual=residual), lambda: plan(X, residual=residual)):
        with pytest.raises(kind, match=message):
            call()


def test_out_may_not_be_a_part_of_the_residual():
    memory = np.zeros(2 * 4 * 4 * 5 + 1, np.float32)
    residual, out = memory[1:].reshape(2, 4, 4, 5), memory[:-1].reshape(2, 4, 4, 5)
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        ff.conv2d(X, W, residual=residual, out=out)


def test_transposed_convolutions_take_none():
    plan = fastconv.plan_conv_transpose2d(X.shape, np.zeros((3, 4, 3, 3), np.float32))
    with pytest.raises(ValueError, match="residual must be None for a transposed convolution"):
        plan(X, residual=np.zeros(plan.y_shape, np.float32))


@pytest.mark.parametrize("pack", [False, True])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FEW)
def test_evaluated_layers_add_it(name, layout, pack):
    call = Sum(name, "float32", layout)
    c_out, c_in, *kernel = call.case.weight
    arguments = (c_in * call.case.groups, c_out, tuple(kernel))
    layer = getattr(layers, f"Conv{call.case.ndim}d")(*arguments, activation="relu", **call.options)
    layer.load_state_dict({"weight": call.weight, "bias": call.bias})
    expected = call(activation="relu")
    np.testing.assert_array_equal(layer.eval(pack=pack)(call.x, residual=call.residual), expected)
    with pytest.raises(RuntimeError, match=r"residual of Conv\dd is for evaluation mode"):
        layer.train()(call.x, residual=call.residual)
