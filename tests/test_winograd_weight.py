"""Weight gradients by Winograd's filtering against the oracle, within the bound that its transforms give."""

from functools import lru_cache
from math import prod

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Conv, ConvTranspose, Tile, laid_out
from conftest import ISAS, MANY, each, using_isa, using_threads
from convolutions import exact_backward, operands, operator
from test_winograd import amplification
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import explain_plan

NEED = (False, True, True)

CASES = {
    "one-tile": lambda t: Conv((1, 5, 6, 6), (7, 5, 3, 3)),
    "one-output": lambda t: Conv((1, 3, 3, 3), (4, 3, 3, 3)),
    "channels=VLEN": lambda t: Conv((2, t.vlen, 9, 10), (t.vlen, t.vlen, 3, 3), padding=1),
    "channels=VLEN-1": lambda t: Conv((1, t.vlen - 1, 7, 9), (t.vlen - 1, t.vlen - 1, 3, 3), padding=1),
    "channels=VLEN+1": lambda t: Conv((1, t.vlen + 1, 7, 9), (t.vlen + 1, t.vlen + 1, 3, 3), padding=1),
    "channels=2VLEN": lambda t: Conv((1, 2 * t.vlen, 7, 9), (2 * t.vlen, 2 * t.vlen, 3, 3), padding=1),
    "channels=4VLEN+1": lambda t: Conv((1, 4 * t.vlen + 1, 6, 7), (4 * t.vlen + 1, 4 * t.vlen + 1, 3, 3)),
    "chunks": lambda t: Conv((1, 67, 6, 15), (130, 67, 3, 3), padding=1),
    "chains": lambda t: Conv((3, 5, 36, 38), (6, 5, 3, 3), padding=1),
    "batches": lambda t: Conv((3, 5, 57, 63), (6, 5, 3, 3), padding=1),
    "spans": lambda t: Conv((10, 3, 80, 81), (4, 3, 3, 3), padding=1),
    "unequal-padding": lambda t: Conv((2, 5, 9, 14), (6, 5, 3, 3), padding=((0, 2), (2, 1))),
    "groups": lambda t: Conv((2, 12, 11, 10), (18, 4, 3, 3), groups=3, padding=1),
    "taps-2-4": lambda t: Conv((2, 9, 12, 13), (6, 9, 2, 4)),
    "taps-5-3": lambda t: Conv((1, 5, 12, 13), (6, 5, 5, 3), padding=(2, 0)),
    "five-points": lambda t: Conv((3, t.vlen + 1, 9, 6), (t.vlen + 1, t.vlen + 1, 3, 3), padding=1),
    "five-points-taps-4-2": lambda t: Conv((2, 5, 7, 9), (6, 5, 4, 2)),
    "five-points-dilated": lambda t: Conv((2, 5, 17, 17), (9, 5, 3, 3), padding=6, dilation=6),
    "reflect": lambda t: Conv((2, 3, 8, 30), (6, 3, 3, 3), padding=2, padding_mode="reflect"),
    "circular": lambda t: Conv((2, 3, 8, 30), (6, 3, 3, 3), padding=3, padding_mode="circular"),
    "1d": lambda t: Conv((2, 5, 8 * t.vlen + 3), (6, 5, 3), padding=1),
    "1d-taps-5": lambda t: Conv((2, 5, 50), (6, 5, 5)),
    "3d": lambda t: Conv((2, 4, 6, 7, 9), (5, 4, 3, 3, 3), padding=1),
    "3d-taps-2-3-2": lambda t: Conv((1, 4, 7, 7, 9), (5, 4, 2, 3, 2)),
    "3d-taps-4-3-2": lambda t: Conv((1, 3, 9, 7, 9), (5, 3, 4, 3, 2)),
    "3d-taps-5-2-4": lambda t: Conv((1, 3, 8, 7, 9), (5, 3, 5, 2, 4)),
    "3d-batches": lambda t: Conv((4, 5, 9, 17, 18), (6, 5, 3, 3, 3), padding=1),
    "dilated": lambda t: Conv((2, 5, 15, 40), (6, 5, 3, 3), padding=(2, 3), dilation=(2, 3)),
    "dilated-beyond-the-size": lambda t: Conv((2, 5, 4, 5), (6, 5, 3, 3), padding=6, dilation=6),
    "dilated-3d": lambda t: Conv((1, 3, 7, 8, 9), (4, 3, 3, 2, 3), dilation=(2, 1, 3), padding=1),
    "transposed": lambda t: ConvTranspose((2, 5, 9, 11), (5, 6, 3, 3), padding=1),
    "threaded": lambda t: Conv((2, 33, 29, 50), (40, 33, 3, 3), padding=1),
    "threaded-3d": lambda t: Conv((1, 33, 9, 18, 17), (40, 33, 3, 3, 3), padding=1),
}  # fmt: skip
LARGE = ("chains", "batches", "spans", "threaded", "threaded-3d")
RUNS = [(name, layout, 1) for name in CASES for layout in LAYOUTS]
RUNS += [(name, layout, MANY) for name in LARGE for layout in LAYOUTS]


def gradients(case, dtype, layout, need=NEED, algorithm="winograd"):
    x, weight, _, grad_y = operands(case, dtype, layout)
    backward = operator(ff, case, "_backward")
    return backward(grad_y, x, weight, need=need, data_format=layout, algorithm=algorithm, **case.options)[1:]


def magnified(g):
    """What limits direct sums, of as many terms as a transformed sum over tiles comes to."""
    most = 0
    for points in (5, 6) if g.ndim == 2 and max(g.kernel) < 5 else (6,):  # four along an axis magnify less
        outputs = [points + 1 - k for k in g.kernel]  # of a tile
        tiles = g.batch * prod(d * (1 + o // (d * m)) for o, d, m in zip(g.out_size, g.dilation, outputs, strict=True))
        most = max(most, (2 if g.ndim == 3 else 1) * (tiles + 6) * amplification(outputs))
    return most


@each(dtype=DTYPES)
@pytest.mark.parametrize(("name", "layout", "count"), RUNS)
def test_gradients(name, layout, count, dtype, isa):
    case = CASES[name](Tile.current(dtype))
    x, _, _, grad_y = operands(case, dtype, layout)
    with using_threads(count):
        grad_weight, grad_bias = gradients(case, dtype, layout)
    limit = bound(dtype, magnified(case.geometry), grad_y, x)
    exact = exact_backward(case)
    assert_within(grad_weight, exact[1], limit, dtype)
    assert_within(grad_bias, exact[2], bound(dtype, case.x[0] * prod(case.y[2:]), grad_y, np.ones(1)), dtype)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", [*LARGE, "groups"])
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = CASES[name](Tile.current("float32"))
    results = []
    for count in (1, 2, 5):
        with using_threads(count):
            results.append([gradient.view(np.uint32) for gradient in gradients(case, "float32", layout)])
    for other in results[1:]:
        for result, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(result, expected)


@each(layout=LAYOUTS)
def test_one_gradient_is_that_of_both(layout, isa, threads):
    case = CASES["chunks"](Tile.current("float32"))
    grad_weight, grad_bias = gradients(case, "float32", layout)
    weight, nothing = gradients(case, "float32", layout, (False, True, False))
    assert nothing is None
    np.testing.assert_array_equal(weight, grad_weight)
    nothing, bias = gradients(case, "float32", layout, (False, False, True))
    assert nothing is None
    np.testing.assert_array_equal(bias, grad_bias)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", ["chunks", "1d", "3d", "threaded"])
def test_what_is_not_finite_is_where_the_direct_kernel_has_it(name, layout, value, isa, threads):
    case = CASES[name](Tile.current("float32"))
    x, weight, _, grad_y = operands(case, "float32", layout)
    grad_y.flat[grad_y.size * 3 // 7] = value
    backward, options = operator(ff, case, "_backward"), {"data_format": layout, "need": NEED, **case.options}
    direct = backward(grad_y, x, weight, algorithm="direct", **options)
    winograd = backward(grad_y, x, weight, algorithm="winograd", **options)
    for result, expected in zip(winograd[1:], direct[1:], strict=True):
        np.testing.assert_array_equal(result, expected)


@lru_cache(1)
def of_an_error(case, rectified):
    """x and grad_y in float32, and grad_weight by the direct kernel in float64: once for all layouts and ISAs."""
    rng = np.random.default_rng(1)
    x, grad_y = (rng.standard_normal(shape).astype(np.float32) for shape in (case.x, case.y))
    x = np.maximum(x, 0) if rectified else x
    operands = (a.astype(float) for a in (grad_y, x, np.zeros(case.weight)))
    options = {"need": (False, True, False), "algorithm": "direct", **case.options}
    return x, grad_y, operator(ff, case, "_backward")(*operands, **options)[1]


@each(isa=ISAS, layout=LAYOUTS)
@pytest.mark.every_isa
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("batch", "size", "kernel", "channels"),
    [
        (2, (400,), 3, 32),
        (2, (400,), 5, 32),
        (2, (56, 56), 3, 32),
        (2, (112, 112), 3, 32),
        (2, (14, 14), 3, 32),
        (8, (7, 7), 3, 32),
        (2, (28, 28), 2, 32),
        (2, (28, 28), 4, 32),
        (1, (8, 28, 28), 3, 32),
        (4, (4, 14, 14), 3, 32),
        (1, (8, 16, 16), 2, 32),
        (2, (8, 28, 28), 3, 128),
    ],
)
def test_error_is_within_four_times_the_direct_kernels(batch, size, kernel, channels, rectified, layout, isa):
    case = Conv((batch, channels, *size), (channels, channels, *[kernel] * len(size)), padding=kernel // 2)
    x, grad_y, exact = of_an_error(case, rectified)
    x, grad_y = laid_out(x, layout, "float32"), laid_out(grad_y, layout, "float32")
    backward, weight = operator(ff, case, "_backward"), np.zeros(case.weight, np.float32)
    options = {"data_format": layout, "need": (False, True, False), **case.options}
    with using_isa(isa):
        results = {a: backward(grad_y, x, weight, algorithm=a, **options)[1] for a in ("direct", "winograd")}
    errors = {name: gradient - exact for name, gradient in results.items()}
    for size_of in (np.linalg.norm, lambda error: np.max(np.abs(error))):
        assert size_of(errors["winograd"]) <= 4 * size_of(errors["direct"])


@each(layout=LAYOUTS)
def test_an_empty_batch_leaves_zeros(layout):
    case = Conv((0, 16, 9, 8), (16, 16, 3, 3), padding=1)
    for gradient in gradients(case, "float32", layout):
        assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("x", "weight", "options", "reason"),
    [
        ((8, 128, 56, 56), (128, 128, 3, 3), {}, "winograd: it costs less"),
        ((1, 256, 8, 28, 28), (256, 256, 3, 3, 3), {}, "winograd: it costs less"),
        ((1, 512, 7, 7), (512, 512, 3, 3), {}, "direct: Winograd does not cost less"),
        ((8, 128, 56, 56), (128, 128, 3, 3), {"stride": 2}, "an axis has a stride"),
        ((8, 128, 56, 56), (128, 128, 1, 1), {}, "2 to 5 taps"),
        ((8, 8, 56, 56), (8, 8, 3, 3), {}, "fewer than 16 channels"),
        ((8, 64, 56, 56), (64, 64, 5, 5), {}, "more than 4 taps an axis"),
        (
            (8, 64, 56, 56),
            (64, 64, 3, 3),
            {"algorithm": "winograd", "stride": 2},
            "asked for, but an axis has a stride",
        ),
        ((8, 64, 56, 56), (64, 64, 5, 5), {"algorithm": "winograd"}, "winograd: asked for"),
        ((8, 64, 56, 56), (64, 64, 3, 3), {"algorithm": "direct"}, "direct: asked for"),
        ((8, 64, 56, 56), (64, 64, 3, 3), {"algorithm": "grouped"}, "no weight gradient is summed so"),
    ],
)
@pytest.mark.isa_independent
def test_reasons(x, weight, options, reason):
    explanation = explain_plan(x, weight, padding=weight[-1] // 2, direction="backward_weight", **options)
    assert reason in f"{explanation.algorithm}: {explanation.reason}"
    assert ("not held" in explanation.error) == (explanation.algorithm == "winograd" and weight[-1] == 5)
