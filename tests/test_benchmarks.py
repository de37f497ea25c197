"""The benchmarks' own rules: results are compared, engines sleep, threads and errors of other processes are seen."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fastconv.benchmarks import engines, floors, timing
from fastconv.benchmarks.engines import Contestant, Engine, EngineError, check_agreement, race, started
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.shapes import conv, named, out_shape, transposed
from fastconv.benchmarks.task import KINDS, Task, operands

pytestmark = pytest.mark.isa_independent

SMALL = conv("small", 3, 5, (9, 8), 3, stride=2, padding=1)
TASK = Task(SMALL, "float32", "functional")


@pytest.fixture(scope="module")
def engine():
    with started([Engine("fastconv", 2)]) as (engine,):
        yield engine


def test_an_engine_has_a_process_of_its_own_which_sleeps_between_rounds(engine):
    first = engine.run("worker:prepare", TASK, "channels_last")
    (y,) = first.arrays
    assert y.shape == out_shape(SMALL)
    assert first.seconds > 0
    assert engine.run("worker:time_cold", 1) > 0
    timed = engine.run("worker:time_round", 0.01)
    assert timed.seconds > 0
    threads = list(Path(f"/proc/{engine._process.pid}/task").iterdir())
    assert engine._process.pid != os.getpid()
    assert not any(engines._is_awake(thread) for thread in threads)


@pytest.mark.parametrize("layer", [SMALL, transposed("up", 4, 3, (5,), 4, stride=2, padding=1)])
def test_every_layout_and_kind_gives_the_same(engine, layer):
    task, *others = (Task(layer, "float64", kind) for kind in KINDS)
    expected = engine.run("worker:prepare", task, LAYOUTS[0]).arrays
    for other in (task, *others):
        for layout in LAYOUTS:
            check_agreement(task, "first", expected, "other", engine.run("worker:prepare", other, layout).arrays)


def test_contestants_are_timed_in_turn(engine):
    results, left_out = race([Contestant(engine, layout) for layout in LAYOUTS], TASK, 3, 0.002, cold=1)
    assert list(results) == [f"fastconv {layout}" for layout in LAYOUTS]
    assert not left_out
    for result in results.values():
        assert 0 < result.spread.low <= result.spread.median <= result.spread.high
        assert result.first > 0
        assert result.cold > 0


class Stranger:
    """fastconv's engine under another name, whose answers something is done to."""

    def __init__(self, name, engine, change=lambda function, result: result):
        self.name, self._engine, self._change = name, engine, change

    def run(self, function, *arguments):
        return self._change(function, self._engine.run(function, *arguments))


def twice(function, result):
    return result._replace(arrays=(2 * result.arrays[0],)) if function == "worker:prepare" else result


def dies(function, result):
    if function == "worker:time_round":
        raise EngineError("mortal failed:\nout of memory")
    return result


def test_a_peer_that_is_wrong_or_fails_is_left_out(engine):
    strangers = Stranger("wrong", engine, twice), Stranger("mortal", engine, dies), Stranger("right", engine)
    contestants = [Contestant(e, "channels_first") for e in (engine, *strangers)]
    results, left_out = race(contestants, TASK, 1, 0.001)
    assert list(results) == ["fastconv channels_first", "right channels_first"]
    assert "apart" in left_out["wrong channels_first"]
    assert left_out["mortal channels_first"] == "out of memory"


def test_what_is_hopelessly_slow_is_called_once(engine):
    def slow(function, result):
        assert function == "worker:prepare"
        return result._replace(ran=10.0)

    contestants = [Contestant(e, "channels_first") for e in (engine, Stranger("slow", engine, slow))]
    results, left_out = race(contestants, TASK, 3, 0.001, cold=1)
    assert results["slow channels_first"].spread == (10, 10, 10)
    assert results["slow channels_first"].cold is None
    assert not left_out


def test_what_nobody_confirms_stops_the_run(engine):
    with pytest.raises(EngineError, match="apart"):
        race([Contestant(e, "channels_first") for e in (engine, Stranger("wrong", engine, twice))], TASK, 1, 0.001)


def test_what_fails_in_an_engine_is_said_here(engine):
    with pytest.raises(EngineError, match=r"fastconv failed:(.|\n)*no_such_function"):
        engine.run("worker:no_such_function")
    assert engine.run("worker:versions")["fastconv"]


def test_an_engine_that_dies_is_noticed():
    with (
        started([Engine("nonesuch", 1)]) as (engine,),
        pytest.raises(EngineError, match=r"nonesuch ended with status 1:\n(.|\n)*KeyError"),
    ):
        engine.run("worker:versions")


def test_results_that_differ_are_refused():
    y = np.random.default_rng(0).standard_normal((2, 3, 40), np.float32)
    check_agreement(TASK, "a", (y,), "b", (y * np.float32(1 + 1e-6),))
    for wrong in (y * np.float32(1 + 1e-4), y[:, :, 1:], y.astype(np.float64), np.where(y == y.max(), np.nan, y), None):
        with pytest.raises(EngineError):
            check_agreement(TASK, "a", (y,), "b", (wrong,))


def test_operands_are_the_same_every_time():
    for one, other in zip(operands(TASK), operands(TASK), strict=True):
        np.testing.assert_array_equal(one, other)
    x, weight, bias, grad_y = operands(Task(named("vgg16/pool5/b1"), "float64", backward=True))
    assert x.dtype == grad_y.dtype == np.float64
    assert grad_y.shape == (1, 512, 7, 7)
    assert weight is bias is None


def test_backward_multiplies_twice_and_moves_what_it_reads_and_writes():
    forward, backward = (Task(conv("", 2, 3, (5,), 3), backward=b) for b in (False, True))
    assert backward.multiply_adds == 2 * forward.multiply_adds == 2 * 3 * 3 * 2 * 3
    x, weights, y = 2 * 5, 3 * (2 * 3 + 1), 3 * 3
    assert forward.compulsory_bytes == 4 * (x + weights + y)
    assert backward.compulsory_bytes == 4 * (2 * x + 2 * weights + y)


def test_short_calls_are_timed_together_and_long_ones_once():
    calls = []
    timing.time_calls(lambda: calls.append(None), 0.2)
    assert len(calls) > 20
    calls.clear()
    timed = timing.time_calls(lambda: (calls.append(None), time.sleep(0.01)), 0.002)
    assert len(calls) == 2
    assert timed.seconds >= 0.01


def test_medians_and_quartiles():
    assert timing.Spread.of([5, 1, 2, 4, 3]) == (3, 2, 4)
    assert timing.Spread.of([7]) == (7, 7, 7)


def test_floors_compare_with_the_ceiling_of_the_same_round(engine):
    engine.run("worker:prepare", TASK, "channels_first")
    pairs = engine.run("floors:against_fma", "float32", 1000.0, 2, 0.001)
    pairs += engine.run("floors:against_copy", 1 << 16, 2, 0.001)
    assert all(rate > 0 and ceiling > 0 for rate, ceiling in pairs)


def test_a_low_ceiling_is_marked():
    rows = [{"isa": "avx2", "ceiling": ceiling} for ceiling in (100.0, 95.0, 40.0)]
    floors.mark_steady(rows, ("isa",))
    assert [row["steady"] for row in rows] == [True, True, False]


def test_named_layers_of_the_floors_exist():
    for name in (*floors.CONVS, *floors.QUICK_CONVS):
        assert named(name).operator.startswith("conv")
    for name in (*floors.POOLS, *floors.QUICK_POOLS):
        assert named(name).pools
