"""Tables of sources: what every tap reads, by the formula, and in memory that does not grow with the kernel."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from fastconv.geometry import conv_geometry
from fastconv.sources import (
    PADDING,
    backward_input_sources,
    forward_sources,
    parts_of,
    places_of,
    shared_padding,
)

pytestmark = pytest.mark.isa_independent

MODES = st.sampled_from(["zeros", "reflect", "replicate", "circular"])
NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@st.composite
def axes(draw):
    size, kernel = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    stride, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    padding = draw(st.tuples(st.integers(0, 15), st.integers(0, 15)))
    assume(size + sum(padding) >= dilation * (kernel - 1) + 1)
    return {"size": size, "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding}


def geometry(axis, mode="zeros"):
    return conv_geometry(
        (1, 1, axis["size"]), (1, 1, axis["kernel"]), stride=axis["stride"], dilation=axis["dilation"],
        padding=(axis["padding"],), padding_mode=mode, ndim=1,
    )  # fmt: skip


def assume_that_mode_reaches(axis, mode):
    """Padding by reflection ends before the size, by a circle with it."""
    assume(max(axis["padding"]) <= {"reflect": axis["size"] - 1, "circular": axis["size"]}.get(mode, 100))


def map_of(sources):
    """The sources of each tap and position, one by one."""
    i, j = np.ogrid[: len(sources.taps), : sources.count]
    return sources.table[sources.first + i * sources.tap_step + j * sources.stride]


def assert_segments_say_the_same(sources):
    segments, first = sources.segments()
    assert len(first) == len(sources.taps) + 1
    for tap, row in enumerate(map_of(sources)):
        covered = 0
        for start, stop, source, step in segments[first[tap] : first[tap + 1]]:
            assert start == covered < stop
            expected = np.full(stop - start, PADDING) if source == PADDING else source + np.arange(stop - start) * step
            np.testing.assert_array_equal(row[start:stop], expected)
            covered = stop
        assert covered == sources.count


@given(axis=axes(), mode=MODES)
def test_forward(axis, mode):
    assume_that_mode_reaches(axis, mode)
    ((sources,),) = forward_sources(geometry(axis, mode), mode)
    fill = {"constant_values": PADDING} if mode == "zeros" else {}
    padded = np.pad(np.arange(axis["size"]), axis["padding"], NUMPY_MODE[mode], **fill)
    expected = [padded[t * axis["dilation"] :: axis["stride"]][: sources.count] for t in range(axis["kernel"])]
    np.testing.assert_array_equal(map_of(sources), expected)
    assert len(sources.table) <= len(padded)
    assert_segments_say_the_same(sources)


@given(axis=axes(), backward=st.booleans())
def test_zones_leave_out_nothing_but_padding(axis, backward):
    for (whole,) in (backward_input_sources if backward else forward_sources)(geometry(axis)):
        met = {}
        for zone in whole.zones():
            assert_segments_say_the_same(zone)
            rows = map_of(zone)
            assert len(zone.taps) == 1 or (rows[[0, -1]] != PADDING).all()
            for tap, row in zip(zone.taps, rows, strict=True):
                for j, source in enumerate(row):
                    key = (tap, zone.start + j * zone.step)
                    assert key not in met
                    met[key] = source
        expected = {
            (tap, whole.start + j * whole.step): source
            for tap, row in zip(whole.taps, map_of(whole), strict=True)
            for j, source in enumerate(row)
        }
        assert all(expected.pop(key) == source for key, source in met.items())
        assert set(expected.values()) <= {PADDING}


@given(axis=axes(), mode=MODES)
def test_components_of_stride_1_read_the_same(axis, mode):
    for (whole,) in forward_sources(geometry(axis), mode):
        components, rows = whole.components(), dict(zip(whole.taps, map_of(whole), strict=True))
        assert {component.stride for component in components} == {1}
        assert len({component.tap_step for component in components}) == 1
        taps = [len(component.taps) for component in components]
        assert taps[0] == max(taps) <= 1 + min(taps)
        for component in components:
            for tap, row in zip(component.taps, map_of(component), strict=True):
                np.testing.assert_array_equal(row, rows.pop(tap))
        assert not rows


@given(axis=axes())
def test_backward_holds_each_pair_of_positions_once(axis):
    g = geometry(axis)
    pairs = set()
    phases = [phase for (phase,) in backward_input_sources(g)]
    for phase in phases:
        assert_segments_say_the_same(phase)
        for tap, row in zip(phase.taps, map_of(phase), strict=True):
            for j, source in enumerate(row):
                if source != PADDING:
                    pairs.add((phase.start + j * phase.step, tap, int(source)))
    expected = set()
    for o in range(g.out_size[0]):
        for t in range(axis["kernel"]):
            i = o * g.stride[0] + t * g.dilation[0] - axis["padding"][0]
            if 0 <= i < axis["size"]:
                expected.add((i, t, o))
    assert pairs == expected
    assert len(phases) <= axis["kernel"]
    destinations = [phase.start + j * phase.step for phase in phases for j in range(phase.count)]
    assert len(set(destinations)) == len(destinations)
    assert all(0 <= i < axis["size"] for i in destinations)


def test_a_long_row_takes_few_segments_and_a_short_table():
    x, weight = (1, 1, 1_000_000), (1, 1, 501)
    ((sources,),) = forward_sources(conv_geometry(x, weight, padding=250, ndim=1))
    assert sources.table.nbytes < 9_000_000
    assert len(sources.segments()[0]) <= 3 * 501
    (phase,) = (axes[0] for axes in backward_input_sources(conv_geometry(x, weight, padding=250, ndim=1)))
    assert phase.table.nbytes < 9_000_000


def test_a_large_stride_has_no_more_phases_than_taps():
    g = conv_geometry((1, 1, 4000, 4000), (1, 1, 2, 3), stride=1000, ndim=2)
    assert len(backward_input_sources(g)) == 6


@given(axes(), MODES, st.booleans())
def test_taps_find_their_sources_in_lines_that_share_padding(axis, mode, backward):
    """Two lines packed part by part, one behind the other: each tap's sources for the outputs of a line are side by
    side, wherever the end of one line and the beginning of the next are the same padding."""
    assume_that_mode_reaches(axis, mode)
    phases = backward_input_sources(geometry(axis)) if backward else forward_sources(geometry(axis, mode))
    for (axis_sources,) in phases:
        a = axis_sources
        shift = np.arange(len(a.taps)) * a.tap_step
        shift -= shift.min()
        parts = parts_of(shift.tolist(), a.stride, 1)[0]
        segments = [a.part_segments(part) for part in parts]
        wide = a.count + max(more for _, more in parts)
        pitch = max(1, wide - shared_padding(segments, parts))
        packed = np.full((len(parts), pitch + wide), PADDING)
        for line in range(2):
            for row, rows in zip(packed, segments, strict=True):
                for start, stop, source, step in rows:
                    if source != PADDING:
                        row[line * pitch + start : line * pitch + stop] = source + step * np.arange(stop - start)
        places = places_of(shift, a.stride, parts, pitch + wide, 1)
        for line in range(2):
            for tap, place in enumerate(places):
                at = a.first + tap * a.tap_step
                expected = a.table[at : at + (a.count - 1) * a.stride + 1 : a.stride]
                found = packed.ravel()[place + line * pitch :][: a.count]
                np.testing.assert_array_equal(found, expected)
