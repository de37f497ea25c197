"""Results live in memory that is kept for the next ones: it is theirs alone while an array looks into it."""

import gc

import hypothesis.strategies as st
import numpy as np
import pytest
from cases import DTYPES
from hypothesis import given

from fastconv import runtime
from fastconv.geometry import check_out
from fastconv.kernels import core
from fastconv.kernels.memory import empty, fits

BUFFER = np.zeros(1024, np.uint8)
LARGE = (1 << 14, 3)  # far beyond the size from which on memory is kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (7,), (1 << 13,), LARGE, (2, 3, 1, 4, 5, 600)])
def test_is_an_array_like_any_other(shape, dtype):
    array = empty(shape, np.dtype(dtype))
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.aligned
    array[...] = 1
    assert array.sum() == array.size
    if array.nbytes >= 32 << 10:
        assert array.ctypes.data % 64 == 0


def test_memory_is_used_again_when_the_last_view_is_gone():
    runtime.trim()
    array = empty(LARGE, np.dtype(np.float32))
    place, view = array.ctypes.data, array[5:9, 1]
    array[...] = 3
    del array
    gc.collect()
    assert core.idle_workspace_bytes() == 0
    other = empty(LARGE, np.dtype(np.float32))
    other[...] = 4
    assert (view == 3).all()
    del view
    gc.collect()
    assert core.idle_workspace_bytes() >= 4 * LARGE[0] * LARGE[1]
    assert empty(LARGE, np.dtype(np.float32)).ctypes.data == place


def test_small_results_do_not_hold_large_blocks():
    runtime.trim()
    large = empty((1 << 22,), np.dtype(np.float32))
    del large
    gc.collect()
    small = empty((1 << 13,), np.dtype(np.float32))
    assert core.idle_workspace_bytes() >= 1 << 24
    assert small.nbytes == 1 << 15


def test_more_than_there_is():
    with pytest.raises(MemoryError):
        empty((1 << 44, 1 << 10), np.dtype(np.float64))


@st.composite
def views(draw):
    """A view of one shared buffer: any part, step, shape of two axes, order, dtype and offset, writeable or not."""
    dtype = np.dtype(draw(st.sampled_from(["float32"] * 6 + ["float64", ">f4", "int32"])))
    start = draw(st.sampled_from([0, 16, 66, 128, 256, 512]))
    step, rows, columns = draw(st.sampled_from([1, 1, 1, 2, -1])), draw(st.integers(0, 4)), draw(st.integers(1, 4))
    memory = BUFFER[start : start + abs(step) * rows * columns * dtype.itemsize].view(dtype)[::step]
    array = memory.reshape(rows, columns)
    array = array.T if draw(st.sampled_from([False, False, True])) else array
    array.flags.writeable = draw(st.sampled_from([True] * 4 + [False]))
    return array


@given(out=views(), x=views(), shape=st.none() | st.none() | st.tuples(st.integers(0, 4), st.integers(1, 4)))
def test_what_fits_at_a_glance_fits(out, x, shape):
    shape = out.shape if shape is None else shape
    if fits(out, shape, np.dtype(np.float32), (x, None)):
        check_out(out, shape, np.dtype(np.float32), (x, None))


def test_what_is_made_for_a_result_fits_at_a_glance():
    both = np.zeros((2, 3, 4), np.float32)
    assert fits(both[0], (3, 4), both.dtype, (both[1], None))
    assert not fits(both[0], (3, 4), both.dtype, (both,))
    assert not fits(both[0], (3, 4), both.dtype, (both[1].T,))  # left to the closer look
    assert not fits([], (3, 4), both.dtype, ())


def test_the_memory_used_last_is_taken_first() -> None:
    """It is in some cache still, where what has lain for longer is not, though that be of the very size."""
    runtime.trim()
    exact, larger = (empty((size,), np.dtype(np.float32)) for size in (16384, 24576))
    last = larger.ctypes.data
    del exact, larger
    assert empty((16384,), np.dtype(np.float32)).ctypes.data == last
