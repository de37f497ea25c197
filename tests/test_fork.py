"""Children of a process whose threads have computed, or are computing, compute the same."""

import multiprocessing
import os

import pytest
from processes import HANGS, convolve, prints

pytestmark = pytest.mark.isa_independent

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
