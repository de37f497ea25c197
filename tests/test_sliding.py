"""Runs of neighbouring taps: each pair of positions once, by the formula, and their bounds where padding begins."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from fastconv.sliding import backward_axis, forward_axis, links
from fastconv.sources import PADDING

pytestmark = pytest.mark.isa_independent

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@st.composite
def axes(draw):
    size, kernel, stride, dilation = (draw(st.integers(1, most)) for most in (20, 7, 7, 7))
    before, after = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    assume(out >= 1)
    return {"size": size, "out": out, "kernel": kernel, "stride": stride, "before": before, "dilation": dilation}


def met(axis):
    """(destination, tap, source) of all runs, and what each run says of itself."""
    found = []
    for phase in axis.phases:
        for run in phase.runs:
            assert len(run.table) == phase.count + (run.taps - 1) * axis.dilation
            inside = np.arange(run.first, run.end)
            np.testing.assert_array_equal(run.table[run.first : run.end], run.origin + inside * axis.stride)
            for j in range(phase.count):
                for u in range(run.taps):
                    place = (phase.start + j * axis.step, run.tap + u * axis.tap_step)
                    found.append((*place, int(run.table[j + u * axis.dilation])))
    return found


def expected_of(padded, stride, dilation, kernel, out):
    return {(o, t, int(padded[o * stride + t * dilation])) for o in range(out) for t in range(kernel)}


@given(axis=axes(), mode=st.sampled_from(list(MODES)))
def test_forward(axis, mode):
    after = (axis["out"] - 1) * axis["stride"] + axis["dilation"] * (axis["kernel"] - 1) + 1
    after = max(0, after - axis["size"] - axis["before"])
    assume(max(axis["before"], after) <= {"reflect": axis["size"] - 1, "circular": axis["size"]}.get(mode, 100))
    fill = {"constant_values": PADDING} if mode == "zeros" else {}
    padded = np.pad(np.arange(axis["size"]), (axis["before"], after), MODES[mode], **fill)
    found = met(forward_axis(**axis, mode=mode))
    assert len(found) == len(set(found))
    expected = expected_of(padded, axis["stride"], axis["dilation"], axis["kernel"], axis["out"])
    assert {m for m in found if m[2] != PADDING} == {m for m in expected if m[2] != PADDING}


@given(axis=axes())
def test_backward_is_forward_the_other_way(axis):
    forward, backward = met(forward_axis(**axis)), met(backward_axis(**axis))
    assert len(backward) == len(set(backward))
    pairs = {(i, t, o) for o, t, i in forward if i != PADDING}
    assert {m for m in backward if m[2] != PADDING} == pairs
    assert len(backward_axis(**axis).phases) <= axis["kernel"]


@given(axis=axes())
def test_links_are_the_same_by_destination(axis):
    for described, size in ((forward_axis(**axis), axis["out"]), (backward_axis(**axis), axis["size"])):
        ends, taps, sources = links(described, size)
        found = [(i, int(taps[e]), int(sources[e])) for i in range(size) for e in range(ends[i], ends[i + 1])]
        assert found == sorted(m for m in met(described) if m[2] != PADDING)
