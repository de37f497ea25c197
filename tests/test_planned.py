"""Convolutions planned beforehand: the operators' bits, from a packed weight, with nothing looked up or allocated."""

import inspect
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, LAYOUTS, Tile
from conftest import each
from convolutions import operands, operator

import fastconv
import fastconv.functional as ff
from fastconv import runtime
from fastconv.functional import planned
from fastconv.planner import PlanCache

CASES = {f"conv: {name}": CONV[name] for name in ("1d", "2d-unequal-everything", "depthwise", "3d-grouped", "reflect")}
CASES |= {
    f"transposed: {n}": CONV_TRANSPOSE[n] for n in ("1d", "2d-unequal-everything", "2d-stride-beyond-kernel", "3d")
}


def plan_of(case, x_shape, *arrays, **options):
    """The plan of a case's operator."""
    return getattr(fastconv, f"plan_{operator(ff, case).__name__}")(x_shape, *arrays, **options, **case.options)


def small_plan():
    """A plan, and arrays that it takes as x and out."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4, 3, 3), np.float32)
    plan = fastconv.plan_conv2d((2, 4, 9, 8), weight, padding=1)
    return plan, rng.standard_normal(plan.x_shape, np.float32), np.empty(plan.y_shape, np.float32)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [None, "relu6", "tanh"])
@pytest.mark.parametrize("name", CASES)
def test_bits_are_the_operators(name, activation, dtype, layout, isa):
    case = CASES[name](Tile.current(dtype))
    x, weight, bias, _ = operands(case, dtype, layout)
    options = {"activation": activation, "data_format": layout}
    for arrays in ((weight, bias), (weight,)):
        plan = plan_of(case, x.shape, *arrays, **options)
        for values in (x, -x, np.flip(x)):
            expected = operator(ff, case)(values, *arrays, **options, **case.options)
            out = np.empty(plan.y_shape, plan.dtype)
            assert plan(values, out=out) is out
            for y in (out, plan(values)):
                assert y.dtype == dtype
                np.testing.assert_array_equal(y, expected)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_an_x_without_a_batch_axis(name, layout):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    y = plan_of(case, x.shape[1:], weight, bias, data_format=layout)(x[0])
    np.testing.assert_array_equal(y, operator(ff, case)(x[0], weight, bias, data_format=layout, **case.options))


def test_a_true_convolution():
    x, weight = np.random.default_rng(0).standard_normal((2, 3, 7)), np.random.default_rng(1).standard_normal((4, 3, 3))
    plan = fastconv.plan_conv1d(x.shape, weight, flip_kernel=True)
    np.testing.assert_array_equal(plan(x), ff.conv1d(x, weight, flip_kernel=True))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kernel_packs", [False, True])
def test_later_values_of_weight_and_bias_do_not_count(read_only, kernel_packs):
    """Whether or not the algorithm packs its weight."""
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((2, 4, 9)), rng.standard_normal((6, 4, 3)), rng.standard_normal(6)
    weight.flags.writeable = bias.flags.writeable = not read_only
    expected = ff.conv1d(x, weight, bias)
    plan = fastconv.plan_conv1d(x.shape, weight, bias)
    assert plan.packed_bytes >= weight.nbytes
    if not kernel_packs:
        kernel = plan._kernel
        plan = planned.PlannedConv(
            lambda *arguments: kernel(*arguments), weight, bias, x.shape, plan.y_shape, None, plan.explain
        )
        assert plan.packed_bytes == 0
    weight.flags.writeable = bias.flags.writeable = True
    weight[...] = bias[...] = 7
    np.testing.assert_array_equal(plan(x), expected)


def test_the_isa_is_that_of_the_planning():
    isas = runtime.available_isas()
    try:
        for isa in isas:
            runtime.set_isa(isa)
            plan, x, _ = small_plan()
            expected = plan(x)
            for other in isas:
                runtime.set_isa(other)
                np.testing.assert_array_equal(plan(x), expected)
    finally:
        runtime.set_isa(isas[0])


def test_a_call_with_out_neither_allocates_nor_looks_anything_up(monkeypatch):
    plan, x, y = small_plan()
    plan(x, out=y)  # scratch memory is kept for later calls
    monkeypatch.setattr(PlanCache, "get", None)
    monkeypatch.setattr(PlanCache, "put", None)
    tracemalloc.start()
    try:
        plan(x, out=y)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        plan(x, out=y)
        assert tracemalloc.get_traced_memory()[1] - before < min(2048, x.nbytes, y.nbytes)  # Python's own objects
    finally:
        tracemalloc.stop()


def test_many_threads_share_a_plan():
    plan, x, _ = small_plan()
    expected = plan(x)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(plan, [x] * 64):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda plan, x, y: plan(x[:1]), ValueError, r"x must have shape \(2, 4, 9, 8\).*got x.shape=\(1, 4, 9, 8\)"),
        (lambda plan, x, y: plan(x.astype(np.float64)), TypeError, "x must have the dtype of weight, float32, got"),
        (lambda plan, x, y: plan(x.tolist()), TypeError, "x must be a NumPy array, got list"),
        (lambda plan, x, y: plan(x.astype(">f4")), TypeError, "native byte order"),
        (lambda plan, x, y: plan(x, out=y[:1]), ValueError, "out must have shape"),
        (lambda plan, x, y: plan(x, out=y.astype(np.float64)), TypeError, "out must have dtype float32"),
    ],
)
def test_what_a_plan_refuses(call, kind, message):
    plan, x, y = small_plan()
    with pytest.raises(kind, match=message):
        call(plan, x, y)


def test_out_may_not_overlap_x():
    plan, x, y = small_plan()
    memory = np.zeros(x.size + y.size, np.float32)
    with pytest.raises(ValueError, match="out must not share memory"):
        plan(memory[: x.size].reshape(x.shape), out=memory[1 : y.size + 1].reshape(y.shape))


@pytest.mark.parametrize(
    ("x_shape", "options", "kind", "message"),
    [
        ((2, 3, 9, 8), {}, ValueError, "weight.shape"),
        ((2, 4, 9.0, 8), {}, TypeError, "x_shape must be a tuple of integers"),
        (9, {}, TypeError, "x_shape must be a tuple of integers, got x_shape=9"),
        ((4, 9), {}, ValueError, "x must have 3 or 4 dimensions"),
        ((2, 4, 1, 8), {}, ValueError, "weight.shape"),
        ((2, 4, -9, 8), {}, ValueError, "negative"),
        ((2, 4, 9, 8), {"stride": 0}, ValueError, "stride"),
        ((2, 4, 9, 8), {"algorithm": "fft"}, ValueError, "algorithm must be"),
        ((2, 4, 9, 8), {"activation": "softplus"}, ValueError, "activation must be"),
        ((2, 4, 9, 8), {"bias": np.zeros(6)}, TypeError, "bias must have the dtype of x"),
        ((2, 4, 9, 8), {"bias": np.zeros(5, np.float32)}, ValueError, "bias.shape must be"),
    ],
)
def test_what_cannot_be_planned(x_shape, options, kind, message):
    with pytest.raises(kind, match=message):
        fastconv.plan_conv2d(x_shape, np.zeros((6, 4, 3, 3), np.float32), **options)


def test_a_weight_that_is_no_array_cannot_be_planned():
    with pytest.raises(TypeError, match="weight must be a NumPy array, got list"):
        fastconv.plan_conv_transpose1d((1, 1, 4), [[[1.0]]])


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_signatures_follow_the_operators(kind, ndim):
    operators = inspect.signature(getattr(ff, f"{kind}{ndim}d")).parameters
    plans = inspect.signature(getattr(fastconv, f"plan_{kind}{ndim}d")).parameters
    in_a_call = ("out", "residual")
    assert ["x" if name == "x_shape" else name for name in plans] == [n for n in operators if n not in in_a_call]
    for name in plans.keys() & operators.keys():
        assert plans[name] == operators[name]
