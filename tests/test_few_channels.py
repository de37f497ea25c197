"""Direct convolution in channels_last by rows that lie equally far apart: lines of few channels, and 1x1."""

import numpy as np
import pytest
from cases import DTYPES, Conv, ConvTranspose
from conftest import each
from convolutions import check_activation, check_bits_of_threads, check_forward, check_not_finite, check_out

import fastconv

LINES = {
    "first-of-vgg": Conv((2, 3, 20, 23), (64, 3, 3, 3), padding=1),
    "first-of-resnet": Conv((3, 3, 29, 31), (40, 3, 7, 7), stride=2, padding=3),
    "first-of-alexnet": Conv((2, 3, 67, 59), (96, 3, 11, 11), stride=4, padding=2),
    "one-channel": Conv((2, 1, 9, 40), (33, 1, 5, 5), padding=2),
    "seven-channels": Conv((1, 7, 9, 14), (65, 7, 3, 2), padding=(1, 0)),
    "long-line": Conv((2, 2, 3, 1100), (17, 2, 3, 3), padding=1),
    "signal": Conv((2, 1, 5000), (20, 1, 80), stride=4),
    "short-signal": Conv((4, 3, 9), (16, 3, 9), padding=4),
    "many-small-images": Conv((40, 3, 5, 7), (18, 3, 3, 3), padding=1),
    "dilated-lines": Conv((2, 3, 20, 24), (24, 3, 3, 3), padding=(4, 1), dilation=(4, 1)),
    "unequal-strides": Conv((2, 4, 20, 24), (24, 4, 3, 5), stride=(3, 2), padding=((0, 2), (3, 1))),
    "stride-beyond-kernel": Conv((1, 3, 31, 32), (16, 3, 2, 2), stride=5, padding=1),
    "padding-beyond-the-kernel": Conv((1, 3, 5, 6), (24, 3, 3, 3), padding=5),
    "nothing-but-padding-in-lines": Conv((1, 3, 4, 1), (24, 3, 3, 1), stride=(1, 2), padding=(4, 3)),
    "reflect": Conv((2, 3, 9, 20), (24, 3, 5, 5), padding=3, padding_mode="reflect"),
    "replicate": Conv((2, 3, 9, 20), (24, 3, 5, 5), padding=3, padding_mode="replicate"),
    "circular": Conv((2, 3, 9, 20), (24, 3, 5, 5), padding=4, padding_mode="circular"),
    "threaded": Conv((2, 3, 60, 70), (64, 3, 5, 5), padding=2),
    "threaded-long-lines": Conv((1, 3, 8, 2000), (48, 3, 5, 5), padding=2),
}
TAPS = {  # which copies of lines would not bring side by side
    "dilated": Conv((2, 3, 20, 31), (24, 3, 3, 3), padding=2, dilation=(1, 2)),
    "groups": Conv((2, 6, 9, 14), (40, 3, 3, 3), padding=1, groups=2),
    "volume": Conv((1, 3, 5, 7, 12), (24, 3, 3, 3, 3), padding=1),
    "transposed": ConvTranspose((2, 3, 9, 11), (3, 24, 3, 3), padding=1),
    "phases": ConvTranspose((2, 3, 9, 11), (3, 24, 4, 4), stride=2, padding=1),
}
POINTWISE = {
    f"{pixels} pixels, {channels} to {outputs}": Conv((1, channels, pixels), (outputs, channels, 1))
    for pixels in (*range(1, 15), 241)
    for channels, outputs in ((1, 16), (5, 65), (24, 144))
}
POINTWISE |= {
    "channels-in-blocks": Conv((2, 2100, 7, 3), (70, 2100, 1, 1)),
    "groups": Conv((2, 40, 7, 9), (60, 20, 1, 1), groups=2),
    "threaded": Conv((2, 96, 30, 31), (200, 96, 1, 1)),
}
CASES = {f"{kind}: {name}": case for kind, cases in (("lines", LINES), ("taps", TAPS), ("1x1", POINTWISE))
         for name, case in cases.items()}  # fmt: skip
SOME = ("lines: first-of-vgg", "lines: first-of-alexnet", "lines: long-line", "taps: dilated",
        "1x1: 7 pixels, 24 to 144", "1x1: 241 pixels, 5 to 65", "1x1: channels-in-blocks", "1x1: groups")  # fmt: skip


@pytest.fixture(autouse=True)
def _by_nothing_else():
    with fastconv.algorithm("direct"):
        yield


@each(dtype=DTYPES, name=CASES)
def test_forward(name, dtype, isa, threads):
    check_forward(CASES[name], dtype, "channels_last")


@each(name=CASES)
def test_nothing_is_written_beyond(name, isa):
    check_out(CASES[name], "relu6", "channels_last")


@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "gelu"])
@each(name=SOME)
def test_activations(activation, name, isa):
    check_activation(CASES[name], activation, "float32", "channels_last")


@each(dtype=DTYPES, name=SOME)
def test_what_is_not_finite(name, dtype, isa):
    check_not_finite(CASES[name], dtype, "channels_last")


@each(name=[name for name in CASES if "threaded" in name])
def test_bits_do_not_depend_on_the_number_of_threads(name, isa):
    check_bits_of_threads(CASES[name], "channels_last")


@each(dtype=DTYPES, rows=[1, 6, 7, 8, 50], activation=[None, "relu", "gelu"])
def test_a_residual_may_be_what_is_written(dtype, rows, activation, isa):
    rng = np.random.default_rng(rows)
    x, weight, residual = (
        rng.standard_normal(shape).astype(dtype) for shape in ((rows, 1, 300), (70, 300, 1), (rows, 1, 70))
    )
    options = {"data_format": "channels_last", "activation": activation}
    expected = fastconv.conv1d(x, weight, residual=residual, **options)
    assert fastconv.conv1d(x, weight, residual=residual, out=residual, **options) is residual
    np.testing.assert_array_equal(residual, expected)


def test_blocks_of_lines_are_whole_rows_and_small(isa):
    """Of wide pictures a part of one, so that many threads find work; the lines of a task stay near L1."""
    for size, whole in (((1, 3, 224, 224), True), ((1, 3, 16, 3840), False)):
        x = np.broadcast_to(np.float32(0), (size[0], *size[2:], size[1]))
        plan = fastconv.plan_conv2d(x.shape, np.ones((64, 3, 3, 3), np.float32), padding=1, data_format="channels_last")
        kernel = plan._kernel
        assert kernel.workspace_bytes(1)[0] < 80 << 10
        (tasks,) = kernel.tasks(64)
        assert len(tasks) >= 28
        outputs = tasks / 27 / 64
        assert (outputs % size[3] == 0).all() == whole
