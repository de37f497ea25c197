"""How many threads a call takes, calls from many threads at once, and beside or inside regions of other runtimes."""

import ctypes
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import LAYOUTS, laid_out, values
from conftest import MANY, using_threads
from processes import WEIGHT, X, convolve, needs_proc, prints

import fastconv
import fastconv.functional as ff
from fastconv import runtime
from fastconv.kernels import core

pytestmark = pytest.mark.isa_independent

COUNT_WORKERS = """
import os, numpy as np, fastconv
import fastconv.functional as ff
x, w = np.ones((8, 64, 24, 24), np.float32), np.ones((64, 64, 3, 3), np.float32)
before = len(os.listdir("/proc/self/task"))
ff.conv2d(x, w)
print(fastconv.get_num_threads(), len(os.listdir("/proc/self/task")) - before + 1)
"""


@needs_proc
@pytest.mark.parametrize(("variable", "expected"), [("1", 1), ("3", 3), ("2,4", 2), ("5", 5)])
def test_omp_num_threads_is_respected(variable, expected):
    assert prints(COUNT_WORKERS, OMP_NUM_THREADS=variable) == f"{expected} {expected}"


@pytest.mark.parametrize("variable", [None, "", "0", "many", "-1"])
def test_the_cpus_of_the_process_are_the_default(variable):
    code = "import fastconv; print(fastconv.get_num_threads())"
    assert prints(code, OMP_NUM_THREADS=variable) == str(runtime.available_cpus())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_the_affinity_mask_is_respected():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); import fastconv"
    assert prints(code + "; print(fastconv.get_num_threads())") == "1"


@needs_proc
def test_small_work_stays_on_the_calling_thread():
    code = COUNT_WORKERS.replace("(8, 64, 24, 24)", "(1, 4, 8, 8)").replace("(64, 64, 3, 3)", "(4, 4, 3, 3)")
    assert prints(code, OMP_NUM_THREADS="4") == "4 1"


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (5000, ValueError), (2**40, ValueError), (1.0, TypeError), (True, TypeError),
     ("2", TypeError), (None, TypeError)],
)  # fmt: skip
def test_wrong_thread_counts_raise(count, error):
    before = fastconv.get_num_threads()
    with pytest.raises(error, match="count must be"):
        fastconv.set_num_threads(count)
    assert fastconv.get_num_threads() == before


def test_a_numpy_integer_is_a_thread_count():
    with using_threads(np.int64(3)):
        assert fastconv.get_num_threads() == 3


def test_more_threads_than_work_or_cpus():
    with using_threads(1):
        expected = convolve()
    with using_threads(64):
        np.testing.assert_array_equal(convolve(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sixteen_threads_at_once(layout):
    """Each with shapes of its own, so that plans are made and workspace taken side by side."""
    problems = [
        (laid_out(values((1, 8 + i, 20, 19 + i), i), layout, "float32"), values((40, 8 + i, 3, 3), i).astype("float32"))
        for i in range(16)
    ]
    with using_threads(1):
        expected = [ff.conv2d(x, w, padding=1, data_format=layout) for x, w in problems]
    start = threading.Barrier(16)

    def work(i):
        start.wait()
        x, w = problems[i]
        return [ff.conv2d(x, w, padding=1, data_format=layout) for _ in range(5)]

    with using_threads(MANY), ThreadPoolExecutor(16) as pool:
        for results, y in zip(pool.map(work, range(16)), expected, strict=True):
            for result in results:
                np.testing.assert_array_equal(result, y)


def test_one_plan_in_sixteen_threads_at_once():
    expected = convolve()
    with ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda _: convolve(), range(48)):
            np.testing.assert_array_equal(result, expected)


def test_settings_of_the_floating_point_unit_hold_in_every_thread():
    """Rounding upwards on the calling thread alone would leave a seam between the rows of two threads."""
    libm = ctypes.CDLL(None)
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(os.uname().machine)
    if upward is None or not hasattr(libm, "fesetround"):
        pytest.skip("the rounding mode of this machine is not known here")
    third = np.full((8, 64, 24, 24), 1 / 3, np.float32)
    weight = np.full((64, 64, 3, 3), 1 / 3, np.float32)
    with using_threads(MANY):
        assert libm.fesetround(upward) == 0
        try:
            y = ff.conv2d(third, weight, algorithm="direct")
        finally:
            libm.fesetround(0)
        nearest = ff.conv2d(third, weight)  # and workers, who keep a mode until the next call, are back to this one
    assert (y == y.flat[0]).all()
    assert y.flat[0] != nearest.flat[0]


# --- other parallel regions ------------------------------------------------------------------------------------------

REGION = r"""
#include <omp.h>
void in_region(int threads, void (*work)(int)) {
  #pragma omp parallel num_threads(threads)
  work(omp_get_thread_num());
}
"""


@pytest.fixture(scope="module")
def in_region(tmp_path_factory):
    """A function that calls back from every thread of an OpenMP region of our own runtime."""
    compiler = shutil.which("clang" if core.build_info()["compiler"].startswith("Clang") else "gcc") or shutil.which(
        "cc"
    )
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("region")
    (folder / "region.c").write_text(REGION)
    command = [compiler, "-shared", "-fPIC", "-fopenmp", str(folder / "region.c"), "-o", str(folder / "region.so")]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the C compiler has no OpenMP")
    function = ctypes.CDLL(str(folder / "region.so")).in_region
    work = ctypes.CFUNCTYPE(None, ctypes.c_int)
    return lambda threads, call: function(ctypes.c_int(threads), work(call))


def test_inside_another_parallel_region(in_region):
    with using_threads(1):
        expected = convolve()
    results = {}
    with using_threads(MANY):
        in_region(3, lambda thread: results.__setitem__(thread, (convolve(), threading.active_count())))
    assert sorted(results) == [0, 1, 2]
    for y, _ in results.values():
        np.testing.assert_array_equal(y, expected)


@needs_proc
def test_no_threads_are_started_inside_another_parallel_region(in_region):
    counts = []

    def count(thread):
        convolve()
        counts.append(len(os.listdir("/proc/self/task")))

    with using_threads(MANY + 6):
        in_region(2, lambda thread: None)
        before = len(os.listdir("/proc/self/task"))
        in_region(2, count)
    assert max(counts) <= before


def test_beside_the_threads_of_pytorch():
    """Another runtime's workers in the same process, busy at the same time."""
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(X)
    weight = torch.tensor(WEIGHT)
    expected, expected_theirs = convolve(), torch.conv2d(theirs, weight, padding=1)

    def busy():
        before = torch.get_num_threads()
        torch.set_num_threads(MANY)  # of this thread
        try:
            return [torch.conv2d(theirs, weight, padding=1) for _ in range(10)]
        finally:
            torch.set_num_threads(before)

    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(lambda: [convolve() for _ in range(10)])
        others = pool.submit(busy)
        for y in ours.result():
            np.testing.assert_array_equal(y, expected)
        for y in others.result():
            assert torch.equal(y, expected_theirs)
