"""Scratch memory, plans and the memory of a process stay bounded, whatever is computed and however often."""

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, laid_out
from conftest import using_threads
from processes import convolve, needs_proc, prints

import fastconv.functional as ff
from fastconv import runtime
from fastconv.kernels import core
from fastconv.kernels.memory import empty
from fastconv.planner import PlanCache

pytestmark = pytest.mark.isa_independent


def test_trim_gives_back_what_is_idle():
    runtime.trim()
    convolve()
    idle = core.idle_workspace_bytes()
    assert 0 < idle <= 128 << 20
    assert runtime.trim() == idle
    assert runtime.trim() == 0
    np.testing.assert_array_equal(convolve(), convolve())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_workspace_is_a_few_megabytes_however_large_the_problem(dtype, layout, isa):
    """Nothing as large as x, or as im2col, is ever copied; the packed weight comes on top."""
    x, weight = np.ones((1, 40, 300, 300), dtype), np.ones((4, 40, 5, 5), dtype)
    x = laid_out(x, layout, dtype)
    runtime.trim()
    with using_threads(2):
        y = ff.conv2d(x, weight, data_format=layout)
    assert core.idle_workspace_bytes() < 4 << 20 < x.nbytes
    assert y.base is not None  # its memory goes back to the workspace, too, but only with it


def test_idle_workspace_is_bounded():
    runtime.trim()
    for channels in range(8, 400, 16):
        ff.conv1d(np.ones((1, channels, 400), np.float32), np.ones((channels, channels, 3), np.float32))
    assert core.idle_workspace_bytes() <= 128 << 20


def test_what_was_in_use_at_once_is_kept_until_it_is_forgotten():
    """A step of training frees all that it holds and wants it again; what comes after it need not keep that."""
    runtime.trim()
    arrays = [empty((2 << 20,), np.dtype(np.float32)) for _ in range(40)]
    places = {array.ctypes.data for array in arrays}
    arrays.clear()
    assert core.idle_workspace_bytes() >= 40 * (8 << 20)
    arrays = [empty((2 << 20,), np.dtype(np.float32)) for _ in range(40)]
    assert {array.ctypes.data for array in arrays} == places
    more = [empty((2 << 20,), np.dtype(np.float32)) for _ in range(20)]
    assert core.idle_workspace_bytes() == 0
    del more, arrays
    assert core.idle_workspace_bytes() <= 61 * (8 << 20)
    for _ in range(8 * 4096):
        empty((16 << 10,), np.dtype(np.float32))
    assert core.idle_workspace_bytes() <= 128 << 20


GROWTH = """
import numpy as np, fastconv, fastconv.functional as ff
fastconv.set_num_threads(2)
x, w = np.ones((2, 48, 20, 20), np.float32), np.ones((32, 48, 3, 3), np.float32)
b, out = np.ones(32, np.float32), np.empty((2, 32, 18, 18), np.float32)
strided = x[:, :, ::2, ::-1]

def calls(n):
    for i in range(n):
        ff.conv2d(x, w, b, out=out)
        y = ff.conv2d(strided, w, b, activation="tanh", padding=1)
        ff.conv2d_backward(y, strided, w, padding=1)
        for bad in ({"stride": 0}, {"out": y}, {"activation": "?"}):
            try:
                ff.conv2d(x, w, **bad)
            except ValueError:
                pass

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

calls(50)
before = resident()
calls(300)
print((resident() - before) // 1024)
"""


@needs_proc
def test_memory_does_not_grow_with_calls():
    assert int(prints(GROWTH)) < 3000


SHAPES = """
import numpy as np, fastconv.functional as ff
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
w = np.ones((2, 2, 3, 3), np.float32)
def calls(first, last):
    for i in range(first, last):
        ff.conv2d(np.ones((1, 2, 5, 4 + i), np.float32), w)
calls(0, 1100)
before = resident()
calls(1100, 2200)
print((resident() - before) // 1024)
"""


@needs_proc
def test_plans_of_ever_new_shapes_are_forgotten():
    assert int(prints(SHAPES)) < 80_000


def test_the_cache_of_plans_keeps_the_latest():
    cache = PlanCache(3)
    plans = [cache.put(i, object()) for i in range(5)]
    assert [cache.get(i) for i in range(5)] == [None, None, *plans[2:]]
    assert cache.put(4, object()) is plans[4]


PEAK = """
import numpy as np, fastconv.functional as ff
from fastconv import runtime
def beyond_operands():
    high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(high.split()[1]) / 1024 - sum(a.nbytes for a in (x, weight, bias, y)) / 2**20
runtime.set_num_threads(2)
x, weight, bias = (np.ones(shape, np.float32) for shape in (SHAPE, (64, 64, 3, 3), (64,)))
y = ff.conv2d(x, weight, bias, padding=1, activation="relu", data_format=LAYOUT)
ff.conv2d(x, weight, bias, padding=1, activation="relu", data_format=LAYOUT, algorithm="direct", out=y)
print(beyond_operands())
reordered = x.copy()
print(beyond_operands())
"""


@needs_proc
@pytest.mark.parametrize(("layout", "shape"), [(LAYOUTS[0], (16, 64, 224, 224)), (LAYOUTS[1], (16, 224, 224, 64))])
def test_the_peak_of_a_large_layer_is_its_operands_and_a_process(layout, shape):
    """VGG-16's second layer, Winograd and direct: operands of 392 MB, Python, NumPy and all else within 64 MB.

    A whole im2col would be 1764 MB; a copy of x alone is seen.
    """
    ours, with_copy = map(float, prints(PEAK.replace("SHAPE", repr(shape)).replace("LAYOUT", repr(layout))).split())
    assert ours <= 64
    assert with_copy > ours + 190
