"""Results live in memory that is kept for the next ones: it is theirs alone while an array looks into it."""

import gc

import numpy as np
import pytest
from cases import DTYPES

from fastconv import runtime
from fastconv.kernels import core
from fastconv.kernels.memory import empty

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
