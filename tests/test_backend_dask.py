"""Convolution of Dask arrays: that of the whole array, lazily, in little memory, with a CPU for each thread."""

import os
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from processes import prints
from tolerance import assert_within, bound

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array")

import fastconv  # noqa: E402
from fastconv.backends import dask as backend  # noqa: E402
from fastconv.extras import MissingExtraError  # noqa: E402

pytestmark = pytest.mark.isa_independent

MODES = ("zeros", "reflect", "replicate", "circular")
LAYOUTS = ("channels_first", "channels_last")


@pytest.fixture(autouse=True)
def scheduler():
    with dask.config.set(scheduler="sync"):
        yield


def whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small ones, whose sums of products are exact in any order."""
    return rng.integers(-5, 6, shape).astype(np.float32)


def split(rng: np.random.Generator, size: int) -> tuple[int, ...]:
    """Chunks of any sizes."""
    cuts = rng.choice(np.arange(1, size), rng.integers(0, min(size, 6)), replace=False) if size > 1 else []
    return tuple(np.diff([0, *sorted(cuts), size]).tolist())


def draw_case(rng: np.random.Generator, ndim: int, mode: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """x channels first, weight and options of a convolution that has an output."""
    while True:
        size = rng.integers(3, 30 if ndim < 3 else 12, ndim)
        kernel, dilation, stride = (rng.integers(1, most, ndim) for most in (6, 4, 5))
        most = {"reflect": size - 1, "circular": size}.get(mode, np.full(ndim, 9))
        padding = rng.integers(0, np.minimum(most, 9)[:, None] + 1, (ndim, 2))
        if (size + padding.sum(1) > dilation * (kernel - 1)).all():
            break
    groups = int(rng.integers(1, 3))
    x, weight = whole_numbers(rng, 2, 4, *size), whole_numbers(rng, 6, 4 // groups, *kernel)
    pairs = tuple(map(tuple, padding.tolist()))
    options = {"stride": tuple(stride.tolist()), "dilation": tuple(dilation.tolist()), "padding": pairs}
    return x, weight, options | {"groups": groups, "padding_mode": mode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("ndim", "cases"), [(1, 30), (2, 16), (3, 6)])
def test_any_window_and_any_chunks_are_as_in_memory(ndim, cases, mode):
    rng = np.random.default_rng(ndim)
    for layout in LAYOUTS * (cases // 2):
        x, weight, options = draw_case(rng, ndim, mode)
        bias = whole_numbers(rng, 6)
        x = np.moveaxis(x, 1, -1) if layout == "channels_last" else x
        options |= {"data_format": layout, "algorithm": "direct"}
        expected = getattr(fastconv, f"conv{ndim}d")(x, weight, bias, **options)
        lazy = da.from_array(x, chunks=tuple(split(rng, size) for size in x.shape))
        y = getattr(backend, f"conv{ndim}d")(lazy, weight, bias, **options)
        assert y.shape == expected.shape
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y.compute(), expected, strict=True, err_msg=f"{lazy.chunks} {options}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["direct", "winograd", "auto"])
def test_rounding_is_that_of_the_algorithm(dtype, algorithm):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 32, 70, 61)).astype(dtype), rng.standard_normal((16, 32, 3, 3)).astype(dtype)
    y = backend.conv2d(da.from_array(x, chunks=(1, 32, 24, 20)), weight, padding=1, algorithm=algorithm)
    expected = fastconv.conv2d(x, weight, padding=1, algorithm=algorithm)
    allowed = (1 if algorithm == "direct" else 4) * 2 * bound(dtype, 32 * 9, x, weight)
    assert_within(y.compute(), expected.astype(np.float64), allowed, dtype)


def test_chunks_are_those_of_x():
    weight = np.ones((3, 2, 3, 3), np.float32)
    x = da.ones((1, 2, 64, 48), dtype=np.float32, chunks=(1, 2, 16, (20, 28)))
    for mode in MODES:
        assert backend.conv2d(x, weight, padding=1, padding_mode=mode).chunks == ((1,), (3,), (16,) * 4, (20, 28))
        y = backend.conv2d(x, weight, stride=2, padding="valid", padding_mode=mode)
        assert y.chunks == ((1,), (3,), (8, 8, 8, 7), (10, 13))
    assert backend.conv2d(x, weight, stride=(4, 3), padding=1).chunks == ((1,), (3,), (4,) * 4, (7, 9))


def test_channels_and_chunks_below_a_window_are_joined():
    rng = np.random.default_rng(1)
    x, weight = whole_numbers(rng, 2, 6, 9, 40), whole_numbers(rng, 4, 6, 5, 5)
    y = backend.conv2d(da.from_array(x, chunks=(1, 2, 1, 3)), weight, padding=2)
    np.testing.assert_array_equal(y.compute(), fastconv.conv2d(x, weight, padding=2))
    assert y.chunks == ((1, 1), (4,), (9,), (6, 6, 6, 6, 6, 10))


def test_no_batch_no_bias_activation_and_turned_kernel():
    rng = np.random.default_rng(2)
    x, weight = whole_numbers(rng, 3, 20, 21), whole_numbers(rng, 4, 3, 3, 2)
    options = {"padding": "same", "activation": "relu", "flip_kernel": True}
    y = backend.conv2d(da.from_array(x, chunks=(3, 8, 8)), weight, **options)
    np.testing.assert_array_equal(y.compute(), fastconv.conv2d(x, weight, **options), strict=True)


def test_an_empty_batch():
    x = da.zeros((0, 3, 9, 9), dtype=np.float32, chunks=(0, 3, 5, 5))
    assert backend.conv2d(x, np.ones((2, 3, 3, 3), np.float32)).compute().shape == (0, 2, 7, 7)


def test_nothing_is_computed_before_the_result_is():
    def fail(block):
        raise AssertionError("computed")

    x = da.zeros((1, 1, 30, 30), dtype=np.float32, chunks=(1, 1, 10, 10)).map_blocks(
        fail, meta=np.empty((0,) * 4, np.float32)
    )
    for mode in MODES:
        y = backend.conv2d(x, np.ones((1, 1, 3, 3), np.float32), padding=1, padding_mode=mode)
    with pytest.raises(AssertionError, match="computed"):
        y.compute()


def test_weight_bias_and_policy_are_those_of_the_call(monkeypatch):
    seen = []
    conv2d = fastconv.functional.conv2d

    def spy(*args, algorithm, **options):
        seen.append(algorithm)
        return conv2d(*args, algorithm=algorithm, **options)

    monkeypatch.setattr(fastconv.functional, "conv2d", spy)
    x, weight, bias = da.ones((1, 1, 8, 8), dtype=np.float32), np.ones((1, 1, 3, 3), np.float32), np.ones(1, np.float32)
    with fastconv.algorithm("direct"):
        y = backend.conv2d(x, weight, bias)
    weight[:], bias[:] = 0, 0
    assert (y.compute() == 10).all()
    assert seen == ["direct"]


def test_the_same_call_has_the_same_name():
    x, weight = da.ones((1, 1, 40, 40), dtype=np.float32, chunks=20), np.ones((1, 1, 3, 3), np.float32)
    assert backend.conv2d(x, weight).name == backend.conv2d(x, weight.copy()).name
    assert backend.conv2d(x, weight).name != backend.conv2d(x, 2 * weight).name
    assert backend.conv2d(x, weight).name != backend.conv2d(x, weight, padding=1).name


@pytest.mark.parametrize("schedule", ["threads", "processes"])
def test_schedulers(schedule):
    rng = np.random.default_rng(4)
    x, weight = whole_numbers(rng, 1, 2, 40, 40), whole_numbers(rng, 3, 2, 3, 3)
    y = backend.conv2d(da.from_array(x, chunks=(1, 2, 14, 14)), weight, stride=2, padding=1, padding_mode="reflect")
    expected = fastconv.conv2d(x, weight, stride=2, padding=1, padding_mode="reflect")
    np.testing.assert_array_equal(y.compute(scheduler=schedule, num_workers=2), expected)


def test_errors_come_before_work():
    x, weight = da.ones((1, 2, 9, 9), dtype=np.float32), np.ones((3, 2, 3, 3), np.float32)
    with pytest.raises(TypeError, match=r"x must be a Dask array, got ndarray; make one with dask.array.from_array"):
        backend.conv2d(np.ones((1, 2, 9, 9), np.float32), weight)
    with pytest.raises(ValueError, match=r"x must have a known shape, got .* find it with x.compute_chunk_sizes\(\)"):
        backend.conv2d(x[:, :, x[0, 0, :, 0] > 0], weight)
    with pytest.raises(TypeError, match="x must be float32 or float64, got dtype int64"):
        backend.conv2d(x.astype(int), weight)
    with pytest.raises(TypeError, match="weight must have the dtype of x"):
        backend.conv2d(x, weight.astype(float))
    with pytest.raises(ValueError, match=r"x must have 3 or 4 dimensions, got x.shape=\(2, 9\)"):
        backend.conv2d(x[0, :, 0], weight)
    with pytest.raises(ValueError, match=r"weight.shape\[1\] must be C_in / groups"):
        backend.conv2d(x, weight[:, :1])
    with pytest.raises(ValueError, match=r"weight.shape\[2:\] must fit into the padded input size"):
        backend.conv2d(x, np.ones((3, 2, 11, 3), np.float32))
    with pytest.raises(ValueError, match=r"bias.shape must be \(3,\)"):
        backend.conv2d(x, weight, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="padding must be smaller than the input size"):
        backend.conv2d(x, weight, padding=9, padding_mode="reflect")
    with pytest.raises(ValueError, match="activation must be"):
        backend.conv2d(x, weight, activation="softplus")
    with pytest.raises(ValueError, match="algorithm must be one of"):
        backend.conv2d(x, weight, algorithm="fft")
    with pytest.raises(TypeError, match="flip_kernel must be True or False"):
        backend.conv2d(x, weight, flip_kernel=1)
    with pytest.raises(ValueError, match="data_format must be"):
        backend.conv2d(x, weight, data_format="NHWC")


def test_a_missing_package_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "dask"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(MissingExtraError, match=r"this needs dask: pip install 'fastconv\[dask\]'"):
        backend.conv2d(None, np.ones((1, 1, 3, 3), np.float32))


@pytest.mark.parametrize(("chunks", "most"), [((4, 256), 10), ((16, 16), 6 * 16)], ids=["rows", "grid"])
def test_few_chunks_are_alive(chunks, most):
    """Of an image of so many chunks; a grid is held by rows of chunks."""
    alive, peak, lock = 0, 0, threading.RLock()

    def dropped():
        nonlocal alive
        with lock:
            alive -= 1

    def read(block):
        nonlocal alive, peak
        block = block.copy()
        with lock:
            alive += 1
            peak = max(peak, alive)
        weakref.finalize(block, dropped)
        return block

    x = da.zeros((1, 256, 256), dtype=np.float32, chunks=(1, *chunks))
    x = x.map_blocks(read, meta=np.empty((0, 0, 0), np.float32))
    y = backend.conv2d(x, np.ones((1, 1, 3, 3), np.float32), padding=1)
    assert y.max().compute(scheduler="threads", num_workers=2) == 0
    assert alive == 0
    assert 3 <= peak <= most


MEMORY = """
import resource
import dask, dask.array as da
import numpy as np
from fastconv.backends.dask import conv2d

def convolve(rows):
    x = da.random.default_rng(0).random((1, rows, 2048), np.float32, chunks=(1, 256, -1))
    y = conv2d(x, np.ones((1, 1, 3, 3), np.float32), padding=1, padding_mode="reflect")
    return float(y.max().compute(num_workers=2))

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convolve(512)
before = peak()
assert 1 < convolve(128 * 256) < 9
print((peak() - before) * 1024 / (256 * 2048 * 4))
"""


def test_memory_is_that_of_a_few_chunks():
    assert float(prints(MEMORY)) < 32  # of 128 in x


@pytest.fixture
def teams(monkeypatch):
    """What runs at once on so many CPUs with so many threads an operator."""

    def run(cpus: int, threads: int, blocks: int = 8) -> int:
        monkeypatch.setattr(backend, "available_cpus", lambda: cpus)
        monkeypatch.setattr(backend, "get_num_threads", lambda: threads)
        turns, running, most, lock = backend._Turns(), 0, 0, threading.Lock()
        gate = threading.Barrier(max(1, cpus // threads))  # as many as should be let in must meet

        def block():
            nonlocal running, most
            with turns.turn():
                with lock:
                    running += 1
                    most = max(most, running)
                gate.wait(60)
                with lock:
                    running -= 1

        workers = [threading.Thread(target=block) for _ in range(blocks)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return most

    return run


@pytest.mark.parametrize(("cpus", "threads", "teams_at_once"), [(2, 2, 1), (8, 2, 4), (4, 1, 4), (2, 4, 1)])
def test_blocks_run_side_by_side_as_far_as_there_are_cpus(teams, cpus, threads, teams_at_once):
    assert teams(cpus, threads) == teams_at_once


def test_a_turn_ends_with_an_error():
    turns = backend._Turns()
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        assert turns._threads == fastconv.get_num_threads()
    assert turns._threads == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_does_not_wait_for_its_parent_s_turns():
    assert (
        prints("""
import os, signal
import numpy as np, dask.array as da
from fastconv.backends import dask as backend
y = backend.conv2d(da.ones((1, 1, 8, 8), dtype=np.float32), np.ones((1, 1, 3, 3), np.float32))
with backend._turns.turn():
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        os._exit(int((y.compute(scheduler="sync") != 9).any()))
print(os.waitpid(child, 0)[1])
""")
        == "0"
    )
