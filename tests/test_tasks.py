"""`python -m benchmarks.tasks`: what a team's cut leaves idle."""

import sys

import pytest

from fastconv.benchmarks import tasks
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.shapes import NETWORKS, conv, named
from fastconv.benchmarks.tasks import Row, busiest, idle, row_of

pytestmark = pytest.mark.isa_independent


def test_threads_take_the_next_task_when_they_have_done_one():
    assert busiest([], 3) == 0
    assert busiest([2, 1, 1, 3], 1) == 7
    assert busiest([2, 1, 1, 3], 2) == 5
    assert busiest([1] * 5, 4) == 2


def test_threads_take_from_others_stretches_when_theirs_is_done():
    assert busiest([], 2, 2) == 0
    assert busiest([1, 1, 4, 4], 2, 2) == 6  # the second thread's four and, by then alone, the other four
    assert busiest([4, 4, 1, 1], 2, 2) == 6
    assert busiest([1, 2, 3, 4, 5], 3, 3) == 7  # 1 and 3; 2 and 5; 4


def test_idle_is_what_the_busiest_thread_lets_the_others_wait():
    once, twice = conv("once", 1, 1, (5,), 3), conv("twice", 1, 1, (5,), 3, times=2)
    half = Row(once, "channels_first", 4, "direct", 5, 1, 10.0, 5.0)
    assert idle([half]) == pytest.approx(0.5)
    full = half._replace(layer=twice, time=2.5)
    assert idle([full]) == pytest.approx(0)
    assert idle([half, full]) == pytest.approx(1 - 30 / 40)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["resnet50/conv2_1b/b1", "resnet50/conv1/b8", "mobilenetv2/block2_depthwise/b8"])
def test_one_thread_is_never_idle(name, layout):
    row = row_of(named(name), layout, 1)
    assert row.time == pytest.approx(row.work)
    assert idle([row_of(named(name), layout, 61)]) > 0


@pytest.mark.parametrize(("batch", "threads", "limit"), [(1, 16, 0.15), (1, 64, 0.25), (8, 16, 0.12), (8, 64, 0.16)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_keeps_a_team_busy(layout, batch, threads, limit):
    layers = [named(f"{row.network}/{row.layer}/b{batch}") for row in NETWORKS["resnet50"] if not row.pools]
    assert idle([row_of(layer, layout, threads) for layer in layers]) < limit


def test_the_command_prints_layers_and_kinds(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tasks", "--network", "alexnet", "--batch", "8", "--threads", "4"])
    tasks.main()
    text = capsys.readouterr().out
    assert "alexnet/conv5/b8" in text
    assert "11x11 stride 4" in text
    assert "all" in text
