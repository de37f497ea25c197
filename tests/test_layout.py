"""Copies from one layout to the other, against NumPy."""

import numpy as np
import pytest
from conftest import using_threads
from views import draw, views

import fastconv.functional as ff


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 70, 65),
        (1, 200, 7),
        (3, 17, 2, 3, 4),
        (2, 1, 5),
        (2, 6),
        (1, 700, 40, 30),
        (40, 4, 35),
        (40, 2, 34),
        (30, 3, 17),
        (30, 1, 9),
        (5, 4, 128),
        (5, 4, 257),
    ],
)
def test_as_numpy_and_back(shape, threads, dtype):
    """Tiles that are whole and those at the edges; small matrices of few rows."""
    x = draw(*shape, dtype=dtype)
    with using_threads(threads):
        last = ff.to_channels_last(x)
        first = ff.to_channels_first(last)
    np.testing.assert_array_equal(last, np.moveaxis(x, 1, -1))
    np.testing.assert_array_equal(first, x)
    assert last.flags.c_contiguous
    assert first.flags.c_contiguous


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_copy(shape):
    assert ff.to_channels_last(np.zeros(shape)).shape == (shape[0], *shape[2:], shape[1])
    assert ff.to_channels_first(np.zeros(shape)).shape == (shape[0], shape[-1], *shape[1:-1])


def test_views_and_out():
    x = draw(2, 5, 6, 7)
    out = np.full((2, 6, 7, 5), np.nan, x.dtype)
    for kind, view in views(x):
        assert ff.to_channels_last(view, out=out) is out
        np.testing.assert_array_equal(out, np.moveaxis(x, 1, -1), err_msg=kind)
        np.testing.assert_array_equal(ff.to_channels_first(view), np.moveaxis(x, -1, 1), err_msg=kind)


@pytest.mark.parametrize("function", [ff.to_channels_first, ff.to_channels_last])
def test_errors(function):
    x = draw(2, 4, 4)
    with pytest.raises(ValueError, match="x must have 2 axes or more"):
        function(x[0, 0])
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        function(x.astype(np.int64))
    with pytest.raises(ValueError, match="out must have shape"):
        function(x, out=np.zeros((2, 4, 5), x.dtype))
    with pytest.raises(ValueError, match="share"):
        function(x, out=x)
