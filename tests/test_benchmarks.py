"""The benchmarks' own rules: results are compared, engines sleep, threads and errors of other processes are seen."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines, floors, timing, versus_torch
from benchmarks.engines import Contestant, Engine, EngineError, check_agreement, race, started
from benchmarks.layer import LAYOUTS, operands
from benchmarks.shapes import conv, named, out_shape, transposed

pytestmark = pytest.mark.isa_independent

SMALL = conv("small", 3, 5, (9, 8), 3, stride=2, padding=1)


@pytest.fixture(scope="module")
def engine():
    with started([Engine("fastconv", 2)]) as (engine,):
        yield engine


def test_an_engine_has_a_process_of_its_own_which_sleeps_between_rounds(engine):
    result = engine.run("benchmarks.worker:prepare", SMALL, "float64", "channels_last", "functional")
    assert result.shape == out_shape(SMALL)
    timed = engine.run("benchmarks.worker:time_round", 0.01)
    assert timed.seconds > 0
    threads = list(Path(f"/proc/{engine._process.pid}/task").iterdir())
    assert engine._process.pid != os.getpid()
    assert not any(engines._is_awake(thread) for thread in threads)


@pytest.mark.parametrize("layer", [SMALL, transposed("up", 4, 3, (5,), 4, stride=2, padding=1)])
def test_every_layout_and_kind_gives_the_same(engine, layer):
    first, *others = (
        engine.run("benchmarks.worker:prepare", layer, "float64", layout, kind)
        for layout in LAYOUTS
        for kind in ("functional", "layer")
    )
    for other in others:
        check_agreement(layer, "first", first, "other", other)


def test_contestants_are_timed_in_turn(engine):
    timings = race([Contestant(engine, layout) for layout in LAYOUTS], SMALL, "float32", "functional", 3, 0.002)
    assert list(timings) == [f"fastconv {layout}" for layout in LAYOUTS]
    for spread, _ in timings.values():
        assert 0 < spread.low <= spread.median <= spread.high


def test_what_fails_in_an_engine_is_said_here(engine):
    with pytest.raises(EngineError, match=r"fastconv failed:(.|\n)*no_such_function"):
        engine.run("benchmarks.worker:no_such_function")
    assert engine.run("benchmarks.worker:versions")["fastconv"]


def test_an_engine_that_dies_is_noticed():
    with (
        started([Engine("nonesuch", 1)]) as (engine,),
        pytest.raises(EngineError, match="nonesuch ended with status 1"),
    ):
        engine.run("benchmarks.worker:versions")


def test_results_that_differ_are_refused():
    y = np.random.default_rng(0).standard_normal((2, 3, 40), np.float32)
    check_agreement(SMALL, "a", y, "b", y * (1 + 1e-6))
    for wrong in (y * (1 + 1e-4), y[:, :, 1:], y.astype(np.float64), np.where(y == y.max(), np.nan, y)):
        with pytest.raises(EngineError):
            check_agreement(SMALL, "a", y, "b", wrong)


def test_operands_are_the_same_every_time():
    for one, other in zip(operands(SMALL, "float32"), operands(SMALL, "float32"), strict=True):
        np.testing.assert_array_equal(one, other)
    x, weight, bias = operands(named("vgg16/pool5/b1"), "float64")
    assert x.dtype == np.float64
    assert weight is bias is None


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
    engine.run("benchmarks.worker:prepare", SMALL, "float32", "channels_first", "functional")
    pairs = engine.run("benchmarks.floors:against_fma", "float32", 1000.0, 2, 0.001)
    pairs += engine.run("benchmarks.floors:against_copy", 1 << 16, 2, 0.001)
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


def test_ratios_are_to_the_same_layout_and_to_the_best_peer():
    seconds = {"fastconv channels_first": 2.0, "fastconv channels_last": 1.0, "torch channels_first": 3.0,
               "torch channels_last": 1.5}  # fmt: skip
    row = versus_torch.row_of(SMALL, {name: {"median": value} for name, value in seconds.items()})
    assert row["same_layout"] == {"channels_first": 1.5, "channels_last": 1.5}
    assert row["best_peer"] == {"channels_first": 0.75, "channels_last": 1.5}
    line = versus_torch.summary([row, row])[0]
    assert line["best_geomean"] == pytest.approx(0.75)
    assert line["layers"] == 2
