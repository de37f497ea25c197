"""The knobs and what surrounds a call: ISA, threads, algorithm, fork, other parallel regions, memory."""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, laid_out, values
from conftest import MANY, using_threads

import fastconv
import fastconv.functional as ff
from fastconv import runtime
from fastconv.kernels import core

pytestmark = pytest.mark.isa_independent

# Large enough for a team of threads, in every part of the kernels: rows in parts, blocks of channels.
X, WEIGHT = values((2, 48, 24, 23), 0).astype(np.float32), values((64, 48, 3, 3), 1).astype(np.float32)
HANGS = 300  # seconds after which a process counts as hanging, on a machine that is busy, too


def convolve(layout="channels_first"):
    return ff.conv2d(laid_out(X, layout, "float32"), WEIGHT, padding=1, data_format=layout)


def python(code, **environment):
    """What a fresh Python prints, with variables set (or, for None, unset)."""
    for name in ("FASTCONV_ISA", "FASTCONV_ALGORITHM", "OMP_NUM_THREADS"):
        environment.setdefault(name, None)
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=HANGS
    )
    return process.returncode, process.stdout.strip(), process.stderr.strip()


def prints(code, **environment):
    status, out, error = python(code, **environment)
    assert status == 0, error
    return out


# --- ISA -------------------------------------------------------------------------------------------------------------


def fuses():
    """Whether the kernel rounds a product before it adds: 1 + 2^-12 squared is not a float32."""
    a = np.float32(1 + 2**-12)
    x, weight = np.array([[[-a * a, a]]]), np.array([[[np.float32(1), a]]])
    both = ff.conv1d(x, weight)[0, 0, 0], ff.conv1d(x[..., ::-1], weight[..., ::-1])[0, 0, 0]
    return any(value != 0 for value in both)


def test_each_isa_runs_its_own_microkernels(isa):
    """The register tile and the rounding of its multiply-adds tell them apart."""
    vlen = {"avx512": 16, "avx2": 8, "baseline": 4, "neon": 4}[isa]
    assert core.register_tile("float32")["vlen"] == vlen
    assert core.register_tile("float64")["vlen"] == vlen // 2
    assert runtime.get_isa() == isa
    assert fuses() == (isa != "baseline")


def test_switching_isas_switches_plans_that_are_remembered():
    before = runtime.get_isa()
    try:
        for _ in range(2):
            for isa in runtime.available_isas():
                runtime.set_isa(isa)
                assert fuses() == (isa != "baseline")
    finally:
        runtime.set_isa(before)


@pytest.mark.parametrize("name", runtime.available_isas())
def test_a_variable_forces_an_isa(name):
    code = "from fastconv import runtime; print(runtime.get_isa(), runtime.info()['isa'].split()[0])"
    assert prints(code, FASTCONV_ISA=name) == f"{name} {name}"


def test_the_widest_isa_is_the_default():
    assert prints("from fastconv import runtime; print(runtime.get_isa())") == runtime.available_isas()[0]
    assert (
        prints("from fastconv import runtime; print(runtime.get_isa())", FASTCONV_ISA="")
        == (runtime.available_isas()[0])
    )


@pytest.mark.parametrize("name", ["sse9", "AVX2", " avx2", "auto"])
def test_an_unknown_isa_raises(name):
    status, _, error = python("import fastconv", FASTCONV_ISA=name)
    assert status != 0
    assert f"ValueError: FASTCONV_ISA: isa must be one of {runtime.available_isas()}, got {name!r}" in error
    before = runtime.get_isa()
    with pytest.raises(ValueError, match="this build does not hold it"):
        runtime.set_isa(name)
    assert runtime.get_isa() == before


def test_an_isa_that_the_machine_lacks_raises(monkeypatch):
    widest, *others = runtime.available_isas()
    monkeypatch.setattr(core, "supported_isas", lambda: tuple(others))
    with pytest.raises(ValueError, match=rf"got '{widest}': this machine does not support it"):
        runtime.set_isa(widest)


# --- algorithm -------------------------------------------------------------------------------------------------------


def test_the_nearest_policy_wins():
    assert runtime.resolve_algorithm() == "auto"
    with fastconv.algorithm("direct"):
        assert runtime.resolve_algorithm() == "direct"
        assert runtime.resolve_algorithm("auto") == "auto"
        with fastconv.algorithm("auto"):
            assert runtime.resolve_algorithm() == "auto"
        assert runtime.resolve_algorithm() == "direct"
    assert runtime.resolve_algorithm() == "auto"


def test_a_policy_ends_with_its_block_after_an_error():
    with pytest.raises(RuntimeError), fastconv.algorithm("direct"):
        raise RuntimeError
    assert runtime.resolve_algorithm() == "auto"


def test_a_policy_stays_in_its_thread():
    with fastconv.algorithm("direct"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(runtime.resolve_algorithm).result() == "auto"


def test_a_variable_sets_the_policy_of_a_process():
    code = "from fastconv import runtime; print(runtime.resolve_algorithm(), runtime.info()['algorithm'])"
    assert prints(code, FASTCONV_ALGORITHM="direct") == "direct direct"
    assert prints(code) == "auto auto"


def test_an_unknown_algorithm_raises():
    status, _, error = python("import fastconv", FASTCONV_ALGORITHM="fastest")
    assert status != 0
    assert f"ValueError: FASTCONV_ALGORITHM: algorithm must be one of {runtime.ALGORITHMS}, got 'fastest'" in error
    with pytest.raises(ValueError, match="got 'fastest'"), fastconv.algorithm("fastest"):
        pass


# --- threads ---------------------------------------------------------------------------------------------------------

COUNT_WORKERS = """
import os, numpy as np, fastconv
import fastconv.functional as ff
x, w = np.ones((8, 64, 24, 24), np.float32), np.ones((64, 64, 3, 3), np.float32)
before = len(os.listdir("/proc/self/task"))
ff.conv2d(x, w)
print(fastconv.get_num_threads(), len(os.listdir("/proc/self/task")) - before + 1)
"""
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of a process in /proc")


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
    nearest = ff.conv2d(third, weight)
    with using_threads(MANY):
        assert libm.fesetround(upward) == 0
        try:
            y = ff.conv2d(third, weight, algorithm="direct")
        finally:
            libm.fesetround(0)
    assert (y == y.flat[0]).all()
    assert y.flat[0] != nearest.flat[0]


# --- fork ------------------------------------------------------------------------------------------------------------

FORKED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, fastconv
import fastconv.functional as ff
rng = np.random.default_rng(0)
x, w = rng.random((4, 48, 24, 24), np.float32), rng.random((64, 48, 3, 3), np.float32)
fastconv.set_num_threads(4)
expected = ff.conv2d(x, w)

def check():
    assert np.array_equal(ff.conv2d(x, w), expected)
    assert np.array_equal(ff.conv2d(x, w), expected)

def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize(
    "code",
    [
        "in_child(check)",
        "in_child(check); check(); in_child(check); check()",
        "in_child(lambda: in_child(check))",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(4); list(pool.map(lambda _: check(), range(8))); in_child(check)\n"
        "futures = [pool.submit(check) for _ in range(8)]; in_child(check); [f.result() for f in futures]; check()",
        "import threading\nt = threading.Thread(target=lambda: in_child(check)); t.start(); t.join(); check()",
        "import threading\nt = threading.Thread(target=check); t.start(); t.join(); in_child(check); check()",
    ],
    ids=["once", "again", "grandchild", "while-others-compute", "from-a-thread", "after-a-thread"],
)
def test_a_forked_child_computes(code):
    assert prints(FORKED + code + "\nprint('done')") == "done"


def child_of_multiprocessing(queue):
    queue.put(convolve().tobytes())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", [m for m in ("fork", "forkserver") if m in multiprocessing.get_all_start_methods()])
def test_a_child_of_multiprocessing_computes(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    expected = convolve().tobytes()
    children = [context.Process(target=child_of_multiprocessing, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    try:
        for _ in children:
            assert queue.get(timeout=HANGS) == expected
    finally:
        for child in children:
            child.join(30)
            child.kill()


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
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(lambda: [convolve() for _ in range(10)])
        others = pool.submit(lambda: [torch.conv2d(theirs, weight, padding=1) for _ in range(10)])
        for y in ours.result():
            np.testing.assert_array_equal(y, expected)
        for y in others.result():
            assert torch.equal(y, expected_theirs)


# --- memory ----------------------------------------------------------------------------------------------------------


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
    for channels in range(8, 400, 16):
        ff.conv1d(np.ones((1, channels, 400), np.float32), np.ones((channels, channels, 3), np.float32))
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
    from fastconv.planner import PlanCache

    cache = PlanCache(3)
    plans = [cache.put(i, object()) for i in range(5)]
    assert [cache.get(i) for i in range(5)] == [None, None, *plans[2:]]
    assert cache.put(4, object()) is plans[4]


def test_info_says_what_runs():
    info = runtime.info()
    assert info["openmp"].split(",")[0] in ("GNU libgomp", "LLVM libomp")
    assert info["fastconv"] == fastconv.__version__
    assert info["isa"].startswith(runtime.get_isa())
    assert info["threads"].startswith(str(fastconv.get_num_threads()))
    assert all(isinstance(value, str) and value for value in info.values())
