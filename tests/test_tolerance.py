"""The bound lets rounding pass and nothing else, and what runs a test over many values hides no failure.

Each of these mistakes is one that a kernel could make.
"""

import cases
import numpy as np
import pytest
from conftest import each
from tolerance import assert_within, bound

from fastconv import reference

pytestmark = pytest.mark.isa_independent

SMALL = cases.Conv((2, 5, 9, 8), (6, 5, 3, 3), padding=1)
LARGE = cases.Conv((1, 700, 9, 8), (4, 700, 3, 3), padding=1)


def problem(case):
    return cases.values(case.x, 0), cases.values(case.weight, 1)


def conv(x, weight, case, **options):
    return reference.conv2d(x, weight, **(case.options | options))


def limit(case, dtype):
    return bound(dtype, np.prod(case.weight[1:]), *problem(case))


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", [SMALL, LARGE], ids=["small", "large"])
def test_rounding_passes_in_any_order(case, dtype):
    x, weight = problem(case)
    exact = conv(x, weight, case)
    channels = np.random.default_rng(0).permutation(case.x[1])
    # longdouble where float64 itself is judged
    exact = conv(x.astype(np.longdouble), weight, case).astype(np.float64) if dtype == "float64" else exact
    for order in (np.arange(len(channels)), channels, channels[::-1]):
        chain = np.zeros(case.y, dtype)
        for c in order:  # the longest chain there is: channel by channel, tap by tap
            part = (np.take(x, [c], 1).astype(dtype), np.take(weight, [c], 1).astype(dtype))
            chain += conv(*part, case)
        assert_within(chain, exact, limit(case, dtype))
        assert_within(conv(x.astype(dtype), weight.astype(dtype), case), exact, limit(case, dtype))


def without_a_tap(x, weight):
    weight = weight.copy()
    weight[:, :, 1, 2] = 0
    return x, weight


def without_a_product(x, weight):
    weight = weight.copy()
    weight[-1, -1, 0, 0] = 0
    return x, weight


def with_swapped_input_channels(x, weight):
    return x[:, [1, 0, *range(2, x.shape[1])]], weight


def with_swapped_output_channels(x, weight):
    return x, weight[[1, 0, *range(2, len(weight))]]


def shifted(x, weight):
    return np.roll(x, 1, 3), weight


def flipped(x, weight):
    return x, np.flip(weight, (2, 3))


def transposed(x, weight):
    return x, weight.swapaxes(2, 3)


def with_a_stale_pixel(x, weight):
    x = x.copy()
    x[0, 0, 4, 4] = x[0, 0, 4, 3]
    return x, weight


MISTAKES = [
    without_a_tap,
    without_a_product,
    with_swapped_input_channels,
    with_swapped_output_channels,
    shifted,
    flipped,
    transposed,
    with_a_stale_pixel,
]


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(mistake, case, dtype):
    x, weight = problem(case)
    wrong = conv(*mistake(x, weight), case).astype(dtype)
    with pytest.raises(AssertionError, match="values are off by more than"):
        assert_within(wrong, conv(x, weight, case), limit(case, dtype))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_another_padding_is_caught(mode):
    x, weight = problem(SMALL)
    with pytest.raises(AssertionError, match="values are off by more than"):
        assert_within(conv(x, weight, SMALL, padding_mode=mode), conv(x, weight, SMALL), limit(SMALL, "float32"))


def test_one_product_in_one_output_is_caught():
    x, weight = problem(LARGE)
    exact = conv(x, weight, LARGE)
    wrong = exact.astype(np.float32)
    wrong[0, 3, 8, 7] += np.abs(x).min() * np.abs(weight).min()
    with pytest.raises(AssertionError, match=r"1 of 288 values are off.*\(0, 3, 8, 7\)"):
        assert_within(wrong, exact, limit(LARGE, "float32"))


def test_bias_left_out_or_of_another_channel_is_caught():
    x, weight = problem(SMALL)
    bias = cases.values((6,), 2)
    exact = reference.conv2d(x, weight, bias, padding=1)
    for wrong in (np.zeros(6), bias[[1, 0, 2, 3, 4, 5]]):
        with pytest.raises(AssertionError, match="values are off by more than"):
            assert_within(reference.conv2d(x, weight, wrong, padding=1), exact, limit(SMALL, "float32"))


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (1.0, np.inf), (np.inf, -np.inf), (np.nan, np.inf)],
)
def test_values_that_are_not_finite_must_be_the_same(actual, expected):
    exact = np.array([0.5, expected])
    assert_within(exact.copy(), exact, 1e-6)
    with pytest.raises(AssertionError):
        assert_within(np.array([0.5, actual]), exact, 1e-6)


def test_shape_and_dtype_must_be_the_same():
    with pytest.raises(AssertionError, match="shape"):
        assert_within(np.zeros((2, 3)), np.zeros((3, 2)), 1.0)
    with pytest.raises(AssertionError, match="dtype"):
        assert_within(np.zeros(2), np.zeros(2), 1.0, np.float32)


def test_each_runs_every_combination_and_names_those_that_fail():
    seen = []

    @each(dtype=cases.DTYPES, layout=cases.LAYOUTS)
    def test(name, layout, dtype, wrong):
        seen.append((name, dtype, layout))
        assert (dtype, layout) not in wrong

    first, *_, last = all_four = [(dtype, layout) for dtype in cases.DTYPES for layout in cases.LAYOUTS]
    test(name="x", wrong=[])
    assert seen == [("x", *one) for one in all_four]
    with pytest.raises(AssertionError) as one:
        test(name="x", wrong=[last])
    assert one.value.__notes__ == ["with dtype='float64', layout='channels_last'"]
    with pytest.raises(ExceptionGroup, match="2 of 4 combinations") as two:
        test(name="x", wrong=[first, last])
    assert [error.__notes__[0] for error in two.value.exceptions] == [
        f"with dtype={dtype!r}, layout={layout!r}" for dtype, layout in (first, last)
    ]
    assert len(seen) == 12
