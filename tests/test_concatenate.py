"""Arrays joined and taken apart, against NumPy."""

import numpy as np
import pytest
from conftest import using_threads
from views import draw, views

import fastconv.functional as ff

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_as_numpy_and_back(axis, threads, dtype):
    """Runs shorter and longer than a stretch, and stretches that begin within them."""
    for shape in ((3, 5, 7), (2, 70, 600), (300, 17, 33)):
        parts = []
        for number, size in enumerate((3, 0, 1, 11)):
            one = list(shape)
            one[axis] = size
            parts.append(draw(*one, dtype=dtype, seed=number))
        with using_threads(threads):
            whole = ff.concatenate(parts, axis)
            apart = ff.split(whole, [part.shape[axis] for part in parts], axis)
        np.testing.assert_array_equal(whole, np.concatenate(parts, axis))
        for part, one in zip(parts, apart, strict=True):
            assert one.flags.c_contiguous
            np.testing.assert_array_equal(one, part)


def test_one_array_is_copied():
    x = draw(3, 4)
    y = ff.concatenate([x])
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)
    (z,) = ff.split(x, [4])
    assert not np.shares_memory(x, z)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0), (0,)])
def test_nothing_to_copy(shape):
    x = np.zeros(shape)
    assert ff.concatenate([x, x], axis=0).shape == (2 * shape[0], *shape[1:])
    assert [part.shape for part in ff.split(x, [shape[0], 0], axis=0)] == [shape, (0, *shape[1:])]


def test_views_and_out():
    x, other = draw(4, 5, 6), draw(4, 2, 6, seed=1)
    expected = np.concatenate([x, other], 1)
    out = np.full_like(expected, np.nan)
    for kind, view in views(x):
        assert ff.concatenate([view, other], out=out) is out
        np.testing.assert_array_equal(out, expected, err_msg=kind)
        for part, one in zip(ff.split(view, [2, 3]), np.split(x, [2], 1), strict=True):
            np.testing.assert_array_equal(part, one, err_msg=kind)
    with pytest.raises(ValueError, match="share"):
        ff.concatenate([out[:, :5], other], out=out)
    with pytest.raises(ValueError, match="shape"):
        ff.concatenate([x, other], out=x)


@pytest.mark.parametrize(
    ("arrays", "axis", "error", "message"),
    [
        ([], 1, ValueError, "arrays must be one array or more"),
        ([np.zeros((2, 3)), [1.0]], 1, TypeError, r"arrays\[1\] must be a NumPy array"),
        ([np.zeros((2, 3)), np.zeros((2, 3), np.int64)], 1, TypeError, r"arrays\[1\] must be float32 or float64"),
        ([np.zeros((2, 3)), np.zeros((2, 3), np.float32)], 1, TypeError, r"arrays\[1\] must have the dtype of arrays"),
        (
            [np.zeros((2, 3)), np.zeros((3, 3))],
            1,
            ValueError,
            r"one shape but for axis 1: .*arrays\[1\].shape=\(3, 3\)",
        ),
        ([np.zeros((2, 3)), np.zeros((2, 3, 1))], 1, ValueError, "one shape but for axis 1"),
        ([np.zeros((2, 3))], 2, ValueError, "axis must be one of the 2 axes of its arrays, got axis=2"),
        ([np.zeros((2, 3))], 1.0, TypeError, "axis must be an integer"),
    ],
)
def test_errors_of_concatenate(arrays, axis, error, message):
    with pytest.raises(error, match=message):
        ff.concatenate(arrays, axis)


@pytest.mark.parametrize(
    ("x", "sizes", "error", "message"),
    [
        (np.zeros((2, 3)), [1, 1], ValueError, r"sizes must add up to 3, the size of axis 1, got sizes=\(1, 1\)"),
        (np.zeros((2, 3)), [4, -1], ValueError, r"sizes\[1\] must be >= 0, got sizes\[1\]=-1"),
        (np.zeros((2, 3)), [1.5, 1.5], TypeError, r"sizes\[0\] must be an integer"),
        (np.zeros((2, 3), int), [3], TypeError, "x must be float32 or float64"),
        (np.zeros(3), [3], ValueError, "axis must be one of the 1 axes"),
    ],
)
def test_errors_of_split(x, sizes, error, message):
    with pytest.raises(error, match=message):
        ff.split(x, sizes)
