"""The direct kernel's ways to pack its source against the oracle: lines of every kind, columns, and turned pixels."""

from dataclasses import replace

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Conv, ConvTranspose
from conftest import each
from convolutions import (
    check_activation,
    check_bits_of_threads,
    check_forward,
    check_not_finite,
    check_out,
    exact_forward,
    operands,
    terms_of_y,
)
from fastconv.kernels.direct import DirectPlan
from tolerance import assert_within, bound

import fastconv
import fastconv.functional as ff
from fastconv import reference
from fastconv.kernels import core
from fastconv.kernels.memory import empty
from fastconv.planner import ConvPlan

LINES = {
    "wide": Conv((2, 3, 9, 128), (7, 3, 3, 3), padding=1),
    "wide-with-a-tail": Conv((1, 2, 6, 219), (7, 2, 3, 3), padding=(1, 2)),
    "one-wide-line": Conv((2, 3, 230), (9, 3, 5), padding=2),
    "parts-of-a-line": Conv((1, 3, 4, 1100), (4, 3, 3, 3), padding=1),
    "long": Conv((1, 2, 5000), (3, 2, 9), dilation=3),
    "narrow": Conv((2, 4, 9, 15), (6, 4, 3, 3), padding=1),
    "narrow-unpadded": Conv((2, 4, 12, 13), (6, 4, 3, 4)),
    "padding-beyond-the-kernel": Conv((1, 3, 5, 6), (4, 3, 3, 3), padding=4),
    "nearly-all-padding": Conv((1, 3, 5, 9), (8, 3, 3, 3), padding=30),
    "nothing-but-padding-along-lines": Conv((1, 3, 9, 1), (8, 3, 3, 1), stride=(1, 2), padding=(1, 3)),
    "nothing-but-padding-in-a-part": Conv((1, 3, 9, 2), (8, 3, 3, 3), stride=(1, 3), padding=(1, 8)),
    "one-sided-padding": Conv((1, 3, 9, 17), (4, 3, 3, 3), padding=((0, 2), (2, 0))),
    "stride-2": Conv((2, 3, 15, 29), (8, 3, 3, 3), stride=2, padding=1),
    "stride-4": Conv((1, 3, 47, 51), (8, 3, 11, 11), stride=4, padding=2),
    "stride-beyond-kernel": Conv((1, 3, 31, 32), (8, 3, 2, 2), stride=5, padding=1),
    "dilated": Conv((1, 3, 40, 50), (5, 3, 3, 3), dilation=(2, 3), padding=3),
    "columns-of-taps": Conv((2, 3, 20, 31), (6, 3, 5, 1), padding=(2, 0)),
    "reflect": Conv((1, 3, 9, 20), (6, 3, 5, 5), padding=2, padding_mode="reflect"),
    "circular": Conv((1, 3, 9, 20), (6, 3, 5, 5), padding=4, padding_mode="circular"),
    "3d": Conv((1, 3, 5, 7, 20), (5, 3, 3, 3, 3), padding=1),
    "3d-stride-2": Conv((1, 3, 6, 9, 20), (5, 3, 3, 3, 3), stride=2, padding=1),
    "blocks-of-channels": Conv((1, 300, 9, 40), (3, 300, 3, 3), padding=1),
    "chunks-of-groups": Conv((3, 64, 9, 10), (64, 2, 3, 3), padding=1, groups=32),
    "threaded": Conv((2, 3, 60, 70), (40, 3, 5, 5), padding=2),
    "threaded-stretch": Conv((1, 20, 20, 40), (60, 20, 3, 3), padding=1),
}
COLUMNS = {
    "across-images": Conv((3, 8, 7, 7), (400, 8, 3, 3), padding=1),
    "dilated-far": Conv((1, 6, 28, 28), (48, 6, 3, 3), padding=12, dilation=12),
    "many-taps": Conv((1, 4, 13, 13), (300, 4, 7, 7), padding=3),
    "blocks-of-channels": Conv((1, 120, 9, 9), (200, 120, 5, 5), padding=2),
    "threaded-stretch": Conv((2, 60, 14, 14), (200, 60, 3, 3), padding=1),
    "threaded-pieces": Conv((1, 130, 14, 15), (200, 130, 1, 1)),
    "threaded-panels": Conv((3, 40, 28, 29), (100, 40, 1, 1)),
}
ZONES = {
    "far": Conv((6, 64, 14, 15), (30, 64, 3, 3), padding=6, dilation=6),
    "as-far-as-the-picture": Conv((3, 64, 9, 9), (10, 64, 3, 3), padding=9, dilation=9),
    "stride-2": Conv((4, 64, 29, 28), (20, 64, 3, 3), stride=2, padding=12, dilation=(12, 11)),
    "one-sided-padding": Conv((2, 64, 12, 12), (20, 64, 3, 3), padding=((8, 0), (0, 8)), dilation=5),
    "blocks-of-channels": Conv((3, 130, 12, 13), (70, 130, 3, 3), padding=6, dilation=6),
    "groups": Conv((4, 128, 12, 12), (22, 64, 3, 3), padding=6, dilation=6, groups=2),
    "1d": Conv((8, 64, 40), (9, 64, 5), padding=28, dilation=14),
    "3d": Conv((1, 64, 5, 6, 7), (6, 64, 3, 3, 3), padding=3, dilation=3),
    "threaded": Conv((2, 64, 33, 33), (64, 64, 3, 3), padding=12, dilation=12),
}
CASES = {**{f"lines: {name}": case for name, case in LINES.items()},
         **{f"columns: {name}": case for name, case in COLUMNS.items()},
         **{f"zones: {name}": case for name, case in ZONES.items()}}  # fmt: skip
THREADED = [name for name in CASES if "threaded" in name or "chunks" in name]
FEW = (
    "lines: wide",
    "lines: narrow",
    "lines: stride-2",
    "lines: chunks-of-groups",
    "columns: across-images",
    "zones: far",
)


@pytest.fixture(autouse=True)
def _by_nothing_else():
    with fastconv.algorithm("direct"):
        yield


@each(dtype=DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_forward(name, dtype, isa, threads):
    check_forward(CASES[name], dtype, "channels_first")


@pytest.mark.parametrize("name", CASES)
def test_it_is_packed_as_the_case_says(name):
    plan = ConvPlan(CASES[name].geometry, np.dtype("float32"), CASES[name].padding_mode, "direct").forward
    assert isinstance(plan, DirectPlan)
    if name.startswith("zones"):
        assert plan.zoned
        assert set(plan.packing) == {"columns"}
    else:
        assert not plan.zoned
        assert plan.packing == (name.split(":")[0],)


TURNED = {
    "one-channel": Conv((2, 7, 9, 20), (1, 7, 3, 3), padding=1),
    "wide": Conv((1, 20, 5, 70), (3, 20, 3, 3), padding=1),
    "strided": Conv((2, 5, 14, 41), (3, 5, 5, 4), stride=(2, 3), padding=2),
    "padding-beyond-the-kernel": Conv((1, 3, 5, 6), (4, 3, 3, 3), padding=4),
    "dilated-reflect": Conv((1, 8, 12, 30), (2, 8, 3, 3), dilation=2, padding=2, padding_mode="reflect"),
    "1d": Conv((3, 12, 90), (2, 12, 9), padding=4),
    "3d": Conv((1, 6, 5, 7, 12), (2, 6, 3, 3, 3), padding=1),
    "channels-in-blocks": Conv((1, 700, 6, 40), (3, 700, 5, 5), padding=2),
    "phases": ConvTranspose((2, 9, 7, 11), (9, 3, 5, 5), stride=2, padding=2, output_padding=1),
    "phases-of-one-tap": ConvTranspose((2, 9, 7, 11), (9, 3, 3, 3), stride=2, padding=1),
    "some-outputs-meet-no-tap": ConvTranspose((1, 16, 6, 20), (16, 2, 4, 4), stride=(5, 2)),
    "threaded": Conv((2, 32, 60, 60), (3, 32, 3, 3), padding=1),
    "threaded-stretch": Conv((1, 400, 12, 50), (3, 400, 3, 3), padding=1),
}  # fmt: skip


@each(dtype=DTYPES)
@pytest.mark.parametrize("name", TURNED)
def test_few_output_channels_are_turned_to_lines(name, dtype, isa, threads):
    case = TURNED[name]
    geometry = replace(case.geometry, channels_last=True)
    plan = ConvPlan(geometry, np.dtype("float32"), getattr(case, "padding_mode", "zeros"), "direct")
    plan = plan.backward_input if isinstance(case, ConvTranspose) else plan.forward
    if core.register_tile("float32")["vlen"] >= 8:
        assert set(plan.packing) == {"turned"}
    check_forward(case, dtype, "channels_last")


@pytest.mark.parametrize("name", ["threaded", "threaded-stretch", "phases"])
def test_bits_of_what_is_turned_do_not_depend_on_the_number_of_threads(name, isa):
    check_bits_of_threads(TURNED[name], "channels_last")


@pytest.mark.parametrize("activation", ["relu6", "tanh"])
@pytest.mark.parametrize("name", ["wide", "padding-beyond-the-kernel", "channels-in-blocks"])
def test_a_residual_of_what_is_turned(name, activation, isa):
    case = TURNED[name]
    x, weight, bias, residual = operands(case, "float32", "channels_last")
    options = {"data_format": "channels_last", "activation": activation, **case.options}
    y = ff.conv2d(x, weight, bias, residual=residual, **options)
    linear = exact_forward(case).transpose(0, 2, 3, 1) + residual.astype(float)
    limit = bound("float32", terms_of_y(case) + 1, x, weight) + 8 * np.finfo("float32").eps
    assert_within(y, getattr(reference, activation)(linear), limit, "float32")
    np.testing.assert_array_equal(ff.conv2d(x, weight, bias, residual=residual, out=residual, **options), y)


def test_zones_share_their_weights():
    case = ZONES["threaded"]
    plan = ConvPlan(case.geometry, np.dtype("float32"), "zeros", "direct").forward
    assert len(plan.packing) == 9
    assert plan.pack(np.zeros(case.weight, np.float32)).nbytes < 4 * np.prod(case.weight) + 1000


def test_nothing_but_bias_where_no_output_meets_a_tap():
    check_forward(ConvTranspose((1, 64, 1), (64, 3, 2), stride=2, padding=1, dilation=2), "float32", "channels_first")


@each(dtype=DTYPES)
def test_zones_of_a_transposed_convolution(dtype, isa, threads):
    check_forward(ConvTranspose((6, 64, 14, 15), (64, 7, 3, 3), padding=6, dilation=6), dtype, "channels_first")


@each(dtype=DTYPES)
def test_phases_of_a_transposed_convolution_are_packed_as_lines(dtype, isa, threads):
    check_forward(ConvTranspose((2, 8, 9, 20), (8, 5, 4, 4), stride=2, padding=1), dtype, "channels_first")
    check_forward(ConvTranspose((1, 8, 12, 70), (8, 5, 3, 3), stride=(2, 1), padding=1), dtype, "channels_first")
    check_forward(ConvTranspose((3, 4, 2, 1), (4, 3, 5, 3), stride=(2, 1), padding=1), dtype, "channels_first")


@each(dtype=DTYPES)
def test_planes_one_pixel_wide_whose_phase_has_a_step(dtype, isa, threads):
    check_forward(ConvTranspose((3, 6, 2, 1), (6, 4, 1, 3), stride=(1, 3), padding=(0, 1)), dtype, "channels_first")


@pytest.mark.parametrize("name", THREADED)
def test_bits_do_not_depend_on_the_number_of_threads(name, isa):
    check_bits_of_threads(CASES[name], "channels_first")


@pytest.mark.parametrize("name", ["columns: threaded-pieces", "columns: threaded-stretch", "lines: threaded"])
def test_bits_of_pixels_do_not_depend_on_the_number_of_threads(name, isa):
    check_bits_of_threads(CASES[name], "channels_last")


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_written_beyond(name, activation, isa):
    check_out(CASES[name], activation, "channels_first")


@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("name", FEW)
def test_activations(name, activation, isa):
    check_activation(CASES[name], activation, "float32", "channels_first")


@each(dtype=DTYPES)
@pytest.mark.parametrize("name", FEW)
def test_what_is_not_finite(name, dtype, isa):
    check_not_finite(CASES[name], dtype, "channels_first")


def test_workspace_is_bounded(isa):
    for case in CASES.values():
        plan = ConvPlan(case.geometry, np.dtype("float64"), case.padding_mode, "direct").forward
        assert sum(plan.workspace_bytes(1)) < 4 << 20


@pytest.mark.every_isa
@pytest.mark.parametrize("off", [0, 1], ids=["aligned", "off by one element"])
@pytest.mark.parametrize("data_format", LAYOUTS)
def test_a_result_that_no_cache_holds_is_that_of_its_parts(data_format, off):
    """It is stored around the caches where the machine gains by that and vectors lie on their boundaries."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 480, 608), dtype=np.float32)
    weight, bias = rng.standard_normal((16, 3, 3, 3), dtype=np.float32), rng.standard_normal(16, dtype=np.float32)
    if data_format == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    options = {"padding": 1, "data_format": data_format, "activation": "relu", "algorithm": "direct"}
    parts = np.concatenate([fastconv.conv2d(image[None], weight, bias, **options) for image in x])
    assert parts[0].nbytes < 32 << 20 < parts.nbytes
    memory = empty((parts.size + 1,), np.dtype(np.float32))
    out = memory[off : off + parts.size].reshape(parts.shape)
    fastconv.conv2d(x, weight, bias, out=out, **options)
    np.testing.assert_array_equal(out, parts)
